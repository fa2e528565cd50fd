"""Recorded sound in a WAV file, replayed as it was taken or as fast as it is wanted."""

from __future__ import annotations

import logging
import math
import os
import struct
from typing import IO, Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.capture.samples import Chunk, Replay, Signal, WindowOptions, collect, too_short, windows_of
from edgerun.errors import SourceError
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, View

_log = logging.getLogger("edgerun.capture")

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # mmreg.h
_KINDS = {
    (_PCM, 8): "uint8",
    (_PCM, 16): "<i2",
    (_PCM, 24): "24",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_ZEROS = 16
_BETA = 9.0
_BLOCK = 8192
_KEPT_PHASES = 4096


class Options(WindowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`rate_hz`: the rate to deliver; None: the model's, else the file's own. `other_rate`: what to do with a file of
    another.

    `channels` mono: the mean of all channels; all: as they are; or the number, from 0, of one.
    """

    path: str
    rate_hz: Annotated[float, msgspec.Meta(ge=100, le=768_000)] | None = None
    other_rate: Literal["resample", "refuse"] = "resample"
    channels: Literal["mono", "all"] | Annotated[int, msgspec.Meta(ge=0, le=63)] = "mono"

    @property
    def takes_rate(self) -> bool:
        """See `WindowOptions`."""
        return True

    @property
    def known_channels(self) -> int | None:
        """See `WindowOptions`."""
        return None if self.channels == "all" else 1


class WavSource:
    """Windows of sound, -1..1 of full scale: integers of 8, 16, 24 and 32 bits, floats of 32 and 64.

    Another rate is converted, see `Sinc`: within 0.1 dB up to 0.80 of the lower Nyquist frequency, half the amplitude
    at 0.92, and what would alias from 1.09 on is 80 dB down (measured). `item` is the number of the window's first
    sample. Samples behind the last whole window are not delivered; beginning again (`loop`) makes a gap. A file that
    ends early is played to its end, with a warning. Raises a final `SourceError` for what is no WAV file of these kinds
    and for one that holds not one window.
    """

    options = Options
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self.lossless = context.as_fast
        self._options, self._context = options, context
        self._where = f"stream {context.stream}: {options.path}"
        self._file = WavFile(options.path, self._where)
        rate_hz = round(options.rate_hz or self._file.rate_hz)
        if rate_hz != self._file.rate_hz and options.other_rate == "refuse":
            self._file.close()
            raise SourceError(
                "the recording has another rate",
                where=self._where,
                expected=f"{rate_hz} Hz",
                got=f"{self._file.rate_hz} Hz",
                remedy='record it anew, or give other_rate = "resample"',
                final=True,
            )
        try:
            self._channels = _chosen(options.channels, self._file.channels, self._where)
        except SourceError:
            self._file.close()
            raise
        self._sinc = None if rate_hz == self._file.rate_hz else Sinc(self._file.rate_hz, rate_hz)
        self._length = self._file.samples if self._sinc is None else self._sinc.length(self._file.samples)
        self._interval_ns = 1e9 / rate_hz
        width = len(self._channels) if options.channels == "all" else 1
        self._windows = windows_of(options, width)
        self._replay = Replay(context)
        self._next = self._lap = 0
        self.frame_size = (width, options.samples)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        if self._length < self._options.samples:
            raise too_short(self._where, self._length, self._options)
        if self._context.stop.is_set():
            return None
        grab = collect(self._windows, self._read)
        return None if grab is None else self._replay.wait(grab, str(self._next - self._options.samples))

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The window: samples×channels float32 (not a picture, whatever `ports.Source` says), in `out` if it fits."""
        return self._windows.copy(out)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, most: int) -> Chunk | None:
        gap = False
        if self._next == self._length:
            if not self._context.loop:
                return None
            self._next, gap = 0, True
            self._lap += 1
        count = min(most, self._length - self._next, _BLOCK)
        if self._sinc is None:
            samples = self._mixed(self._next, count)
        else:
            samples = self._sinc.convert(self._mixed, self._next, count, self._file.samples)
        self._next += count
        last_ns = round((self._lap * self._length + self._next - 1) * self._interval_ns)
        return Chunk(samples, last_ns, gap)

    def _mixed(self, first: int, count: int) -> Signal:
        samples = self._file.read(first, count)[:, self._channels]
        return samples if self._options.channels == "all" else samples.mean(1, keepdims=True, dtype=np.float32)


class Sinc:
    """Conversion of the sample rate, exact in time for any two whole rates (Smith, *Digital Audio Resampling*, CCRMA).

    Output m lies at input time m·from/to. Its value is the sum of the inputs around it times a Kaiser-windowed sinc;
    the phases repeat, so where they are few each has its weights computed once, normalised to a sum of 1. β 9, 16 zero
    crossings to each side, cut off at 0.92 of the lower Nyquist frequency.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        divisor = math.gcd(from_hz, to_hz)
        self._from, self._to = from_hz // divisor, to_hz // divisor
        cutoff = 0.92 * min(1.0, to_hz / from_hz)
        self._reach = math.ceil(_ZEROS / cutoff)
        self._offsets = np.arange(1 - self._reach, self._reach + 1)
        self._cutoff = cutoff
        self._table = self._weights(np.arange(self._to)) if self._to <= _KEPT_PHASES else None

    def length(self, samples: int) -> int:
        """How many samples come of so many."""
        return -(-samples * self._to // self._from)

    def convert(self, read: Any, first: int, count: int, available: int) -> Signal:
        """Output samples `first` to `first + count` of `read(first, count)`, which has `available`; silence around."""
        numbers = np.arange(first, first + count, dtype=np.int64) * self._from
        centres, phases = numbers // self._to, numbers % self._to
        begin, end = int(centres[0]) + 1 - self._reach, int(centres[-1]) + self._reach + 1
        inside = max(0, begin), min(available, end)
        samples = read(inside[0], inside[1] - inside[0])
        samples = np.pad(samples, ((inside[0] - begin, end - inside[1]), (0, 0)))
        weights = self._weights(phases) if self._table is None else self._table[phases]
        taken = np.ascontiguousarray(samples.T)[:, (centres - begin)[:, None] + self._offsets]
        converted: Signal = np.einsum("cnk,nk->nc", taken, weights)
        return converted

    def _weights(self, phases: NDArray[np.int64]) -> NDArray[np.float32]:
        """phases×taps."""
        at = (self._offsets - phases[:, None] / self._to) * self._cutoff
        inside = np.clip(1 - (at / _ZEROS) ** 2, 0, None)
        exact = np.sinc(at) * np.i0(_BETA * np.sqrt(inside)) * (inside > 0)
        return np.asarray(exact / exact.sum(1, keepdims=True), np.float32)


class WavFile:
    """RIFF/WAVE (Multimedia Programming Interface and Data Specifications 1.0; WAVE_FORMAT_EXTENSIBLE too).

    A data size of 0 or 0xFFFFFFFF, as programs write that stream into a pipe, is the rest of the file.
    """

    def __init__(self, path: str, where: str) -> None:
        self._where = where
        try:
            self._file: IO[bytes] = open(path, "rb", buffering=0)  # noqa: SIM115  closed by close()
        except OSError as error:
            raise SourceError(
                "the file cannot be opened", where=where, got=error.strerror or str(error), final=True
            ) from error
        try:
            self._open()
        except SourceError:
            self._file.close()
            raise

    def _open(self) -> None:
        head = self._file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise self._refuse("the file is no WAV file", expected="RIFF…WAVE", got=repr(head[:12]))
        form: bytes | None = None
        while True:
            head = self._file.read(8)
            if len(head) < 8:
                raise self._refuse("the file has no sound in it", expected="a fmt and a data chunk", got="its end")
            name, size = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"data":
                break
            if name == b"fmt ":
                form = self._file.read(min(size, 40))
                self._file.seek(size - len(form), os.SEEK_CUR)
            else:
                self._file.seek(size, os.SEEK_CUR)
            self._file.seek(size % 2, os.SEEK_CUR)  # chunks begin at even places
        if form is None or len(form) < 16:
            raise self._refuse("the file does not say what its sound is", expected="a fmt chunk before the data")
        self._parse_format(form)
        self._start = self._file.tell()
        there = os.fstat(self._file.fileno()).st_size - self._start
        stated = there if size in (0, 0xFFFFFFFF) else size
        if stated > there:
            _log.warning("%s: cut short: %d of %d bytes are there", self._where, there, stated)
        self.samples = min(stated, there) // self._sample_bytes

    def _parse_format(self, form: bytes) -> None:
        tag, self.channels, self.rate_hz, _, align, bits = struct.unpack("<HHIIHH", form[:16])
        if tag == _EXTENSIBLE and len(form) >= 26:
            tag = struct.unpack("<H", form[24:26])[0]
        self._kind = _KINDS.get((tag, bits), "")
        self._sample_bytes = self.channels * bits // 8
        if not self._kind or not 1 <= self.channels <= 64 or align != self._sample_bytes:
            raise self._refuse(
                "sound of a kind that is not read",
                expected="PCM of 8, 16, 24 or 32 bits or float of 32 or 64, 1 to 64 channels",
                got=f"format {tag:#x}, {bits} bits, {self.channels} channels of {align} bytes in all",
                remedy="ffmpeg -i IN -c:a pcm_s16le OUT.wav converts it",
            )
        if not 100 <= self.rate_hz <= 768_000:
            raise self._refuse("not a sample rate", expected="100 to 768000 Hz", got=self.rate_hz)

    def read(self, first: int, count: int) -> Signal:
        """`count` samples×channels from `first` on, -1..1. Raises `SourceError` when they are gone."""
        try:
            self._file.seek(self._start + first * self._sample_bytes)
            data = self._file.read(count * self._sample_bytes)
        except OSError as error:
            raise SourceError("the file cannot be read", where=self._where, got=error.strerror) from error
        if len(data) < count * self._sample_bytes:
            raise SourceError("the file has become shorter while it was read", where=self._where, final=True)
        return self._decode(data).reshape(count, self.channels)

    def close(self) -> None:
        self._file.close()

    def _decode(self, data: bytes) -> Signal:
        if self._kind == "24":
            parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
            wide = np.zeros((len(parts), 4), np.uint8)
            wide[:, 1:] = parts
            return (wide.view("<i4").reshape(-1) * 2.0**-31).astype(np.float32)
        numbers = np.frombuffer(data, self._kind)
        if numbers.dtype.kind == "f":
            return np.nan_to_num(numbers.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        if numbers.dtype == np.uint8:
            return (numbers.astype(np.float32) - 128) * np.float32(1 / 128)
        return (numbers * 2.0 ** (1 - 8 * numbers.dtype.itemsize)).astype(np.float32)

    def _refuse(self, what: str, **parts: Any) -> SourceError:
        return SourceError(what, where=self._where, final=True, **parts)


def _chosen(wanted: str | int, channels: int, where: str) -> list[int]:
    if not isinstance(wanted, int):
        return list(range(channels))
    if wanted < channels:
        return [wanted]
    raise SourceError(
        f"the recording has no channel {wanted}", where=where, expected=f"0 to {channels - 1}", got=wanted, final=True
    )
