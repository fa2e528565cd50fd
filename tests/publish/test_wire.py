"""Results as bytes: the contract's shape, for any result there can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.meter import STAGES
from edgerun.publish.wire import encode_events, encode_result
from edgerun.types import (
    Answer,
    Classification,
    Detection,
    ModelInfo,
    Publication,
    Quantity,
    Result,
    Runs,
    SceneEvent,
    Segment,
    Stamp,
)
from tests.publish.samples import publication
from tests.schemas import validate

GOLDEN = Path(__file__).parent / "golden"

ANSWERS = {
    "detections": None,
    "nothing": Answer(detections=()),
    "classes": Answer(classes=(Classification("espresso", 967, 0.93127), Classification("cup", 968, 0.04))),
    "keypoints": Answer(keypoints=((0.5, 0.25, 0.99), (0.1234567, 1.0, 0.0))),
    "value": Answer(value=-3.25),
    "pose": Answer(
        detections=(Detection("person", 0, 0.9, (0.1, 0.2, 0.3, 0.9), keypoints=((0.2, 0.3333333, 0.87654),)),)
    ),
    "segments": Answer(
        segments=(
            Segment("road", 1, 0.4123456, (((0.0, 1.0), (0.5, 0.4), (1.0, 1.0)),)),
            Segment("sky", 3, 0.25, runs=Runs((2, 4), (0, 2, 6), (0.0, 0.125, 1.0, 0.875))),
        )
    ),
    "embedding": Answer(embedding=(0.6, -0.8, 0.00000012)),
    "values": Answer(values=(Quantity("temperature", 21.5, "°C"), Quantity("people", 3.0))),
    "anomaly": Answer(classes=(Classification("anomaly", 1, 0.75),), value=0.3),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_message_is_the_golden_one(kind: str, golden: Callable[[Path, str], None]) -> None:
    message = encode_result(publication(answer=ANSWERS[kind]), "dock-7")
    validate("result", json.loads(message))
    golden(GOLDEN / f"result-{kind}.json", message.decode() + "\n")


def test_the_keys_stand_in_the_order_of_the_contract() -> None:
    message = json.loads(encode_result(publication(item="cat.jpg"), "dock-7"))
    assert list(message) == [
        "v", "id", "seq", "device", "stream", "ts", "mono_ns", "age_ms", "latency_ms", "model", "frame", "dropped",
        "item", "detections",
    ]  # fmt: skip
    assert list(message["latency_ms"]) == list(STAGES)
    assert [list(one) for one in message["detections"]] == [
        ["label", "class", "score", "box", "track"],
        ["label", "class", "score", "box"],
    ]


def test_events_of_sounds_have_no_track_and_no_box() -> None:
    heard = SceneEvent("heard", None, "okay nabu", 0, None, score=0.91239)
    ended = SceneEvent("ended", None, "speech", 0, None, seconds=2.345)
    published = publication(answer=Answer(classes=()))
    published = Publication(msgspec.structs.replace(published.result, events=(heard, ended)), published.id, 1.0)
    message = json.loads(encode_result(published, "dock-7"))
    validate("result", message)
    assert message["events"] == [
        {"kind": "heard", "label": "okay nabu", "class": 0, "score": 0.9124},
        {"kind": "ended", "label": "speech", "class": 0, "seconds": 2.35},
    ]
    told = [json.loads(one) for one in encode_events(published)]
    assert [one["text"] for one in told] == ["okay nabu was heard", "speech ended after 2.3 s"]


def test_a_file_name_that_is_not_utf8_is_sent_readable() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    message = json.loads(encode_result(publication(item=name), "dock-7"))
    assert message["item"] == "caf\N{REPLACEMENT CHARACTER}.jpg"


def test_the_schema_refuses_what_the_contract_does_not_know() -> None:
    message = json.loads(encode_result(publication(), "dock-7"))
    for broken in (
        message | {"surprise": 1},
        {key: value for key, value in message.items() if key != "age_ms"},
        {key: value for key, value in message.items() if key != "detections"},
        message | {"detections": [message["detections"][0] | {"box": [0.1, 0.2, 0.3, 1.4]}]},
    ):
        with pytest.raises(AssertionError, match="result"):
            validate("result", broken)


unit = st.floats(0.0, 1.0)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
counts = st.integers(0, 2**40)
points = st.lists(st.tuples(unit, unit, unit), max_size=5).map(tuple)
detections = st.builds(
    Detection,
    names,
    st.integers(0, 2**31),
    unit,
    st.tuples(unit, unit, unit, unit),
    st.none() | st.integers(0, 2**31),
    keypoints=points,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
polygons = st.lists(st.tuples(unit, unit), min_size=3, max_size=6).map(tuple)
runs = st.builds(
    Runs,
    st.tuples(st.integers(1, 999), st.integers(1, 999)),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=9).map(tuple),
    st.tuples(unit, unit, unit, unit),
)
segments = st.builds(
    Segment, names, st.integers(0, 2**31), unit, st.lists(polygons, max_size=3).map(tuple), st.none() | runs
)
quantities = st.builds(Quantity, names, finite, st.text(max_size=3, alphabet="°Cm"))
classifications = st.builds(Classification, names, st.integers(0, 2**31), st.floats(-1e6, 1e6))
answers = st.one_of(
    st.builds(Answer, detections=st.lists(detections, max_size=5).map(tuple)),
    st.builds(Answer, classes=st.lists(classifications, max_size=5).map(tuple)),
    st.builds(Answer, keypoints=points),
    st.builds(Answer, value=finite),
    st.builds(Answer, segments=st.lists(segments, max_size=4).map(tuple)),
    st.builds(Answer, embedding=st.lists(st.floats(-1, 1), min_size=1, max_size=9).map(tuple)),
    st.builds(Answer, values=st.lists(quantities, max_size=4).map(tuple)),
)
results = st.builds(
    Result,
    stamp=st.builds(Stamp, names, counts, st.integers(0, 2**62), st.floats(0, 4e9), st.none() | names),
    answer=answers,
    model=st.builds(ModelInfo, names, st.text(max_size=5, alphabet="0123456789."), names),
    frame_size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    latency_ns=st.dictionaries(st.sampled_from(STAGES), st.integers(0, 10**13)),
    dropped=st.dictionaries(st.sampled_from(("skipped", "superseded")), counts),
    window=st.booleans(),
    gap=st.booleans(),
)
publications = st.builds(
    Publication,
    results,
    st.builds("{:08x}-{:06d}".format, st.integers(0, 2**32 - 1), counts),
    st.floats(0, 1e9),
)


@settings(deadline=None, max_examples=200)
@given(publications, names)
def test_any_result_fits_the_schema_and_keeps_its_numbers(published: Publication, device: str) -> None:
    message = json.loads(encode_result(published, device))
    validate("result", message)
    result, stamp = published.result, published.result.stamp
    assert (message["id"], message["device"], message["stream"]) == (published.id, device, stamp.stream)
    assert (message["seq"], message["mono_ns"], message.get("item")) == (stamp.seq, stamp.captured_ns, stamp.item)
    assert message["ts"] == pytest.approx(stamp.captured_unix_s, abs=0.0006)
    assert message["age_ms"] == pytest.approx(published.age_ms, abs=0.06)
    assert message["latency_ms"].keys() == result.latency_ns.keys()
    for stage, value_ms in message["latency_ms"].items():
        assert value_ms == pytest.approx(result.latency_ns[stage] / 1e6, abs=0.006)
    assert message["dropped"] == dict(result.dropped)
    size = message["window"] if result.window else message["frame"]
    assert (size["channels" if result.window else "w"], size["samples" if result.window else "h"]) == result.frame_size
    assert ("frame" in message, "gap" in message) == (not result.window, result.gap)
    _same_answer(message, result.answer)


def _same_answer(message: dict, answer: Answer) -> None:
    for key in ("detections", "classes", "keypoints", "value", "segments", "embedding", "values"):
        assert (key in message) == (getattr(answer, key) is not None)
    for sent, one in zip(message.get("detections", ()), answer.detections or (), strict=True):
        assert (sent["label"], sent["class"], sent.get("track")) == (one.label, one.class_id, one.track)
        assert sent["score"] == pytest.approx(one.score, abs=6e-5)
        assert sent["box"] == pytest.approx(one.box, abs=6e-6)
        _same_points(sent.get("keypoints", []), one.keypoints)
    for sent, one in zip(message.get("classes", ()), answer.classes or (), strict=True):
        assert (sent["label"], sent["class"]) == (one.label, one.class_id)
        assert sent["score"] == pytest.approx(one.score, abs=6e-5)
    _same_points(message.get("keypoints", []), answer.keypoints or ())
    assert message.get("value") == answer.value
    for sent, segment in zip(message.get("segments", ()), answer.segments or (), strict=True):
        assert (sent["label"], sent["class"]) == (segment.label, segment.class_id)
        assert sent["share"] == pytest.approx(segment.share, abs=6e-6)
        for outline, polygon in zip(sent.get("polygons", ()), segment.polygons, strict=True):
            _same_points(outline, polygon)
        assert ("runs" in sent) == (segment.runs is not None)
        if segment.runs is not None:
            assert (tuple(sent["runs"]["size"]), tuple(sent["runs"]["counts"])) == (
                segment.runs.size,
                segment.runs.counts,
            )
            assert sent["runs"]["box"] == pytest.approx(segment.runs.box, abs=6e-6)
    assert message.get("embedding", ()) == pytest.approx(answer.embedding or (), abs=6e-7)
    for sent, quantity in zip(message.get("values", ()), answer.values or (), strict=True):
        assert (sent["name"], sent["value"], sent.get("unit", "")) == (quantity.name, quantity.value, quantity.unit)


def _same_points(sent: list, points: tuple) -> None:
    assert [pytest.approx(one, abs=6e-5) for one in sent] == [list(one) for one in points]
