"""Every engine that opens on this machine keeps the promises of `ports.Engine`."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerun.errors import ConfigError, EngineError, ModelError
from edgerun.infer.host import HostedEngine
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.ports import Engine, EngineContext
from edgerun.registry import BUILTIN, resolve
from edgerun.types import Tensor
from tests.infer.onnx_models import quantised_convolution
from tests.real_models import model_file

NUMPY_2 = int(np.__version__.partition(".")[0]) >= 2


def _tflite_runtime() -> str:
    if NUMPY_2:
        pytest.skip("tflite-runtime is built for numpy 1 and cannot run with the numpy 2 installed here")
    if importlib.util.find_spec("tflite_runtime") is None:
        pytest.skip("tflite-runtime is not installed here; it has wheels for Python up to 3.11 only")
    return "tflite-runtime"


VARIANTS: dict[str, tuple[str, Callable[[], msgspec.Struct], Callable[[], Path | bytes]]] = {
    "litert-float32": ("tflite", lambda: TfliteOptions("litert"), lambda: model_file("visual_wake_words.tflite")),
    "litert-int8": ("tflite", lambda: TfliteOptions("litert"), lambda: model_file("image_classification.tflite")),
    "litert-uint8": ("tflite", lambda: TfliteOptions("litert"), lambda: model_file("efficientnet_lite0_int8.tflite")),
    "tflite-runtime-float32": (
        "tflite", lambda: TfliteOptions(_tflite_runtime()), lambda: model_file("visual_wake_words.tflite")
    ),
    "tflite-runtime-int8": (
        "tflite", lambda: TfliteOptions(_tflite_runtime()), lambda: model_file("image_classification.tflite")
    ),
    "onnx-int8": ("onnx", lambda: resolve("engine", "onnx").options(), quantised_convolution),
    "onnx-state": ("onnx", lambda: resolve("engine", "onnx").options(), lambda: model_file("silero_vad.onnx")),
    # In a process of their own the same promises hold.
    "hosted-litert-int8": (
        "tflite", lambda: TfliteOptions("litert"), lambda: model_file("image_classification.tflite")
    ),
    "hosted-onnx-state": ("onnx", lambda: resolve("engine", "onnx").options(), lambda: model_file("silero_vad.onnx")),
}  # fmt: skip


class Opened(msgspec.Struct):
    """A way to open one engine as often as a test likes."""

    open: Callable[..., Engine]
    content: bytes
    shape_of: Callable[[Any], tuple[int, ...]]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Opened:
    kind, make_options, make_model = VARIANTS[request.param]
    plug_in, options, source = resolve("engine", kind), make_options(), make_model()
    content = source.read_bytes() if isinstance(source, Path) else source

    def opener(model: bytes | Path = content, **more: Any) -> Engine:
        context = EngineContext(model, "a model", **more)
        if request.param.startswith("hosted-"):
            return HostedEngine(plug_in, options, context)
        engine: Engine = plug_in(options, context)
        return engine

    return Opened(opener, content, lambda spec: tuple(2 if side < 0 else side for side in spec.shape))


@pytest.fixture
def engine(variant: Opened) -> Iterator[Engine]:
    engine = variant.open()
    yield engine
    engine.close()


def inputs_of(engine: Engine, seed: int = 0) -> list[Tensor]:
    """Values inside each type's range. The voice detector's open sides are one window of 512 at 16 kHz."""
    rng = np.random.default_rng(seed)
    made: list[Tensor] = []
    for spec in engine.inputs:
        shape = tuple({0: 1, 1: 512 if spec.name == "input" else 1}.get(i, 1) if side < 0 else side
                      for i, side in enumerate(spec.shape))  # fmt: skip
        if spec.dtype == "int64":
            made.append(np.full(shape, 16000, np.int64))
        elif spec.dtype == "float32":
            made.append(rng.uniform(-1, 1, shape).astype(np.float32))
        else:
            limits = np.iinfo(spec.dtype)
            made.append(rng.integers(limits.min, limits.max + 1, shape, spec.dtype))
    return made


def test_every_builtin_engine_is_under_this_contract() -> None:
    assert {kind for kind, _, _ in VARIANTS.values()} == set(BUILTIN["engine"])


def test_outputs_are_as_the_specs_say(engine: Engine) -> None:
    outputs = engine.infer(inputs_of(engine))
    assert len(outputs) == len(engine.outputs) > 0
    for spec, tensor in zip(engine.outputs, outputs, strict=True):
        assert tensor.dtype.name == spec.dtype
        assert len(tensor.shape) == len(spec.shape)
        assert all(side in (-1, real) for side, real in zip(spec.shape, tensor.shape, strict=True))
        assert len(spec.scale) == len(spec.zero_point)


def test_same_inputs_give_same_outputs_and_other_inputs_others(engine: Engine) -> None:
    first = [tensor.copy() for tensor in engine.infer(inputs_of(engine, 1))]
    other = [tensor.copy() for tensor in engine.infer(inputs_of(engine, 2))]
    again = engine.infer(inputs_of(engine, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_inputs_are_left_as_they_were(engine: Engine) -> None:
    inputs = inputs_of(engine)
    copies = [tensor.copy() for tensor in inputs]
    engine.infer(inputs)
    assert all((a == b).all() for a, b in zip(inputs, copies, strict=True))


def test_says_what_runs(variant: Opened) -> None:
    engine = variant.open(threads=2)
    assert engine.info.accelerator == "cpu"
    assert engine.info.threads == 2
    assert engine.info.fallbacks == ()
    name, version = engine.info.runtime.split(" ")
    assert name in ("litert", "tflite-runtime", "onnxruntime")
    assert version[0].isdigit()
    engine.close()


def test_opens_a_file_like_its_bytes(variant: Opened, engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(variant.content)
    from_file = variant.open(path)
    expected, got = engine.infer(inputs_of(engine)), from_file.infer(inputs_of(engine))
    assert all((a == b).all() for a, b in zip(expected, got, strict=True))
    from_file.close()


def test_a_wrong_shape_is_an_engine_error(engine: Engine) -> None:
    inputs = inputs_of(engine)
    inputs[0] = np.zeros((1, 1, 1, 1, 7), inputs[0].dtype)
    with pytest.raises(EngineError, match="a model: the model failed to run"):
        engine.infer(inputs)


def test_a_wrong_type_is_an_engine_error(engine: Engine) -> None:
    inputs = inputs_of(engine)
    inputs[0] = inputs[0].astype(np.int16)
    with pytest.raises(EngineError, match="a model: the model failed to run"):
        engine.infer(inputs)


def test_a_missing_input_is_an_engine_error(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.infer(inputs_of(engine)[1:])


def test_runs_again_after_an_error(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.infer([np.zeros((7, 7), np.float32)])
    engine.infer(inputs_of(engine))


def test_closing_twice_is_closing_once(variant: Opened) -> None:
    engine = variant.open()
    inputs = inputs_of(engine)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.infer(inputs)


def test_an_unknown_accelerator_is_refused(variant: Opened) -> None:
    with pytest.raises(ConfigError, match="unknown accelerator"):
        variant.open(accelerator="xyzzy")


@pytest.mark.parametrize("damage", ["empty", "text", "first tenth", "first half", "all but the end", "other kind"])
def test_a_damaged_model_is_one_paragraph(variant: Opened, damage: str) -> None:
    whole = variant.content
    damaged = {
        "empty": b"",
        "text": b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n",
        "first tenth": whole[: len(whole) // 10],
        "first half": whole[: len(whole) // 2],
        # Cuts off what Metadata appends to a TFLite file and tensors beside.
        "all but the end": whole[: -max(1, len(whole) // 5)],
        "other kind": quantised_convolution() if whole[4:8] == b"TFL3" else b"\x1c\0\0\0TFL3" + bytes(200),
    }[damage]
    with pytest.raises(ModelError) as caught:
        variant.open(damaged)
    message = str(caught.value)
    assert message.startswith("a model: ")
    assert "\n" not in message
    assert len(message) < 800
    assert "; got " in message
    if damage in ("empty", "text"):
        assert f"got {'an empty file' if damage == 'empty' else 'text'}. " in message


def test_a_file_that_is_not_there_is_a_model_error(variant: Opened, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.model", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            variant.open(path)


def test_engines_in_two_threads_do_not_disturb_each_other(variant: Opened) -> None:
    engines = [variant.open(), variant.open()]
    inputs = [inputs_of(engine, seed) for seed, engine in enumerate(engines)]
    expected = [[t.copy() for t in engine.infer(one)] for engine, one in zip(engines, inputs, strict=True)]
    wrong: list[int] = []

    def run(index: int) -> None:
        for _ in range(20):
            got = engines[index].infer(inputs[index])
            if not all((a == b).all() for a, b in zip(got, expected[index], strict=True)):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    for engine in engines:
        engine.close()
