import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.yolo import Options, YoloDecoder
from edgerun.decode.yolo_maps import ANCHORS
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference

SIZE = (160, 96)
CELLS = 20 * 12 + 10 * 6 + 5 * 3
CLASSES = 7
LABELS = tuple(f"thing {k}" for k in range(CLASSES))
# version, channels last, unit of the boxes: v5 ONNX and TFLite, v8 ONNX, v8 TFLite and its transposed relative
LAYOUTS = [("5", True, SIZE), ("5", True, (1, 1)), ("8", False, SIZE), ("8", False, (1, 1)), ("8", True, (1, 1))]
layouts = st.sampled_from(LAYOUTS)


def laid_out(rows, channels_last):
    return np.ascontiguousarray(rows[None] if channels_last else rows.T[None])


def decoder(outputs, *, labels=LABELS, threshold=0.5, size=SIZE, quantisation=((), ()), **options):
    specs = tuple(heads.spec(f"out{k}", raw, *quantisation) for k, raw in enumerate(outputs))
    context = DecoderContext(inputs=(), outputs=specs, labels=labels, threshold=threshold, input_size=size)
    return YoloDecoder(Options(**options), context)


def anchors_of(version):
    return CELLS * (3 if version == "5" else 1)


@settings(max_examples=40, deadline=None)
@given(drawing.objects(CLASSES), layouts, st.booleans(), st.booleans(), drawing.placements, st.integers(0, 2**32 - 1))
def test_boxes_come_back(objects, layout, named, told, placement, seed):
    version, channels_last, unit = layout
    rows = heads.yolo_head(objects, CLASSES, anchors_of(version), unit, version == "5", np.random.default_rng(seed))
    raw = laid_out(rows, channels_last)
    options = {"version": version, "box_units": "normalised" if unit == (1, 1) else "pixels"} if told else {}
    answer = decoder([raw], labels=LABELS if named else (), **options).decode([raw], placement)
    drawing.in_range(answer)
    wanted = [(cls, score, reference.placed(box, placement)) for cls, score, box in objects]
    drawing.same(drawing.found(answer), [one for one in wanted if one[2][1] < one[2][3]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), layouts, st.sampled_from([0.0, 0.2, 0.6]), drawing.placements)
def test_it_reads_a_head_as_the_scalar_reading_does(seed, layout, threshold, placement):
    version, channels_last, unit = layout
    rng = np.random.default_rng(seed)
    rows = np.empty((anchors_of(version), CLASSES + (5 if version == "5" else 4)), np.float32)
    rows[:, :4] = rng.uniform(0.01, 0.7, (len(rows), 4)) * (*unit, *unit)
    rows[:, 4:] = rng.random((len(rows), rows.shape[1] - 4)) ** 6
    raw = laid_out(rows, channels_last)
    answer = decoder([raw], threshold=threshold, max_candidates=2000).decode([raw], placement)
    drawing.in_range(answer)
    wanted = reference.yolo(rows.tolist(), version == "5", unit, placement, threshold, 0.45)
    drawing.same(drawing.found(answer), wanted)


@settings(max_examples=20, deadline=None)
@given(drawing.objects(CLASSES), layouts.filter(lambda one: one[2] == (1, 1)), st.sampled_from(["int8", "uint8"]))
def test_quantising_moves_no_object_by_more_than_one_quantum(objects, layout, dtype):
    version, channels_last, _ = layout
    rows = heads.yolo_head(objects, CLASSES, anchors_of(version), (1, 1), version == "5", np.random.default_rng(1))
    scale, zero = 1 / 250, -125 if dtype == "int8" else 3
    raw = heads.quantised(laid_out(rows, channels_last), scale, zero, dtype)
    answer = decoder([raw], quantisation=((scale,), (zero,))).decode([raw], heads.STRETCH)
    real = np.float32(scale) * (raw.astype(np.float32) - zero)
    plain = decoder([real]).decode([real], heads.STRETCH)
    drawing.same(drawing.found(answer), drawing.found(plain), 1e-6)
    drawing.same(drawing.found(answer), objects, 1.5 * scale)  # a corner is a centre and half a size


def test_one_scale_per_channel():
    objects = [(2, 0.7, (0.2, 0.3, 0.6, 0.7))]
    rows = heads.yolo_head(objects, CLASSES, CELLS, SIZE, False, np.random.default_rng(1))
    scales = (*([0.7] * 4), *([1 / 250] * CLASSES))
    zeros = (*([-128] * 4), *([-125] * CLASSES))
    raw = heads.quantised(rows.T[None], np.array(scales)[:, None], np.array(zeros)[:, None])
    answer = decoder([raw], quantisation=(scales, zeros, 1)).decode([raw], heads.STRETCH)
    drawing.same(drawing.found(answer), objects, 0.012)


