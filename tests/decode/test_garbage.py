"""What a decoder allocates for a frame grows with what it finds, never with the size of the model's outputs."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edgerun.decode.anomaly import AnomalyDecoder
from edgerun.decode.anomaly import Options as AnomalyOptions
from edgerun.decode.blazeface import BlazeFaceDecoder
from edgerun.decode.blazeface import Options as BlazeFaceOptions
from edgerun.decode.centernet import CenterNetDecoder
from edgerun.decode.centernet import Options as CenterNetOptions
from edgerun.decode.classify import ClassifyDecoder
from edgerun.decode.classify import Options as ClassifyOptions
from edgerun.decode.embedding import EmbeddingDecoder
from edgerun.decode.embedding import Options as EmbeddingOptions
from edgerun.decode.grid import GridDecoder
from edgerun.decode.grid import Options as GridOptions
from edgerun.decode.pose import Options as PoseOptions
from edgerun.decode.pose import PoseDecoder
from edgerun.decode.postprocess import DetectionPostprocessDecoder
from edgerun.decode.postprocess import Options as PostprocessOptions
from edgerun.decode.segment import Options as SegmentOptions
from edgerun.decode.segment import SegmentDecoder
from edgerun.decode.ssd import Options as SsdOptions
from edgerun.decode.ssd import SsdAnchorsDecoder
from edgerun.decode.yolo import Options as YoloOptions
from edgerun.decode.yolo import YoloDecoder
from edgerun.decode.yolo_pose import Options as YoloPoseOptions
from edgerun.decode.yolo_pose import YoloPoseDecoder
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import Decoder, DecoderContext, EngineContext
from edgerun.types import Tensor, TensorSpec
from tests.decode import heads
from tests.real_models import ROOT, model_file

CALL_BYTES = 6 * 1024
"""Lists, views, numbers and iterators (2 to 3 KiB each) of one call: less than one byte for each anchor."""

FOUND_BYTES = 24 * 1024
"""Of a few candidates: most of it the iterators (not data) that NumPy's lexsort has for its six keys."""

BROADCAST = {"ssd softmax", "ssd per channel", "yolo8 per channel"}
BROADCAST_BYTES = 36 * 1024
"""What NumPy's iterator holds, 8192 float32, where it puts rows and columns together; a tenth of these outputs."""

NUMPY_BYTES = 0 if int(np.__version__.partition(".")[0]) >= 2 else 68 * 1024
"""NumPy 1 has buffers of 8192 elements for its iterators in more cases, whatever the size of the arrays."""

GROWN_BYTES = 64 * 1024
"""CPython keeps up to 2000 freed tuples of each length; arrays left behind would come to 200 times their size."""

SIZE = (640, 640)
OBJECTS = [(3, 0.75, (0.2, 0.5, 0.5, 0.75)), (7, 0.625, (0.1, 0.125, 0.5, 0.25)), (1, 0.9, (0.6, 0.1, 0.9, 0.4))]
YOLO5_ANCHORS = YoloOptions().anchors


def ssd_bundled(threshold: float) -> tuple[Decoder, list[Tensor]]:
    """The bundled detector's own outputs for a picture of a street."""
    path = ROOT / "models" / "ssd-mobilenet-v2-oid" / "model.tflite"
    engine = TfliteEngine(TfliteOptions(), EngineContext(path, "ssd"))
    picture = cv2.cvtColor(cv2.resize(street(), (300, 300)), cv2.COLOR_BGR2RGB)
    outputs = engine.infer((((picture.astype(np.float32) - 127.5) / 127.5)[None],))
    return SsdAnchorsDecoder(SsdOptions(), context(engine.outputs, threshold)), [one.copy() for one in outputs]


def street() -> np.ndarray:  # type: ignore[type-arg]
    film = cv2.VideoCapture(str(ROOT / "models" / "clips" / "street.mp4"))
    picture = film.read()[1]
    film.release()
    return picture


def context(specs: tuple[TensorSpec, ...], threshold: float) -> DecoderContext:
    return DecoderContext(inputs=(), outputs=specs, threshold=threshold, input_size=SIZE)


def specs_of(outputs: list[Tensor], *quantisation: tuple[float, ...] | int) -> tuple[TensorSpec, ...]:
    return tuple(heads.spec(f"out{k}", raw, *quantisation) for k, raw in enumerate(outputs))


