"""Results as bytes: the contract's shape, for any result there can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.meter import STAGES
from edgerun.publish.wire import encode_result
from edgerun.types import Answer, Classification, Detection, ModelInfo, Publication, Result, Stamp
from tests.publish.samples import publication
from tests.schemas import validate

GOLDEN = Path(__file__).parent / "golden"

ANSWERS = {
    "detections": None,
    "nothing": Answer(detections=()),
    "classes": Answer(classes=(Classification("espresso", 967, 0.93127), Classification("cup", 968, 0.04))),
    "keypoints": Answer(keypoints=((0.5, 0.25, 0.99), (0.1234567, 1.0, 0.0))),
    "value": Answer(value=-3.25),
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
detections = st.builds(
    Detection, names, st.integers(0, 2**31), unit, st.tuples(unit, unit, unit, unit), st.none() | st.integers(0, 2**31)
)
classifications = st.builds(Classification, names, st.integers(0, 2**31), st.floats(-1e6, 1e6))
answers = st.one_of(
    st.builds(Answer, detections=st.lists(detections, max_size=5).map(tuple)),
    st.builds(Answer, classes=st.lists(classifications, max_size=5).map(tuple)),
    st.builds(Answer, keypoints=st.lists(st.tuples(unit, unit, unit), max_size=5).map(tuple)),
    st.builds(Answer, value=st.floats(allow_nan=False, allow_infinity=False)),
)
results = st.builds(
    Result,
    stamp=st.builds(Stamp, names, counts, st.integers(0, 2**62), st.floats(0, 4e9), st.none() | names),
    answer=answers,
    model=st.builds(ModelInfo, names, st.text(max_size=5, alphabet="0123456789."), names),
    frame_size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    latency_ns=st.dictionaries(st.sampled_from(STAGES), st.integers(0, 10**13)),
    dropped=st.dictionaries(st.sampled_from(("skipped", "superseded")), counts),
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
    assert (message["frame"]["w"], message["frame"]["h"]) == result.frame_size
    _same_answer(message, result.answer)


def _same_answer(message: dict, answer: Answer) -> None:
    for key in ("detections", "classes", "keypoints", "value"):
        assert (key in message) == (getattr(answer, key) is not None)
    for sent, one in zip(message.get("detections", ()), answer.detections or (), strict=True):
        assert (sent["label"], sent["class"], sent.get("track")) == (one.label, one.class_id, one.track)
        assert sent["score"] == pytest.approx(one.score, abs=6e-5)
        assert sent["box"] == pytest.approx(one.box, abs=6e-6)
    for sent, one in zip(message.get("classes", ()), answer.classes or (), strict=True):
        assert (sent["label"], sent["class"]) == (one.label, one.class_id)
        assert sent["score"] == pytest.approx(one.score, abs=6e-5)
    for sent, point in zip(message.get("keypoints", ()), answer.keypoints or (), strict=True):
        assert sent == pytest.approx(point, abs=6e-5)
    assert message.get("value") == answer.value
