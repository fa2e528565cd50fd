"""What a calibration or evaluation set holds: pictures, frames of clips, rows of arrays, windows of recordings.

A set is named as PATH or PATH[start:stop:step], where the brackets choose among its items as Python's slices do:
pictures in natural order, frames by number, rows, windows.
"""

from __future__ import annotations

import csv
import hashlib
import re
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.clock import SystemClock
from edgerun.errors import ConfigError, FrameError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import Box, Tensor

LABELS_CSV = "labels.csv"
_SLICE = re.compile(r"^(?P<path>.+)\[(?P<start>-?\d*):(?P<stop>-?\d*)(?::(?P<step>\d*))?\]$")
_TIME_COLUMNS = frozenset(("t", "time", "timestamp", "ts", "seconds", "s", "ms"))
_DIGEST_BYTES = 16
_BLOCK = 1 << 20


class Labelled(msgspec.Struct, frozen=True):
    """What a set says of one item: the text of its class, or the objects in it as (class, box in pixels or 0..1)."""

    name: str | None = None
    objects: tuple[tuple[str, Box], ...] | None = None


class Item(msgspec.Struct, frozen=True):
    """One item of a set, not read yet.

    `read` gives a picture (H×W×3 uint8 BGR), a window (samples×channels float32), or the model's inputs by name; it
    raises `FrameError` for what cannot be used. `key` is a digest of its content; `recording` what it is a part of,
    and its place there, where neighbours are alike.
    """

    origin: str
    key: bytes
    read: Callable[[], Any]
    label: Labelled = Labelled()
    recording: tuple[str, int] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What the model takes: `enough` for pictures (see `types.View`), samples and channels of a window, or arrays."""

    enough: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    rate_hz: float | None = None
    arrays: Mapping[str, tuple[tuple[int, ...], str]] = {}
    folders_are_labels: bool = False


def find_items(source: str, wanted: Wanted) -> list[Item]:
    """Everything in the set called `source`. Raises `ConfigError` or a final `SourceError` that says what is wrong."""
    path, chosen = _parse(source)
    if not path.exists():
        raise ConfigError(
            "there is no such calibration or evaluation set",
            where=source,
            expected="a folder of pictures, a video, .npz or .csv",
            remedy="check the path; PATH[start:stop:step] chooses among its items",
        )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        items = _arrays(path, wanted)
    elif suffix == ".csv" or (path.is_dir() and wanted.window is not None):
        items = _windows(path, wanted)
    elif wanted.enough is None:
        takes = "windows of samples" if wanted.window else ", ".join(wanted.arrays) or "other inputs"
        raise ConfigError(
            "the set is of the wrong kind: the model takes no pictures",
            where=source,
            expected=f".npz{' or .csv' if wanted.window else ''} ({takes})",
            got="a folder" if path.is_dir() else suffix or "a file",
        )
    elif path.is_dir():
        items = _pictures(path, wanted)
    else:
        items = _frames(path)
    picked = items[chosen]
    if not picked:
        raise ConfigError("the brackets choose nothing of the set", where=source, got=f"{len(items)} items in all")
    return picked


def digest_of(path: Path) -> bytes:
    """BLAKE2b of a file's content, 16 bytes."""
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.digest()


def _parse(source: str) -> tuple[Path, slice]:
    found = _SLICE.match(source)
    if found is None or Path(source).exists():
        return Path(source), slice(None)
    start, stop, step = (int(found[key]) if found[key] else None for key in ("start", "stop", "step"))
    if step == 0:
        raise ConfigError("a step of 0 chooses nothing", where=source, expected="[start:stop:step], step from 1")
    return Path(found["path"]), slice(start, stop, step)


def _key(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=_DIGEST_BYTES).digest()


# ---- pictures ----------------------------------------------------------------------------------------


def _pictures(folder: Path, wanted: Wanted) -> list[Item]:
    from edgerun.capture.images import find_pictures

    table = _read_labels_csv(folder / LABELS_CSV) if (folder / LABELS_CSV).is_file() else None
    root, names = find_pictures(str(folder))
    if table is not None:
        missing = sorted(set(table) - set(names))
        if missing:
            raise ConfigError(
                f"{LABELS_CSV} names pictures that are not there",
                where=folder,
                got=", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
            )
        names = [name for name in names if name in table]
    labels: dict[str, Labelled] = table or {}
    in_folders = table is None and wanted.folders_are_labels and all(len(Path(name).parts) == 2 for name in names)
    items = []
    for name in names:
        label = Labelled(Path(name).parts[0]) if in_folders else labels.get(name, Labelled())
        path = root / name
        items.append(Item(f"{folder.name}/{name}", digest_of(path), _reader(path, wanted.enough), label))
    return items


