"""What is understood of a model, as lines for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from edgerun.models import Calibration, Inspection, Signal
from edgerun.models.structure import shown, sides
from edgerun.types import TensorSpec

_LONGEST = 76


def as_dict(found: Inspection) -> dict[str, Any]:
    """The JSON of `models inspect`."""
    bundle, file, plan = found.bundle, found.structure, found.recurrence
    return {
        "name": bundle.name,
        "version": bundle.version,
        "bare": bundle.bare,
        "artifacts": [
            {
                "file": one.file,
                "format": one.format,
                "for": one.accelerators,
                "bytes": len(one.model),
                "sha256": one.sha256,
            }
            for one in bundle.artifacts
        ],
        "inputs": [msgspec.to_builtins(spec) for spec in file.inputs],
        "outputs": [msgspec.to_builtins(spec) for spec in file.outputs],
        "signatures": [signature.key for signature in file.signatures],
        "ops": file.op_count,
        "custom_ops": file.custom_ops,
        "producer": file.producer,
        "opset": file.opset,
        "stateful": plan.stateful,
        "state": [[file.inputs[given].name, file.outputs[out].name] for given, out in plan.state],
        "constants": {file.inputs[at].name: value for at, value in plan.constants.items()},
        "known": [{"key": one.key, "value": _plain(one.value), "from": one.origin} for one in found.ledger.known],
        "assumed": found.ledger.assumed,
        "needs": [
            {"what": one.what, "flag": one.flag, "key": one.key, "optional": one.optional} for one in found.ledger.needs
        ],
        "complete": found.complete,
    }


def as_lines(found: Inspection, path: str) -> Iterator[str]:
    """The paragraphs of `models inspect`."""
    bundle, file = found.bundle, found.structure
    yield f"{path}: {'bare file' if bundle.bare else 'bundle'} {bundle.name}, version {bundle.version}"
    for one in bundle.artifacts:
        size = f"{len(one.model) / 1e6:.1f} MB" if len(one.model) >= 1e5 else f"{len(one.model) / 1e3:.0f} kB"
        yield f"  file     {one.file}, {size}, for {', '.join(one.accelerators)}, sha256 {one.sha256[:12]}…"
    for what, specs in (("input", file.inputs), ("output", file.outputs)):
        for spec in specs:
            yield f"  {what:8} {_tensor(spec)}"
    yield f"  graph    {file.op_count} ops" + (f", opset {file.opset}" if file.opset else "") + _by(file.producer)
    if file.custom_ops:
        yield f"  custom   {', '.join(map(shown, file.custom_ops))}: the runtime must have them"
    yield from _memory(found)
    yield "understood"
    for known in found.ledger.known:
        yield f"  {known.key:12} {_short(known.value):{_LONGEST - 14}} {known.origin}"
    if found.ledger.needs:
        yield "needed"
    for need in found.ledger.needs:
        ways = " or ".join(
            way for way in (need.flag, f"{need.key} in manifest.json" if need.key else None) if way is not None
        )
        yield f"  {'may' if need.optional else 'must':12} {need.what}" + (f": {ways}" if ways else "")
    if any(need.flag is None and need.key is None and not need.optional for need in found.ledger.needs):
        yield "It cannot run here: that cannot be given."
    else:
        yield "Nothing is missing." if found.complete else "It does not run yet: give what it must have."


def _memory(found: Inspection) -> Iterator[str]:
    file, plan = found.structure, found.recurrence
    for given, out in plan.state:
        yield f"  state    {shown(file.outputs[out].name)} → {shown(file.inputs[given].name)}"
    if plan.variables:
        yield "  state    inside the model: opened anew to reset it"
    for at, value in plan.constants.items():
        yield f"  constant {shown(file.inputs[at].name)} = {value}"
    if plan.stateful:
        yield "  stateful one stream only, in order"


def _tensor(spec: TensorSpec) -> str:
    text = f"{shown(spec.name)} {sides(spec.shape)} {spec.dtype}"
    if len(spec.scale) == 1:
        return f"{text}, scale {spec.scale[0]:.6g}, zero point {spec.zero_point[0] if spec.zero_point else 0}"
    return f"{text}, {len(spec.scale)} scales" if spec.scale else text


def _by(producer: str) -> str:
    return f", by {shown(producer)}" if producer else ""


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=repr)


def _short(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, Signal):
        stated = {key: item for key, item in msgspec.structs.asdict(value).items() if item not in (None, {})}
        options = stated.pop("options", None)
        text = ", ".join(
            f"{key} {item:g}" if isinstance(item, float) else f"{key} {item}" for key, item in stated.items()
        )
        return text + (f", {len(options)} options" if options else "")
    if isinstance(value, Calibration):
        return f"{len(value.lines)} lines, of the {value.of} of a score"
    if isinstance(value, tuple) and value and all(isinstance(item, str) for item in value):
        twice = [name for name, count in Counter(value).items() if count > 1]
        return _labels(value) + (f"; {len(twice)} name{'s' * (len(twice) > 1)} twice" if twice else "")
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" for item in value)
    return _cut(f"{value:g}" if isinstance(value, float) else str(value), _LONGEST)


def _labels(names: tuple[str, ...]) -> str:
    if len(names) <= 4:
        return _cut(f"{len(names)}: {', '.join(names)}", _LONGEST)
    return _cut(f"{len(names)}: {', '.join(names[:3])} … {names[-1]}", _LONGEST)


def _cut(text: str, most: int) -> str:
    clean = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return clean if len(clean) <= most else clean[: most - 1] + "…"
