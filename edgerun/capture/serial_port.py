"""A sensor on a serial line (UART, USB-serial): one sample a text line, or a binary frame."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
from collections import deque
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.capture.samples import (
    LARGEST,
    Arrivals,
    Channels,
    Chunk,
    Dtype,
    FdReader,
    Seconds,
    WindowOptions,
    check_finite,
    collect,
    windows_of,
)
from edgerun.errors import ConfigError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, View

_LONGEST_LINE = 4096
_SHOWN_BYTES = 40

Row = tuple[float, ...]


class Options(WindowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`format` lines: numbers with `separator` between them (a blank: any white space), `channels` of them a line.

    `format` frames: `sync` (hexadecimal) and behind it `channels` numbers of `dtype`, then one byte of `checksum` over
    those numbers' bytes (their sum, or all of them xor-ed). A value is number·`scale` + `offset`. `rate_hz`: samples a
    second, where that is steady: then times are told from it. `stall_s`: how long no sample may come. 8N1.
    """

    device: Annotated[str, msgspec.Meta(min_length=1)]
    baud_rate: Annotated[int, msgspec.Meta(ge=50, le=4_000_000)] = 115_200
    channels: Channels = 1
    format: Literal["lines", "frames"] = "lines"
    separator: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    dtype: Dtype = "int16"
    byte_order: Literal["little", "big"] = "little"
    sync: Annotated[str, msgspec.Meta(pattern="^([0-9A-Fa-f]{2}){1,8}$")] = "aa55"
    checksum: Literal["none", "sum", "xor"] = "none"
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
        if not hasattr(termios, f"B{self.baud_rate}"):
            rates = sorted(int(name[1:]) for name in dir(termios) if name[:1] == "B" and name[1:].isdecimal())
            raise ConfigError("not a rate of serial ports", expected=f"one of {rates[1:]}", got=self.baud_rate)


class Parser(Protocol):
    """Bytes → samples. None stands for something that was none: a sample is missing there."""

    def feed(self, data: bytes) -> list[Row | None]: ...


class SerialSource:
    """A line or frame that is none makes a gap, and so does opening: nobody knows what was before.

    The port is opened for this process alone (TIOCEXCL). Raises `SourceError` when it cannot be, when it is unplugged,
    and after `stall_s` without a sample, telling silence from garbage.
    """

    options = Options
    lossless = False
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._windows = windows_of(options, options.channels)
        self._scale, self._offset = options.scale, options.offset
        self._arrivals = Arrivals(context, options.rate_hz)
        self._parser: Parser = LineParser(options) if options.format == "lines" else FrameParser(options)
        self._rows: deque[Row | None] = deque()
        self._context, self._stall_s = context, options.stall_s
        self._where = f"stream {context.stream}: {options.device}"
        self._expected = f"{options.channels} numbers a {options.format[:-1]}"
        self._fd = open_port(options.device, options.baud_rate, self._where)
        self._reader = FdReader(self._fd, context, self._where, options.stall_s)
        self._good_ns = context.clock.mono_ns()
        self._seen = b""
        self._gap = True
        self.frame_size = (options.channels, options.samples)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        self._good_ns = self._context.clock.mono_ns()
        return collect(self._windows, self._read)

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The window: samples×channels float32 (not a picture, whatever `ports.Source` says), in `out` if it fits."""
        return self._windows.copy(out)

    def close(self) -> None:
        """Give the port back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self, most: int) -> Chunk | None:
        while True:
            rows = self._take(most)
            if rows:
                gap, self._gap = self._gap, False
                self._good_ns = self._context.clock.mono_ns()
                samples = np.array(rows, np.float64) * self._scale + self._offset
                return Chunk(samples, self._arrivals.now(len(rows), waited=self._reader.waited, gap=gap), gap)
            data = self._reader.read(_LONGEST_LINE)
            if data is None:
                return None
            if not data:
                raise SourceError("the serial port hung up", where=self._where)
            self._seen = (self._seen + data)[-_SHOWN_BYTES:]
            self._rows.extend(self._parser.feed(data))
            self._check_garbage()

    def _take(self, most: int) -> list[Row]:
        """Up to `most` samples before the next that is missing."""
        while self._rows and self._rows[0] is None:
            self._rows.popleft()
            self._gap = True
        rows: list[Row] = []
        while self._rows and self._rows[0] is not None and len(rows) < most:
            rows.append(self._rows[0])
            self._rows.popleft()
        return rows

    def _check_garbage(self) -> None:
        if any(row is not None for row in self._rows):
            return
        if self._context.clock.mono_ns() - self._good_ns > self._stall_s * 1e9:
            raise SourceError(
                "the serial port sends nothing that can be read",
                where=self._where,
                expected=f"{self._expected} within {self._stall_s:g} s",
                got=repr(self._seen),
                remedy="check baud_rate, format and channels",
            )


