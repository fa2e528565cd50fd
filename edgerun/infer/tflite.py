"""TensorFlow Lite models: LiteRT, or tflite-runtime, on the CPU or through a delegate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from edgerun.errors import EngineError, ModelError
from edgerun.infer.accelerators import Accelerator, plug_in
from edgerun.infer.board import Board
from edgerun.infer.compiled import Compiled
from edgerun.infer.content import check_content, one_line, refuse_huge
from edgerun.infer.delegates import Delegate, delegated_ops, load
from edgerun.infer.rows import plan_rows, proven
from edgerun.infer.runtime import find_runtime, try_in_child
from edgerun.ports import EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`runtime`: which library runs the model; `auto` takes the one installed, LiteRT first."""

    runtime: Literal["auto", "litert", "tflite-runtime"] = "auto"


class TfliteEngine:
    """One interpreter. Inputs are copied in by `set_tensor`, outputs into arrays kept from call to call.

    For another number of pictures than before the interpreter is resized, not another one opened: measured on x86-64
    that costs about 0.1 ms and keeps one set of weights. LiteRT's `invoke` refuses to run while a view of its memory
    lives, so none outlives the copy. Raises `MissingError` without a usable runtime, `ModelError` for a model it
    refuses or that cannot take `batch` pictures, `EngineError` for an accelerator that does not open or runs none of
    its ops, `ConfigError` for an unknown one. With tflite-runtime, which crashes on damaged models, the model is tried
    in a child first. Delegates belong into a process of their own (`host.HostedEngine`).
    """

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, options: Options, context: EngineContext) -> None:
        check_content(context.model, "tflite", context.name)
        runtime = find_runtime(options.runtime)
        # A file made for an accelerator runs nowhere else; and then this is a child already.
        if runtime.name == "tflite-runtime" and context.accelerator == "cpu":
            try_in_child(runtime, context.model, context.name)
        self._name = context.name
        title = f"{runtime.name} {runtime.version}"
        self.delegated: tuple[int, int] | None = None
        if context.accelerator == "cpu":
            interpreter = _open(runtime.module, context, title)
        else:
            interpreter, self.delegated = _open_delegated(runtime.module, context)
        inputs, outputs = _details(interpreter, context.name)
        self.info = EngineInfo(title, context.accelerator, context.threads, delegated=self.delegated)
        self.inputs = tuple(_spec(detail, context.name) for detail in inputs)
        self.outputs = tuple(_spec(detail, context.name) for detail in outputs)
        self._input_indices = tuple(int(detail["index"]) for detail in inputs)
        # Each gives a view of the output's memory as it is when called.
        self._views: list[Callable[[], Tensor]] = [interpreter.tensor(int(detail["index"])) for detail in outputs]
        self._kept = [Kept() for _ in outputs]
        self._interpreter: Any = interpreter
        resizable = not isinstance(interpreter, Compiled)
        rows = plan_rows(self.inputs, self.outputs, context.batch, context.name, resizable=resizable)
        self._allocated, self._resizable = 1, resizable and rows is not None and not rows.fixed
        if rows is not None and self._resizable and runtime.name == "tflite-runtime" and self.delegated is None:
            try_in_child(runtime, context.model, context.name, rows.most)
        self._rows = proven(self._run, rows, self.inputs, self.outputs, context)

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `ports.Engine`. The outputs are arrays of the engine's own, overwritten by the next call."""
        if self._rows is None or self._interpreter is None:
            return self._run(inputs)
        inputs, rows = self._rows.fit(inputs)
        outputs = self._run(inputs)
        return [tensor[:rows] for tensor in outputs] if rows < len(inputs[0]) else outputs

    def close(self) -> None:
        """Free the interpreter and its memory."""
        self._interpreter = None
        self._views = []

    def _run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        interpreter = self._interpreter
        try:
            if self._resizable and len(inputs[0]) != self._allocated:
                self._resize(len(inputs[0]))
            for index, tensor in zip(self._input_indices, inputs, strict=True):
                interpreter.set_tensor(index, tensor)
            interpreter.invoke()
            return [kept.copy_of(view) for kept, view in zip(self._kept, self._views, strict=True)]
        except (ValueError, RuntimeError, AttributeError) as error:
            raise self._failed(error) from error

    def _resize(self, rows: int) -> None:
        self._allocated = 0  # until it has worked
        for index, spec in zip(self._input_indices, self.inputs, strict=True):
            self._interpreter.resize_tensor_input(index, (rows, *spec.shape[1:]))
        self._interpreter.allocate_tensors()
        self._allocated = rows

    def _failed(self, error: Exception) -> EngineError:
        if self._interpreter is None:
            return EngineError("the engine is closed", where=self._name)
        return EngineError("the model failed to run", where=self._name, got=one_line(error))


