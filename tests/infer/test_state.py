"""Models that remember, run as if they had only what is new: Silero VAD and a small TFLite model with a variable."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgerun.errors import EngineError, FrameError, ModelError
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.onnx import Options as OnnxOptions
from edgerun.infer.state import StatefulEngine, reset, with_state
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import EngineContext
from tests.infer import onnx_models, tflite_models
from tests.real_models import model_file

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def silero() -> OnnxEngine:
    return OnnxEngine(OnnxOptions(), EngineContext(model_file("silero_vad.onnx"), "vad"))


def onnx(model: bytes) -> OnnxEngine:
    return OnnxEngine(OnnxOptions(), EngineContext(model, "m"))


def counting(nodes: tuple[Any, ...] = (), sides: tuple[int | str, ...] = (1, 3)) -> bytes:
    """total' = total + gain · x; seen (int64) = the number of values, y = total'."""
    return onnx_models.build(
        [
            helper.make_node("Mul", ["x", "gain"], ["part"]),
            helper.make_node("Add", ["total", "part"], ["total_out"]),
            helper.make_node("Identity", ["total_out"], ["y"]),
            helper.make_node("Size", ["x"], ["seen"]),
            *nodes,
        ],
        [("gain", F, ()), ("total", F, sides), ("x", F, sides)],
        [("total_out", F, sides), ("y", F, sides), ("seen", I64, ())],
    )


def speech(count: int) -> list[np.ndarray[Any, Any]]:
    noise = np.random.default_rng(0)
    return [(0.1 * noise.normal(size=(1, 576))).astype(np.float32) for _ in range(count)]


def open_silero() -> StatefulEngine:
    engine = StatefulEngine(silero(), "vad", state=[(1, 1)], constants={2: 16000}, shapes={0: (1, 576), 1: (2, 1, 128)})
    assert engine.stateful
    return engine


def test_silero_shows_only_what_is_new_and_answers_as_by_hand() -> None:
    engine, bare = open_silero(), silero()
    assert [(spec.name, spec.shape) for spec in engine.inputs] == [("input", (1, 576))]
    assert [(spec.name, spec.shape) for spec in engine.outputs] == [("output", (1, 1))]
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000)
    for window in speech(12):
        answer, state = (np.copy(tensor) for tensor in bare.infer((window, state, rate)))
        assert (engine.infer((window,))[0] == answer).all()
    engine.close()


def test_after_a_reset_nothing_is_remembered() -> None:
    engine = open_silero()
    windows = speech(6)
    first = [float(engine.infer((window,))[0][0, 0]) for window in windows]
    went_on = [float(engine.infer((window,))[0][0, 0]) for window in windows]
    reset(engine)
    assert [float(engine.infer((window,))[0][0, 0]) for window in windows] == first != went_on


def test_constants_int64_outputs_and_the_order_of_the_rest() -> None:
    engine = with_state(onnx(counting()), "m", state=[(1, 0)], constants={0: 2.5})
    assert [spec.name for spec in engine.inputs] == ["x"]
    assert [(spec.name, spec.dtype) for spec in engine.outputs] == [("y", "float32"), ("seen", "int64")]
    x = np.array([[1, 2, 3]], np.float32)
    for turn in range(1, 5):
        y, seen = engine.infer((x,))
        assert (y == 2.5 * turn * x).all()
        assert seen == 3


def test_no_array_is_allocated_per_call() -> None:
    engine = with_state(onnx(counting(sides=(1, 4096))), "m", state=[(1, 0)], constants={0: 1.0})
    x = np.ones((1, 4096), np.float32)
    for _ in range(5):
        engine.infer((x,))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        engine.infer((x,))
        most = 0
        for _ in range(100):
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            engine.infer((x,))
            most = max(most, tracemalloc.get_traced_memory()[1] - held)
    finally:
        tracemalloc.stop()
        gc.enable()
    assert most < 2000
    kept = [tensor.__array_interface__["data"][0] for tensor in engine.infer((x,))]
    assert kept == [tensor.__array_interface__["data"][0] for tensor in engine.infer((x,))]


def test_state_inside_a_tflite_model_is_cleared_by_opening_it_anew() -> None:
    model = tflite_models.accumulator(3)
    opened = []

    def open_it() -> TfliteEngine:
        opened.append(TfliteEngine(TfliteOptions(), EngineContext(model, "sum")))
        return opened[-1]

    engine = with_state(open_it(), "sum", variables=True, reopen=open_it)
    assert isinstance(engine, StatefulEngine)
    x = np.array([[1, 2, 3]], np.float32)
    for _ in range(3):
        for turn in (1, 2, 3):
            assert (engine.infer((x,))[0] == turn * x).all()
        engine.reset()
        engine.reset()  # nothing went in since: it is not opened again
    assert len(opened) == 5  # at first, after the trial, and for each of three resets
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer((x,))


def test_a_model_that_cannot_be_reopened_costs_a_frame_and_is_reopened_later() -> None:
    model, gone = tflite_models.accumulator(3), [False]

    def open_it() -> TfliteEngine:
        if gone[0]:
            raise EngineError("the accelerator is gone")
        return TfliteEngine(TfliteOptions(), EngineContext(model, "sum"))

    engine = with_state(open_it(), "sum", variables=True, reopen=open_it)
    x = np.array([[1, 2, 3]], np.float32)
    assert (engine.infer((x,))[0] == x).all()
    gone[0] = True
    for _ in range(2):
        with pytest.raises(FrameError, match="the accelerator is gone") as caught:
            reset(engine)
        assert caught.value.reason == "engine"
    gone[0] = False
    reset(engine)
    assert (engine.infer((x,))[0] == x).all()
    engine.close()


def test_without_a_way_to_reopen_state_inside_is_refused() -> None:
    engine = TfliteEngine(TfliteOptions(), EngineContext(tflite_models.accumulator(2), "sum"))
    with pytest.raises(ModelError, match="keeps state inside, which only opening it anew clears"):
        with_state(engine, "sum", variables=True)
    with pytest.raises(EngineError, match="closed"):
        engine.infer((np.zeros((1, 2), np.float32),))


def test_open_sides_get_the_given_size() -> None:
    model = counting(sides=("n", "m"))
    engine = with_state(onnx(model), "m", state=[(1, 0)], constants={0: 1}, shapes={1: (1, 5), 2: (1, 5)})
    assert engine.inputs[0].shape == engine.outputs[0].shape == (1, 5)
    with pytest.raises(ModelError, match=r"the input's size is open; expected \"shapes\": \{\"x\""):
        with_state(onnx(model), "m", state=[(1, 0)], constants={0: 1})


def test_a_model_with_nothing_to_fill_in_is_itself() -> None:
    engine = onnx(onnx_models.identity(F, (1, 3)))
    assert with_state(engine, "m") is engine
    reset(engine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"state": [(1, 2)], "constants": {0: 1}},
            "does not fit where it goes; expected total 1×3 float32; got seen sca",
        ),
        ({"state": [(1, 0)], "constants": {0: 1, 2: 0}}, "leave no input or no output"),
        ({"constants": {0: [1, 2], 1: 0}}, "a constant does not fit its input; expected gain scalar float32"),
        ({"constants": {0: "loud", 1: 0}}, "a constant does not fit its input"),
        ({"constants": {0: 1}, "shapes": {1: (1, 4)}}, "given a shape it cannot have; expected total 1×3; got 1×4"),
        ({"constants": {0: 1}, "shapes": {1: (3,)}}, "given a shape it cannot have"),
    ],
)
def test_what_does_not_fit_is_said_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        with_state(onnx(counting()), "m", **arguments)


def test_a_whole_number_is_not_rounded_and_a_huge_shape_is_not_allocated() -> None:
    nodes = [helper.make_node("Cast", ["n"], ["nf"], to=F), helper.make_node("Add", ["x", "nf"], ["y"])]
    model = onnx_models.build(nodes, [("x", F, (1, "w")), ("n", I64, ())], [("y", F, (1, "w"))])
    with pytest.raises(ModelError, match="it would be rounded"):
        with_state(onnx(model), "m", constants={1: 0.5}, shapes={0: (1, 2)})
    with pytest.raises(ModelError, match=r"too large; expected ≤ 512 MiB; got x 1×1099511627776 float32"):
        with_state(onnx(model), "m", constants={1: 2}, shapes={0: (1, 1 << 40)})
    engine = with_state(onnx(model), "m", constants={1: 2}, shapes={0: (1, 2)})
    assert engine.infer((np.ones((1, 2), np.float32),))[0].tolist() == [[3, 3]]
    with pytest.raises(EngineError, match="expected x 1×2 float32; got 0 inputs"):
        engine.infer(())