def _reader(path: Path, enough: tuple[int, int] | None) -> Callable[[], Tensor]:
    def read() -> Tensor:
        from edgerun.capture import opencv
        from edgerun.capture.picture import decode_picture
        from edgerun.types import View

        # At the scale at which `edgerun run` decodes a JPEG for this input.
        return decode_picture(opencv.load(), path.read_bytes(), None, str(path), View(enough=enough))[0]

    return read


def _read_labels_csv(path: Path) -> dict[str, Labelled]:
    """`file,label`, with x0,y0,x1,y1 behind it for objects (one line each; pixels, or 0..1 of the picture)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("the labels cannot be read", where=path, got=error) from error
    columns = set(rows[0]) if rows else set()
    boxed = {"x0", "y0", "x1", "y1"} <= columns
    if not {"file", "label"} <= columns:
        raise ConfigError(
            "not a table of labels",
            where=path,
            expected="a first line file,label or file,label,x0,y0,x1,y1",
            got=",".join(sorted(map(str, columns))) or "nothing",
        )
    names: dict[str, str] = {}
    objects: dict[str, list[tuple[str, Box]]] = {}
    for number, row in enumerate(rows, 2):
        file_name, label = (row["file"] or "").strip(), (row["label"] or "").strip()
        names.setdefault(file_name, label)
        if not boxed:
            continue
        found = objects.setdefault(file_name, [])
        if not label:  # a picture with nothing in it
            continue
        try:
            x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
        except (TypeError, ValueError) as error:
            raise ConfigError("a box is not four numbers", where=f"{path}:{number}", got=error) from error
        found.append((label, (x0, y0, x1, y1)))
    if boxed:
        return {name: Labelled(None, tuple(found)) for name, found in objects.items()}
    return {name: Labelled(label) for name, label in names.items()}


# ---- clips -------------------------------------------------------------------------------------------


class _Clip:
    """Frames by number. Read forwards it decodes each once; some codecs land on other frames when seeking."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source: Any = None
        self._at = -1

    def count(self) -> int:
        """How many frames there are, by going through them."""
        self._open()
        total = 0
        while self._source.grab() is not None:
            total += 1
        self._close()
        return total

    def read(self, number: int) -> Tensor:
        if self._source is None or number <= self._at:
            self._open()
        while self._at < number:
            if self._source.grab() is None:
                raise FrameError("the clip ends before this frame", where=f"{self._path}, frame {number}", reason="end")
            self._at += 1
        picture: Tensor = self._source.retrieve(None)
        return picture

    def _open(self) -> None:
        from edgerun.capture.file import FileSource

        self._close()
        context = SourceContext("convert", SystemClock(), threading.Event(), as_fast=True)
        self._source, self._at = FileSource(FileSource.options(path=str(self._path)), context), -1

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None


def _frames(path: Path) -> list[Item]:
    clip = _Clip(path)
    count = clip.count()
    whole = digest_of(path)

    def reader(number: int) -> Callable[[], Tensor]:
        return lambda: clip.read(number)

    return [
        Item(
            f"{path.name} frame {number}",
            _key(whole, str(number).encode()),
            reader(number),
            recording=(whole.hex(), number),
        )
        for number in range(count)
    ]


# ---- arrays and windows ------------------------------------------------------------------------------


