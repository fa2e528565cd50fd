"""The trace: of the format, true to the account, bounded, and cheap enough to forget."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock, SystemClock
from edgerun.errors import DeviceError
from edgerun.meter import FATES, Account
from edgerun.telemetry.trace import FrameEnd, Trace, trace_events
from edgerun.types import Detection, Publication, Stamp
from tests.mosquitto import wait_until
from tests.pipeline.parts import CountingSource, build
from tests.publish.samples import MODEL, publication

NUMBER = {"type": "number", "minimum": 0}
FORMAT = {
    "type": "object",
    "required": ["traceEvents", "displayTimeUnit"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ph", "name", "pid", "tid", "ts"],
                "properties": {
                    "ph": {"enum": ["M", "b", "e", "X", "i"]},
                    "name": {"type": "string", "minLength": 1},
                    "pid": {"type": "integer"},
                    "tid": {"type": "integer"},
                    "ts": NUMBER,
                    "dur": NUMBER,
                    "cat": {"type": "string"},
                    "id": {"type": "string"},
                    "s": {"enum": ["g", "p", "t"]},
                    "args": {"type": "object"},
                },
                "additionalProperties": False,
                "allOf": [
                    {
                        "if": {"properties": {"ph": {"enum": ["b", "e"]}}},
                        "then": {"required": ["id", "cat"]},
                    },
                    {"if": {"properties": {"ph": {"const": "X"}}}, "then": {"required": ["dur"]}},
                ],
            },
        },
    },
}
"""Trace Event Format (Duca, Sinclair, 2016), as far as it is used."""

Event = dict[str, Any]


def events_of(trace: Trace, seconds: float | None = None) -> list[Event]:
    document = json.loads(trace.encode(seconds))
    jsonschema.validate(document, FORMAT)
    events: list[Event] = document["traceEvents"]
    check_spans(events)
    return events


def check_spans(events: list[Event]) -> None:
    """Times never run back, and every span is closed inside the one around it."""
    timed = [event for event in events if event["ph"] != "M"]
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    stacks: dict[tuple[int, str], list[str]] = defaultdict(list)
    for event in timed:
        stack = stacks[event["pid"], event.get("id", "")]
        if event["ph"] == "b":
            stack.append(event["name"])
        elif event["ph"] == "e":
            assert stack.pop() == event["name"]
    assert not any(stacks.values())
    ends: dict[int, float] = {}
    for event in timed:
        if event["ph"] == "X":
            assert event["ts"] >= ends.get(event["pid"], 0.0) - 0.002, "an engine infers one thing at a time"
            ends[event["pid"]] = event["ts"] + event["dur"]


def frames(events: list[Event]) -> list[Event]:
    return [event for event in events if event["name"] == "frame" and event["ph"] == "b"]


def trace() -> Trace:
    return Trace("dock-7", FakeClock())


def test_a_published_frame_has_its_stages_and_its_fate() -> None:
    kept = trace()
    kept.publish(publication(412))
    events = events_of(kept)
    (frame,) = frames(events)
    assert frame["args"] == {"fate": "published", "seq": 412, "model": MODEL.name, "age_ms": 58.14}
    spans = {event["name"]: event["ts"] for event in events if event["ph"] == "b"}
    assert list(spans) == ["frame", "capture", "wait", "preprocess", "infer", "decode", "outbox"]
    (infer,) = [event for event in events if event["ph"] == "X"]
    assert infer["ts"] == spans["infer"]
    assert infer["dur"] == 24_800
    assert infer["args"] == {"frames": ["dock 412"]}
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"stream dock", f"engine {MODEL.name}"}


def test_what_the_account_counts_is_told_with_or_without_its_number() -> None:
    kept, account = trace(), Account()
    account.watch = kept.watch("dock", "ssd")
    account.end("skipped")
    account.end("superseded", stamp=Stamp("dock", 3, 900_000_000, 1.8e9))
    account.end("failed", "engine")
    account.end("published")
    events = events_of(kept)
    assert [(event["ph"], event["name"]) for event in events if event["ph"] != "M"] == [
        ("b", "frame"), ("i", "skipped"), ("e", "frame"), ("i", "failed"),
    ]  # fmt: skip
    assert frames(events)[0]["args"] == {"fate": "superseded", "seq": 3, "model": "ssd", "age_ms": 100}
    assert next(event for event in events if event["name"] == "failed")["args"]["reason"] == "engine"


def test_a_batch_is_one_inference() -> None:
    kept = trace()
    for stream in ("dock", "gate"):
        kept.publish(publication(1, stream=stream))
    (infer,) = [event for event in events_of(kept) if event["ph"] == "X"]
    assert infer["args"] == {"frames": ["dock 1", "gate 1"]}


def test_crops_and_reused_answers_are_marked() -> None:
    kept, plain = trace(), publication(1)
    crop = msgspec.structs.replace(plain.result, crop=Detection("car", 0, 0.9, (0, 0, 1, 1)))
    still = msgspec.structs.replace(plain.result, reused="still", latency_ns={"capture": 1_000_000, "wait": 2_000_000})
    for result in (crop, still):
        kept.publish(Publication(result, "x-1", 58.0))
    assert [frame["args"].get("note") for frame in frames(events_of(kept))] == ["crop", "still"]


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            FrameEnd,
            ended_ns=st.integers(0, 10**12),
            stream=st.sampled_from(["dock", "gate"]),
            model=st.sampled_from(["ssd", "plates"]),
            fate=st.sampled_from(FATES),
            reason=st.none() | st.just("engine"),
            seq=st.none() | st.integers(0, 10**6),
            captured_ns=st.none() | st.integers(0, 10**12),
            stages_ns=st.just(()) | st.tuples(*[st.none() | st.integers(0, 10**10)] * 5),
        ),
        max_size=12,
    )
)
def test_whatever_ends_the_trace_is_of_the_format(ends: list[FrameEnd]) -> None:
    events = json.loads(msgspec.json.encode(trace_events(ends)))
    jsonschema.validate({"traceEvents": events, "displayTimeUnit": "ms"}, FORMAT)
    check_spans([event for event in events if event["ph"] != "X"])
    assert len(frames(events)) == sum(end.captured_ns is not None for end in ends)


def test_a_pipeline_s_trace_is_its_account() -> None:
    clock = SystemClock()
    kept = Trace("dock-7", clock)
    sources = {
        name: lambda stop, script=script: CountingSource(clock, stop, frames=200, interval_s=0.001, script=script)
        for name, script in (("dock", {7: "corrupt", 9: "empty"}), ("gate", {}))
    }
    pipeline = build(sources, sinks=[kept])
    for lane in pipeline.lanes:
        lane.meter.account.watch = kept.watch(lane.plan.stream, "echo")
    pipeline.start()
    wait_until(lambda: not pipeline.held, 60, "the end of the data")
    events = events_of(kept)
    streams = {e["pid"]: e["args"]["name"].partition(" ")[2] for e in events if e["ph"] == "M"}
    for lane in pipeline.lanes:
        own = [event for event in events if streams[event["pid"]] == lane.plan.stream]
        fates = Counter(event["args"]["fate"] for event in own if "fate" in event.get("args", ()))
        assert fates == {fate: count for fate, count in lane.meter.account.view().fates.items() if count}
        assert sum(fates.values()) == 200
    pipeline.close()


def test_the_ring_is_bounded_and_the_last_seconds_are_the_last() -> None:
    clock = FakeClock()
    kept, account = Trace("dock-7", clock, entries=50), Account()
    account.watch = kept.watch("dock", "ssd")
    for number in range(1000):
        clock.advance(0.1)
        account.end("skipped", stamp=Stamp("dock", number, clock.mono_ns() - 1000, 1.8e9))
    assert [end.seq for end in kept.ends()] == list(range(950, 1000))
    assert [end.seq for end in kept.ends(1.05)] == list(range(989, 1000))
    assert len(frames(events_of(kept, 1.05))) == 11


def test_an_empty_trace_is_one() -> None:
    assert events_of(trace()) == []


def test_a_file(tmp_path: Path) -> None:
    kept = trace()
    kept.publish(publication(412))
    kept.write(tmp_path / "out.json")
    jsonschema.validate(json.loads((tmp_path / "out.json").read_text()), FORMAT)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    with pytest.raises(DeviceError, match="trace cannot be written"):
        kept.write(tmp_path / "gone" / "out.json")