def ssd(threshold: float, score: str, *, whole: bool = True) -> tuple[Decoder, list[Tensor]]:
    codes, logits, _ = heads.ssd_head(OBJECTS, 24)
    if score == "softmax":
        logits[..., 0] = np.where(logits[0].max(axis=1) > 0, -8, 8)
    outputs: list[Tensor] = [codes, logits]
    specs = specs_of(outputs)
    if not whole:  # a scale for each column of both
        scales = [(0.1,) * 4, (0.1,) * 24]
        outputs = [heads.quantised(raw, 0.1, 0) for raw in outputs]
        pairs = zip(outputs, scales, strict=True)
        specs = tuple(heads.spec(f"out{k}", raw, scale, (0,) * len(scale), 2) for k, (raw, scale) in enumerate(pairs))
    return SsdAnchorsDecoder(SsdOptions(score=score), context(specs, threshold)), outputs  # type: ignore[arg-type]


def yolo(
    threshold: float, version: str, *, channels_last: bool = True, kind: str = "float32"
) -> tuple[Decoder, list[Tensor]]:
    anchors = 8400 * (3 if version == "5" else 1)
    unit = (1, 1) if kind != "float32" else SIZE
    rows = heads.yolo_head(OBJECTS, 80, anchors, unit, version == "5", np.random.default_rng(0))
    raw = (rows if channels_last else rows.T)[None]
    quantisation: tuple[tuple[float, ...] | int, ...] = ()
    if kind == "int8":
        raw, quantisation = heads.quantised(raw, 1 / 128, -64), ((1 / 128,), (-64,))
    elif kind == "per channel":
        raw, quantisation = heads.quantised(raw, 1 / 64, -64), ((1 / 64,) * len(rows.T), (-64,) * len(rows.T), 2)
    outputs: list[Tensor] = [np.ascontiguousarray(raw)]
    return YoloDecoder(YoloOptions(version=version), context(specs_of(outputs, *quantisation), threshold)), outputs  # type: ignore[arg-type]


def yolo_maps(threshold: float, version: str, kind: str, layout: str = "nhwc") -> tuple[Decoder, list[Tensor]]:
    planes = (
        heads.yolo5_maps(OBJECTS, 80, YOLO5_ANCHORS, SIZE) if version == "5" else heads.yolo8_maps(OBJECTS, 80, SIZE)
    )
    if layout == "nchw":
        planes = [plane.transpose(2, 0, 1) for plane in planes]
    outputs: list[Tensor] = [np.ascontiguousarray(plane[None]) for plane in planes]
    quantisation: tuple[tuple[float, ...], ...] = ()
    if kind == "int8":
        outputs, quantisation = [heads.quantised(one, 0.1, 60) for one in outputs], ((0.1,), (60,))
    return YoloDecoder(YoloOptions(version=version), context(specs_of(outputs, *quantisation), threshold)), outputs  # type: ignore[arg-type]


def postprocess(threshold: float) -> tuple[Decoder, list[Tensor]]:
    boxes, classes, scores = (np.zeros(shape, np.float32) for shape in ((1, 100, 4), (1, 100), (1, 100)))
    for at, (cls, score, (x0, y0, x1, y1)) in enumerate(OBJECTS):
        boxes[0, at], classes[0, at], scores[0, at] = (y0, x0, y1, x1), cls, score
    outputs: list[Tensor] = [boxes, classes, scores, np.array([100], np.float32)]
    return DetectionPostprocessDecoder(PostprocessOptions(), context(specs_of(outputs), threshold)), outputs


def classify_real(threshold: float) -> tuple[Decoder, list[Tensor]]:
    engine = TfliteEngine(TfliteOptions(), EngineContext(model_file("efficientnet_lite0_int8.tflite"), "classifier"))
    outputs = [one.copy() for one in engine.infer((cv2.resize(street(), (224, 224))[None],))]
    return ClassifyDecoder(ClassifyOptions(), context(engine.outputs, threshold)), outputs


def classify(threshold: float, activation: str) -> tuple[Decoder, list[Tensor]]:
    outputs: list[Tensor] = [np.random.default_rng(0).normal(size=(1, 4000)).astype(np.float32)]
    options = ClassifyOptions(activation=activation)  # type: ignore[arg-type]
    return ClassifyDecoder(options, context(specs_of(outputs), threshold)), outputs