class Kept:
    """An array that one output is copied into: made for the most rows seen, made again for another shape."""

    __slots__ = ("_part", "_whole")

    def __init__(self) -> None:
        self._whole: Tensor | None = None
        self._part: Tensor | None = None

    def copy_of(self, view: Callable[[], Tensor]) -> Tensor:
        """What `view()` shows, copied. No reference to the view outlives the call, whatever is raised."""
        shown = view()
        try:
            part = self._part
            if part is None or part.shape != shown.shape:
                part = self._part = self._array(shown)
            np.copyto(part, shown)
            return part
        finally:
            del shown

    def _array(self, like: Tensor) -> Tensor:
        whole = self._whole
        if whole is None or whole.shape[1:] != like.shape[1:] or not like.ndim or len(like) > len(whole):
            whole = self._whole = np.empty(like.shape, like.dtype)
        return whole[: len(like)] if like.ndim else whole


def _source(model: bytes | Path) -> dict[str, Any]:
    return {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}


def _open_delegated(module: Any, context: EngineContext) -> tuple[Any, tuple[int, int] | None]:
    """An interpreter with its tensors allocated on an accelerator, and how many of how many ops run there."""
    wanted = Accelerator(context.accelerator, context.accelerator_options)
    chosen: Delegate = plug_in("tflite", wanted, Board())
    if (settings := chosen.compiled()) is not None:
        compiled = Compiled(module, context.model, settings, context.threads, context.name)
        _refuse_huge(compiled, context.name)
        return compiled, compiled.delegated
    delegate = load(chosen, module, context.name)
    try:
        interpreter = module.Interpreter(
            **_source(context.model), num_threads=context.threads, experimental_delegates=[delegate]
        )
        _refuse_huge(interpreter, context.name)
        count = delegated_ops(interpreter._get_ops_details())
        if count[0]:
            interpreter.allocate_tensors()
            return interpreter, count
    except ModelError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise EngineError(
            "the accelerator refuses the model", where=context.name, got=one_line(error), remedy=chosen.remedy
        ) from error
    raise EngineError(
        "the accelerator runs none of the model's ops",
        where=context.name,
        expected="at least one op that it takes",
        got=f"{context.accelerator} takes 0 of {count[1]}",
        remedy=chosen.remedy,
    )


def _open(module: Any, context: EngineContext, title: str) -> Any:
    """An interpreter with its tensors allocated. Raises `ModelError`."""
    try:
        interpreter = module.Interpreter(**_source(context.model), num_threads=context.threads)
        _refuse_huge(interpreter, context.name)
        interpreter.allocate_tensors()
    except ModelError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        text = one_line(error)
        raise ModelError(f"{title} refuses the model", where=context.name, got=text, remedy=_remedy(text)) from error
    return interpreter


def _details(interpreter: Any, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The interpreter's description of the inputs and of the outputs. Raises `ModelError`."""
    try:
        return interpreter.get_input_details(), interpreter.get_output_details()
    except ValueError as error:  # a name that is not UTF-8
        raise ModelError(
            "the model's inputs and outputs cannot be described",
            where=name,
            got=one_line(error),
            remedy=_remedy(one_line(error)),
        ) from error


def _refuse_huge(interpreter: Any, name: str) -> None:
    details = interpreter.get_tensor_details()
    refuse_huge(((one["name"], one["shape"], np.dtype(one["dtype"]).itemsize) for one in details), name)


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
