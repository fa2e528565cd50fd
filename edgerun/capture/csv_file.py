"""Recorded samples in a CSV file, replayed as they were taken or as fast as they are wanted."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.capture.samples import LARGEST, Chunk, Replay, WindowOptions, collect, too_short, windows_of
from edgerun.errors import SourceError, did_you_mean
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, View

_UNIT_NS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}
_JUMP = 1.5
"""Samples further apart than this many intervals have others missing between them."""

Column = str | int
Sample = tuple[int, tuple[float, ...], bool]
"""When it was taken (ns from anywhere), its values, whether samples are missing before it."""


class Options(WindowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`columns`: names of the header, or numbers from 0; None: all but the time. `time_column` holds `time_unit`s.

    `rate_hz`: samples a second; without a time column by default the model's, and with one it tells where samples are
    missing (more than 1.5 intervals apart). `holes`: a cell that is empty or no number makes a gap, repeats the value
    before, or is refused.
    """

    path: str
    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1, max_length=64)] | None = None
    time_column: Column | None = None
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    holes: Literal["gap", "hold", "refuse"] = "gap"

    @property
    def takes_rate(self) -> bool:
        """See `WindowOptions`."""
        return self.time_column is None

    @property
    def known_channels(self) -> int | None:
        """See `WindowOptions`."""
        return None if self.columns is None else len(self.columns)


class CsvSource:
    """A first line with a cell that is no number is the header. `item` is the number of the window's first sample.

    Samples behind the last whole window are not delivered. Holes, times that jump or run back, and beginning again
    (`loop`) make gaps. Raises a final `SourceError` for a file that cannot be read, a column it lacks, and one that
    holds not one window.
    """

    options = Options
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self.lossless = context.as_fast
        self._options, self._context = options, context
        self._where = f"stream {context.stream}: {options.path}"
        self._replay = Replay(context)
        self._table = table = _Table(options, self._where)
        self._samples: Iterator[Sample] = table.samples(loop=context.loop)
        self._lap = 0
        self._ahead: Sample | None = None
        self._windows = windows_of(options, len(table.columns))
        self._read_samples = 0
        self._delivered = False
        self.frame_size = (len(table.columns), options.samples)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        if self._context.stop.is_set():
            return None
        grab = collect(self._windows, self._read)
        if grab is None:
            if not self._delivered and not self._context.stop.is_set():
                raise too_short(self._where, self._read_samples, self._options)
            return None
        due = self._replay.wait(grab, str(self._read_samples - self._options.samples))
        if due is not None:
            self._delivered = True
            self._lap = self._table.lap
        return due

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The window: samples×channels float32 (not a picture, whatever `ports.Source` says), in `out` if it fits."""
        return self._windows.copy(out)

    def close(self) -> None:
        """Nothing is held that does not go by itself."""
        self._samples = iter(())

    def _read(self, most: int) -> Chunk | None:
        rows: list[Sample] = []
        while len(rows) < most and not self._context.stop.is_set():
            row = self._ahead or next(self._samples, None)
            self._ahead = None
            if row is None or self._table.lap > self._lap + 1:  # a whole lap without a window: there is none
                break
            if row[2] and rows:
                self._ahead = row  # a chunk has no gap inside
                break
            rows.append(row)
        if not rows:
            return None
        self._read_samples += len(rows)
        return Chunk(np.array([values for _, values, _ in rows]), rows[-1][0], rows[0][2])


class _Table:
    """The file's samples, one after the other."""

    def __init__(self, options: Options, where: str) -> None:
        self._options, self._where = options, where
        self.lap = 0
        first = next(self._lines(), None)
        if first is None:
            raise SourceError("the file is empty", where=where, final=True)
        self._header = any(_number(cell) is None and cell.strip() for cell in first)
        names = [cell.strip() for cell in first] if self._header else []
        self._time = None if options.time_column is None else self._index(options.time_column, names, len(first))
        wanted = options.columns if options.columns is not None else range(len(first))
        self.columns = [self._index(column, names, len(first)) for column in wanted]
        if options.columns is None:
            self.columns = [column for column in self.columns if column != self._time]
        if not 1 <= len(self.columns) <= 64:
            raise SourceError("no columns to read", where=where, expected="1 to 64", got=len(self.columns), final=True)
        if options.rate_hz is None and self._time is None:
            raise SourceError(
                "the times of the samples are not known", where=where, expected="rate_hz or time_column", final=True
            )
        self._interval_ns = round(1e9 / options.rate_hz) if options.rate_hz is not None else 0

    def samples(self, *, loop: bool) -> Iterator[Sample]:
        """All of them; with `loop` over and over, the times going on."""
        base_ns = last_ns = 0
        while True:
            gap, first_ns, before_ns = self.lap > 0, None, 0
            for at_ns, values in self._once():
                if values is None:
                    gap = True
                    continue
                if first_ns is None:
                    first_ns = at_ns
                elif at_ns < before_ns or (self._interval_ns and at_ns - before_ns > _JUMP * self._interval_ns):
                    gap = True
                before_ns = at_ns
                last_ns = max(last_ns, base_ns + at_ns - first_ns)
                yield last_ns, values, gap
                gap = False
            if not loop or first_ns is None:
                return
            base_ns = last_ns + self._interval_ns
            self.lap += 1

    def _once(self) -> Iterator[tuple[int, tuple[float, ...] | None]]:
        """Time and values of each line; no values where they cannot be used."""
        held: tuple[float, ...] | None = None
        unit_ns = _UNIT_NS[self._options.time_unit]
        for number, cells in enumerate(itertools.islice(self._lines(), int(self._header), None)):
            values = [_number(cells[column]) if column < len(cells) else None for column in self.columns]
            at_ns: float | None = number * self._interval_ns
            if self._time is not None:
                seconds = _number(cells[self._time]) if self._time < len(cells) else None
                at_ns = None if seconds is None else seconds * unit_ns
            if (at_ns is None or None in values) and self._options.holes == "refuse":
                raise SourceError(
                    "a cell holds no number",
                    where=f"{self._where}: sample {number}",
                    got=",".join(cells)[:80],
                    remedy='give holes = "gap" or "hold"',
                    final=True,
                )
            if self._options.holes == "hold" and held is not None:
                values = [old if value is None else value for value, old in zip(values, held, strict=True)]
            if at_ns is None or None in values:
                yield 0, None
                continue
            held = tuple([value for value in values if value is not None])
            yield round(at_ns), held

    def _lines(self) -> Iterator[list[str]]:
        """The lines that are not empty. The file is closed when the iterator is done or let go."""
        try:
            with open(self._options.path, encoding="utf-8-sig", errors="replace", newline="") as file:
                for cells in csv.reader(file, delimiter=self._options.delimiter):
                    if any(cell.strip() for cell in cells):
                        yield cells
        except (OSError, csv.Error) as error:
            raise SourceError(
                "the file cannot be read", where=self._where, got=getattr(error, "strerror", error), final=True
            ) from error

    def _index(self, column: Column, names: list[str], width: int) -> int:
        if isinstance(column, int) and 0 <= column < width:
            return column
        if column in names:
            return names.index(str(column))
        raise SourceError(
            f"the file has no column {column!r}",
            where=self._where,
            expected=f"one of {', '.join(names)}" if names else f"a number from 0 to {width - 1}: there is no header",
            remedy=did_you_mean(str(column), names),
            final=True,
        )


def _number(text: str) -> float | None:
    """None for what is no number, or none that a float32 holds."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None
