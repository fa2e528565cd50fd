"""ONNX models: ONNX Runtime, on the CPU or another execution provider."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from edgerun.errors import EngineError, MissingError, ModelError
from edgerun.infer.accelerators import Accelerator, plug_in
from edgerun.infer.board import Board
from edgerun.infer.content import check_content, one_line, refuse_huge
from edgerun.infer.onnx_binding import Bindings
from edgerun.infer.onnx_graph import Quantisation, read_quantisation
from edgerun.infer.providers import CPU, RECORD, Provider, attach, delegated_ops
from edgerun.infer.rows import plan_rows, proven
from edgerun.ports import EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_ERRORS_ONLY = 3  # of ONNX Runtime's log severities: 0 verbose … 4 fatal


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose: threads come from the context."""


class OnnxEngine:
    """One session. Spinning is off: idle threads that wait actively cost five times the CPU of a camera's 10 fps.

    Quantisation of integer inputs and outputs is read from the QuantizeLinear/DequantizeLinear nodes at the model's
    edges. Outputs are written into kept arrays wherever their shapes follow from the inputs' (see `Bindings`). Raises
    `MissingError` without ONNX Runtime, `ModelError` for a model it refuses or that cannot take `batch` pictures,
    `EngineError` for an accelerator that does not open, runs none of its nodes, or that the session left out (which
    ONNX Runtime only warns of), `ConfigError` for an unknown one. Drivers belong into a process of their own
    (`host.HostedEngine`).
    """

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, options: Options, context: EngineContext) -> None:
        check_content(context.model, "onnx", context.name)
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        except ImportError as error:
            raise MissingError(
                "ONNX Runtime cannot be imported",
                where=context.name,
                got=error,
                remedy='pip install "onnxruntime>=1.20"',
            ) from error
        self._errors = (
            state.Fail, state.InvalidArgument, state.InvalidProtobuf, state.InvalidGraph, state.NotImplemented,
            state.RuntimeException, state.NoSuchFile, state.NoModel, state.EPFail, ValueError, RuntimeError,
        )  # fmt: skip
        self._name = context.name
        self.delegated: tuple[int, int] | None = None
        opened = (
            self._open(onnxruntime, context) if context.accelerator == "cpu" else self._attach(onnxruntime, context)
        )
        self._session: Any = opened
        self.info = EngineInfo(
            f"onnxruntime {onnxruntime.__version__}", context.accelerator, context.threads, delegated=self.delegated
        )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        # Without integers at its edges nothing of the graph needs reading.
        quantised = any(_DTYPES.get(node.type, "")[:3] in ("int", "uin") for node in (*inputs, *outputs))
        edges = read_quantisation(context.model) if quantised else {}
        self.inputs = tuple(_spec(node, edges, context.name) for node in inputs)
        self.outputs = tuple(_spec(node, edges, context.name) for node in outputs)
        both = (*self.inputs, *self.outputs)
        refuse_huge(((spec.name, spec.shape, np.dtype(spec.dtype).itemsize) for spec in both), context.name)
        self._bindings: Bindings | None = Bindings(onnxruntime, self._session, context.batch)
        rows = plan_rows(self.inputs, self.outputs, context.batch, context.name, resizable=False)
        self._rows = proven(self._run, rows, self.inputs, self.outputs, context)

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `ports.Engine`. The outputs may be arrays of the engine's own, overwritten by the next call."""
        if self._rows is None or self._bindings is None:
            return self._run(inputs)
        inputs, rows = self._rows.fit(inputs)
        outputs = self._run(inputs)
        return [tensor[:rows] for tensor in outputs] if rows < len(inputs[0]) else outputs

    def close(self) -> None:
        """Free the session and its threads."""
        self._session = self._bindings = None

    def _run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if self._bindings is None:
            raise EngineError("the engine is closed", where=self._name)
        try:
            return self._bindings.run(inputs)
        except self._errors as error:
            raise EngineError("the model failed to run", where=self._name, got=one_line(error)) from error

    def _open(self, onnxruntime: Any, context: EngineContext) -> Any:
        settings = session_settings(onnxruntime, context)
        try:
            session = onnxruntime.InferenceSession(_source(context.model), settings, providers=[CPU])
        except self._errors as error:
            text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", one_line(error))
            raise ModelError(
                f"onnxruntime {onnxruntime.__version__} refuses the model",
                where=context.name,
                got=text,
                remedy=_remedy(text),
            ) from error
        return session

    def _attach(self, onnxruntime: Any, context: EngineContext) -> Any:
        """A session on an accelerator. Raises `EngineError`: whether the model is at fault, the CPU tells."""
        wanted = Accelerator(context.accelerator, context.accelerator_options)
        provider: Provider = plug_in("onnx", wanted, Board())
        settings = session_settings(onnxruntime, context)
        settings.add_session_config_entry(RECORD, "1")
        providers = attach(provider, onnxruntime, settings, self._errors, context.name)
        try:
            session = onnxruntime.InferenceSession(_source(context.model), settings, providers=providers)
        except self._errors as error:
            raise EngineError(
                "the accelerator refuses the model",
                where=context.name,
                got=one_line(error),
                remedy=f"leave {context.accelerator} out of accelerators for this model",
            ) from error
        session.disable_fallback()
        used = session.get_providers()
        self.delegated = delegated_ops(session, provider.name)
        if provider.name not in used or (self.delegated is not None and not self.delegated[0]):
            raise EngineError(
                "the session does not run on the provider asked for",
                where=context.name,
                expected=provider.name,
                got=", ".join(used) if provider.name not in used else "none of the model's ops on it",
                remedy=provider.remedy,
            )
        return session


def _source(model: bytes | Path) -> bytes | str:
    return str(model) if isinstance(model, Path) else model


def session_settings(onnxruntime: Any, context: EngineContext) -> Any:
    """`SessionOptions` as every session of edgerun has them."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = context.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return settings


def _remedy(text: str) -> str:
    custom = re.search(r"([\w.]+):([\w.]+)\(-?\d+\) is not a registered function/op", text)
    if custom:
        return f"the model uses the custom op {custom[1]}:{custom[2]}: export it without custom ops"
    if "opset" in text.lower() or "ir version" in text.lower():
        return "the model is newer than this ONNX Runtime: update it, or export for an older opset"
    if "NOT_IMPLEMENTED" in text:
        return "the CPU has no kernel for an op of this type: export the model as float32 or int8"
    return "the file is damaged or was cut short: fetch or export it again"


def _spec(node: Any, edges: dict[str, Quantisation], name: str) -> TensorSpec:
    """ONNX Runtime's description of an input or output; sides that are symbolic or open are -1."""
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ModelError(
            f"{node.name!r} is not of a type edgerun can pass",
            where=name,
            expected="a tensor of numbers",
            got=node.type,
        )
    shape = tuple(side if isinstance(side, int) else -1 for side in node.shape)
    edge = edges.get(node.name)
    if edge is None or dtype not in ("uint8", "int8", "uint16", "int16", "int32"):
        return TensorSpec(node.name, shape, dtype)
    axis = edge.axis + len(shape) if edge.axis < 0 else edge.axis
    return TensorSpec(node.name, shape, dtype, edge.scale, edge.zero_point, axis if len(edge.scale) > 1 else 0)
