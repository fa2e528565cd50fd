"""Opening an engine on the first accelerator of a declared order that takes the model; every refusal is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from edgerun.errors import ConfigError, DeviceError, EngineError, MissingError, ModelError, did_you_mean
from edgerun.ports import Engine, EngineContext

_log = logging.getLogger(__name__)

ACCELERATORS = ("cpu", "edgetpu", "gpu", "npu", "cuda", "tensorrt", "openvino")
"""The names a config may use. This version opens `cpu`; the others are known and refused with that reason."""

_Options = TypeVar("_Options", bound=msgspec.Struct)


def open_engine(
    engine_class: Callable[[_Options, EngineContext], Engine],
    options: _Options,
    context: EngineContext,
    accelerators: Sequence[str],
) -> Engine:
    """`engine_class(options, context)` on the first of `accelerators` that opens, in the order given.

    `context.accelerator` is replaced by each name in turn. Each refusal is logged as a warning and kept, with its
    reason, in the opened engine's `info.fallbacks`. Raises `ConfigError` for an empty order, `ModelError` when the
    model itself is at fault, `MissingError` when the runtime is not installed, `EngineError` with every refusal when
    no accelerator opens: without `cpu` in the order that is wanted rather than running slowly.
    """
    if not accelerators:
        raise ConfigError("no accelerator is declared", where=context.name, expected="at least one name, such as cpu")
    refused: list[tuple[str, str]] = []
    for name in accelerators:
        reason = _cannot_open(name)
        if reason is None:
            try:
                engine = engine_class(options, msgspec.structs.replace(context, accelerator=name))
            except (MissingError, ModelError):
                raise
            except DeviceError as error:
                reason = str(error)
            else:
                if refused:
                    engine.info = msgspec.structs.replace(engine.info, fallbacks=tuple(refused))
                    _log.warning("model %s: runs on %s, which is not the first of its order", context.name, name)
                return engine
        _log.warning("model %s: accelerator %s refused: %s", context.name, name, reason)
        refused.append((name, reason))
    raise EngineError(
        "no accelerator of the declared order opens",
        where=context.name,
        expected=f"one of {', '.join(accelerators)} to open",
        got="; ".join(f"{name}: {reason}" for name, reason in refused),
        remedy='add "cpu" to the end of accelerators to run on the CPU when nothing else works'
        if "cpu" not in accelerators
        else None,
    )


def _cannot_open(name: str) -> str | None:
    """Why an accelerator cannot be opened at all by this version, or None for one that can be tried."""
    if name == "cpu":
        return None
    if name in ACCELERATORS:
        return "this version opens only the CPU"
    hint = did_you_mean(name, ACCELERATORS)
    return f"unknown accelerator; {hint or 'known are ' + ', '.join(ACCELERATORS)}"