def test_quantised_pixels_are_known_by_the_range_of_the_tensor():
    rows = heads.yolo_head([(2, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES, CELLS, SIZE, False, np.random.default_rng(1))
    raw = heads.quantised(rows.T[None], 0.7, 0, "uint8")
    answer = decoder([raw], quantisation=((0.7,), (0,)), threshold=0.5).decode([raw], heads.STRETCH)
    drawing.same(drawing.found(answer), [(2, 0.7, (0.2, 0.3, 0.6, 0.7))], 0.01)


@pytest.mark.parametrize("shape", ["5d", "nhwc", "nchw"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_feature_maps_of_v5(shape, data):
    objects = data.draw(drawing.objects(CLASSES, least=0.12))
    planes = heads.yolo5_maps(objects, CLASSES, ANCHORS, SIZE)
    lay = {
        "5d": lambda m: m,
        "nhwc": lambda m: m.transpose(1, 2, 0, 3).reshape(*m.shape[1:3], -1),
        "nchw": lambda m: m.transpose(0, 3, 1, 2).reshape(-1, *m.shape[1:3]),
    }[shape]
    outputs = [np.ascontiguousarray(lay(m))[None] for m in data.draw(st.permutations(planes))]
    answer = decoder(outputs).decode(outputs, heads.STRETCH)
    drawing.in_range(answer)
    nested = [m.tolist() for m in planes]
    wanted = reference.yolo5_maps(nested, ANCHORS, SIZE, heads.STRETCH, 0.5, 0.45)
    drawing.same(drawing.found(answer), wanted)
    assert len(wanted) <= len(objects)


def test_a_box_comes_back_from_v5_feature_maps_quantised_too():
    objects = [(2, 0.75, (0.25, 0.3, 0.5, 0.7)), (5, 0.6, (0.6, 0.1, 0.9, 0.5))]
    outputs = [m[None] for m in heads.yolo5_maps(objects, CLASSES, ANCHORS, SIZE)]
    drawing.same(drawing.found(decoder(outputs).decode(outputs, heads.STRETCH)), objects)
    q = [heads.quantised(m, 0.07, 0) for m in outputs]
    answer = decoder(q, quantisation=((0.07,), (0,))).decode(q, heads.STRETCH)
    drawing.same(drawing.found(answer), objects, 0.03)


V8_MAPS = {"nhwc": lambda m: m[None], "nchw": lambda m: np.ascontiguousarray(m.transpose(2, 0, 1))[None]}


@pytest.mark.parametrize("shape", V8_MAPS)
@settings(max_examples=20, deadline=None)
@given(objects=drawing.objects(CLASSES, least=0.1), placement=drawing.placements)
def test_boxes_come_back_from_feature_maps_of_v8(shape, objects, placement):
    planes = heads.yolo8_maps(objects, CLASSES, SIZE)
    outputs = [V8_MAPS[shape](m) for m in planes]
    answer = decoder(outputs).decode(outputs, placement)
    drawing.in_range(answer)
    wanted = reference.yolo8_maps([m.tolist() for m in planes], SIZE, placement, 0.5, 0.45)
    drawing.same(drawing.found(answer), wanted)
    if len(objects) == 1 and placement == heads.STRETCH:
        drawing.same(drawing.found(answer), objects)


def test_one_box_comes_back_from_feature_maps_of_v8_quantised_too():
    objects = [(2, 0.75, (0.25, 0.3, 0.5, 0.7)), (5, 0.6, (0.6, 0.1, 0.9, 0.5))]
    outputs = [m[None] for m in heads.yolo8_maps(objects, CLASSES, SIZE)]
    drawing.same(drawing.found(decoder(outputs).decode(outputs, heads.STRETCH)), objects)
    q = [heads.quantised(m, 0.1, 60) for m in outputs]
    drawing.same(drawing.found(decoder(q, quantisation=((0.1,), (60,))).decode(q, heads.STRETCH)), objects, 0.02)
    outputs[0][outputs[0][..., 66] > 0, 5] = np.nan
    with pytest.raises(FrameError, match="boxes are not numbers"):
        decoder(outputs).decode(outputs, heads.STRETCH)


def test_feature_maps_that_could_be_of_either_version():
    shapes = [(1, 144, SIZE[1] // s, SIZE[0] // s) for s in (8, 16, 32)]  # 3·(5+43) or 64+80
    specs = tuple(TensorSpec(f"out{k}", shape, "float32") for k, shape in enumerate(shapes))
    for labels, version, classes in [(80, "auto", 80), (43, "auto", 43), (0, "8", 80), (0, "5", 43)]:
        context = DecoderContext(inputs=(), outputs=specs, labels=tuple(map(str, range(labels))), input_size=SIZE)
        assert len(YoloDecoder(Options(version=version), context).labels) == classes
    with pytest.raises(ModelError, match="cannot tell how to read"):
        YoloDecoder(Options(), DecoderContext(inputs=(), outputs=specs, input_size=SIZE))


def test_anchors_that_do_not_fit_together():
    with pytest.raises(ModelError, match="as many anchors for each feature map; got 3, 1"):
        decoder([np.zeros((1, CELLS, 11), np.float32)], anchors=(ANCHORS[0], ANCHORS[1][:1]))


def test_feature_maps_whose_numbers_are_none():
    outputs = [m[None] for m in heads.yolo5_maps([(2, 0.75, (0.25, 0.3, 0.5, 0.7))], CLASSES, ANCHORS, SIZE)]
    for channel, what in ((4, "scores"), (0, "boxes"), (7, "scores")):
        broken = [m.copy() for m in outputs]
        for m in broken:
            m[..., channel][m[..., 4] > 0] = np.nan
        with pytest.raises(FrameError, match=f"{what} are not numbers"):
            decoder(broken).decode(broken, heads.STRETCH)


@pytest.mark.parametrize(("version", "channels_last", "unit"), LAYOUTS)
@pytest.mark.parametrize(("channel", "what"), [(0, "boxes"), (3, "boxes"), (4, "scores"), (6, "scores")])
def test_values_that_are_not_numbers(version, channels_last, unit, channel, what):
    objects = [(2, 0.7, (0.2, 0.3, 0.6, 0.7))]
    rows = heads.yolo_head(objects, CLASSES, anchors_of(version), unit, version == "5", np.random.default_rng(1))
    at = int(rows[:, 4:].sum(axis=1).argmax())
    rows[at, channel] = np.nan
    raw = laid_out(rows, channels_last)
    with pytest.raises(FrameError, match=f"{what} are not numbers") as caught:
        decoder([raw]).decode([raw], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_an_anchor_counts_as_its_best_class_and_overlaps_are_suppressed_class_by_class():
    rows = heads.yolo_head([], CLASSES, CELLS, SIZE, False, np.random.default_rng(1))
    for at, (x, cls, score) in enumerate([(80, 1, 0.9), (81, 1, 0.8), (82, 2, 0.7), (10, 1, 0.6)]):
        rows[at, :4] = (x, 48, 20, 20)
        rows[at, 4 + cls], rows[at, 4 + 6] = score, 0.55
    raw = laid_out(rows, False)
    found = decoder([raw]).decode([raw], heads.STRETCH).detections
    assert [(one.class_id, one.score) for one in found] == [
        (1, pytest.approx(0.9)),
        (2, pytest.approx(0.7)),
        (1, pytest.approx(0.6)),
    ]


@pytest.mark.parametrize(
    ("shape", "labels", "objectness"),
    [
        ((1, 84, 8400), 80, False),
        ((1, 8400, 84), 80, False),
        ((1, 25200, 85), 80, True),
        ((1, 25200, 85), 0, True),
        ((1, 84, 8400), 0, False),
        ((1, 8400, 6), 0, False),
        ((1, 84, -1), 80, False),
        ((1, -1, 85), 80, True),
        ((-1, 84, -1), 80, False),
        ((8400, 84), 80, False),
        ((1, 25500, 85), 80, True),
    ],
)
def test_the_published_layouts_are_told_apart(shape, labels, objectness):
    spec = TensorSpec("output0", shape, "float32")
    names = tuple(map(str, range(labels)))
    context = DecoderContext(inputs=(), outputs=(spec,), labels=names, input_size=(640, 640))
    made = YoloDecoder(Options(), context)
    assert len(made.labels) == (85 if shape[-1] == 85 else 84 if 84 in shape else 6) - (5 if objectness else 4)


def test_without_an_input_size_there_are_more_anchors_than_channels():
    spec = TensorSpec("output0", (1, 84, 8400), "float32")
    options = Options(version="8", box_units="normalised")
    assert len(YoloDecoder(options, DecoderContext(inputs=(), outputs=(spec,))).labels) == 80


def test_a_centre_that_is_no_number_cannot_tell_the_units():
    rows = heads.yolo_head([(2, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES, CELLS, SIZE, False, np.random.default_rng(1))
    rows[int(rows[:, 4:].sum(axis=1).argmin()), 0] = np.nan
    raw = laid_out(rows, False)
    with pytest.raises(FrameError, match="boxes are not numbers"):
        decoder([raw]).decode([raw], heads.STRETCH)
    told = decoder([raw], box_units="pixels").decode([raw], heads.STRETCH)
    assert [one.class_id for one in told.detections] == [2]


def test_open_shapes_are_read_by_their_real_size():
    objects = [(2, 0.7, (0.2, 0.3, 0.6, 0.7))]
    rows = heads.yolo_head(objects, CLASSES, CELLS, SIZE, False, np.random.default_rng(1))
    spec = TensorSpec("output0", (-1, 4 + CLASSES, -1), "float32")
    inputs = (TensorSpec("images", (1, 3, SIZE[1], SIZE[0]), "float32"),)
    made = YoloDecoder(Options(), DecoderContext(inputs=inputs, outputs=(spec,), labels=LABELS))
    drawing.same(drawing.found(made.decode([rows.T[None]], heads.STRETCH)), objects)
    with pytest.raises(FrameError, match="expected 1×11×A; got 1×10×315"):
        made.decode([rows.T[None, 1:]], heads.STRETCH)


@pytest.mark.parametrize(
    ("shapes", "labels", "options", "size", "message"),
    [
        ([(1, 84, 8400)], 79, {}, (640, 640), "fewer labels than the model has classes; expected 80 labels; got 79"),
        ([(1, 25200, 85)], 3, {}, (640, 640), "fewer labels than the model has classes; expected 80 labels; got 3"),
        (
            [(1, 300, 7)],
            80,
            {},
            (640, 640),
            "not those of a YOLO head.*1×300×7 float32, input 640×640, 80 labels.*without its own NMS",
        ),
        ([(1, -1, 85)], 0, {}, (640, 640), "cannot tell how to read.*Set version"),
        ([(1, 315, 11)], 0, {}, (0, 0), "cannot tell how to read"),
        ([(1, 85, 25200)], 80, {}, (640, 640), "not those of a YOLO head"),
        ([(1, 1000)], 0, {"version": "8"}, (640, 640), "not those of a YOLO head"),
        (
            [(1, 1917, 4), (1, 1917, 24)],
            24,
            {"version": "8"},
            (640, 640),
            "not those of a YOLO head.*expected one output",
        ),
        ([(1, 84, 8400)], 80, {}, (0, 0), "size of the model's input is not known"),
    ],
)
def test_models_it_cannot_decode(shapes, labels, options, size, message):
    specs = tuple(TensorSpec(f"out{k}", shape, "float32") for k, shape in enumerate(shapes))
    names = tuple(map(str, range(labels)))
    with pytest.raises(ModelError, match=message):
        YoloDecoder(Options(**options), DecoderContext(inputs=(), outputs=specs, labels=names, input_size=size))


def test_scores_that_are_no_probabilities():
    rows = heads.yolo_head([(2, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES, CELLS, SIZE, False, np.random.default_rng(1))
    raw = laid_out(rows, False)
    raw[0, 4:] *= 9
    with pytest.raises(FrameError, match=r"not probabilities; expected 0\.\.1; got 6\.3"):
        decoder([raw]).decode([raw], heads.STRETCH)


@pytest.mark.parametrize("version", ["5", "8"])
def test_feature_maps_with_one_scale_per_channel_and_of_another_shape_than_stated(version):
    objects = [(2, 0.75, (0.25, 0.3, 0.5, 0.7))]
    if version == "5":
        planes = heads.yolo5_maps(objects, CLASSES, ANCHORS, SIZE)
        outputs = [m.transpose(1, 2, 0, 3).reshape(1, *m.shape[1:3], -1) for m in planes]
    else:
        outputs = [m[None] for m in heads.yolo8_maps(objects, CLASSES, SIZE)]
    channels = outputs[0].shape[-1]
    scales = tuple(0.07 + 0.03 * (k % 2) for k in range(channels))
    zeros = tuple(k % 3 for k in range(channels))
    q = [heads.quantised(m, np.array(scales), np.array(zeros)) for m in outputs]
    made = decoder(q, quantisation=(scales, zeros, 3))
    drawing.same(drawing.found(made.decode(q, heads.STRETCH)), objects, 0.02)
    with pytest.raises(FrameError, match=rf"expected 1×12×20×{channels}; got 1×11×20×{channels}"):
        made.decode([q[0][:, 1:], *q[1:]], heads.STRETCH)
