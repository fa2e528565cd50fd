"""Regression: the model's numbers, with their names and units."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import msgspec
import numpy as np

from edgerun.decode.tensors import dequantise, describe, not_numbers, wrong_size
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Quantity, Tensor

_WHERE = "decoder regress"
_MOST = 256


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of each number, in the order of the outputs: its name (else its label, else its place), unit, and how it is
    turned back into that unit where the model was trained on normalised targets: value · scale + shift.

    `scale` and `shift` are one number for all, or one for each.
    """

    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)


class RegressDecoder:
    """All numbers of all outputs, in their order → `values`; a single number without a name → `value`.

    At most 256 numbers. The threshold has no meaning here. `labels` are the names of the values.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._specs = context.outputs
        sizes = [prod(side for side in spec.shape if side != -1) for spec in self._specs]
        count = sum(sizes)
        if not 1 <= count <= _MOST or not all(sizes):
            raise ModelError(
                "the outputs are not those of a regression",
                where=_WHERE,
                expected=f"1 to {_MOST} numbers",
                got=describe(self._specs),
                remedy="choose another decoder for this model (embedding for a long vector)",
            )
        self._sizes = sizes
        names = options.names or context.labels
        for what, given in (("names", names), ("units", options.units)):
            if given and len(given) != count:
                raise _differ(what, count, len(given))
        for what, factors in (("scale", options.scale), ("shift", options.shift)):
            if len(factors) not in (1, count):
                raise _differ(what, count, len(factors))
        self._scale, self._shift = np.array(options.scale), np.array(options.shift)
        self._alone = count == 1 and not names and not options.units
        self._names = names or tuple(str(at) for at in range(count))
        self._units = options.units or ("",) * count
        self.labels = () if self._alone else self._names

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; `placement` has no meaning here."""
        real = []
        for raw, spec, size in zip(outputs, self._specs, self._sizes, strict=True):
            if raw.size != size:
                raise wrong_size(raw, spec, f"{size} number{'s' * (size > 1)}", _WHERE)
            numbers = dequantise(raw, spec).reshape(-1)
            if not np.isfinite(numbers).all():
                raise not_numbers("values", spec, _WHERE)
            real.append(numbers)
        values = (np.concatenate(real) * self._scale + self._shift).tolist()
        if self._alone:
            return Answer(value=values[0])
        named = zip(self._names, values, self._units, strict=True)
        return Answer(values=tuple([Quantity(name, value, unit) for name, value, unit in named]))


def _differ(what: str, count: int, got: int) -> ModelError:
    return ModelError(
        f"the {what} are not one for each number that the model puts out",
        where=_WHERE,
        expected=f"{count}",
        got=f"{got}",
        remedy=f"correct {what} in the decoder's options (or the label file)",
    )
