"""A raw dict and a msgspec struct type → a value, or everything that is wrong with it at once.

msgspec itself stops at the first mistake; an operator wants all of them, each with its file, line and dotted path. The
types understood are those a config or an options struct needs: bool, int, float, str, `Literal`, `Path`, tuples, dicts,
nested structs and unions of these; `msgspec.Meta` gives bounds, a pattern and the description.
`extra` of a `Meta` may hold:

- `unit`: "s", "ms" or "bytes": text such as "250ms" or "64MiB" is read, a bare number is in that unit. A field whose
  name ends in `_s`, `_ms` or `_bytes` has it without saying so.
- `parse`: a function of the value that returns the value to keep or raises `ValueError` with what is wrong.
- `expected`: how the wanted value is described in a message.
"""

from __future__ import annotations

import functools
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from edgerun.errors import ConfigError, did_you_mean
from edgerun.secret import mask

Hook = Callable[[Any, str, "Report"], Any]

_DURATIONS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES_BYTES = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*([A-Za-z]+)\s*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
QUOTED = r'"(?:[^"\\]|\\.)*"'
"""A pattern for the keys that `join` has quoted."""
_ESCAPES = {**{i: f"\\u{i:04x}" for i in range(32)}, ord('"'): '\\"', ord("\\"): "\\\\"}
_SHOWN = 80


class _Invalid:
    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = _Invalid()
"""What `read` returns for a value it has reported."""


