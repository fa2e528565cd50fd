"""The declared order of accelerators is followed, and every refusal is told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import ClassVar

import msgspec
import pytest
from onnx import TensorProto

from edgerun.errors import ConfigError, EngineError, ModelError
from edgerun.infer import open_engine
from edgerun.infer.onnx import OnnxEngine, Options
from edgerun.ports import Engine, EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec
from tests.infer.onnx_models import identity

CONTEXT = EngineContext(identity(TensorProto.FLOAT, (1, 3, 4, 4)), "net")


def open_onnx(accelerators: Sequence[str]) -> Engine:
    return open_engine(OnnxEngine, Options(), CONTEXT, accelerators)


def test_cpu_alone_opens_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    engine = open_onnx(["cpu"])
    assert engine.info.accelerator == "cpu"
    assert engine.info.fallbacks == ()
    assert caplog.records == []


def test_a_fallback_is_logged_and_kept_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = open_onnx(["edgetpu", "webgpuu", "coreml", "cpu"])
    assert engine.info.accelerator == "cpu"
    known = "cpu, tensorrt, cuda, openvino, qnn, acl, xnnpack, webgpu, nnapi, coreml, external"
    assert engine.info.fallbacks == (
        ("edgetpu", f"not an accelerator of this engine; known are {known}"),
        ("webgpuu", 'unknown accelerator; did you mean "webgpu"?'),
        ("coreml", f"Core ML is a part of macOS and iOS, and this is {sys.platform}"),
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"model net: accelerator edgetpu refused: not an accelerator of this engine; known are {known}",
        'model net: accelerator webgpuu refused: unknown accelerator; did you mean "webgpu"?',
        f"model net: accelerator coreml refused: Core ML is a part of macOS and iOS, and this is {sys.platform}",
        "model net: runs on cpu, which is not the first of its order",
    ]
    engine.close()


def test_what_comes_after_the_cpu_is_not_tried() -> None:
    assert open_onnx(["cpu", "edgetpu"]).info.fallbacks == ()


def test_without_cpu_it_is_an_error_that_names_every_refusal() -> None:
    with pytest.raises(EngineError) as caught:
        open_onnx(["nnapi", "xyzzy"])
    assert str(caught.value) == (
        "net: no accelerator of the declared order opens; expected one of nnapi, xyzzy to open; got nnapi: NNAPI is a "
        "part of Android, and this is another Linux; xyzzy: unknown accelerator; known are cpu, tensorrt, cuda, "
        "openvino, qnn, acl, xnnpack, webgpu, nnapi, coreml, external. "
        'Add "cpu" to the end of accelerators to run on the CPU when nothing else works'
    )


def test_no_accelerator_at_all_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no accelerator is declared"):
        open_onnx([])


def test_a_bad_model_is_not_blamed_on_the_accelerator() -> None:
    context = msgspec.structs.replace(CONTEXT, model=b"")
    with pytest.raises(ModelError, match="an empty file"):
        open_engine(OnnxEngine, Options(), context, ["edgetpu", "cpu"])


class NoMemoryEngine:
    """An engine whose device has no memory left."""

    options: ClassVar[type[msgspec.Struct]] = Options
    info: EngineInfo
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, options: Options, context: EngineContext) -> None:
        raise EngineError("out of memory", where=context.accelerator)

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    def close(self) -> None:
        pass


def test_an_engine_that_fails_to_open_is_a_refusal_too() -> None:
    with pytest.raises(EngineError, match=r"got cpu: cpu: out of memory$"):
        open_engine(NoMemoryEngine, Options(), CONTEXT, ["cpu"])
