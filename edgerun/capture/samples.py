"""What the sources of samples share: their options, gathering windows, reading a descriptor, raw numbers, replaying.

A source of samples delivers windows: `retrieve` gives `samples×channels` float32 in the units of the source, where a
camera gives a picture; `captured_ns` is when the window's last sample was taken; `frame_size` is (channels, samples).
`Grab.gap` says that samples are missing between this window and the one before.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.capture.pace import Pace, Silence
from edgerun.capture.waiting import wait_readable
from edgerun.capture.windows import SampleClock, Windows
from edgerun.errors import ConfigError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import Grab

Signal = NDArray[np.float32]
Channels = Annotated[int, msgspec.Meta(ge=1, le=64)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=10_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
Dtype = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]

LARGEST = float(np.finfo(np.float32).max)
"""What is beyond it, and NaN, is no value."""

_SLICE_S = 0.25
_READ_BYTES = 65536  # a pipe's capacity (pipe(7))


class WindowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How samples are cut into windows. Whoever joins a source to a model fills in what is not given.

    `rate_hz` is the rate of what the source delivers; where it is None, `takes_rate` says that it may be the model's.
    """

    window_samples: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None,
        msgspec.Meta(description="How many samples make a window; by default as many as the model takes."),
    ] = None
    hop_samples: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None,
        msgspec.Meta(description="From one window to the next; by default what the model asks for, else a window."),
    ] = None
    rate_hz: Rate | None = None

    @property
    def takes_rate(self) -> bool:
        """Whether the source delivers whatever rate it is told."""
        return False

    @property
    def known_channels(self) -> int | None:
        """How many channels the source delivers; None: that shows when it is open."""
        return None

    @property
    def samples(self) -> int:
        """`window_samples`. Raises `ConfigError` where nobody said."""
        if self.window_samples is None:
            raise ConfigError("nothing says how many samples make a window", expected="window_samples")
        return self.window_samples


class Chunk(msgspec.Struct, frozen=True):
    """Samples that came together: n×channels, when the last was taken, whether some are missing before the first."""

    samples: NDArray[Any]
    last_ns: int
    gap: bool = False


Read = Callable[[int], Chunk | None]
"""Waits for 1 to so many samples; None: the end of the data, or the stream's."""


def windows_of(options: WindowOptions, channels: int) -> Windows:
    """The empty windows that `options` ask for."""
    return Windows(options.samples, options.hop_samples or options.samples, channels)


def gives_samples(options: msgspec.Struct) -> bool:
    """Whether a source with these options delivers windows of samples, not pictures."""
    return isinstance(options, WindowOptions) or getattr(options, "payload", None) == "samples"


def collect(windows: Windows, read: Read) -> Grab | None:
    """Read until the next window is whole; None: the data ended before."""
    last_ns = 0
    while windows.missing:
        chunk = read(min(windows.missing, windows.size))  # after a gap no more than `size` are missing
        if chunk is None:
            return None
        if chunk.gap:
            windows.gap()
        if len(chunk.samples):
            windows.add(chunk.samples)
            last_ns = chunk.last_ns
    return Grab(last_ns, gap=windows.pop())


class FdReader:
    """Bytes from a descriptor. A wait ends with the stream, and with `SourceError` after `stall_s` of silence.

    `aside` is called several times a second while waiting, and before each read.
    """

    def __init__(
        self,
        fd: int,
        context: SourceContext,
        where: str,
        stall_s: float,
        aside: Callable[[], object] = lambda: None,
    ) -> None:
        self._fd, self._context, self._where = fd, context, where
        self._stall_s, self._aside = stall_s, aside
        self._silence = Silence(context.clock, round(stall_s * 1e9))
        self.waited = False
        """Whether there was nothing when `read` was called last."""

    def read(self, most: int) -> bytes | None:
        """1 to `most` bytes; none at the end of the data; None: the stream ended. Raises `SourceError`."""
        self._silence.watch()
        self.waited = not wait_readable(self._fd, 0.0, None)[0]
        try:
            while not self._context.stop.is_set():
                readable = self._wait()
                self._aside()  # before reading: what was said before these bytes were written is about them
                data = self._read(most) if readable else None
                if data is not None:
                    self._silence.heard()
                    return data
                if self._silence.left_s() <= 0:
                    raise SourceError(
                        "the source is silent", where=self._where, expected=f"data within {self._stall_s:g} s"
                    )
            return None
        finally:
            self._silence.leave()

    def _read(self, most: int) -> bytes | None:
        try:
            return os.read(self._fd, min(most, _READ_BYTES))
        except BlockingIOError:
            return None
        except OSError as error:
            raise SourceError("the source is gone", where=self._where, got=error.strerror or str(error)) from error

    def _wait(self) -> bool:
        """Whether there is something to read, after a while."""
        timeout_s = min(_SLICE_S, self._silence.left_s())
        wake = self._context.wake
        readable, woken = wait_readable(self._fd, timeout_s, wake)
        if woken and not readable and not self._context.stop.is_set():  # meant for others; it stays set
            readable, _ = wait_readable(self._fd, timeout_s, None)
        return readable


