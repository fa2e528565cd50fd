"""Results as JSON lines in a file or on stdout, and the writer of lines that the console shares.

`LineWriter` keeps three promises that a buffered text stream does not: a line is with the operating system when
`write` returns, a reader that has stopped reading does not stop the daemon, and a line that was cut short (disk full,
pipe full) is completed before the next one, so that the output stays valid line by line.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import select
import stat
import sys
from pathlib import Path
from typing import Any, ClassVar, TextIO

import msgspec

from edgerun.clock import Clock
from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.wire import encode_result
from edgerun.types import Publication

_log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class LineWriter:
    """Whole lines to a file descriptor, or to a text stream that has none (`io.StringIO`). Used by one thread.

    `patience_s` is how long a reader that has fallen behind (a full pipe, a terminal stopped with Ctrl-S) is waited
    for, once; after that lines are lost and counted until it reads again. When the reader has gone the writer is
    `broken` and takes lines without doing anything: `edgerun demo | head -3` is no fault. Other write errors (disk
    full) are counted and logged at most once a minute.
    """

    def __init__(
        self,
        out: TextIO | int,
        name: str,
        clock: Clock,
        *,
        patience_s: float,
        owned: bool = False,
        log_level: int = logging.WARNING,
    ) -> None:
        self.broken = False
        self.written = 0
        self.lost = 0
        """Lines that were never written."""
        self._text = None if isinstance(out, int) else out
        self._fd = out if isinstance(out, int) else _descriptor(out)
        self._name = name
        self._clock = clock
        self._patience_s = patience_s
        self._owned = owned
        self._log_level = log_level
        self._patient = True
        self._pending = memoryview(b"")
        self._why = ""
        self._logged_ns: int | None = None
        if self._fd is not None:
            # A poll that says "writable" promises PIPE_BUF bytes of a pipe (pipe(7)), and everything of a file.
            self._chunk = 1 << 20 if stat.S_ISREG(os.fstat(self._fd).st_mode) else select.PIPE_BUF
            self._ready = select.poll()
            self._ready.register(self._fd, select.POLLOUT)
            if self._text is not None:
                self._text.flush()

    def write(self, line: bytes, *, lossless: bool = False) -> bool:
        """Write `line` and a newline; False if lost. UTF-8, or what the reader of a descriptor expects.

        `lossless`: a reader that has fallen behind is waited for however long it takes.
        """
        if self.broken:
            return False
        if self._fd is None:
            return self._write_text(line)
        patience_s = math.inf if lossless else self._patience_s if self._patient else 0.0
        if self._drain(patience_s):
            self._pending = memoryview(line + b"\n")
            if self._drain(patience_s) or len(self._pending) <= len(line):
                self.written += 1
                return not self.broken
            self._pending = memoryview(b"")
        self._lose()
        return False

    @property
    def shortfall(self) -> str | None:
        """What is missing at the other end and why, in words; None where all is there, or its reader has gone."""
        missing = self.lost + bool(self._pending)
        if self.broken or not missing:
            return None
        return f"{missing} line{'s were' if missing > 1 else ' was'} not written to {self._name}: {self._why}"

    def flush(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the reader to take the rest of a line that was cut short."""
        if self._fd is not None and not self.broken:
            self._drain(timeout_s)

    def close(self) -> None:
        """Give back the file if it is ours, and say how much was lost. Idempotent."""
        if self._fd is not None and not self.broken and not self._drain(0.0):
            self._lose()
        if self._fd is not None and self.lost:
            lines = "1 line was" if self.lost == 1 else f"{self.lost} lines were"
            _log.log(self._log_level, "%s not written to %s: %s", lines, self._name, self._why)
        if self._owned and self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self._text = None
        self.broken = True

    def _drain(self, patience_s: float) -> bool:
        """Write `_pending`; True when nothing of it is left."""
        assert self._fd is not None
        deadline_ns = None if patience_s == math.inf else self._clock.mono_ns() + round(patience_s * 1e9)
        try:
            while self._pending:
                wait_ms = None if deadline_ns is None else max(0, deadline_ns - self._clock.mono_ns()) / 1e6
                if not self._ready.poll(wait_ms):
                    self._patient = False
                    self._why = "its reader fell behind"
                    return False
                self._pending = self._pending[os.write(self._fd, self._pending[: self._chunk]) :]
        except BlockingIOError:
            self._why = "its reader fell behind"
            return False
        except BrokenPipeError:
            self.broken = True
            self._pending = memoryview(b"")
            return False
        except OSError as error:
            self._why = error.strerror or str(error)
            return False
        self._patient = True
        return True

    def _write_text(self, line: bytes) -> bool:
        assert self._text is not None
        self._text.write(line.decode("utf-8") + "\n")
        self._text.flush()
        self.written += 1
        return True

    def _lose(self) -> None:
        """Count a line that will never be written whole, and say so at most once a minute."""
        if self.broken:
            return
        self.lost += 1
        now_ns = self._clock.mono_ns()
        if self._logged_ns is None or now_ns - self._logged_ns >= _LOG_EVERY_S * 1e9:
            self._logged_ns = now_ns
            _log.log(self._log_level, "%s: a line is not written: %s; %d lost so far", self._name, self._why, self.lost)


