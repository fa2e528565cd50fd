"""Which accelerators there are, how a config declares them, and which of them this board has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgerun.decoding import convert
from edgerun.errors import ConfigError, EdgerunError, did_you_mean
from edgerun.infer.board import Board
from edgerun.registry import BUILTIN, kinds, resolve

_log = logging.getLogger(__name__)

_AUTO: dict[str, tuple[str, ...]] = {
    "tflite": ("edgetpu", "hexagon", "vx", "armnn", "gpu"),
    "onnx": ("tensorrt", "cuda", "qnn", "openvino", "acl", "webgpu"),
}
"""Best first: made for inference before general, and measured or stated by their vendors as faster than the CPU."""


class Accelerator(msgspec.Struct, frozen=True):
    """One entry of a declared order: its kind, and the options of its plug-in, unchecked.

    `chosen`: by `auto`, so it is used only where it is faster than the CPU.
    """

    kind: str
    options: dict[str, Any] = {}
    chosen: bool = False


def _known() -> tuple[str, ...]:
    names = [kind.partition("-")[2] for kind in BUILTIN.get("accelerator", {})]
    return tuple(dict.fromkeys(("cpu", *names)))


ACCELERATORS = _known()
"""The names a config may use, of either engine; `auto` stands for what the board has."""


def engine_kind(engine_class: Any) -> str | None:
    """Under which kind an engine is registered, or None for one from outside."""
    target = f"{engine_class.__module__}:{engine_class.__qualname__}"
    return next((kind for kind, known in BUILTIN["engine"].items() if known == target), None)


def declared(entries: Sequence[str | Mapping[str, Any] | Accelerator]) -> list[Accelerator]:
    """A declared order: names, or tables of a `kind` and options. Raises `ConfigError`."""
    order = []
    for entry in entries:
        if isinstance(entry, Mapping):
            options = dict(entry)
            kind = options.pop("kind", None)
            if not isinstance(kind, str):
                raise ConfigError("an accelerator's table names no kind", expected='kind = "…"', got=dict(entry))
            order.append(Accelerator(kind, options))
        else:
            order.append(entry if isinstance(entry, Accelerator) else Accelerator(entry))
    return order


def plug_in(engine: str, accelerator: Accelerator, board: Board) -> Any:
    """The plug-in of an accelerator for the engine of that kind. Raises `ConfigError` for unknown ones and options."""
    if f"{engine}-{accelerator.kind}" not in kinds("accelerator"):
        mine = ["cpu", *(kind.partition("-")[2] for kind in kinds("accelerator") if kind.startswith(f"{engine}-"))]
        elsewhere = accelerator.kind in ACCELERATORS
        what = "not an accelerator of this engine" if elsewhere else "unknown accelerator"
        hint = None if elsewhere else did_you_mean(accelerator.kind, mine)
        raise ConfigError(f"{what}; {hint or 'known are ' + ', '.join(mine)}")
    found = resolve("accelerator", f"{engine}-{accelerator.kind}")
    try:
        options = convert(accelerator.options, found.options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the options of {accelerator.kind} are wrong", got=error) from error
    return found(options, board)


def expand(order: Sequence[Accelerator], engine: str | None, name: str, board: Board) -> list[Accelerator]:
    """`order` with `auto` replaced by what this board shows, best first, then `cpu`; the choice is logged."""
    out: list[Accelerator] = []
    for one in order:
        if one.kind != "auto":
            out.append(one)
            continue
        chosen, why_not = [], []
        for kind in _AUTO.get(engine or "", ()):
            try:
                reason = plug_in(engine or "", Accelerator(kind), board).refusal()
            except EdgerunError as error:
                reason = str(error)
            if reason is None:
                chosen.append(kind)
            else:
                why_not.append(f"not {kind} ({reason})")
        _log.info("model %s: auto is %s: %s", name, ", then ".join([*chosen, "cpu"]), "; ".join(why_not) or "all seen")
        out += [*(Accelerator(kind, chosen=True) for kind in chosen), Accelerator("cpu")]
    seen: set[str] = set()
    return [one for one in out if one.kind != "cpu" or not (one.kind in seen or seen.add(one.kind))]  # type: ignore[func-returns-value]
