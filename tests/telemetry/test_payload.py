"""Telemetry, summaries and the other messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.broker.message import Message
from edgerun.clock import FakeClock
from edgerun.meter import FATES, STAGES, StreamMeter
from edgerun.spool.lanes import as_replayed
from edgerun.telemetry import payload
from edgerun.telemetry.ledger import Ledger
from edgerun.types import EngineInfo
from tests.schemas import validate

CPU = EngineInfo(runtime="litert 2.3.0", accelerator="cpu", threads=2)
FALLEN = EngineInfo("litert 2.3.0", "cpu", 2, fallbacks=(("edgetpu", "no device"),))


def sent(message: dict) -> dict:
    """As a subscriber decodes it."""
    return json.loads(msgspec.json.encode(message))


def fill(meter: StreamMeter, fates: dict[str, int], age_ms: float = 50.0, in_flight: int = 0) -> None:
    for fate, count in fates.items():
        for _ in range(count):
            meter.account.grab()
            meter.account.end(fate, "engine" if fate == "failed" else None)
    for _ in range(in_flight):
        meter.account.grab()
    for _ in range(fates.get("published", 0)):
        meter.age.record(age_ms)
        for stage in STAGES:
            meter.stages[stage].record(age_ms / 10)


def summary_of(streams: dict) -> dict:
    return payload.summary(
        seconds=10.0,
        streams=streams,
        engines={"main": payload.engine_summary("ssd", CPU)},
        rss_mib=148.23,
        cpu_s=9.123,
        start_to_first_result_s=0.6204,
    )


def telemetry_of(streams: dict, **more: object) -> dict:
    engines = {"main": payload.engine_telemetry(FALLEN, busy=0.7123)}
    return payload.telemetry(
        run="1f3a9c02", number=88, ts=1.8e9, interval_s=30.0, streams=streams, engines=engines, **more
    )


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(FATES), st.integers(0, 30)), st.integers(0, 3), st.floats(0, 1e5))
def test_every_frame_is_in_the_sum(fates: dict[str, int], in_flight: int, age_ms: float) -> None:
    meter = StreamMeter()
    fill(meter, fates, age_ms, in_flight)
    stream = payload.stream_summary(meter, 10.0)
    full = payload.stream_summary(meter, 10.0, grabbed_before=0)
    for name, message in (("summary", summary_of({"main": stream})), ("telemetry", telemetry_of({"main": full}))):
        validate(name, sent(message))
        told = sent(message)["streams"]["main"]
        assert told["grabbed"] == sum(told[fate] for fate in FATES) + told["in_flight"]
        assert told["in_flight"] == in_flight
        assert told["fps"] == fates.get("published", 0) / 10
        assert sum(told.get("failed_reasons", {}).values()) == told["failed"]
        assert ("age_ms" in told) == ("latency_ms" in told) == bool(fates.get("published"))


def test_a_stream_as_the_contract_shows_it() -> None:
    meter = StreamMeter()
    fill(meter, {"published": 118, "skipped": 181, "superseded": 1}, age_ms=61.0)
    stream = payload.stream_summary(meter, 10.0)
    assert list(stream) == ["grabbed", *FATES, "in_flight", "fps", "age_ms", "latency_ms"]
    assert (stream["grabbed"], stream["fps"]) == (300, 11.8)
    assert stream["age_ms"] == {"p50": 61.0, "p95": 61.0, "p99": 61.0, "max": 61.0}
    assert list(stream["latency_ms"]) == list(STAGES)
    assert stream["latency_ms"]["infer"] == {"p50": 6.1, "p99": 6.1}


def test_the_summary_has_the_contracts_keys() -> None:
    message = summary_of({"main": payload.stream_summary(StreamMeter(), 10.0)})
    assert list(message) == ["seconds", "streams", "engines", "rss_mib", "cpu_s", "start_to_first_result_s"]
    assert (message["rss_mib"], message["cpu_s"], message["start_to_first_result_s"]) == (148.2, 9.12, 0.62)
    assert message["engines"] == {
        "main": {"model": "ssd", "runtime": "litert 2.3.0", "accelerator": "cpu", "threads": 2}
    }


def test_what_is_not_known_is_left_out() -> None:
    bare = payload.summary(seconds=0.0, streams={}, engines={})
    assert bare == {"seconds": 0.0, "streams": {}, "engines": {}}
    validate("summary", bare)
    nothing = payload.stream_summary(StreamMeter(), 0.0)
    assert {"fps", "age_ms", "latency_ms", "failed_reasons"}.isdisjoint(nothing)
    validate("telemetry", sent(telemetry_of({"main": nothing})))
    assert {"memory", "power", "thermal", "spool"}.isdisjoint(telemetry_of({}, power={}, thermal=None))


def test_telemetry_as_the_contract_shows_it() -> None:
    message = telemetry_of(
        {},
        memory={"rss_mib": 148.0},
        thermal={"soc_temp_c": 61.2, "throttled": False},
        power={"power_w": 4.1, "energy_kwh": 1.02, "source": "rail", "j_per_inference": 0.11},
        spool={"messages": 0, "bytes": 0, "dropped": 0},
    )
    validate("telemetry", sent(message))
    assert list(message) == [
        "v", "id", "ts", "interval_s", "streams", "engines", "thermal", "power", "memory", "spool",
    ]  # fmt: skip
    assert message["id"] == "1f3a9c02-t88"
    assert message["memory"] == {"rss_mib": 148.0}
    assert message["engines"]["main"] == {
        "accelerator": "cpu", "busy": 0.712, "degraded": True,
        "fallbacks": [{"accelerator": "edgetpu", "reason": "no device"}],
    }  # fmt: skip
    assert payload.engine_telemetry(CPU) == {"accelerator": "cpu", "degraded": False}


def test_telemetry_tells_more_percentiles_than_the_summary() -> None:
    meter = StreamMeter()
    fill(meter, {"published": 100}, age_ms=61.0)
    stream = payload.stream_summary(meter, 10.0, published_before=40, grabbed_before=0)
    validate("telemetry", sent(telemetry_of({"main": stream})))
    assert (stream["fps"], stream["grabbed_fps"]) == (6.0, 10.0)
    for percentiles in (stream["age_ms"], *stream["latency_ms"].values()):
        assert list(percentiles) == ["p50", "p90", "p95", "p99", "max"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(0.01, 1e5), max_size=20), min_size=1, max_size=6))
def test_intervals_forget_and_the_run_remembers(intervals: list[list[float]]) -> None:
    clock, meter, whole = FakeClock(), StreamMeter(), StreamMeter()
    ledger = Ledger(clock)
    ledger.add("main", meter)
    total = 0
    for ages in intervals:
        for age_ms in ages:
            fill(meter, {"published": 1}, age_ms)
            fill(whole, {"published": 1}, age_ms)
        clock.advance(2.0)
        total += len(ages)
        seconds, streams = ledger.interval()
        assert seconds == 2.0
        assert streams["main"]["published"] == total
        assert streams["main"]["fps"] == round(len(ages) / 2.0, 2)
        assert ("age_ms" in streams["main"]) == bool(ages)
        if ages:
            assert streams["main"]["age_ms"]["max"] == round(max(ages), 3)
        ledger.add("main", meter)
    fill(meter, {"published": 1}, 7.0)
    fill(whole, {"published": 1}, 7.0)
    spent = sum(one for ages in intervals for one in ages) / 10 + 0.7
    assert ledger.engine_time() == {"main": (pytest.approx(spent * 1e6, rel=1e-6, abs=2), total + 1)}
    assert ledger.totals()["main"].age.count == total + 1
    expected = payload.stream_summary(whole, 2.0 * len(intervals))
    for _ in range(2):  # looking at it changes nothing
        seconds, streams = ledger.run()
        assert seconds == pytest.approx(2.0 * len(intervals))
        assert streams == {"main": expected}
    ledger.remove("main")
    assert ledger.run()[1] == ledger.interval()[1] == {}


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


BOOT_ID = {"proc/sys/kernel/random/boot_id": "6c0f9a66-0b4e-4a44-8c0f-3d1c5e0a1b2c\n"}
DMI = "sys/class/dmi/id"


@pytest.mark.parametrize(
    ("files", "board"),
    [
        ({}, None),
        (BOOT_ID | {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}, "Raspberry Pi 5 Model B Rev 1.0"),
        ({f"{DMI}/sys_vendor": "LENOVO\n", f"{DMI}/product_name": "20XW\n"}, "LENOVO 20XW"),
        ({f"{DMI}/sys_vendor": "ACME\n", f"{DMI}/product_name": "To Be Filled By O.E.M.\n"}, "ACME"),
        ({f"{DMI}/sys_vendor": "Default string\n"}, None),
    ],
)
def test_the_birth_certificate_names_what_the_machine_tells(
    files: dict[str, str], board: str | None, tmp_path: Path
) -> None:
    message = payload.info(
        device="dock-7",
        run="1f3a9c02",
        ts=1_795_230_000.0,
        runtimes=["onnxruntime 1.31.1", "litert 2.3.0", "litert 2.3.0"],
        models={
            "detector": payload.InstalledModel("ssd-mobilenet-v2-oid", "2", "ab" * 32),
            "bare": payload.InstalledModel("x", ""),
        },
        streams={"dock": ("detector",)},
        accelerators={"detector": "cpu"},
        root=machine(tmp_path, files),
    )
    validate("info", sent(message))
    assert message.get("board") == board
    assert message.get("boot_id") == (
        BOOT_ID["proc/sys/kernel/random/boot_id"].strip() if "boot" in str(files) else None
    )
    assert message["versions"]["runtimes"] == ["litert 2.3.0", "onnxruntime 1.31.1"]
    assert message["models"]["bare"] == {"name": "x", "version": ""}
    assert message["streams"] == {"dock": {"model": "detector"}}


@pytest.mark.parametrize("name", ["running", "stalled", "paused", "degraded", "ended"])
def test_states(name: payload.State) -> None:
    full = payload.state(name, reason="no frame for 5 s", accelerator="cpu", counts={"person": 2})
    assert list(full) == ["v", "state", "reason", "accelerator", "counts"]
    bare = payload.state(name, reason="")
    assert bare == {"v": 1, "state": name}
    for message in (full, bare, payload.state(name, counts={})):
        validate("state", sent(message))


def test_a_state_that_is_none_is_refused() -> None:
    with pytest.raises(AssertionError, match=re.escape("$.state")):
        validate("state", {"v": 1, "state": "confused"})


def test_events() -> None:
    full = payload.event(
        run="1f3a9c02", number=3, ts=1.8e9, kind="stalled", text="dock gives no frames", stream="dock", reason="stall_s"
    )
    assert list(full) == ["v", "id", "ts", "kind", "stream", "reason", "text"]
    assert full["id"] == "1f3a9c02-e3"
    bare = payload.event(run="1f3a9c02", number=4, ts=1.8e9, kind="fell_back", text="edgetpu refused the model")
    assert list(bare) == ["v", "id", "ts", "kind", "text"]
    for message in (full, bare):
        validate("event", sent(message))
        later = as_replayed(Message("edgerun/dock-7/event", msgspec.json.encode(message), qos=1, keep="event"))
        assert msgspec.json.decode(later.payload) == {"replayed": True, **message}
        validate("event", msgspec.json.decode(later.payload))
