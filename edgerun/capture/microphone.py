"""Sound from an ALSA device, through the `arecord` that every Linux audio system has (package alsa-utils)."""

from __future__ import annotations

import logging
import shutil
from typing import Annotated, Any

import msgspec
from numpy.typing import NDArray

from edgerun.capture.command import Child
from edgerun.capture.samples import (
    Arrivals,
    Channels,
    Chunk,
    FdReader,
    RawNumbers,
    Seconds,
    WindowOptions,
    collect,
    windows_of,
)
from edgerun.errors import MissingError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, View

_log = logging.getLogger("edgerun.capture")

_PERIOD_S = 0.01  # how often the driver hands samples over: adds half of it to a result's age
_BUFFER_S = 0.5
_FULL_SCALE = 32768
_RATE_HZ = 16_000


class Options(WindowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`device`: an ALSA PCM (`arecord -L` lists them); `default` and `plughw:…` convert the rate where the hardware
    has another one, `hw:…` does not. `rate_hz`: None is the model's, else 16,000. `stall_s`: how long it may give
    nothing.
    """

    device: Annotated[str, msgspec.Meta(min_length=1, pattern="^[^-]")] = "default"
    rate_hz: Annotated[float, msgspec.Meta(ge=2000, le=384_000)] | None = None
    channels: Channels = 1
    stall_s: Seconds = 5.0

    @property
    def takes_rate(self) -> bool:
        """See `WindowOptions`."""
        return True

    @property
    def known_channels(self) -> int:
        """See `WindowOptions`."""
        return self.channels


class MicrophoneSource:
    """Windows of sound, -1..1 of full scale (16-bit samples).

    `captured_ns` is told from the sample rate and the earliest arrivals, see `SampleClock`. An overrun, which `arecord`
    reports, makes a gap, and the first window of every recording says `gap`. Raises `MissingError` without `arecord`,
    `SourceError` when the device cannot be opened, is lost, or would give another rate.
    """

    options = Options
    lossless = False
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        program = shutil.which("arecord")
        if program is None:
            raise MissingError(
                "the microphone is read through arecord, which is not installed",
                where=f"stream {context.stream}",
                remedy="apt-get install alsa-utils",
            )
        rate_hz = round(options.rate_hz or _RATE_HZ)
        self._windows = windows_of(options, options.channels)
        self._numbers = RawNumbers("int16", options.channels, "little", 1 / _FULL_SCALE, 0.0)
        self._arrivals = Arrivals(context, rate_hz)
        self._child = Child(
            _arguments(program, options, rate_hz), f"stream {context.stream}: {options.device}", {"LC_ALL": "C"}
        )
        self._reader = FdReader(self._child.fd, context, self._child.where, options.stall_s, aside=self._listen)
        self._gap = True
        self.frame_size = (options.channels, options.samples)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        return collect(self._windows, self._read)

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The window: samples×channels float32 (not a picture, whatever `ports.Source` says), in `out` if it fits."""
        return self._windows.copy(out)

    def close(self) -> None:
        """End the recording."""
        self._child.close()

    def _read(self, most: int) -> Chunk | None:
        while True:
            data = self._reader.read(self._numbers.lacks(most))
            if data is None:
                return None
            if not data:
                self._child.ended()
                raise SourceError("the recording ended", where=self._child.where)
            samples = self._numbers.feed(data)
            if len(samples):
                gap, self._gap = self._gap, False
                return Chunk(samples, self._arrivals.now(len(samples), waited=self._reader.waited, gap=gap), gap)

    def _listen(self) -> None:
        """What arecord has to say (alsa-utils, aplay/aplay.c): overruns go on, another rate than asked for does not."""
        said = self._child.read_complaints().decode("ascii", "replace")
        if "overrun" in said:
            _log.warning("%s: samples were lost: %s", self._child.where, " ".join(said.split()))
            self._gap = True
        if "rate is not accurate" in said:
            raise SourceError(
                "the device has not the rate asked for",
                where=self._child.where,
                got=" ".join(said.split()),
                remedy="name it plughw:… instead of hw:…, so that ALSA converts the rate, or set rate_hz to its own",
                final=True,
            )


def _arguments(program: str, options: Options, rate_hz: int) -> list[str]:
    micros = [f"--period-time={round(_PERIOD_S * 1e6)}", f"--buffer-time={round(_BUFFER_S * 1e6)}"]
    return [
        *(program, "--file-type=raw", "--format=S16_LE", *micros),
        *(f"--device={options.device}", f"--rate={rate_hz}", f"--channels={options.channels}"),
    ]