class RawNumbers:
    """Bytes of interleaved little- or big-endian numbers → samples, whatever pieces they come in."""

    def __init__(self, dtype: str, channels: int, byte_order: Literal["little", "big"], scale: float, offset: float):
        self._dtype = np.dtype(dtype).newbyteorder("<" if byte_order == "little" else ">")
        self._channels = channels
        self.sample_bytes = self._dtype.itemsize * channels
        self._scale, self._offset = scale, offset
        self._rest = b""

    def lacks(self, samples: int) -> int:
        """How many bytes so many samples still need."""
        return samples * self.sample_bytes - len(self._rest)

    def feed(self, data: bytes) -> Signal:
        """The whole samples that are there now, n×channels: number·scale + offset."""
        data = self._rest + data
        whole = len(data) - len(data) % self.sample_bytes
        self._rest = data[whole:]
        numbers = np.frombuffer(data[:whole], self._dtype).reshape(-1, self._channels)
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number any more is refused with its window
            return (numbers * self._scale + self._offset).astype(np.float32)


class Arrivals:
    """When samples were taken: by a `SampleClock` where the rate is known, else when they arrived."""

    def __init__(self, context: SourceContext, rate_hz: float | None) -> None:
        self._clock = context.clock
        self._samples = SampleClock(rate_hz) if rate_hz is not None else None

    def now(self, samples: int, *, waited: bool, gap: bool = False) -> int:
        """`samples` have just come, after a loss of some when `gap`, `waited` for; returns the time of the last."""
        now_ns = self._clock.mono_ns()
        if self._samples is None:
            return now_ns
        if gap:
            self._samples.restart()
        return self._samples.arrive(samples, now_ns, waited=waited)


class Replay:
    """The times of a recording → now: as far apart as they were recorded, or `as_fast` as they are taken."""

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._pace = Pace(context.clock, context.stop)
        self._recorded_ns: int | None = None

    def wait(self, recorded: Grab, item: str) -> Grab | None:
        """`recorded`, which has the recording's times, as a grab of now, when it is due; None: the stream ended."""
        if self._context.stop.is_set():
            return None
        recorded_ns = recorded.captured_ns
        if self._context.as_fast:
            return Grab(self._context.clock.mono_ns(), item, gap=recorded.gap, recorded_ns=recorded_ns)
        interval_ns = 0 if self._recorded_ns is None else max(0, recorded_ns - self._recorded_ns)
        self._recorded_ns = recorded_ns
        captured_ns = self._pace.next(interval_ns)
        return None if captured_ns is None else Grab(captured_ns, item, gap=recorded.gap)


def check_finite(value: float, key: str) -> None:
    """Raises `ConfigError` for an option that is no finite number."""
    if not np.isfinite(value):
        raise ConfigError(f"{key} is not a number to work with", expected="a finite number", got=value)


def too_short(where: str, samples: int, options: WindowOptions) -> SourceError:
    """A recording that holds no window at all."""
    return SourceError(
        "the recording is shorter than one window",
        where=where,
        expected=f"at least {options.samples} samples in a row",
        got=samples,
        remedy="lower window_samples, or record for longer",
        final=True,
    )
