"""Understanding a model from its file alone, without a runtime."""

from __future__ import annotations

import msgspec

from edgerun.errors import ModelError
from edgerun.models.bundle import Bundle
from edgerun.models.derive import Given, recurrence, understand
from edgerun.models.recurrent import Recurrence
from edgerun.models.structure import Structure
from edgerun.models.understanding import Ledger
from edgerun.types import TensorSpec


class Inspection(msgspec.Struct, frozen=True):
    """A model as far as it is understood; `bundle` is filled in, `structure` that of its main file."""

    bundle: Bundle
    structure: Structure
    recurrence: Recurrence
    ledger: Ledger

    @property
    def complete(self) -> bool:
        """Nothing is missing that must be given."""
        return all(need.optional for need in self.ledger.needs)


def inspect(bundle: Bundle, given: Given) -> Inspection:
    """What is understood of `bundle`. Raises `ModelError` for a file that cannot be read at all."""
    file = bundle.main.structure
    if file is None:
        raise ModelError(
            "not a model of the format that its name says",
            where=f"{bundle.name}: {bundle.main.file}",
            expected="a TensorFlow Lite model" if bundle.format == "tflite" else "an ONNX model",
            remedy="fetch or export the file again",
        )
    plan = recurrence(bundle)
    made, ledger = understand(bundle, *exposed(file, plan), given)
    return Inspection(made, file, plan, ledger)


def exposed(file: Structure, plan: Recurrence) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs and outputs that are left beside state and constants, with their given shapes."""
    fed = {at for at, _ in plan.state} | set(plan.constants)
    inputs = [
        msgspec.structs.replace(spec, shape=tuple(plan.shapes.get(at, spec.shape)))
        for at, spec in enumerate(file.inputs)
        if at not in fed
    ]
    back = {out for _, out in plan.state}
    return inputs, [spec for at, spec in enumerate(file.outputs) if at not in back]
