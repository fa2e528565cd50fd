"""Models that remember: which outputs go back into which inputs, what stays constant, what the file keeps itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgerun.errors import ModelError
from edgerun.models.structure import Structure, sides
from edgerun.types import TensorSpec

_STATE_WORDS = frozenset(
    ("state", "states", "hidden", "cell", "cache", "memory", "past", "h", "c", "hx", "cx", "lstm", "gru", "rnn", "kv")
)
_SIDE_WORDS = frozenset(
    (
        "in",
        "out",
        "input",
        "output",
        "new",
        "next",
        "prev",
        "previous",
        "old",
        "cur",
        "current",
        "serving",
        "default",
        "n",
    )
)


class Recurrence(msgspec.Struct, frozen=True):
    """How a model is run that is more than inputs → outputs; positions count among all the model's own.

    `state`: (input, output) that goes back into it. `constants`: input → its value. `shapes`: input → its shape, where
    the file leaves sides open. `variables`: the file keeps state of its own, which only opening it anew clears.
    """

    state: tuple[tuple[int, int], ...] = ()
    constants: Mapping[int, Any] = {}
    shapes: Mapping[int, tuple[int, ...]] = {}
    variables: bool = False

    @property
    def stateful(self) -> bool:
        """Its answers depend on what came before: one stream, in order, and nothing left out unnoticed."""
        return bool(self.state) or self.variables

    @property
    def plain(self) -> bool:
        """Nothing but inputs → outputs: it is run as it is."""
        return not (self.stateful or self.constants or self.shapes)


def find_state(file: Structure) -> tuple[tuple[str, str], ...]:
    """Pairs of an input and an output that by name, shape and type are one state before and after.

    Both names, without what says before or after (`in`, `out`, `new`, `n` …), are the same and hold a word for memory
    (`state`, `hidden`, `cache` …); shapes agree where both are known; each has one partner; something is left over on
    both sides. Where a TFLite file has one signature, its argument names count. Otherwise nothing is paired.
    """
    inputs, outputs = (_named(file, out) for out in (False, True))
    pairs = []
    for given, spec in inputs.items():
        key = _state_key(given)
        fitting = [name for name, other in outputs.items() if key and key == _state_key(name) and _alike(spec, other)]
        same = [name for name in inputs if key and key == _state_key(name)]
        if len(fitting) == 1 and len(same) == 1:
            pairs.append((given, fitting[0]))
    left = len(pairs) < len(inputs) and len(pairs) < len(outputs)
    return tuple(pairs) if left else ()


def plan(
    file: Structure,
    state: Sequence[tuple[str, str]],
    constants: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> Recurrence:
    """Names → positions. Raises `ModelError` for a name that the model does not have, and a shape that is not its."""
    inputs, outputs = (_positions(file, out) for out in (False, True))
    found = Recurrence(
        state=tuple((_at(given, inputs, "state", where), _at(name, outputs, "state", where)) for given, name in state),
        constants={_at(name, inputs, "constants", where): value for name, value in constants.items()},
        shapes={_at(name, inputs, "shapes", where): shape for name, shape in shapes.items()},
        variables=file.variables > 0,
    )
    for at, shape in found.shapes.items():
        stated = file.inputs[at].shape
        if len(stated) != len(shape) or any(-1 != a != b for a, b in zip(stated, shape, strict=True)):
            raise ModelError(
                f"shapes gives input {file.inputs[at].name!r} a shape it cannot have",
                where=where,
                expected=sides(stated),
                got=sides(shape),
            )
    taken = [at for at, _ in found.state] + list(found.constants)
    if len(set(taken)) < len(taken) or len({out for _, out in found.state}) < len(found.state):
        raise ModelError("an input or output of state or constants is used twice", where=where)
    if taken and len(taken) == len(file.inputs):
        raise ModelError("state and constants leave no input for what the model is to look at", where=where)
    return found


def _named(file: Structure, out: bool) -> dict[str, TensorSpec]:
    specs = file.outputs if out else file.inputs
    names = _positions(file, out)
    if len(file.signatures) == 1:
        signature = file.signatures[0]
        arguments = signature.outputs if out else signature.inputs
        if len(arguments) == len(specs):
            names = dict(arguments)
    return {name: specs[at] for name, at in names.items()}


def _positions(file: Structure, out: bool) -> dict[str, int]:
    """Every name a tensor goes by: its own and those of the signatures."""
    specs = file.outputs if out else file.inputs
    found = {spec.name: at for at, spec in enumerate(specs)}
    for signature in file.signatures:
        found = {**(signature.outputs if out else signature.inputs), **found}
    return found if len(file.signatures) else {spec.name: at for at, spec in enumerate(specs)}


def _at(name: str, known: Mapping[str, int], key: str, where: str) -> int:
    if name not in known:
        raise ModelError(
            f"{key} names a tensor that the model does not have",
            where=where,
            expected=f"one of {', '.join(known)}",
            got=repr(name),
        )
    return known[name]


def _state_key(name: str) -> tuple[str, ...]:
    """The words of a name that say which memory it is, none for what is none: `stateN`, `h_out`, `hn` → state, h, h."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix(":0"))
    words = [word for word in re.split(r"[^A-Za-z0-9]+", spaced.lower()) if word]
    words = [
        {"hn": "h", "cn": "c", "h0": "h", "c0": "c", "present": "past", "states": "state"}.get(word, word)
        for word in words
    ]
    kept = tuple(word for word in words if word not in _SIDE_WORDS)
    return kept if any(re.sub(r"\d+$", "", word) in _STATE_WORDS for word in kept) else ()


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    if one.dtype != other.dtype or len(one.shape) != len(other.shape):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))
