"""TensorFlow Lite models on the CPU: LiteRT, or tflite-runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from edgerun.errors import EngineError, ModelError
from edgerun.infer.content import check_content, one_line
from edgerun.infer.runtime import find_runtime, try_in_child
from edgerun.ports import EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`runtime`: which library runs the model; `auto` takes the one installed, LiteRT first."""

    runtime: Literal["auto", "litert", "tflite-runtime"] = "auto"


class TfliteEngine:
    """One interpreter. Inputs are copied in by `set_tensor`, outputs out by `get_tensor`.

    No view of the interpreter's own memory is ever held: LiteRT's `invoke` refuses to run while one lives. Raises
    `MissingError` without a usable runtime, `ModelError` for a model it refuses, `EngineError` for another
    accelerator than `cpu`. With tflite-runtime, which crashes on damaged models, the model is tried in a child first.
    """

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, options: Options, context: EngineContext) -> None:
        if context.accelerator != "cpu":
            raise EngineError("the TFLite engine opens only the CPU", where=context.name, got=context.accelerator)
        check_content(context.model, "tflite", context.name)
        runtime = find_runtime(options.runtime)
        if runtime.name == "tflite-runtime":
            try_in_child(runtime, context.model, context.name)
        self._name = context.name
        title = f"{runtime.name} {runtime.version}"
        interpreter = _open(runtime.module, context, title)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.info = EngineInfo(title, "cpu", context.threads)
        self.inputs = tuple(_spec(detail, context.name) for detail in inputs)
        self.outputs = tuple(_spec(detail, context.name) for detail in outputs)
        self._input_indices = tuple(int(detail["index"]) for detail in inputs)
        self._output_indices = tuple(int(detail["index"]) for detail in outputs)
        self._interpreter: Any = interpreter

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `ports.Engine`. The outputs are copies that the caller may keep."""
        interpreter = self._interpreter
        try:
            for index, tensor in zip(self._input_indices, inputs, strict=True):
                interpreter.set_tensor(index, tensor)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._output_indices]
        except (ValueError, RuntimeError, AttributeError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Free the interpreter and its memory."""
        self._interpreter = None

    def _failed(self, error: Exception) -> EngineError:
        if self._interpreter is None:
            return EngineError("the engine is closed", where=self._name)
        return EngineError("the model failed to run", where=self._name, got=one_line(error))


def _open(module: Any, context: EngineContext, title: str) -> Any:
    """An interpreter with its tensors allocated. Raises `ModelError`."""
    source: dict[str, Any] = {"model_content": context.model}
    if isinstance(context.model, Path):
        source = {"model_path": str(context.model)}
    try:
        interpreter = module.Interpreter(**source, num_threads=context.threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, OSError) as error:
        text = one_line(error)
        raise ModelError(f"{title} refuses the model", where=context.name, got=text, remedy=_remedy(text)) from error
    return interpreter


def _remedy(text: str) -> str:
    custom = re.search(r"[Cc]ustom op:? '?([\w.:-]+?)\.?'?(?:See |\s|$)", text)
    if custom:
        return (
            f"the model uses the custom op {custom[1]}, which this runtime does not carry: convert the model without it"
        )
    builtin = re.search(r"builtin opcode '(\w+)' version '(\d+)'", text)
    if builtin:
        return f"{builtin[1]} version {builtin[2]} is newer than this runtime: update it, or use ai-edge-litert"
    return "the file is damaged or was cut short: fetch or convert it again"


def _spec(detail: dict[str, Any], name: str) -> TensorSpec:
    """The interpreter's description of a tensor. A side left open and not allocated yet is -1."""
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "fiub":
        raise ModelError(
            f"tensor {detail['name']!r} does not hold numbers", where=name, expected="a numeric type", got=dtype.name
        )
    allocated = tuple(int(side) for side in detail["shape"])
    stated = tuple(int(side) for side in detail.get("shape_signature", ()))
    quantisation = detail["quantization_parameters"]
    return TensorSpec(
        name=str(detail["name"]),
        shape=stated if 0 in allocated and stated else allocated,
        dtype=dtype.name,
        scale=tuple(float(value) for value in quantisation["scales"]),
        zero_point=tuple(int(value) for value in quantisation["zero_points"]),
        quantized_axis=int(quantisation["quantized_dimension"]),
    )
