"""What is collected of messages, those that mean harm among them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.watch.picture import Picture, clean, number
from edgerun.watch.screen import lines

TELEMETRY = {
    "v": 1, "id": "1f3a9c02-t1", "ts": 1795230030.0, "interval_s": 30, "engines": {},
    "streams": {
        "dock": {
            "grabbed": 300, "published": 118, "skipped": 181, "superseded": 1, "expired": 0, "gated": 0, "limited": 0,
            "failed": 0, "in_flight": 0, "fps": 11.8, "age_ms": {"p50": 61.0, "p95": 74.2, "p99": 88.9, "max": 91.0},
        },
        "yard/faces": {"fps": 2.0},
    },
    "thermal": {"soc_temp_c": 61.2, "throttled": True, "reasons": ["under_voltage"]},
    "power": {"power_w": 4.1, "energy_kwh": 1.02}, "memory": {"rss_mib": 148.0},
}  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(
    ["streams", "thermal", "power", "memory", "state", "reason", "counts", "kind", "text", "ts", "fps", "age_ms",
     "skipped", "soc_temp_c", "throttled", "reasons", "power_w", "rss_mib", "versions", "board", "dock"]
)  # fmt: skip
messages = st.dictionaries(keys, values | st.dictionaries(keys, values | st.dictionaries(keys, values, max_size=5)))
topics = st.sampled_from(
    ["status", "info", "state/dock", "state/", "telemetry", "event", "models/x", "", "cmd/pause", "detections/dock"]
)


def taken(**told: Any) -> Picture:
    picture = Picture(clock=FakeClock())
    for topic, message in told.items():
        picture.take(topic, message if isinstance(message, bytes) else json.dumps(message).encode())
    return picture


def of_dock(*told: tuple[str, Any]) -> Picture:
    return taken(**{f"edgerun/dock-7/{topic}": message for topic, message in told})


def test_a_device_as_it_tells_itself() -> None:
    picture = of_dock(
        ("status", b"online"),
        ("info", {"v": 1, "board": "Raspberry Pi 5", "versions": {"edgerun": "0.1.0"}}),
        ("state/dock", {"v": 1, "state": "running", "accelerator": "cpu", "counts": {"person": 2}}),
        ("state/yard", {"v": 1, "state": "stalled", "reason": "no frames"}),
        ("state/hall", {"v": 1, "state": "paused"}),
        ("telemetry", TELEMETRY),
        ("event", {"v": 1, "id": "1f3a9c02-e0", "ts": 1.0, "kind": "stalled", "stream": "yard", "text": "no frames"}),
    )
    told = picture.as_dict()
    assert told["refused"] == 0
    device = told["devices"]["dock-7"]
    assert device["streams"] == {
        "dock": {
            "state": "running", "accelerator": "cpu", "counts": {"person": 2.0}, "fps": 11.8,
            "age_ms": {"p50": 61.0, "p95": 74.2, "p99": 88.9},
            "dropped": {"skipped": 181, "superseded": 1, "expired": 0, "gated": 0, "limited": 0, "failed": 0},
        },
        "yard/faces": {"state": "stalled", "reason": "no frames", "fps": 2.0},
        "hall": {"state": "paused"},
    }  # fmt: skip
    assert (device["status"], device["temp_c"], device["throttled"], device["power_w"]) == ("online", 61.2, True, 4.1)
    assert device["telemetry_age_s"] == 0
    assert told["events"] == [{"device": "dock-7", "kind": "stalled", "ts": 1.0, "stream": "yard", "text": "no frames"}]


def test_what_is_no_longer_told_is_no_longer_known() -> None:
    picture = of_dock(("telemetry", TELEMETRY))
    picture.take("edgerun/dock-7/telemetry", b'{"v":1,"streams":{}}')
    assert not {"temp_c", "throttled", "reasons", "power_w", "rss_mib"} & set(picture.as_dict()["devices"]["dock-7"])


def test_rates_are_those_of_what_comes_now() -> None:
    clock = FakeClock()
    picture = Picture(clock=clock)
    picture.live()

    def rate(stream: str = "dock") -> float | None:
        told = picture.as_dict()["devices"]["dock-7"]["streams"][stream]
        return told.get("live_fps")  # type: ignore[no-any-return]

    def come(seconds: int, a_second: int, stream: str = "dock", payload: bytes = b'{"v":1}') -> None:
        for _ in range(seconds):
            for _ in range(a_second):
                picture.take(f"edgerun/dock-7/detections/{stream}", payload)
            clock.advance(1.0)

    come(3, 10)
    assert picture.as_dict()["devices"] == {"dock-7": {"streams": {}}}, "a stream is known by its state"
    for stream in ("dock", "yard"):
        picture.take(f"edgerun/dock-7/state/{stream}", b'{"v":1,"state":"running"}')
    come(1, 10)
    assert rate() is None, "not yet five seconds"
    come(5, 12)
    assert rate() == 12
    assert "12.0" in lines(picture.as_dict(), 100, 10)[3].text
    come(5, 3)
    assert rate() == 3
    come(5, 20, payload=b'{"replayed":true,"v":1}')
    assert 0 < (rate() or 0) < 6, "what the spool held is no news: now it is the mean of what is left"
    clock.advance(31.0)
    assert rate() == 0
    for _ in range(4):
        come(1, 1, "yard")
        clock.advance(9.0)
    assert rate("yard") == pytest.approx(0.1, abs=0.04)
    assert picture.as_dict()["refused"] == 0


def test_events_are_newest_first_and_bounded() -> None:
    picture = Picture()
    for i in range(300):
        picture.take("edgerun/a/event", json.dumps({"kind": "stalled", "text": str(i), "ts": i}).encode())
    events = picture.as_dict()["events"]
    assert [one["text"] for one in events] == [str(i) for i in range(299, 199, -1)]


def test_it_waits_for_devices_that_are_online_and_silent() -> None:
    picture = of_dock(("status", b"online"))
    picture.take("edgerun/gone/status", b"offline")
    assert picture.waits_for() == ["dock-7"]
    picture.take("edgerun/dock-7/telemetry", json.dumps(TELEMETRY).encode())
    assert picture.waits_for() == []


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("status", b"ONLINE"), ("status", b"\xff\xfe"), ("telemetry", b"not json"), ("telemetry", b"[1]"),
        ("telemetry", b"[" * 100_000), ("telemetry", b'{"a":"' + b"x" * (1 << 20) + b'"}'), ("telemetry", b"\xff"),
        ("state/dock", b'{"state":"dancing"}'), ("event", b'{"kind":7,"text":"x"}'), ("models/x", b"{}"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_counted_and_changes_nothing(topic: str, payload: bytes) -> None:
    picture = of_dock(("telemetry", TELEMETRY))
    before = picture.as_dict()
    picture.take(f"edgerun/dock-7/{topic}", payload)
    assert picture.as_dict() == {**before, "refused": 1}


def test_there_is_an_end_to_devices_and_streams() -> None:
    picture = Picture()
    for i in range(1500):
        picture.take(f"edgerun/d{i}/status", b"online")
        picture.take(f"edgerun/d0/state/s{i}", b'{"state":"running"}')
    told = picture.as_dict()
    assert len(told["devices"]) == 1000
    assert len(told["devices"]["d0"]["streams"]) == 200
    assert told["refused"] == 500 + 1300


def test_escape_sequences_never_leave_it() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n"
    picture = Picture()
    picture.take(f"edgerun/{evil}/status", b"online")
    picture.take(f"edgerun/a/state/{evil}", json.dumps({"state": "stalled", "reason": evil}).encode())
    picture.take("edgerun/a/info", json.dumps({"board": evil, "versions": {"edgerun": evil}}).encode())
    picture.take("edgerun/a/event", json.dumps({"kind": evil, "text": evil, "stream": evil, "ts": 1e300}).encode())
    picture.take(
        "edgerun/a/telemetry",
        json.dumps({"streams": {evil: {"fps": 1}}, "thermal": {"throttled": True, "reasons": [evil]}}).encode(),
    )
    told = picture.as_dict()
    assert_harmless(told)
    for line in lines(told, 80, 24):
        assert line.text.isprintable(), line


@given(st.lists(st.tuples(topics, messages.map(msgspec.json.encode) | st.binary(max_size=30)), max_size=8))
@settings(max_examples=150, deadline=None)
@example([("telemetry", b'{"streams":{"dock":{"fps":1e999,"skipped":-1}}}')])
@example([("telemetry", b'{"streams":{"a":{"skipped":' + b"9" * 400 + b',"age_ms":{"p50":1e300}}}}')])
def test_nothing_that_is_published_breaks_it_or_its_screen(told: list[tuple[str, bytes]]) -> None:
    picture = Picture(clock=FakeClock())
    for topic, payload in told:
        picture.take(f"edgerun/dock-7/{topic}", payload)
    collected = picture.as_dict()
    assert_harmless(collected)
    json.loads(json.dumps(collected, allow_nan=False))
    for columns, rows in ((80, 24), (20, 3), (200, 60)):
        shown = lines(collected, columns, rows)
        assert len(shown) <= rows
        assert all(len(line.text) <= columns and line.text.isprintable() for line in shown)


def assert_harmless(value: Any) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            assert key.isprintable()
            assert_harmless(one)
    elif isinstance(value, list):
        for one in value:
            assert_harmless(one)
    elif isinstance(value, str):
        assert value.isprintable()


def test_numbers_are_finite_and_texts_short() -> None:
    assert [number(one) for one in (1, 2.5, True, None, "3", float("nan"), float("inf"), 10**400)] == [1, 2.5] + [
        None
    ] * 6
    assert len(clean("x" * 999)) == 200
