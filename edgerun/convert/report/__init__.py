"""What a conversion found out, for people (report.html) and for programs (report.json)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgerun.bench.samples import Spread
from edgerun.convert.parts import Outcome, Progress, Samples
from edgerun.convert.report.page import page
from edgerun.convert.report.pictures import Opener, examples, file_url
from edgerun.errors import ConfigError

HTML, JSON = "report.html", "report.json"
_WORST = 6
_INFERENCES = 96
"""For each heat-map of the report: coarser than `edgerun explain` by default, since there are several."""


def write(
    outcome: Outcome,
    folder: Path,
    evaluation: Samples | None = None,
    *,
    original: Opener | None = None,
    result: Opener | None = None,
    preview: Path | None = None,
    ratios: Mapping[str, Mapping[str, Spread]] | None = None,
    notes: Sequence[str] = (),
    inferences: int = _INFERENCES,
    progress: Progress = lambda step, done, total: None,
) -> None:
    """Write report.html and report.json of `outcome` into `folder`, which exists.

    The worst samples are shown with their pictures where `evaluation` holds them, as `original` and `result` see them
    where these can be opened, with heat-maps of `inferences` each (0: none). `preview` is the picture of the
    calibration samples, `ratios` are those of `measure` on the first device, `notes` those of all. Raises
    `ConfigError` when the files cannot be written, and what opening or running the models raises.
    """
    openers = [(name, opener) for name, opener in (("original", original), ("result", result)) if opener is not None]
    shown = examples(outcome.quality.worst[:_WORST], evaluation, openers, inferences, progress)
    sheet = file_url(preview) if preview is not None else None
    _put(folder / HTML, page(outcome, shown, sheet, ratios or {}, notes).encode("utf-8", "replace"))
    _put(folder / JSON, encode(outcome, ratios, notes))


def encode(
    outcome: Outcome, ratios: Mapping[str, Mapping[str, Spread]] | None = None, notes: Sequence[str] = ()
) -> bytes:
    """report.json: `outcome`, indented, in an order that is always the same: of fields as declared, of keys by name.

    A number that is none (the SQNR of a layer that changes nothing is infinite) becomes null.
    """
    content: dict[str, Any] = {"v": 1, **_plain(outcome)}
    if ratios:
        content["ratios"] = _plain(ratios)
    if notes:
        content["notes"] = list(notes)
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    made = msgspec.json.schema(_Report, schema_hook=_path_schema)
    return {**made, "title": "report.json of edgerun convert"}


class _Report(Outcome, frozen=True, kw_only=True):
    """`Outcome` with what the file has besides."""

    v: int
    ratios: Mapping[str, Mapping[str, Spread]] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _plain(value: Any) -> Any:
    """Structs as tables in the order of their fields, other tables in the order of their keys."""
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return {said: _plain(getattr(value, name)) for name, said in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(one) for one in value]
    if isinstance(value, (int, float, type(None))):
        return value
    # A file's name may hold bytes that are no text (PEP 383), which neither JSON nor HTML can say.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _path_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, Path):
        return {"type": "string"}
    raise NotImplementedError(kind)


def _put(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError("the report cannot be written", where=path, got=error.strerror) from error
