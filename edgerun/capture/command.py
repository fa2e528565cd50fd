"""Samples from the output of a command: whatever program already reads the sensor."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from numpy.typing import NDArray

from edgerun.capture.samples import (
    Arrivals,
    Channels,
    Chunk,
    Dtype,
    FdReader,
    RawNumbers,
    Seconds,
    WindowOptions,
    check_finite,
    collect,
    too_short,
    windows_of,
)
from edgerun.errors import SourceError
from edgerun.ports import SourceContext
from edgerun.secret import HiddenText, guarded, mask, reveal
from edgerun.types import WHOLE, Grab, View

_TERM_S = 1.0
_LOOK_S = 0.01
_SHORTEST_SECRET = 4
_SHORT_FLAG = re.compile(r"^-[A-Za-z]")
_KEPT_BYTES = 2000
_MOST_BYTES = 1 << 20


class Options(WindowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`command`: the program and its arguments, which are never shown, run without a shell. It writes interleaved
    numbers of `dtype` to its standard output; a value is number·`scale` + `offset`.

    `rate_hz`: how many samples a second it gives, where that is steady: then times are told from it. `stall_s`: how
    long it may write nothing.
    """

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    channels: Channels = 1
    dtype: Dtype = "float32"
    byte_order: Literal["little", "big"] = "little"
    scale: float = 1.0
    offset: float = 0.0
    stall_s: Seconds = 10.0

    @property
    def known_channels(self) -> int:
        """See `WindowOptions`."""
        return self.channels

    def __post_init__(self) -> None:
        check_finite(self.scale, "scale")
        check_finite(self.offset, "offset")
        program, *arguments = self.command or ("",)
        hidden = (guarded(program), *map(HiddenText, arguments))
        msgspec.structs.force_setattr(self, "command", hidden)


class CommandSource:
    """The data ends when the command exits with 0; any other end is a `SourceError`, after which it is started again;
    final when it exits with 0 and has not given one window.

    The command gets a process group of its own and all of it is ended on `close`. Nobody knows what was lost between
    two runs: the first window of every run says `gap`.
    """

    options = Options
    lossless = False
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._options = options
        self._windows = windows_of(options, options.channels)
        self._numbers = RawNumbers(options.dtype, options.channels, options.byte_order, options.scale, options.offset)
        self._arrivals = Arrivals(context, options.rate_hz)
        self._child = Child(options.command, f"stream {context.stream}: {options.command[0]}")
        self._reader = FdReader(
            self._child.fd, context, self._child.where, options.stall_s, aside=self._child.read_complaints
        )
        self._gap = True
        self.frame_size = (options.channels, options.samples)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        return collect(self._windows, self._read)

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The window: samples×channels float32 (not a picture, whatever `ports.Source` says), in `out` if it fits."""
        return self._windows.copy(out)

    def close(self) -> None:
        """End the command and all it has started."""
        self._child.close()

    def _read(self, most: int) -> Chunk | None:
        while True:
            data = self._reader.read(self._numbers.lacks(most))
            if data is None:
                return None
            if not data:
                self._child.ended()
                if not self._windows.whole:
                    raise too_short(self._child.where, self._windows.count, self._options)
                return None
            samples = self._numbers.feed(data)
            if len(samples):
                gap, self._gap = self._gap, False
                return Chunk(samples, self._arrivals.now(len(samples), waited=self._reader.waited), gap)


class Child:
    """A child process whose standard output is read: in a process group of its own, standard error kept at hand.

    `environment` is added to this process's. Raises a final `SourceError` when the program cannot be started.
    """

    def __init__(self, command: Sequence[str], where: str, environment: Mapping[str, str] | None = None) -> None:
        self.where = where
        self._hidden = [reveal(word) for word in command if isinstance(word, HiddenText)]
        try:
            self._process = subprocess.Popen(
                [reveal(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, **environment} if environment else None,
            )
        except (OSError, ValueError) as error:
            raise SourceError(
                "the command cannot be started",
                where=where,
                got=getattr(error, "strerror", None) or str(error),
                remedy="check its spelling, that it is installed, and that edgerun's user may run it",
                final=True,
            ) from error
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._errors = self._process.stderr
        os.set_blocking(self._errors.fileno(), False)
        self.fd = self._process.stdout.fileno()
        self._complaints = b""

    def read_complaints(self) -> bytes:
        """What is new on standard error, up to a megabyte of it; never waits."""
        new = b""
        with contextlib.suppress(BlockingIOError):
            while len(new) < _MOST_BYTES and (part := os.read(self._errors.fileno(), 65536)):
                new += part
        self._complaints = (self._complaints + new)[-_KEPT_BYTES:]
        return new

    def ended(self) -> None:
        """Its output has ended: returns when it exited with 0, else raises `SourceError` with what it said last."""
        status = self._await_end()
        if status is None:  # it was more than about to exit
            raise SourceError("the command closed its output and runs on", where=self.where)
        code, killed = status.si_status, status.si_code != os.CLD_EXITED
        if code == 0 and not killed:
            return
        self.read_complaints()
        said = self._masked(" ".join(self._complaints.decode("utf-8", "replace").split()))[-300:]
        how = f"signal {code}" if killed else f"exit code {code}"
        raise SourceError("the command ended", where=self.where, got=f"{how}{f' after saying: {said}' if said else ''}")

    def _await_end(self) -> os.waitid_result | None:
        """How it ended, if it does within a second; it is left unreaped, so that its group keeps its number."""
        until_s = time.monotonic() + _TERM_S
        with contextlib.suppress(ChildProcessError):
            while True:
                status = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if status is not None or time.monotonic() >= until_s:
                    return status
                time.sleep(_LOOK_S)
        return None

    def close(self) -> None:
        """SIGTERM to the whole group, SIGKILL after a second. Idempotent."""
        if self._process.stdout is None or self._process.stdout.closed:
            return
        self._process.stdout.close()
        self._signal(signal.SIGTERM)
        self._await_end()
        self._signal(signal.SIGKILL)  # what the command has started may be left of the group
        self._process.wait()
        self._errors.close()

    def _masked(self, said: str) -> str:
        """Without what may be a password: programs repeat their arguments when they complain. Paths stay."""
        said = mask(said)
        for argument in self._hidden:
            if (argument.startswith(("/", "--")) and "=" not in argument) or "://" in argument:
                continue
            parts = [argument] if " " in argument else re.split("[:=]", _SHORT_FLAG.sub("", argument))
            for word in parts:
                if len(word) >= _SHORTEST_SECRET:
                    said = said.replace(word, "***")
        return said

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
