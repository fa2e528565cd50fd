"""Several pictures in one inference: real models that take them, and every kind that does not."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgerun.errors import EngineError, ModelError
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.onnx import Options as OnnxOptions
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import Engine, EngineContext
from edgerun.types import Tensor
from tests.infer import onnx_models
from tests.real_models import ROOT, model_file

TFLITE_RUNTIME = importlib.util.find_spec("tflite_runtime") is not None and np.__version__.startswith("1.")
FLOAT = TensorProto.FLOAT
ARRAY = np.ndarray[Any, Any]


def open_tflite(name: str, batch: int) -> TfliteEngine:
    return TfliteEngine(TfliteOptions(), EngineContext(model_file(name), name, batch=batch))


def open_onnx(model: bytes, batch: int) -> OnnxEngine:
    return OnnxEngine(OnnxOptions(), EngineContext(model, "a model", batch=batch))


def convolution(batch: int | str, *, reshape: int | None = None) -> bytes:
    """Picture batch×3×8×8 → 3×3 convolution → mean → batch×4; `reshape` fixes the batch of the answer to that."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    constants: dict[str, ARRAY] = {"w": weights, "four": np.array([reshape or -1, 4], np.int64)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["m"]),
        helper.make_node("Reshape", ["m", "four"], ["y"]),
    ]
    return onnx_models.build(nodes, [("x", FLOAT, (batch, 3, 8, 8))], [("y", FLOAT, (batch, 4))], constants)


def pictures(engine: Engine, rows: int, seed: int = 0) -> Tensor:
    spec = engine.inputs[0]
    noise = np.random.default_rng(seed).uniform(0, 100, (rows, *spec.shape[1:]))
    return noise.astype(spec.dtype)


@pytest.mark.parametrize("name", ["visual_wake_words", "image_classification", "tflite_micro_magic_wand"])
def test_any_number_of_rows_gives_what_single_pictures_give(name: str) -> None:
    single, engine = open_tflite(f"{name}.tflite", 1), open_tflite(f"{name}.tflite", 4)
    assert engine.inputs == single.inputs
    for rows in (4, 1, 3, 2, 4):
        given_rows = pictures(engine, rows, rows)
        outputs = [tensor.copy() for tensor in engine.infer((given_rows,))]
        for row in range(rows):
            for expected, got in zip(single.infer((given_rows[row : row + 1],)), outputs, strict=True):
                assert got.shape == (rows, *expected.shape[1:])
                assert np.allclose(
                    expected[0].astype(float), got[row].astype(float), atol=1 if got.itemsize == 1 else 1e-4
                )


@pytest.mark.skipif(not TFLITE_RUNTIME, reason="tflite-runtime needs numpy 1 and Python up to 3.11")
def test_tflite_runtime_takes_several_too_and_is_tried_in_a_child_first() -> None:
    context = EngineContext(model_file("image_classification.tflite"), "m", batch=3)
    engine = TfliteEngine(TfliteOptions("tflite-runtime"), context)
    for rows in (3, 1, 2):
        assert engine.infer((pictures(engine, rows),))[0].shape == (rows, 10)
    folded = EngineContext(model_file("face_detection_short_range.tflite"), "m", batch=2)
    with pytest.raises(ModelError, match="cannot infer 2 pictures at once"):
        TfliteEngine(TfliteOptions("tflite-runtime"), folded)


@pytest.mark.parametrize("name", ["efficientnet_lite0_int8.tflite", "ssd"])
def test_a_graph_with_a_fixed_reshape_is_refused(name: str) -> None:
    path = ROOT / "models" / "ssd-mobilenet-v2-oid" / "model.tflite" if name == "ssd" else model_file(name)
    with pytest.raises(ModelError, match=r"m: the model cannot infer 2 pictures at once; expected .*Leave batch at 1"):
        TfliteEngine(TfliteOptions("litert"), EngineContext(path, "m", batch=2))


def test_a_graph_that_folds_the_batch_into_another_dimension_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot infer 2 pictures at once; .*got output regressors 1×1792×16"):
        open_tflite("face_detection_short_range.tflite", 2)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_an_open_dimension_of_an_onnx_model(rows: int) -> None:
    single, engine = open_onnx(convolution("n"), 1), open_onnx(convolution("n"), 3)
    assert engine.inputs[0].shape == (-1, 3, 8, 8)
    for seed in range(3):  # the first call makes the arrays that the others are written into
        x = pictures_of(rows, seed)
        (got,) = engine.infer((x,))
        assert got.shape == (rows, 4)
        for row in range(rows):
            assert np.allclose(single.infer((x[row : row + 1],))[0][0], got[row], rtol=1e-4)


