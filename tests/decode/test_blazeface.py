import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.blazeface import BlazeFaceDecoder, Options, anchors
from edgerun.errors import FrameError, ModelError
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import DecoderContext, EngineContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference
from tests.real_models import model_file

SIZE = (128, 128)
COUNT = 896
ANCHORS = [
    ((column + 0.5) / side, (row + 0.5) / side)
    for side, each in ((16, 2), (8, 6))
    for row in range(side)
    for column in range(side)
    for _ in range(each)
]


def decoder(rows, logits, *, threshold=0.5, labels=(), size=SIZE, quantisation=((), ()), **options):
    outputs = (heads.spec("regressors", rows, *quantisation), heads.spec("classificators", logits))
    context = DecoderContext(inputs=(), outputs=outputs, labels=labels, threshold=threshold, input_size=size)
    return BlazeFaceDecoder(Options(**options), context)


def head(seed, crowd):
    """A head of noise, with about `crowd` logits that reach 0.5, in clusters as a real face has them."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 8, (1, COUNT, 16)).astype(np.float32)
    rows[..., 2:4] = rng.uniform(10, 60, (1, COUNT, 2))
    logits = rng.normal(-6, 1, (1, COUNT, 1)).astype(np.float32)
    if crowd:
        logits[0, rng.integers(0, COUNT - 6, crowd)[:, None] + np.arange(6), 0] = rng.uniform(0.1, 4, (crowd, 6))
    return rows, logits


def scalar(rows, logits, placement, threshold, iou=0.3):
    """MediaPipe's calculators, one number at a time: (score, box, points) of each face."""
    left = []
    for row, (logit,), (ax, ay) in zip(rows, logits, ANCHORS, strict=True):
        score = reference.sigmoid(logit)
        if score >= threshold:
            cx, cy, w, h = row[0] / 128 + ax, row[1] / 128 + ay, row[2] / 128, row[3] / 128
            points = [(row[k] / 128 + ax, row[k + 1] / 128 + ay) for k in range(4, 16, 2)]
            left.append((score, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), points))
    left.sort(key=lambda one: (-one[0], one[1]))
    faces = []
    while left:
        best = left[0]
        group = [one for one in left if one is best or reference.overlap(one[1], best[1]) > iou]
        left = [one for one in left if one not in group]
        total = sum(one[0] for one in group)
        box = tuple(sum(one[0] * one[1][k] for one in group) / total for k in range(4))
        points = [
            tuple(sum(one[0] * one[2][p][axis] for one in group) / total for axis in (0, 1))
            for p in range(len(best[2]))
        ]
        placed = reference.placed(box, placement)
        if placed[2] > placed[0] and placed[3] > placed[1]:
            faces.append((0, best[0], placed, [reference.placed((*p, *p), placement)[:2] for p in points]))
    return faces


def test_the_anchors_are_those_of_the_short_range():
    assert anchors(SIZE, (8, 16, 16, 16), 2) == pytest.approx(np.array(ANCHORS))
    assert len(anchors((192, 192), (8, 16, 16, 16), 2)) == 2016
    assert len(anchors((256, 256), (16, 32, 32, 32), 2)) == 896
    assert len(anchors((192, 192), (4,), 1)) == 2304


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 4, 40]), drawing.placements)
def test_it_reads_a_head_as_the_scalar_reading_does(seed, crowd, placement):
    rows, logits = head(seed, crowd)
    answer = decoder(rows, logits).decode([rows, logits], placement)
    drawing.in_range(answer)
    wanted = scalar(rows[0].tolist(), logits[0].tolist(), placement, 0.5)
    drawing.same(drawing.found(answer), [one[:3] for one in wanted])
    for one in answer.detections:
        (points,) = (w[3] for w in wanted if w[2] == pytest.approx(one.box, abs=2e-5))
        assert [point[:2] for point in one.keypoints] == [pytest.approx(point, abs=2e-5) for point in points]
        assert all(score in (0.0, pytest.approx(one.score)) for _, _, score in one.keypoints)


def real_face(picture, size=128):
    engine = TfliteEngine(TfliteOptions(), EngineContext(model_file("face_detection_short_range.tflite"), "face"))
    pixels = cv2.cvtColor(cv2.resize(picture, (size, size)), cv2.COLOR_BGR2RGB).astype(np.float32)
    outputs = engine.infer(((pixels[None] - 127.5) / 127.5,))
    context = DecoderContext(engine.inputs, engine.outputs, input_size=(size, size))
    return BlazeFaceDecoder(Options(), context).decode(outputs, heads.STRETCH)


