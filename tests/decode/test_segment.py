import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.segment import Options, SegmentDecoder
from edgerun.errors import FrameError, ModelError
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import DecoderContext, EngineContext
from edgerun.types import Placement, TensorSpec
from tests.decode import heads
from tests.real_models import model_file

LABELS = tuple("abcde")


def decoder(raw, *, labels=LABELS, threshold=0.5, quantisation=(), **options):
    outputs = (heads.spec("map", raw, *quantisation),)
    return SegmentDecoder(Options(**options), DecoderContext((), outputs, labels, threshold))


def scalar(classes, placement, height, width):
    """Share of each class among the pixels whose centres lie in the frame."""
    counts, total = {}, 0
    for row in range(height):
        for column in range(width):
            x = (column + 0.5) / width * placement.scale_x + placement.shift_x
            y = (row + 0.5) / height * placement.scale_y + placement.shift_y
            if 0 <= x <= 1 and 0 <= y <= 1:
                total += 1
                counts[classes[row][column]] = counts.get(classes[row][column], 0) + 1
    return {k: n / total for k, n in counts.items()}


def unrun(runs):
    """The mask of COCO's uncompressed RLE."""
    flat = []
    for index, count in enumerate(runs.counts):
        flat += [index % 2 == 1] * count
    return np.array(flat).reshape(runs.size[1], runs.size[0]).T


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.booleans(),
    st.sampled_from([heads.STRETCH, heads.LETTERBOX, Placement(1.5, -0.2, 1.25, -0.125)]),
)
def test_it_reads_a_map_as_the_scalar_reading_does(seed, sides, last, placement):
    rng = np.random.default_rng(seed)
    height, width = sides
    scores = rng.normal(size=(height, width, 5)).astype(np.float32)
    classes = scores.argmax(axis=2)
    raw = np.ascontiguousarray(scores[None] if last else scores.transpose(2, 0, 1)[None])
    made = decoder(raw, background=None, min_share=0.0, runs=True, layout="nhwc" if last else "nchw")
    segments = made.decode([raw], placement).segments
    wanted = scalar(classes.tolist(), placement, height, width)
    assert {one.class_id: one.share for one in segments} == pytest.approx(wanted)
    assert [one.share for one in segments] == sorted((one.share for one in segments), reverse=True)
    whole = sum(unrun(one.runs).astype(int) for one in segments)
    assert (whole == 1).all()
    for one in segments:
        assert one.label == LABELS[one.class_id]
        assert unrun(one.runs).mean() == pytest.approx(one.share)
        assert all(0 <= side <= 1 for polygon in one.polygons for point in polygon for side in point)


def test_outlines_hold_what_they_surround():
    scores = np.zeros((1, 100, 200, 5), np.float32)
    scores[..., 0] = 0.5
    painted = np.zeros((100, 200), np.uint8)
    cv2.ellipse(painted, (60, 50), (40, 25), 20, 0, 360, 1, -1)
    cv2.rectangle(painted, (150, 10), (190, 30), 1, -1)
    scores[0, ..., 2][painted == 1] = 1
    (segment,) = decoder(scores).decode([scores], heads.STRETCH).segments
    assert (segment.label, len(segment.polygons)) == ("c", 2)
    assert len(segment.polygons[1]) == 4
    assert max(map(len, segment.polygons)) < 40
    again = np.zeros_like(painted)
    for polygon in segment.polygons:
        corners = (np.array(polygon) * (200, 100) - 0.5).round().astype(np.int32)
        cv2.fillPoly(again, [corners], 1)
    assert (again & painted).sum() / (again | painted).sum() > 0.97
    largest = decoder(scores, polygons=1).decode([scores], heads.STRETCH).segments[0].polygons
    assert largest == segment.polygons[:1]
    assert decoder(scores, polygons=0).decode([scores], heads.STRETCH).segments[0].polygons == ()


def test_outlines_lie_in_the_frame_not_in_the_letterbox():
    scores = np.zeros((1, 80, 80, 5), np.float32)
    scores[0, 10:40, :, 1] = 1  # the picture's upper half: the bar takes the 10 rows above it
    (segment,) = decoder(scores).decode([scores], heads.LETTERBOX).segments
    assert segment.share == pytest.approx(0.5)
    ys = [y for _, y in segment.polygons[0]]
    assert (min(ys), max(ys)) == (pytest.approx(0.5 / 60), pytest.approx(29.5 / 60))
    xs = [x for x, _ in segment.polygons[0]]
    assert (min(xs), max(xs)) == (pytest.approx(0.5 / 80), pytest.approx(79.5 / 80))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("shape", [(1, 20, 30), (1, 20, 30, 1), (1, 1, 20, 30)])
def test_a_map_of_class_numbers(dtype, shape):
    raw = np.zeros((20, 30), dtype)
    raw[:10] = 3
    raw = raw.reshape(shape)
    (segment,) = decoder(raw).decode([raw], heads.STRETCH).segments
    assert (segment.label, segment.class_id, segment.share) == ("d", 3, 0.5)
    for wrong in (5, *([-1] if dtype != "uint8" else [])):
        raw.reshape(-1)[7] = wrong
        with pytest.raises(FrameError, match=rf"no label names.*expected classes 0\.\.4; got {wrong}"):
            decoder(raw).decode([raw], heads.STRETCH)


