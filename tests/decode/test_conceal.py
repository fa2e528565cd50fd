"""What is hidden is told beside what is reported, and changes nothing about it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.conceal import LOWEST_SCORE, Conceal
from edgerun.decode.select import Select
from edgerun.ports import DecoderContext
from edgerun.registry import resolve
from edgerun.types import Answer, Classification, Detection, Placement, Tensor, TensorSpec

LABELS = ("person", "car", "dog")
BOX = (0.1, 0.2, 0.3, 0.4)
scores = st.floats(0, 1, width=32)


class Fixed:
    """A decoder whose answer is made beforehand: whatever reaches its threshold."""

    options = msgspec.Struct
    labels = LABELS
    wants_inputs = False

    def __init__(self, detections: Sequence[Detection], threshold: float) -> None:
        self._found = tuple(one for one in detections if np.float32(one.score) >= np.float32(threshold))

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        return Answer(detections=self._found)


@given(st.lists(st.tuples(st.sampled_from(LABELS), scores), max_size=8), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_what_is_reported_is_as_without_it(found: list[tuple[str, float]], threshold: float) -> None:
    detections = [Detection(label, LABELS.index(label), score, BOX) for label, score in found]
    plain = Fixed(detections, threshold).decode((), Placement())
    lowest = min(threshold, LOWEST_SCORE)
    answer = Conceal(Fixed(detections, lowest), ("person", "dog"), threshold).decode((), Placement())
    assert answer.detections == plain.detections
    assert answer.hidden is not None
    assert answer.hidden.labels == {"person", "dog"}
    meant = [
        one for one in detections if one.label in ("person", "dog") and np.float32(one.score) >= np.float32(lowest)
    ]
    assert len(answer.hidden.boxes) == len(meant)


def test_labels_that_are_left_out_are_hidden_all_the_same() -> None:
    people = [Detection("person", 0, 0.9, BOX), Detection("car", 1, 0.8, (0, 0, 1, 1))]
    decoder = Select(Conceal(Fixed(people, 0.1), ("person",), 0.5), ("car",))
    answer = decoder.decode((), Placement())
    assert [one.label for one in answer.detections or ()] == ["car"]
    assert answer.hidden is not None
    assert answer.hidden.boxes == (BOX,)


def test_an_answer_without_detections_says_nothing_of_what_to_hide() -> None:
    class Classes(Fixed):
        def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
            return Answer(classes=(Classification("person", 0, 0.9),))

    assert Conceal(Classes((), 0.1), ("person",), 0.5).decode((), Placement()).hidden is None


@pytest.mark.parametrize(
    ("placement", "seen"),
    [
        (Placement(), (0, 0, 1, 1)),
        (Placement(scale_y=1 / 0.75, shift_y=-0.125 / 0.75), (0, 0, 1, 1)),  # letterboxed: all of it is seen
        (Placement(scale_x=0.5, shift_x=0.25, scale_y=0.5, shift_y=0.5), (0.25, 0.5, 0.75, 1)),  # a region
        (Placement(scale_x=0.75, shift_x=0.125), (0.125, 0, 0.875, 1)),  # cropped at the sides
    ],
)
def test_what_the_model_did_not_see_is_told(placement: Placement, seen: tuple[float, ...]) -> None:
    answer = Conceal(Fixed((), 0.1), ("person",), 0.5).decode((), placement)
    assert answer.hidden is not None
    assert answer.hidden.seen == pytest.approx(seen)


@pytest.mark.parametrize("seed", range(20))
def test_real_suppression_keeps_the_sure_ones_when_the_unsure_join(seed: int) -> None:
    """YOLOv8's decoder over scores of every height: opened low and cut off, or opened high."""
    chance = np.random.default_rng(seed)
    output = np.empty((1, 7, 2100), np.float32)
    output[0, :2] = chance.uniform(0, 320, (2, 2100))
    output[0, 2:4] = chance.uniform(20, 120, (2, 2100))
    output[0, 4:] = chance.uniform(0, 1, (3, 2100)) ** 40
    spec = TensorSpec("out", (1, 7, 2100), "float32")
    decoder_class = resolve("decoder", "yolo")

    def opened(threshold: float) -> object:
        picture = TensorSpec("in", (1, 320, 320, 3), "float32")
        context = DecoderContext((picture,), (spec,), LABELS, threshold, input_size=(320, 320))
        return decoder_class(decoder_class.options(), context)

    plain = opened(0.5).decode([output], Placement())  # type: ignore[attr-defined]
    both = Conceal(opened(LOWEST_SCORE), ("person",), 0.5).decode([output], Placement())  # type: ignore[arg-type]
    assert plain.detections
    assert both.detections == plain.detections
    assert both.hidden is not None
    assert len(both.hidden.boxes) > sum(one.label == "person" for one in plain.detections)
