"""No array is allocated per inference: outputs are written into arrays that are kept."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgerun.errors import EngineError
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.onnx import Options as OnnxOptions
from edgerun.infer.tflite import Kept, TfliteEngine
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.ports import Engine, EngineContext
from edgerun.types import Tensor
from tests.infer import onnx_models
from tests.real_models import ROOT, model_file

CALL_BYTES = 1500
"""Lists, views and numbers of one call: objects without array data."""

GROWN_BYTES = 64 * 1024
"""CPython keeps up to 2000 freed tuples of each length; arrays left behind would come to 200 times their size."""


def tflite(name: str, batch: int = 1) -> TfliteEngine:
    path = ROOT / "models" / "ssd-mobilenet-v2-oid" / "model.tflite" if name == "ssd" else model_file(name)
    return TfliteEngine(TfliteOptions(), EngineContext(path, name, batch=batch))


def onnx(batch: int = 1, shape: tuple[int | str, ...] = ("n", 3, 32, 32)) -> OnnxEngine:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Flatten", ["x"], ["z"])]
    outputs = [("y", TensorProto.FLOAT, shape), ("z", TensorProto.FLOAT, (shape[0], 3072))]
    model = onnx_models.build(nodes, [("x", TensorProto.FLOAT, shape)], outputs)
    return OnnxEngine(OnnxOptions(), EngineContext(model, "a model", batch=batch))


ENGINES: dict[str, tuple[Callable[[], Engine], tuple[int, ...]]] = {
    "tflite detector": (lambda: tflite("ssd"), (1,)),
    "tflite classifier": (lambda: tflite("efficientnet_lite0_int8.tflite"), (1,)),
    "tflite batch": (lambda: tflite("visual_wake_words.tflite", 4), (1, 4, 3)),
    "onnx": (onnx, (1,)),
    "onnx fixed shape": (lambda: onnx(1, (1, 3, 32, 32)), (1,)),
    "onnx batch": (lambda: onnx(4), (1, 4, 3)),
    "onnx fixed batch": (lambda: onnx(4, (4, 3, 32, 32)), (1, 4, 3)),
}


@pytest.fixture(params=ENGINES)
def opened(request: pytest.FixtureRequest) -> tuple[Engine, list[Tensor]]:
    """An engine, warm, with inputs of each number of rows."""
    make, counts = ENGINES[request.param]
    engine = make()
    spec = engine.inputs[0]
    inputs = [np.ones((rows, *spec.shape[1:]), spec.dtype) for rows in counts]
    for one in inputs * 3:
        engine.infer((one,))
    return engine, inputs


def test_two_hundred_inferences_allocate_no_arrays(opened: tuple[Engine, list[Tensor]]) -> None:
    engine, inputs = opened
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        engine.infer((inputs[0],))
        before = tracemalloc.get_traced_memory()[0]
        most = 0
        for at in range(200):
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            engine.infer((inputs[at % len(inputs)],))
            most = max(most, tracemalloc.get_traced_memory()[1] - held)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
    assert most < CALL_BYTES
    assert grown < GROWN_BYTES


def test_outputs_are_the_same_memory_each_time(opened: tuple[Engine, list[Tensor]]) -> None:
    """The runtimes' own arrays are allocated where tracemalloc does not look."""
    engine, inputs = opened
    for one in inputs:
        first = [tensor.__array_interface__["data"][0] for tensor in engine.infer((one,))]
        held = [np.empty(tensor.shape, tensor.dtype) for tensor in engine.infer((one,))]  # would take freed memory
        again = [tensor.__array_interface__["data"][0] for tensor in engine.infer((one,))]
        assert first == again
        assert len(held) == len(again)


def test_outputs_held_by_the_caller_never_stop_the_next_inference(opened: tuple[Engine, list[Tensor]]) -> None:
    engine, inputs = opened
    cycle: dict[str, Any] = {}
    cycle["itself"] = cycle
    held = [cycle, *(engine.infer((one,)) for one in inputs), *(engine.infer((one,)) for one in inputs)]
    engine.infer((inputs[0],))
    assert len(held) > 1


