"""Objects of a grid: CenterNet's and FOMO's peaks, FastestDet's cells."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.centernet import CenterNetDecoder
from edgerun.decode.centernet import Options as CenterOptions
from edgerun.decode.grid import GridDecoder
from edgerun.decode.grid import Options as GridOptions
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference

SIDES = (24, 32)
CLASSES = 3
LABELS = tuple("abc")


def laid_out(array, last):
    return np.ascontiguousarray(array[None] if last else array.transpose(2, 0, 1)[None])


def centernet(outputs, *, names=("hm", "wh", "reg"), labels=LABELS, threshold=0.5, quantisation=(), **options):
    specs = [heads.spec(name, raw) for name, raw in zip(names, outputs, strict=False)]
    if quantisation:
        specs[0] = heads.spec(names[0], outputs[0], *quantisation)
    return CenterNetDecoder(CenterOptions(**options), DecoderContext((), tuple(specs), labels, threshold))


def maps(seed, classes=CLASSES):
    rng = np.random.default_rng(seed)
    heat = rng.normal(-3, 2, (*SIDES, classes)).astype(np.float32)
    size = rng.uniform(0.5, 12, (*SIDES, 2)).astype(np.float32)
    offset = rng.uniform(0, 1, (*SIDES, 2)).astype(np.float32)
    return heat, size, offset


def peaks(heat, threshold):
    """Every cell that is a maximum of its class in its 3×3 surroundings."""
    height, width, classes = heat.shape
    heat = heat.tolist()
    for i in range(height):
        for j in range(width):
            for k in range(classes):
                around = [
                    heat[r][c][k] for r in range(i - 1, i + 2) for c in range(j - 1, j + 2)
                    if 0 <= r < height and 0 <= c < width
                ]  # fmt: skip
                if heat[i][j][k] == max(around) and reference.sigmoid(heat[i][j][k]) >= threshold:
                    yield i, j, k, reference.sigmoid(heat[i][j][k])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.3, 0.5, 0.9]), drawing.placements)
def test_centernet_reads_its_maps_as_the_scalar_reading_does(seed, last, threshold, placement):
    heat, size, offset = maps(seed)
    outputs = [laid_out(one, last) for one in (heat, size, offset)]
    answer = centernet(outputs, threshold=threshold, max_detections=1000).decode(outputs, placement)
    drawing.in_range(answer)
    wanted = []
    for i, j, k, score in peaks(heat, threshold):
        (w, h), (x, y) = size[i, j].tolist(), offset[i, j].tolist()
        box = ((j + x - w / 2) / 32, (i + y - h / 2) / 24, (j + x + w / 2) / 32, (i + y + h / 2) / 24)
        wanted.append((k, score, box))
    drawing.same(drawing.found(answer), reference.finish(wanted, placement, 1.0))
    assert all(one.label == LABELS[one.class_id] for one in answer.detections)


def test_a_plateau_is_one_object():
    heat = np.full((*SIDES, CLASSES), -8, np.float32)
    heat[5:7, 8:11, 1] = 3
    outputs = [laid_out(one, True) for one in (heat, *maps(1)[1:])]
    assert len(centernet(outputs).decode(outputs, heads.STRETCH).detections) == 1


def test_a_quantised_heat_map():
    heat, size, offset = maps(4)
    q = heads.quantised(laid_out(heat, False), 0.05, 3)
    real = (0.05 * (q.astype(np.float32) - 3)).astype(np.float32)
    rest = [laid_out(one, False) for one in (size, offset)]
    plain = centernet([real, *rest]).decode([real, *rest], heads.STRETCH)
    for scales in (((0.05,), (3,)), ((0.05,) * 3, (3,) * 3, 1)):
        got = centernet([q, *rest], quantisation=scales).decode([q, *rest], heads.STRETCH)
        drawing.same(drawing.found(got), drawing.found(plain), 1e-6)


@pytest.mark.parametrize("last", [True, False])
def test_fomo_has_cells_and_a_background(last):
    scores = np.zeros((1, 12, 12, 3), np.float32)
    scores[..., 0] = 1
    scores[0, 4, 6] = [0.1, 0.0, 0.9]
    scores = np.ascontiguousarray(scores if last else scores.transpose(0, 3, 1, 2))
    made = centernet([scores], names=("out",), score="none", background=0)
    assert made.labels == ("b", "c")
    (one,) = made.decode([scores], heads.STRETCH).detections
    assert (one.label, one.score) == ("c", pytest.approx(0.9))
    assert one.box == pytest.approx((6 / 12, 4 / 12, 7 / 12, 5 / 12))
    q = heads.quantised(scores, 1 / 256, -128)
    made = centernet([q], names=("out",), score="none", background=0, quantisation=((1 / 256,), (-128,)))
    (again,) = made.decode([q], heads.STRETCH).detections
    assert again.box == one.box


def test_sizes_with_one_scale_per_channel():
    heat, size, offset = (laid_out(one, False) for one in maps(4))
    q = heads.quantised(size, np.array([0.1, 0.2]).reshape(1, 2, 1, 1), 0)
    real = (np.array([0.1, 0.2], np.float32).reshape(1, 2, 1, 1) * q.astype(np.float32)).astype(np.float32)
    specs = (heads.spec("hm", heat), heads.spec("wh", q, (0.1, 0.2), (0, 0), 1), heads.spec("reg", offset))
    made = CenterNetDecoder(CenterOptions(), DecoderContext((), specs, LABELS))
    plain = centernet([heat, real, offset]).decode([heat, real, offset], heads.STRETCH)
    drawing.same(drawing.found(made.decode([heat, q, offset], heads.STRETCH)), drawing.found(plain), 1e-6)
    with pytest.raises(FrameError, match="another shape"):
        made.decode([heat, q[..., 1:], offset], heads.STRETCH)


@pytest.mark.parametrize(("at", "message"), [(0, "scores are not numbers"), (1, "sizes or offsets are not numbers")])
def test_maps_that_are_not_numbers(at, message):
    outputs = [laid_out(one, True) for one in maps(1)]
    outputs[at][:] = np.nan
    with pytest.raises(FrameError, match=message) as caught:
        centernet(outputs).decode(outputs, heads.STRETCH)
    assert caught.value.reason == "decode"


@pytest.mark.parametrize(
    ("shapes", "names", "labels", "options", "message"),
    [
        ([(1, 1000)], ("o",), (), {}, "not those of CenterNet"),
        ([(1, 3, 24, 32), (1, 2, 24, 32), (1, 2, 24, 32)], ("a", "b", "c"), LABELS, {}, "size_output, offset_output"),
        ([(1, 3, 24, 32), (1, 2, 12, 16)], ("hm", "wh"), LABELS, {}, "of the same H×W"),
        ([(1, 3, 24, 32), (1, 2, 24, 32)], ("hm", "wh"), LABELS[:2], {}, "labels"),
        ([(1, 3, 24, 32), (1, 2, 24, 32)], ("hm", "wh"), LABELS, {"background": 3}, r"background in 0\.\.2"),
    ],
)
def test_models_that_are_no_centernet(shapes, names, labels, options, message):
    specs = tuple(TensorSpec(name, shape, "float32") for name, shape in zip(names, shapes, strict=True))
    with pytest.raises(ModelError, match=message):
        CenterNetDecoder(CenterOptions(**options), DecoderContext((), specs, labels))


def grid(raw, *, labels=LABELS, threshold=0.5, quantisation=(), **options):
    return GridDecoder(
        GridOptions(**options), DecoderContext((), (heads.spec("o", raw, *quantisation),), labels, threshold)
    )


def cells(seed, first=5):
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 1.5, (*SIDES, first + CLASSES)).astype(np.float32)
    raw[..., 0] = rng.beta(0.3, 2, SIDES)
    raw[..., 5:] = rng.dirichlet((0.3,) * CLASSES, SIDES)
    return raw


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), drawing.placements)
def test_fastestdet_is_read_as_the_scalar_reading_does(seed, last, placement):
    raw = cells(seed)
    out = laid_out(raw, last)
    answer = grid(out, max_candidates=2000, max_detections=2000).decode([out], placement)
    drawing.in_range(answer)
    found = []
    for i, line in enumerate(raw.tolist()):
        for j, (objectness, tx, ty, tw, th, *classes) in enumerate(line):
            best = max(classes)
            score = objectness**0.6 * best**0.4
            if score >= 0.5:
                cx, cy = (math.tanh(tx) + j) / 32, (math.tanh(ty) + i) / 24
                w, h = reference.sigmoid(tw), reference.sigmoid(th)
                found.append((classes.index(best), score, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)))
    drawing.same(drawing.found(answer), reference.finish(found, placement, 0.45))


def test_a_grid_that_the_manifest_describes():
    """One box for each cell as YOLO v2 has them, without an objectness, classes as logits."""
    raw = np.full((*SIDES, 4 + CLASSES), -9, np.float32)
    raw[6, 10] = [0.5, -1, math.log(4), math.log(3), -2, 3, -2]
    out = laid_out(raw, True)
    options = {"objectness": None, "box": 0, "classes": 4, "class_score": "sigmoid", "class_power": 1}
    made = grid(out, **options, centre="sigmoid", size="exp", size_units="cells")
    (one,) = made.decode([out], heads.STRETCH).detections
    cx, cy = (10 + reference.sigmoid(0.5)) / 32, (6 + reference.sigmoid(-1)) / 24
    assert (one.label, one.score) == ("b", pytest.approx(reference.sigmoid(3)))
    assert one.box == pytest.approx((cx - 2 / 32, cy - 1.5 / 24, cx + 2 / 32, cy + 1.5 / 24))
    soft = grid(out, **(options | {"class_score": "softmax"}), centre="sigmoid", size="exp", size_units="cells")
    (one, *_) = soft.decode([out], heads.STRETCH).detections
    assert one.score == pytest.approx(math.e**3 / (math.e**3 + 2 * math.e**-2))


@pytest.mark.parametrize(
    ("channel", "value", "message"),
    [
        (0, np.nan, "scores are not numbers"),
        (6, np.inf, "scores are not numbers"),
        (0, 4.0, r'not probabilities.*\.\.4.*objectness_score or class_score = "sigmoid"'),
        (2, np.nan, "boxes are not numbers"),
    ],
)
def test_cells_that_cannot_be_such_fail_the_frame(channel, value, message):
    raw = cells(3)
    i, j = np.unravel_index(int((raw[..., 0] ** 0.6 * raw[..., 5:].max(axis=2) ** 0.4).argmax()), SIDES)
    raw[i, j, channel] = value
    out = laid_out(raw, False)
    with pytest.raises(FrameError, match=message) as caught:
        grid(out).decode([out], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_quantised_cells():
    q = heads.quantised(laid_out(cells(5), True), 1 / 40, -80)
    real = ((q.astype(np.float32) + 80) / 40).astype(np.float32)
    made = grid(q, quantisation=((1 / 40,), (-80,)))
    plain = grid(real).decode([real], heads.STRETCH)
    assert plain.detections
    drawing.same(drawing.found(made.decode([q], heads.STRETCH)), drawing.found(plain), 1e-6)


@pytest.mark.parametrize(
    ("shape", "labels", "options", "message"),
    [
        ((1, 1000), LABELS, {}, "not those of a grid of boxes.*1×8×H×W"),
        ((1, 8, 22, 22), (*LABELS, "d"), {"layout": "nchw"}, "more labels"),
        ((1, 22, 22, 22), (), {}, "cannot tell how to read the grid"),
    ],
)
def test_models_that_are_no_grid(shape, labels, options, message):
    with pytest.raises(ModelError, match=message):
        GridDecoder(GridOptions(**options), DecoderContext((), (TensorSpec("o", shape, "float32"),), labels))