def pictures_of(rows: int, seed: int = 0) -> Tensor:
    return np.random.default_rng(seed).normal(size=(rows, 3, 8, 8)).astype(np.float32)


OPEN, FIXED = open_onnx(convolution("n"), 1), open_onnx(convolution(4), 4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 1000))
def test_rows_of_a_fixed_batch_are_filled_up_and_cut(counts: list[int], seed: int) -> None:
    for at, rows in enumerate(counts):
        x = pictures_of(rows, seed + at)
        (got,) = FIXED.infer((x,))
        assert got.shape == (rows, 4)
        assert np.allclose(OPEN.infer((x,))[0], got, rtol=1e-3, atol=1e-4)


def test_a_fixed_batch_takes_fewer_rows_without_being_asked() -> None:
    engine = open_onnx(convolution(4), 1)
    assert engine.infer((pictures_of(1),))[0].shape == (1, 4)
    assert engine.infer((pictures_of(4),))[0].shape == (4, 4)


def test_more_than_the_fixed_batch_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"cannot infer 5 .*; got a batch of 4 in the model's file\. Open it with batch"
    ):
        open_onnx(convolution(4), 5)


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (convolution(1), "got x 1×3×8×8"),
        (onnx_models.identity(FLOAT, ()), "got x without a dimension"),
        (convolution("n", reshape=1), r"got .*Reshape"),
        (  # the answer of every row is the mean of all
            onnx_models.build(
                [
                    helper.make_node("ReduceMean", ["x", "axis"], ["m"]),
                    helper.make_node("Add", ["m", "x"], ["y"]),
                ],
                [("x", FLOAT, ("n", 3))],
                [("y", FLOAT, ("n", 3))],
                {"axis": np.array([0], np.int64)},
            ),
            "got other values of y in row 0 than for a single picture",
        ),
        (  # rows back to front
            onnx_models.build(
                [helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])],
                [("x", FLOAT, ("n", 3))],
                [("y", FLOAT, ("n", 3))],
                {
                    "start": np.array([-1]),
                    "end": np.array([-1000]),
                    "axis": np.array([0]),
                    "step": np.array([-1]),
                },
            ),
            "got other values of y in row 0",
        ),
        (  # the batch is not where it is said to be: ONNX Runtime makes 3×3 of n×3 and 3×n
            onnx_models.build(
                [helper.make_node("Transpose", ["x"], ["y"])], [("x", FLOAT, ("n", 3))], [("y", FLOAT, ("n", 3))]
            ),
            "got y 3×3",
        ),
    ],
    ids=["one", "scalar", "reshape", "mean over rows", "reversed", "transposed"],
)
def test_what_cannot_be_a_batch_is_refused_when_it_is_opened(model: bytes, got: str) -> None:
    with pytest.raises(ModelError, match=f"the model cannot infer 2 pictures at once; expected .*; {got}"):
        open_onnx(model, 2)
    open_onnx(model, 1).close()


def test_state_without_a_batch_dimension_is_refused() -> None:
    with pytest.raises(ModelError, match="got state 2×"):
        OnnxEngine(OnnxOptions(), EngineContext(model_file("silero_vad.onnx"), "vad", batch=2))


@pytest.mark.parametrize("engine", [lambda: FIXED, lambda: open_tflite("visual_wake_words.tflite", 4)])
@pytest.mark.parametrize("rows", [0, 5])
def test_too_few_or_too_many_rows_are_an_engine_error(engine: Any, rows: int) -> None:
    opened = engine()
    with pytest.raises(EngineError, match=r"failed to run; expected 1\.\.4×.*; got "):
        opened.infer((pictures(opened, rows),))
    opened.infer((pictures(opened, 2),))


def test_a_row_of_another_shape_or_type_is_an_engine_error() -> None:
    for wrong in (np.zeros((2, 3, 8, 1), np.float32), np.zeros((2, 3, 8, 8), np.float64), np.zeros((), np.float32)):
        with pytest.raises(EngineError, match="failed to run"):
            FIXED.infer((wrong,))
    engine = open_tflite("visual_wake_words.tflite", 4)
    with pytest.raises(EngineError, match="failed to run"):
        engine.infer((np.zeros((3, 96, 96, 1), np.float32),))
    assert engine.infer((pictures(engine, 3),))[0].shape == (3, 2)