def yolo_end(threshold: float) -> tuple[Decoder, list[Tensor]]:
    raw = np.zeros((1, 300, 6), np.float32)
    for at, (cls, score, box) in enumerate(OBJECTS):
        raw[0, at] = (*[side * 640 for side in box], score, cls)
    return YoloDecoder(YoloOptions(), context(specs_of([raw]), threshold)), [raw]


def yolo_pose(threshold: float) -> tuple[Decoder, list[Tensor]]:
    rows = heads.yolo_head([(0, *OBJECTS[0][1:])], 1, 8400, SIZE, False, np.random.default_rng(0))
    raw = np.ascontiguousarray(np.concatenate((rows, np.full((8400, 51), 99, np.float32)), axis=1).T[None])
    return YoloPoseDecoder(YoloPoseOptions(), context(specs_of([raw]), threshold)), [raw]


def movenet(threshold: float) -> tuple[Decoder, list[Tensor]]:
    raw = np.zeros((1, 6, 56), np.float32)
    raw[0, 0, 51:] = (0.1, 0.1, 0.6, 0.6, 0.9)
    return PoseDecoder(PoseOptions(), context(specs_of([raw]), threshold)), [raw]


def blazeface(threshold: float) -> tuple[Decoder, list[Tensor]]:
    """MediaPipe's back camera, twice as wide: more anchors than any face model has."""
    rows, logits = np.full((1, 3584, 16), 20, np.float32), np.full((1, 3584, 1), -5, np.float32)
    logits[0, 700:704] = 2
    options = BlazeFaceOptions(strides=(16, 32, 32, 32), input_size=(512, 512))
    return BlazeFaceDecoder(options, context(specs_of([rows, logits]), threshold)), [rows, logits]


def centernet(threshold: float, kind: str) -> tuple[Decoder, list[Tensor]]:
    heat = np.full((1, 80, 128, 128), -5, np.float32)
    heat[0, 3, 50, 60] = 2
    pair = np.full((1, 2, 128, 128), 0.5, np.float32)
    raw = [heat if kind == "float32" else heads.quantised(heat, 0.1, 0), pair, pair.copy()]
    names = zip(("hm", "wh", "reg"), raw, strict=True)
    specs = [heads.spec(name, one, *(((0.1,), (0,)) if one.dtype == np.int8 else ())) for name, one in names]
    return CenterNetDecoder(CenterNetOptions(), context(tuple(specs), threshold)), list(raw)


def grid(threshold: float) -> tuple[Decoder, list[Tensor]]:
    raw = np.full((1, 85, 44, 44), 0.001, np.float32)
    raw[0, (0, 7), 20, 20] = 0.9
    return GridDecoder(GridOptions(layout="nchw"), context(specs_of([raw]), threshold)), [raw]


def segment() -> tuple[Decoder, list[Tensor]]:
    raw = np.zeros((1, 257, 257, 21), np.float32)
    raw[0, 60:200, 60:200, 15] = 1
    return SegmentDecoder(SegmentOptions(), context(specs_of([raw]), 0.5)), [raw]


def anomaly() -> tuple[Decoder, list[Tensor]]:
    raw = np.ones((1, 128, 128), np.float32)
    made = AnomalyDecoder(AnomalyOptions(), DecoderContext(specs_of([raw]), specs_of([raw])))
    return made, [raw, raw.copy()]


def embedding() -> tuple[Decoder, list[Tensor]]:
    raw = np.ones((1, 1024), np.float32)
    return EmbeddingDecoder(EmbeddingOptions(), context(specs_of([raw]), 0.5)), [raw]


WITHOUT_THRESHOLD: dict[str, Callable[[], tuple[Decoder, list[Tensor]]]] = {
    "segment": segment,
    "anomaly": anomaly,
    "embedding": embedding,
}
"""With an answer to every frame."""

ANSWER_BYTES = {"segment": 0, "anomaly": 0, "embedding": 1024 * (8 + 24)}
"""Of the numbers that the answer consists of."""