def _arrays(path: Path, wanted: Wanted) -> list[Item]:
    """One item per row. `labels`: class of each row. uint8 rows×height×width×3 are RGB pictures for a picture model."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError("the arrays cannot be read", where=path, got=error) from error
    labels = arrays.pop("labels", None)
    pictures = [name for name, one in arrays.items() if one.dtype == np.uint8 and one.ndim == 4 and one.shape[3] == 3]
    seen = wanted.enough is not None and len(arrays) == 1 and bool(pictures)
    if not seen:
        arrays = _check_arrays(path, arrays, wanted)
    rows = {len(one) for one in (*arrays.values(), *([labels] if labels is not None else [])) if one.ndim}
    if len(rows) != 1:
        raise ConfigError("the arrays differ in how many rows they have", where=path, got=sorted(rows))

    def reader(row: int) -> Callable[[], Any]:
        if seen:
            return lambda: np.ascontiguousarray(arrays[pictures[0]][row][..., ::-1])
        return lambda: {name: array[row : row + 1] for name, array in arrays.items()}

    return [
        Item(
            f"{path.name} row {row}",
            _key(*(array[row].tobytes() for array in arrays.values())),
            reader(row),
            Labelled(str(labels[row])) if labels is not None else Labelled(),
        )
        for row in range(rows.pop())
    ]


def _check_arrays(path: Path, arrays: dict[str, Tensor], wanted: Wanted) -> dict[str, Tensor]:
    """One array per input, of its shape behind the first side, in its type; values are those the model takes."""
    if len(arrays) == len(wanted.arrays) == 1:  # then its name does not matter
        arrays = {next(iter(wanted.arrays)): next(iter(arrays.values()))}
    fitted = {}
    for name, (shape, dtype) in wanted.arrays.items():
        array = arrays.get(name)
        sides_fit = array is not None and array.ndim == len(shape)
        if sides_fit and array is not None:
            sides_fit = all(want in (-1, got) for want, got in zip(shape[1:], array.shape[1:], strict=True))
        numbers = array is not None and array.dtype.kind in ("f" if dtype.startswith("float") else "") + "iu"
        if array is None or not sides_fit or not numbers:
            raise ConfigError(
                "the arrays are not inputs of this model",
                where=path,
                expected="; ".join(
                    f"{key}: rows×{'×'.join(map(str, one[0][1:]))} {one[1]}" for key, one in wanted.arrays.items()
                ),
                got="; ".join(f"{key}: {'×'.join(map(str, one.shape))} {one.dtype}" for key, one in arrays.items()),
            )
        fitted[name] = np.ascontiguousarray(array, dtype)
    return fitted


def _windows(path: Path, wanted: Wanted) -> list[Item]:
    """Windows one behind the other, without overlap, of one .csv or of each in a folder; sub-folders name classes."""
    if wanted.window is None:
        raise ConfigError(
            "the set is of the wrong kind: the model takes no windows of samples",
            where=path,
            expected="a folder of pictures, a video or .npz",
            got=".csv",
        )
    files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    if not files:
        samples, channels = wanted.window
        raise ConfigError(
            "the set is of the wrong kind: the model takes windows of samples, and there is no recording here",
            where=path,
            expected=f"files ending in .csv, or .npz: windows of {samples} samples × {channels} channels",
        )
    items: list[Item] = []
    for file in files:
        label = Labelled(file.parent.name) if file.parent != path and path.is_dir() else Labelled()
        whole = digest_of(file)
        for number, window in enumerate(_cut(file, wanted)):
            origin = f"{file.name} window {number}"
            items.append(
                Item(origin, _key(window.tobytes()), _keep(window), label, recording=(whole.hex(), number)),
            )
    return items


def _keep(value: Tensor) -> Callable[[], Tensor]:
    return lambda: value


def _cut(path: Path, wanted: Wanted) -> Sequence[Tensor]:
    from edgerun.capture.csv_file import CsvSource, Options

    assert wanted.window is not None
    samples, channels = wanted.window
    context = SourceContext("convert", SystemClock(), threading.Event(), as_fast=True)
    options = Options(path=str(path), window_samples=samples, rate_hz=wanted.rate_hz or 1.0)
    time_column = _time_column(path)
    if time_column is not None:
        rate = {"rate_hz": wanted.rate_hz} if wanted.rate_hz else {"rate_hz": None}
        options = msgspec.structs.replace(options, time_column=time_column, **rate)
    source = CsvSource(options, context)
    try:
        if source.frame_size[0] != channels:
            raise SourceError(
                "the recording has another number of columns than the model has channels",
                where=path,
                expected=f"{channels}, and a time column where there is one",
                got=source.frame_size[0],
                final=True,
            )
        found = []
        while source.grab() is not None:
            found.append(source.retrieve(None))
        return found
    finally:
        source.close()


def _time_column(path: Path) -> str | None:
    """The first column, where the header calls it a time."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = next(csv.reader(file), [])
    head = first[0].strip() if first else ""
    return head if re.sub(r"[^a-z]", "", head.lower().split("(")[0]) in _TIME_COLUMNS and head else None
