"""The line at the foot of the terminal while `edgerun run` works: rate, age, drops, heat, and what was seen last.

dock  11.8/s  age 61 ms p99 89  dropped 181  person 0.81        61 °C

The terminal's last row is taken out of the part that scrolls (DECSTBM, VT100), so that result and log lines, whoever
writes them, scroll above it and never tear it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from edgerun.clock import Clock, SystemClock
from edgerun.publish.console import describe
from edgerun.types import Publication

if TYPE_CHECKING:
    from edgerun.device.sampler import Sampler

_EVERY_S = 0.5
_HEAT_EVERY_NS = 5_000_000_000
_WINDOW_NS = 5_000_000_000
"""What rate and ages are about: long enough for a percentile, short enough to be now."""
_TURN_NS = 2_000_000_000
_MOST = 5000
_FEWEST_ROWS, _FEWEST_COLUMNS = 5, 30


class Screen(Protocol):
    """The terminal: its size now, and where bytes for it go."""

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        ...

    def write(self, text: str) -> None: ...


class Terminal:
    """Standard error, a terminal. What cannot be written is nobody's loss."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd

    def size(self) -> tuple[int, int]:
        with suppress(OSError):
            columns, rows = os.get_terminal_size(self._fd)
            return columns, rows
        return 80, 24

    def write(self, text: str) -> None:
        """In one call, so that what another thread prints does not come between."""
        with suppress(OSError):
            os.write(self._fd, text.encode(sys.stderr.encoding or "utf-8", "replace"))


class Recent:
    """The last seconds of one stream. Not for two threads at once."""

    def __init__(self) -> None:
        self._ages: deque[tuple[int, float]] = deque(maxlen=_MOST)
        self._first_ns: int | None = None
        self.dropped = 0
        self.last = ""

    def add(self, now_ns: int, publication: Publication) -> None:
        """One result, published now (monotonic ns)."""
        if self._first_ns is None:
            self._first_ns = now_ns
        self._ages.append((now_ns, publication.age_ms))
        self.dropped += sum(publication.result.dropped.values())
        if publication.result.crop is None:
            self.last = describe(publication.result.answer, 2)

    def text(self, name: str, now_ns: int) -> str:
        """`name  11.8/s  age 61 ms p99 89  dropped 181  person 0.81`; ages only where there were results."""
        while self._ages and now_ns - self._ages[0][0] > _WINDOW_NS:
            self._ages.popleft()
        since_ns = _WINDOW_NS if self._first_ns is None else max(1, min(_WINDOW_NS, now_ns - self._first_ns))
        parts = [name, f"{len(self._ages) * 1e9 / max(since_ns, 1e9):.1f}/s"]
        if self._ages:
            ages = sorted(age for _, age in self._ages)
            parts.append(f"age {_percentile(ages, 50):.0f} ms p99 {_percentile(ages, 99):.0f}")
        parts.append(f"dropped {self.dropped}")
        return "  ".join([*parts, self.last] if self._ages else [*parts, "no results"])


class LiveLine:
    """A sink that shows how the streams do, in the last row of `screen`, until it is closed.

    `publish` is the publish thread's; drawing is done by a thread of its own, "live". `read_temp_c` (°C; None where it
    cannot be told) is called by that thread. Several streams take turns, two seconds each.
    """

    wants_picture = False
    broken = False

    def __init__(
        self,
        screen: Screen,
        clock: Clock | None = None,
        read_temp_c: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._screen, self._clock, self._read_temp_c = screen, clock or SystemClock(), read_temp_c
        self._lock = threading.Lock()
        self._streams: dict[str, Recent] = {}
        self._reserved: tuple[int, int] | None = None
        self._temp_c: float | None = None
        self._heat_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def publish(self, publication: Publication) -> None:
        """Take one result into account."""
        now_ns = self._clock.mono_ns()
        with self._lock:
            self._streams.setdefault(publication.result.stamp.stream, Recent()).add(now_ns, publication)

    def flush(self, timeout_s: float) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Give the row back. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)
        with self._lock:
            if self._reserved is not None:
                _, rows = self._reserved
                self._reserved = None
                self._screen.write(f"\x1b7\x1b[r\x1b[{rows};1H\x1b[2K\x1b8")

    def line(self, columns: int) -> str:
        """What there is to say now, at most `columns` wide."""
        now_ns = self._clock.mono_ns()
        with self._lock:
            text = "no results yet"
            if names := sorted(self._streams):
                name = names[now_ns // _TURN_NS % len(names)]
                text = self._streams[name].text(name, now_ns)
        heat = "" if self._temp_c is None else f"  {self._temp_c:.0f} °C"
        return (_printable(text)[: max(0, columns - len(heat))] + heat)[:columns]

    def draw(self) -> None:
        """Show the line; a terminal too small for it is left alone."""
        columns, rows = self._screen.size()
        if rows < _FEWEST_ROWS or columns < _FEWEST_COLUMNS:
            return
        text = self.line(columns - 1)
        with self._lock:
            if self._stop.is_set():
                return
            begin = "" if self._reserved == (columns, rows) else self._reserve(columns, rows)
            self._screen.write(f"{begin}\x1b7\x1b[{rows};1H\x1b[0m\x1b[2K\x1b[7m{text}\x1b[0m\x1b8")

    def _reserve(self, columns: int, rows: int) -> str:
        """Take the last row out of what scrolls; the cursor, which DECSTBM sends home, stays in the rest."""
        old = "" if self._reserved is None else f"\x1b7\x1b[{min(self._reserved[1], rows)};1H\x1b[2K\x1b8"
        self._reserved = (columns, rows)
        return f"{old}\n\x1b7\x1b[1;{rows - 1}r\x1b8\x1b[1A"

    def _run(self) -> None:
        while not self._clock.wait(self._stop, _EVERY_S):
            now_ns = self._clock.mono_ns()
            if now_ns >= self._heat_ns:
                self._heat_ns = now_ns + _HEAT_EVERY_NS
                self._temp_c = self._read_temp_c()
            self.draw()


def wanted(*, quiet: bool, json: bool, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a person looks on: standard error is a terminal that can do it, and nobody asked for silence or JSON."""
    if quiet or json or environment.get("TERM", "") in ("", "dumb") or sys.stderr is None:
        return False
    with suppress(ValueError, OSError):
        return sys.stderr.isatty()
    return False


@contextmanager
def live_line(*, quiet: bool, json: bool) -> Iterator[LiveLine | None]:
    """A live line that is being drawn; None where none is wanted. The row is given back whatever ends the run."""
    if not wanted(quiet=quiet, json=json):
        yield None
        return
    made = LiveLine(Terminal(), read_temp_c=heat())
    made.start()
    try:
        yield made
    finally:
        made.close()


def heat() -> Callable[[], float | None]:
    """A function that reads the processor's temperature (°C), or None on a board that does not tell."""
    from edgerun.device.evidence import processor_temp_c
    from edgerun.device.machine import Machine
    from edgerun.device.sampler import Sampler
    from edgerun.device.sensors import builtin_kinds
    from edgerun.device.site import Site

    sampler: Sampler = Sampler(Site(Machine(), SystemClock()), builtin_kinds(("thermal", "hwmon")))

    def read() -> float | None:
        sampler.sample()
        return processor_temp_c({name: one.value for name, one in sampler.latest.items()})

    return read


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, -(-len(ordered) * percent // 100) - 1)]


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