def test_class_numbers_without_labels_are_bounded():
    raw = np.full((1, 20, 30), 2**31 - 1, np.int32)
    with pytest.raises(FrameError, match="no class numbers"):
        decoder(raw, labels=()).decode([raw], heads.STRETCH)


@pytest.mark.parametrize("score", ["none", "sigmoid"])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_a_mask_of_one_class(score, kind):
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(1, 20, 30, 1)
    raw, quantisation = values if score == "none" else 8 * values - 4, ()
    if kind == "int8":
        scale, zero = (1 / 255, -128) if score == "none" else (8 / 255, 0)
        raw, quantisation = heads.quantised(raw, scale, zero), ((scale,), (zero,))
    made = decoder(raw, labels=("road",), threshold=0.25, score=score, quantisation=quantisation)
    (segment,) = made.decode([raw], heads.STRETCH).segments
    share = 0.75 if score == "none" else 1 - (np.log(1 / 3) + 4) / 8
    assert (segment.label, segment.class_id, segment.share) == ("road", 0, pytest.approx(share, abs=0.01))
    assert made.labels == ("road",)


def test_a_mask_of_logits_says_so():
    raw = np.full((1, 20, 30, 1), 4, np.float32)
    with pytest.raises(FrameError, match='set score = "sigmoid"'):
        decoder(raw, labels=("road",)).decode([raw], heads.STRETCH)


def test_quantised_scores_are_compared_as_they_are():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1, 16, 16, 5)).astype(np.float32)
    whole = heads.quantised(scores, 0.02, 5)
    scales = (0.02, 0.03, 0.04, 0.02, 0.01)
    each = heads.quantised(scores, np.array(scales), 0)
    for raw, quantisation in ((whole, ((0.02,), (5,))), (each, (scales, (0,) * 5, 3))):
        made = decoder(raw, background=None, min_share=0.0, quantisation=quantisation)
        spec = heads.spec("map", raw, *quantisation)
        real = (raw.astype(float) - np.array(spec.zero_point)) * np.array(spec.scale)
        wanted = np.bincount(real.argmax(axis=3).ravel(), minlength=5) / 256
        got = {one.class_id: one.share for one in made.decode([raw], heads.STRETCH).segments}
        assert [got.get(k, 0) for k in range(5)] == pytest.approx(wanted)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_that_are_not_numbers(broken):
    raw = np.zeros((1, 20, 30, 5), np.float32)
    raw[0, 3, 4, 2] = broken
    with pytest.raises(FrameError, match="scores are not numbers") as caught:
        decoder(raw).decode([raw], heads.STRETCH)
    assert caught.value.reason == "decode"


@pytest.mark.parametrize(
    ("shapes", "labels", "options", "message"),
    [
        ([(1, 1000)], (), {}, "not those of a segmentation model"),
        ([(1, 20, 30, 5)], LABELS[:4], {}, "fewer labels.*expected 5 labels; got 4"),
        ([(1, 20, 30, 5)], (*LABELS, "f"), {}, "more labels"),
        ([(1, 20, 30, 5), (1, 20, 30, 5)], LABELS, {}, "several outputs could be the map"),
        ([(1, -1, -1, 5)], LABELS, {}, r"got o0 1×\?×\?×5"),
        ([(1, 20, 30, 5)], LABELS, {"background": 5}, r"background in 0\.\.4, or null; got 5"),
    ],
)
def test_models_it_cannot_decode(shapes, labels, options, message):
    specs = tuple(TensorSpec(f"o{k}", shape, "float32") for k, shape in enumerate(shapes))
    with pytest.raises(ModelError, match=message):
        SegmentDecoder(Options(**options), DecoderContext((), specs, labels))


def test_an_output_of_another_shape_than_stated_fails_the_frame():
    raw = np.zeros((1, 20, 30, 5), np.float32)
    with pytest.raises(FrameError, match="expected 1×20×30×5; got 1×19×30×5"):
        decoder(raw).decode([raw[:, 1:]], heads.STRETCH)


LABELS_OF_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog",
    "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "tv",
)  # fmt: skip


@pytest.mark.parametrize(
    ("picture", "label", "share"), [("astronaut.png", "person", 0.46), ("chelsea.png", "cat", 0.76)]
)
def test_the_real_model_segments_real_pictures(picture, label, share):
    engine = TfliteEngine(TfliteOptions(), EngineContext(model_file("deeplabv3_257_fp32.tflite"), "deeplab"))
    pixels = cv2.cvtColor(cv2.resize(cv2.imread(str(model_file(picture))), (257, 257)), cv2.COLOR_BGR2RGB)
    outputs = engine.infer(((pixels[None].astype(np.float32) - 127.5) / 127.5,))
    context = DecoderContext(engine.inputs, engine.outputs, LABELS_OF_VOC)
    segments = SegmentDecoder(Options(), context).decode(outputs, heads.STRETCH).segments
    assert [one.label for one in segments] == [label]
    assert segments[0].share == pytest.approx(share, abs=0.03)
    assert 10 < len(segments[0].polygons[0]) < 200