def test_an_error_that_is_kept_never_stops_the_next_inference() -> None:
    engine = tflite("visual_wake_words.tflite")
    kept = []
    for wrong in (np.zeros((1, 2), np.float32), np.zeros((1, 96, 96, 3), np.int8), None):
        with pytest.raises((EngineError, TypeError)) as caught:
            engine.infer((wrong,))  # type: ignore[arg-type]
        kept.append(caught.value)
    engine.infer((np.zeros((1, 96, 96, 3), np.float32),))
    assert all(error.__traceback__ is not None for error in kept)


def test_a_copy_that_fails_lets_go_of_the_view() -> None:
    """The error's traceback holds the frames; none of them may hold the view, or LiteRT never runs again."""

    class Shown(np.ndarray):  # type: ignore[type-arg]
        """An array that can be watched."""

    refs: list[weakref.ref[Any]] = []

    def view() -> Tensor:
        shown = np.zeros(3, "S4").view(Shown)
        refs.append(weakref.ref(shown))
        return shown

    kept = Kept()
    kept._part = np.zeros(3, np.complex64)
    with pytest.raises((TypeError, ValueError)) as caught:
        kept.copy_of(view)
    assert caught.value.__traceback__ is not None
    assert refs[0]() is None


def test_another_shape_makes_the_kept_array_again() -> None:
    kept = Kept()
    for shape in ((), (2, 3), (1, 3), (4, 3), (4, 2), (0, 2), (), (2, 2, 2)):
        values = np.random.default_rng(0).normal(size=shape)
        got = kept.copy_of(lambda values=values: values)  # type: ignore[misc]
        assert got.shape == shape
        assert not np.shares_memory(got, values)
        assert (got == values).all()


def test_state_that_goes_round_is_read_before_it_is_overwritten() -> None:
    """y = (x reversed, twice over): written in place over its own input it would mirror one half."""
    names = ("start", "end", "axis", "step")
    model = onnx_models.build(
        [helper.make_node("Slice", ["x", *names], ["y"])],
        [("x", TensorProto.FLOAT, (1, 4096))],
        [("y", TensorProto.FLOAT, (1, 4096))],
        dict(zip(names, (np.array([-1]), np.array([-5000]), np.array([1]), np.array([-1])), strict=True)),
    )
    engine = OnnxEngine(OnnxOptions(), EngineContext(model, "a model"))
    x = np.arange(4096, dtype=np.float32)[None]
    state = engine.infer((x,))[0]
    for turn in range(6):
        assert (state == (x if turn % 2 else x[:, ::-1])).all()
        state = engine.infer((state,))[0]


def test_an_output_whose_shape_depends_on_the_values_is_new_each_time() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    model = onnx_models.build(nodes, [("x", TensorProto.FLOAT, (4,))], [("y", TensorProto.INT64, (1, "found"))])
    engine = OnnxEngine(OnnxOptions(), EngineContext(model, "a model"))
    for values in ([1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]):
        x = np.array(values, np.float32)
        assert engine.infer((x,))[0].tolist() == [np.flatnonzero(x).tolist()]


def test_a_wrongly_stated_output_shape_is_run_as_it_is() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["y"])]
    model = onnx_models.build(nodes, [("x", TensorProto.FLOAT, ("n", 3))], [("y", TensorProto.FLOAT, ("n", 3))])
    engine = OnnxEngine(OnnxOptions(), EngineContext(model, "a model"))
    for rows in (3, 2, 2, 3):
        x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
        assert (engine.infer((x,))[0] == x.T).all()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.UINT8])
def test_every_type_and_layout_is_bound(kind: int) -> None:
    engine = OnnxEngine(OnnxOptions(), EngineContext(onnx_models.identity(kind, (2, 6)), "a model"))
    dtype = engine.inputs[0].dtype
    whole = np.arange(24).reshape(4, 6).astype(dtype)
    for x in (whole[:2], whole[::2], np.asfortranarray(whole[1:3]), whole[2:]):
        assert (engine.infer((x,))[0] == x).all()
    for wrong in (whole[:3], whole[:2].astype(np.int16)):
        with pytest.raises(EngineError, match="failed to run"):
            engine.infer((wrong,))
    assert (engine.infer((whole[:2],))[0] == whole[:2]).all()