class JsonlSink:
    """One Result message (docs/schema/result.schema.json) a line, each line readable by `tail -f` at once.

    A result of a source without a deadline (a folder, `--as-fast`) waits for a reader that has fallen behind.

    A file is appended to; a torn last line (power cut) is closed first. A full disk costs lines, counted in
    `lost` and logged, never the daemon.
    """

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        path: str
        """A file, or "-" for stdout."""
        patience_s: float = 0.2
        """How long to wait, once, for a reader that has fallen behind."""

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_picture: bool = False

    def __init__(self, options: Options, context: SinkContext) -> None:
        self._device = context.device
        if options.path == "-":
            if sys.stdout is None:
                raise ConfigError("there is no stdout to write JSON lines to", remedy="name a file instead of '-'")
            self._lines = LineWriter(sys.stdout, "stdout", context.clock, patience_s=options.patience_s)
        else:
            fd = _open_for_lines(Path(options.path))
            self._lines = LineWriter(fd, options.path, context.clock, patience_s=options.patience_s, owned=True)

    @property
    def broken(self) -> bool:
        """Whether the reader of stdout has gone."""
        return self._lines.broken

    @property
    def lost(self) -> int:
        """Results that could not be written."""
        return self._lines.lost

    @property
    def shortfall(self) -> str | None:
        """How many results are not in the file and why; None where all are."""
        return self._lines.shortfall

    def publish(self, publication: Publication) -> None:
        self._lines.write(encode_result(publication, self._device), lossless=not publication.result.max_age_ns)

    def flush(self, timeout_s: float) -> None:
        self._lines.flush(timeout_s)

    def close(self) -> None:
        self._lines.close()


def _descriptor(out: TextIO) -> int | None:
    try:
        return out.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None


def _open_for_lines(path: Path) -> int:
    """A descriptor that appends to `path`, at the beginning of a line. Raises `ConfigError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block the start
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        raise ConfigError(
            "cannot write JSON lines there", where=path, got=error.strerror, remedy=_remedy(error, path)
        ) from error
    try:
        if _is_torn(path, fd):
            os.write(fd, b"\n")
    except OSError as error:
        _log.warning("%s: the unfinished last line stays unfinished: %s", path, error.strerror)
    return fd


def _is_torn(path: Path, fd: int) -> bool:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


_REMEDIES: dict[Any, str] = {
    errno.ENOENT: "create the folder {parent} first",
    errno.ENOTDIR: "create the folder {parent} first",
    errno.EISDIR: "name a file in that folder",
    errno.ENXIO: "start the reader of this FIFO first",
    errno.EROFS: "choose a place that is not mounted read-only",
}


def _remedy(error: OSError, path: Path) -> str:
    text = _REMEDIES.get(error.errno, "choose a file in a folder that this user may write to")
    return text.format(parent=path.parent)