def test_the_real_model_finds_the_astronauts_face():
    (face,) = real_face(cv2.imread(str(model_file("astronaut.png")))).detections
    assert face.label == "face"
    assert face.score > 0.8
    # Eyes, nose and mouth of the picture, by eye, in pixels of 512.
    for point, (x, y) in zip(face.keypoints[:4], [(205, 101), (249, 109), (224, 122), (222, 145)], strict=True):
        assert math.dist((point[0] * 512, point[1] * 512), (x, y)) < 14
    x0, y0, x1, y1 = face.box
    assert all(x0 < x < x1 and y0 < y < y1 for x, y, _ in face.keypoints[:4])


def test_the_real_model_finds_no_face_in_a_cup_of_coffee():
    assert real_face(cv2.imread(str(model_file("coffee.png")))).detections == ()


def test_quantised_regressors():
    rows, logits = head(3, 2)
    q = heads.quantised(rows, 0.5, 3)
    answer = decoder(q, logits, quantisation=((0.5,), (3,))).decode([q, logits], heads.STRETCH)
    real = (0.5 * (q.astype(np.float32) - 3)).astype(np.float32)
    drawing.same(drawing.found(answer), drawing.found(decoder(real, logits).decode([real, logits], heads.STRETCH)))


def test_a_point_outside_the_frame_is_at_its_border_and_not_trusted():
    rows, logits = np.zeros((1, COUNT, 16), np.float32), np.full((1, COUNT, 1), -9, np.float32)
    rows[0, 0] = [64, 64, 64, 64, -500, 20, *[10] * 10]
    logits[0, 0] = 5
    (face,) = decoder(rows, logits).decode([rows, logits], heads.STRETCH).detections
    assert face.keypoints[0] == (0.0, pytest.approx(20 / 128 + 0.5 / 16), 0.0)
    assert face.keypoints[1][2] == pytest.approx(reference.sigmoid(5))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(broken):
    rows, logits = head(1, 1)
    bad = logits.copy()
    if np.isnan(broken):
        bad[0, 5] = broken
        with pytest.raises(FrameError, match="scores are not numbers"):
            decoder(rows, bad).decode([rows, bad], heads.STRETCH)
    rows[0, int(logits[0].argmax()), 7] = broken
    with pytest.raises(FrameError, match="boxes are not numbers") as caught:
        decoder(rows, logits).decode([rows, logits], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_huge_boxes_stay_in_the_frame():
    rows, logits = head(1, 1)
    rows[..., :4] = 3e38
    drawing.in_range(decoder(rows, logits).decode([rows, logits], heads.STRETCH))


@pytest.mark.parametrize(
    ("shapes", "labels", "options", "size", "message"),
    [
        ([(1, 896, 16)], (), {}, SIZE, "not those of BlazeFace.*1×896×"),
        ([(1, 2016, 18), (1, 2016, 1)], (), {}, SIZE, r"expected 1×896×\(4 \+ 2 per keypoint\).*got a 1×2016×18"),
        ([(1, 896, 15), (1, 896, 1)], (), {}, SIZE, "not those of BlazeFace"),
        ([(1, 896, 16), (1, 896, 1)], ("face", "cat"), {}, SIZE, "more labels.*expected 1 labels; got 2"),
        ([(1, 896, 16), (1, 896, 1)], (), {}, (0, 0), "size of the model's input is not known"),
    ],
)
def test_models_it_cannot_decode(shapes, labels, options, size, message):
    specs = tuple(TensorSpec(name, shape, "float32") for name, shape in zip("ab", shapes, strict=False))
    with pytest.raises(ModelError, match=message):
        BlazeFaceDecoder(Options(**options), DecoderContext((), specs, labels, input_size=size))


def test_an_output_of_another_shape_than_stated_fails_the_frame():
    rows, logits = head(1, 1)
    made = decoder(rows, logits)
    with pytest.raises(FrameError, match="expected 1×896×1; got 1×895×1"):
        made.decode([rows, logits[:, 1:]], heads.STRETCH)
    with pytest.raises(FrameError, match="expected 1×896×16; got 1×895×16"):
        made.decode([rows[:, 1:], logits], heads.STRETCH)