CASES: dict[str, Callable[[float], tuple[Decoder, list[Tensor]]]] = {
    "ssd bundled": ssd_bundled,
    "ssd float": lambda threshold: ssd(threshold, "sigmoid"),
    "ssd softmax": lambda threshold: ssd(threshold, "softmax"),
    "ssd per channel": lambda threshold: ssd(threshold, "sigmoid", whole=False),
    "yolo5 float": lambda threshold: yolo(threshold, "5"),
    "yolo5 int8": lambda threshold: yolo(threshold, "5", kind="int8"),
    "yolo8 float": lambda threshold: yolo(threshold, "8", channels_last=False),
    "yolo8 channels last": lambda threshold: yolo(threshold, "8"),
    "yolo8 int8": lambda threshold: yolo(threshold, "8", channels_last=False, kind="int8"),
    "yolo8 per channel": lambda threshold: yolo(threshold, "8", kind="per channel"),
    "yolo5 maps": lambda threshold: yolo_maps(threshold, "5", "float32"),
    "yolo5 maps int8": lambda threshold: yolo_maps(threshold, "5", "int8"),
    "yolo8 maps": lambda threshold: yolo_maps(threshold, "8", "float32"),
    "yolo8 maps nchw": lambda threshold: yolo_maps(threshold, "8", "float32", "nchw"),
    "yolo8 maps int8": lambda threshold: yolo_maps(threshold, "8", "int8"),
    "postprocess": postprocess,
    "yolo end": yolo_end,
    "yolo pose": yolo_pose,
    "movenet": movenet,
    "blazeface": blazeface,
    "centernet": lambda threshold: centernet(threshold, "float32"),
    "centernet int8": lambda threshold: centernet(threshold, "int8"),
    "grid": grid,
    "classify bundled": classify_real,
    "classify softmax": lambda threshold: classify(threshold, "softmax"),
    "classify sigmoid": lambda threshold: classify(threshold, "sigmoid"),
}


def most_and_grown(decoder: Decoder, outputs: list[Tensor]) -> tuple[int, int]:
    """The most bytes held at once during one of 200 decodes, above what was held before it; and what 200 leave."""
    for _ in range(5):
        decoder.decode(outputs, heads.LETTERBOX)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        decoder.decode(outputs, heads.LETTERBOX)
        before, most = tracemalloc.get_traced_memory()[0], 0
        for _ in range(200):
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            decoder.decode(outputs, heads.LETTERBOX)
            most = max(most, tracemalloc.get_traced_memory()[1] - held)
        return most, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("case", CASES)
def test_two_hundred_frames_allocate_nothing_but_what_they_find(case: str) -> None:
    decoder, outputs = CASES[case](0.5 if "classify" not in case else 0.0)
    answer = decoder.decode(outputs, heads.LETTERBOX)
    assert answer.detections or answer.classes
    most, grown = most_and_grown(decoder, outputs)
    assert most < NUMPY_BYTES + FOUND_BYTES + (BROADCAST_BYTES if case in BROADCAST else 0)
    assert grown < GROWN_BYTES


@pytest.mark.parametrize("case", CASES)
def test_two_hundred_frames_without_anything_allocate_nothing(case: str) -> None:
    decoder, outputs = CASES[case](1.0)
    answer = decoder.decode(outputs, heads.LETTERBOX)
    assert not answer.detections
    assert not answer.classes
    most, grown = most_and_grown(decoder, outputs)
    assert most < NUMPY_BYTES + CALL_BYTES + (BROADCAST_BYTES if case in BROADCAST else 0)
    assert grown < GROWN_BYTES


@pytest.mark.parametrize("case", WITHOUT_THRESHOLD)
def test_two_hundred_frames_allocate_nothing_but_their_answers(case: str) -> None:
    decoder, outputs = WITHOUT_THRESHOLD[case]()
    most, grown = most_and_grown(decoder, outputs)
    assert most < NUMPY_BYTES + FOUND_BYTES + ANSWER_BYTES[case]
    assert grown < GROWN_BYTES


@pytest.mark.parametrize("case", ["classify softmax", "classify sigmoid", "ssd softmax", "yolo8 float", "yolo5 maps"])
def test_the_outputs_are_left_as_they_were(case: str) -> None:
    decoder, outputs = CASES[case](0.5)
    copies = [one.copy() for one in outputs]
    first = decoder.decode(outputs, heads.LETTERBOX)
    assert all((a == b).all() for a, b in zip(outputs, copies, strict=True))
    assert decoder.decode(outputs, heads.LETTERBOX) == first