class Report:
    """Where mistakes are collected.

    `where(path)` says how a place is named to the operator: "edge.toml:12: streams.dock.max_fps" or "--max-fps".
    `planned(path)` says whether the key belongs to a later version. `hooks` read the types they are keyed by.
    """

    def __init__(
        self,
        where: Callable[[str], str],
        hooks: Mapping[type, Hook] | None = None,
        planned: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self.errors: list[ConfigError] = []
        self.where = where
        self.hooks = hooks or {}
        self.planned = planned

    def add(
        self, path: str, what: str, *, expected: object = None, got: object = None, remedy: str | None = None
    ) -> None:
        self.errors.append(ConfigError(what, where=self.where(path), expected=expected, got=got, remedy=remedy))


def join(path: str, key: str) -> str:
    """The dotted path of `key` under `path`; a key that TOML would quote is quoted."""
    part = key if _BARE_KEY.fullmatch(key) else '"' + key.translate(_ESCAPES) + '"'
    return f"{path}.{part}" if path else part


def show(value: object) -> str:
    """`value` for a message: short, on one line, a password inside masked, tables and lists only named."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = repr(mask(str(value)))
    elif isinstance(value, dict):
        return "a table" if value else "an empty table"
    elif isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    elif isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    elif value is None or isinstance(value, int | float):
        text = "nothing" if value is None else repr(value)
    else:
        text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def quantity(text: str, unit: str) -> float | None:
    """Text with a unit ("250ms", "7d", "64MiB") as a number of `unit` ("s", "ms" or "bytes"); None if it is neither.

    Sizes: kB, MB, GB are powers of 1000, KiB, MiB, GiB of 1024 (IEC 80000-13).
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or len(text) > 40:
        return None
    factors = _SIZES_BYTES if unit == "bytes" else _DURATIONS_S
    factor = factors.get(match[2])
    if factor is None:
        return None
    value = float(match[1]) * factor
    return round(value * 1000.0, 9) if unit == "ms" else value


def read_struct(raw: object, kind: type[msgspec.Struct], path: str, report: Report) -> Any:
    """`raw` (a table) as `kind`, or INVALID once everything that is wrong inside has been added to `report`."""
    if not isinstance(raw, dict):
        report.add(path, "wrong type", expected="a table", got=show(raw))
        return INVALID
    before = len(report.errors)
    hints = _hints(kind)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in raw:
        if key not in fields:
            unknown_key(path, key, fields, report)
    values = {}
    for key, field in fields.items():
        if key in raw:
            values[field.name] = read(raw[key], hints[field.name], join(path, key), report, key)
        elif field.required:
            report.add(join(path, key), "missing", expected=describe(hints[field.name], key))
    if len(report.errors) > before:
        return INVALID
    try:
        return kind(**values)
    except ConfigError as error:
        report.add(path, error.what, expected=error.expected, got=error.got, remedy=error.remedy)
    except (ValueError, TypeError) as error:
        report.add(path, str(error))
    return INVALID


def unknown_key(path: str, key: object, known: Iterable[str], report: Report) -> None:
    """Report `key`, which `path` does not have: as planned for a later version, or with the key that was meant."""
    place = join(path, str(key))
    if report.planned(place):
        report.add(place, "planned, not in this version", remedy="remove it")
    else:
        report.add(place, "unknown key", expected="one of " + ", ".join(known), remedy=did_you_mean(str(key), known))


def read(value: Any, kind: Any, path: str, report: Report, name: str = "") -> Any:
    """`value` as `kind` (a type with or without `Annotated`), or INVALID once the mistake is in `report`.

    `name` is the field's name, whose ending may state the unit.
    """
    base, metas = _peel(kind)
    members = _members(base)
    if type(None) in members:
        if value is None:
            return None
        members = tuple(member for member in members if member is not type(None))
    if len(members) > 1:
        return _read_union(value, members, metas, path, report, name)
    base, inner = _peel(members[0])
    metas = (*metas, *inner)
    hook = report.hooks.get(base) if isinstance(base, type) else None
    if hook is not None:
        return hook(value, path, report)
    origin = get_origin(base)
    if origin is tuple or base is tuple or origin is list:
        made = _read_list(value, base, path, report)
    elif origin is dict:
        made = _read_dict(value, base, path, report)
    elif isinstance(base, type) and issubclass(base, msgspec.Struct):
        made = value if isinstance(value, base) else read_struct(value, base, path, report)
    else:
        made = _read_leaf(value, base, metas, path, report, name)
    return made if made is INVALID else _check(made, value, base, metas, path, report, name)


def describe(kind: Any, name: str = "") -> str:
    """What a value of `kind` looks like, in words."""
    base, metas = _peel(kind)
    members = [member for member in _members(base) if member is not type(None)]
    if len(members) > 1:
        return " or ".join(describe(member, name) for member in members)
    base, inner = _peel(members[0])
    metas = (*metas, *inner)
    for meta in metas:
        if meta.extra and "expected" in meta.extra:
            return str(meta.extra["expected"])
    return _describe_base(base, name, metas) + _describe_bounds(base, metas)


def description(kind: Any) -> str:
    """The description kept in the field's `Meta`, or empty."""
    return next((meta.description for meta in _peel(kind)[1] if meta.description), "")


def _read_union(value: Any, members: tuple[Any, ...], metas: Any, path: str, report: Report, name: str) -> Any:
    """The first member that takes the value; when none does, one error that names them all."""
    for member in members:
        trial = Report(report.where, report.hooks)
        got = read(value, Annotated[member, *metas] if metas else member, path, trial, name)
        if not trial.errors:
            return got
        if isinstance(value, dict) and _is_struct(member):
            report.errors += trial.errors
            return INVALID
    report.add(path, "wrong value", expected=" or ".join(describe(m, name) for m in members), got=show(value))
    return INVALID


def _read_list(value: Any, base: Any, path: str, report: Report) -> Any:
    args = get_args(base)
    if not isinstance(value, list | tuple):
        report.add(path, "wrong type", expected=describe(base), got=show(value))
        return INVALID
    if get_origin(base) is tuple and args[-1:] != (Ellipsis,):
        if len(value) != len(args):
            report.add(path, "wrong length", expected=describe(base), got=show(value))
            return INVALID
        kinds: Iterable[Any] = args
    else:
        kinds = (args[0] if args else Any,) * len(value)
    items = [read(item, kind, f"{path}[{i}]", report) for i, (item, kind) in enumerate(zip(value, kinds, strict=True))]
    if any(item is INVALID for item in items):
        return INVALID
    return items if get_origin(base) is list else tuple(items)


def _read_dict(value: Any, base: Any, path: str, report: Report) -> Any:
    if not isinstance(value, dict):
        report.add(path, "wrong type", expected="a table", got=show(value))
        return INVALID
    kind = get_args(base)[1]
    items = {str(key): read(item, kind, join(path, str(key)), report) for key, item in value.items()}
    return INVALID if any(item is INVALID for item in items.values()) else items


def _read_leaf(value: Any, base: Any, metas: Any, path: str, report: Report, name: str) -> Any:
    if base is Any:
        return value
    if get_origin(base) is Literal:
        choices = get_args(base)
        if not isinstance(value, str | int) or value not in choices:
            remedy = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else None
            report.add(path, "not one of the choices", expected=describe(base), got=show(value), remedy=remedy)
            return INVALID
        return value
    if base is float or base is int:
        return _read_number(value, base, metas, path, report, name)
    if isinstance(value, bool) != (base is bool) or not isinstance(value, base):
        what = "wrong type"
    elif isinstance(value, str) and "\0" in value:
        what = "a NUL character inside"
    else:
        return value
    report.add(path, what, expected=describe(Annotated[base, *metas] if metas else base, name), got=show(value))
    return INVALID


def _read_number(value: Any, base: type, metas: Any, path: str, report: Report, name: str) -> Any:
    number: Any = value
    unit = _unit(name, metas)
    if isinstance(value, str) and unit:
        number = quantity(value, unit)
        if number is not None and base is int and number == int(number):
            number = int(number)
    if isinstance(number, bool) or not isinstance(number, int | float):
        what = "wrong type" if not (unit and isinstance(value, str)) else "not a number with a known unit"
    elif base is int and isinstance(number, float):
        what = "wrong type"
    elif isinstance(number, int) and number.bit_length() > 63:
        what = "out of range"
    elif not math.isfinite(number):
        what = "not a finite number"
    else:
        return float(number) if base is float else number
    kind = Annotated[base, *metas] if metas else base
    report.add(path, what, expected=describe(kind, name), got=show(value))
    return INVALID


def _check(value: Any, raw: Any, base: Any, metas: Any, path: str, report: Report, name: str) -> Any:
    """Hold `value`, which was written as `raw`, against the bounds, pattern and `parse` of its metas."""
    wanted = describe(Annotated[base, *metas], name) if metas else ""
    for meta in metas:
        if not _within(value, meta):
            number = isinstance(value, int | float)
            what = "out of range" if number else "not of the right form" if value else "empty"
            report.add(path, what, expected=wanted, got=show(raw))
            return INVALID
        if meta.extra and "parse" in meta.extra:
            try:
                value = meta.extra["parse"](value)
            except ValueError as error:
                report.add(path, str(error), expected=wanted, got=show(raw))
                return INVALID
    return value


def _within(value: Any, meta: msgspec.Meta) -> bool:
    size = len(value) if isinstance(value, str | tuple | list | dict) else 0
    return not (
        (meta.ge is not None and value < meta.ge)
        or (meta.gt is not None and value <= meta.gt)
        or (meta.le is not None and value > meta.le)
        or (meta.lt is not None and value >= meta.lt)
        or (meta.multiple_of is not None and value % meta.multiple_of)
        or (meta.min_length is not None and size < meta.min_length)
        or (meta.max_length is not None and size > meta.max_length)
        or (meta.pattern is not None and not re.search(meta.pattern, value))
    )


def _describe_base(base: Any, name: str, metas: Any) -> str:
    origin, args = get_origin(base), get_args(base)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(str(choice) for choice in args)
    if origin in (tuple, list):
        if origin is list or args[-1:] == (Ellipsis,):
            return f"a list, each {describe(args[0])}"
        return f"a list of {len(args)}: " + ", ".join(describe(arg) for arg in args)
    if origin is dict or _is_struct(base):
        return "a table"
    unit = _unit(name, metas)
    if base in (int, float) and unit:
        example = "64MiB" if unit == "bytes" else "250ms" if unit == "ms" else "30s"
        named = {"s": "seconds", "ms": "milliseconds", "bytes": "bytes"}[unit]
        return f'{named} (or text such as "{example}")'
    if base is str and any(meta.min_length for meta in metas):
        return "non-empty text"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return words.get(base, getattr(base, "__name__", str(base)).lower())


def _describe_bounds(base: Any, metas: Any) -> str:
    bounds, sizes = [], []
    for meta in metas:
        signs = ((meta.ge, "≥"), (meta.gt, ">"), (meta.le, "≤"), (meta.lt, "<"))
        bounds += [f"{sign} {bound:.10g}" for bound, sign in signs if bound is not None]
        things = "characters" if base is str else "of them"
        if meta.min_length is not None and not (meta.min_length == 1 and base is str):
            sizes.append(f"at least {meta.min_length} {things}")
        if meta.max_length is not None:
            sizes.append(f"at most {meta.max_length} {things}")
    return (" " + " and ".join(bounds) if bounds else "") + (", " + ", ".join(sizes) if sizes else "")


def _unit(name: str, metas: Iterable[msgspec.Meta]) -> str | None:
    for meta in metas:
        if meta.extra and "unit" in meta.extra:
            return str(meta.extra["unit"])
    last = name.rpartition("_")[2] if "_" in name else ""
    return last if last in ("s", "ms", "bytes") else None


def _peel(kind: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    if get_origin(kind) is Annotated:
        base, *extras = get_args(kind)
        inner, metas = _peel(base)
        return inner, (*[extra for extra in extras if isinstance(extra, msgspec.Meta)], *metas)
    return kind, ()


def _members(base: Any) -> tuple[Any, ...]:
    return get_args(base) if get_origin(base) in (Union, types.UnionType) else (base,)


def _is_struct(kind: Any) -> bool:
    base = _peel(kind)[0]
    return isinstance(base, type) and issubclass(base, msgspec.Struct)


@functools.cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
