"""ONNX Runtime sessions as conversion uses them: the CPU provider, all cores, no spinning, quiet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgerun.errors import EngineError

_QUIET = 3
"""Severity from which the runtime prints: errors (OrtLoggingLevel)."""


def open_session(
    model: bytes, where: Path | str, *, threads: int = 0, saved: tuple[Path, Literal["ONNX", "ORT"]] | None = None
) -> Any:
    """An `InferenceSession` for `model`; `threads` 0 means one for each core.

    `saved`: write what the runtime made of the model to that path, as `ONNX` or `ORT`, with the optimisations that hold
    for every provider and on every machine respectively. Raises `EngineError` with the runtime's first line.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if saved is not None:
        levels = onnxruntime.GraphOptimizationLevel
        standard = saved[1] == "ONNX"
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC if standard else levels.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(saved[0])
        options.add_session_config_entry("session.save_model_format", saved[1])
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError("ONNX Runtime cannot open the model", where=where, got=str(error).splitlines()[0]) from error
