"""What Silicon Labs' MLTK writes into its models: the metadata buffer `SL_PARAMSv1`, a dictionary of typed values.

After MLTK's `dictionary.fbs`: Dictionary entries 1; Entry key 0, value 1 (union: type 1, value 2); each value is a
table whose field 0 holds it. Keys after the MLTK guide "Model Parameters".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgerun.errors import ModelError
from edgerun.models.flatbuffer import DAMAGED, Table, root
from edgerun.models.tflite_metadata import read_buffer

_SCALARS = {1: "?", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", 8: "q", 9: "Q", 10: "f", 11: "d"}
_TEXT, _TEXTS, _INTEGERS, _FLOATS = 12, 13, 14, 15
_MOST = 4096


def read_parameters(model: bytes, where: str) -> Mapping[str, Any] | None:
    """The dictionary, or None where the model carries none. Raises `ModelError`."""
    content = read_buffer(model, "SL_PARAMSv1", where)
    if content is None:
        return None
    try:
        return {entry.text(0): _value(entry) for entry in root(content).tables(1, _MOST)}
    except DAMAGED as error:
        raise ModelError(
            "the parameters in the model cannot be read",
            where=f"{where}: SL_PARAMSv1",
            got=error,
            remedy="the file is damaged: fetch it again",
        ) from error


def _value(entry: Table) -> Any:
    kind, value = entry.integer(1, "B"), entry.table(2)
    if value is None:
        return None
    if kind in _SCALARS:
        return value.number(0, _SCALARS[kind]) or 0
    if kind == _TEXT:
        return value.text(0)
    if kind == _TEXTS:
        return tuple(value.texts(0, _MOST))
    if kind == _INTEGERS:
        return value.numbers(0, "i", _MOST)
    return value.floats(0, _MOST) if kind == _FLOATS else None