class LineParser:
    """Lines of text, ended by LF, CR or both. The first piece may be the rest of a line and is not used."""

    def __init__(self, options: Options) -> None:
        self._channels = options.channels
        self._separator = None if options.separator.isspace() else options.separator
        self._rest = b""
        self._started = False

    def feed(self, data: bytes) -> list[Row | None]:
        """See `Parser`."""
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if lines and not self._started:
            self._started = True
            lines = lines[1:]
        rows = [self._parse(line) for line in lines if line.strip()]
        if len(self._rest) > _LONGEST_LINE:  # a flood without a line end
            self._rest, self._started = b"", False
            rows.append(None)
        return rows

    def _parse(self, line: bytes) -> Row | None:
        parts = line.decode("latin-1").split(self._separator)
        try:
            row = tuple([float(part) for part in parts])
        except ValueError:
            return None
        return row if len(row) == self._channels and _are_values(row) else None


class FrameParser:
    """Sync bytes, numbers, perhaps a checksum. After anything else it looks for the next sync bytes."""

    def __init__(self, options: Options) -> None:
        self._sync = bytes.fromhex(options.sync)
        self._dtype = np.dtype(options.dtype).newbyteorder("<" if options.byte_order == "little" else ">")
        self._body = self._dtype.itemsize * options.channels
        self._checksum = options.checksum
        self._length = len(self._sync) + self._body + (options.checksum != "none")
        self._rest = b""
        self._lost = False

    def feed(self, data: bytes) -> list[Row | None]:
        """See `Parser`."""
        data, rows, at = self._rest + data, list[Row | None](), 0
        while len(data) - at >= self._length:
            row = self._parse(data[at : at + self._length])
            if row is not None:
                rows.append(row)
                self._lost = False
                at += self._length
                continue
            if not self._lost:
                rows.append(None)
                self._lost = True
            found = data.find(self._sync, at + 1)
            at = found if found >= 0 else max(at + 1, len(data) - len(self._sync) + 1)
        self._rest = data[at:]
        return rows

    def _parse(self, frame: bytes) -> Row | None:
        body = frame[len(self._sync) : len(self._sync) + self._body]
        if not frame.startswith(self._sync):
            return None
        numbers = np.frombuffer(body, np.uint8)
        check = int(np.bitwise_xor.reduce(numbers) if self._checksum == "xor" else numbers.sum() & 0xFF)
        if self._checksum != "none" and frame[-1] != check:
            return None
        row = tuple(np.frombuffer(body, self._dtype).astype(np.float64).tolist())
        return row if _are_values(row) else None


def _are_values(row: Row) -> bool:
    return all(abs(value) <= LARGEST for value in row)


def open_port(device: str, baud_rate: int, where: str) -> int:
    """A descriptor of the port: raw, 8N1, exclusive, what waited in it thrown away. Raises `SourceError`."""
    fd = -1
    try:
        fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, termios.TIOCEXCL)
        settings = termios.tcgetattr(fd)
        speed = getattr(termios, f"B{baud_rate}")
        control = list(settings[6])
        control[termios.VMIN], control[termios.VTIME] = 1, 0
        flags = termios.CS8 | termios.CREAD | termios.CLOCAL
        termios.tcsetattr(fd, termios.TCSANOW, [0, 0, flags, 0, speed, speed, control])
        termios.tcflush(fd, termios.TCIFLUSH)
        return fd
    except (OSError, termios.error) as error:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        text = error.strerror if isinstance(error, OSError) else error.args[-1]
        raise SourceError(
            "the serial port cannot be opened",
            where=where,
            got=text,
            remedy="check the device, that no other program has it, and that edgerun's user is in the group dialout",
        ) from error
