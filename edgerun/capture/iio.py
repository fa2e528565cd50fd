"""Sensors of the kernel's Industrial I/O subsystem: accelerometers, gyroscopes, ADCs, polled through sysfs."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.capture.samples import Chunk, Rate, WindowOptions, collect, windows_of
from edgerun.errors import SourceError, did_you_mean
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, View

_log = logging.getLogger("edgerun.capture")

_DEVICES = "sys/bus/iio/devices"
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENXIO}
"""What a read says when the sensor's bus had a bad moment."""
_BAD_MOMENTS = 10
_LATE_NS = 50_000_000
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w:.-]*$")]


class Options(WindowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`device`: what its `name` file says, or `iio:device0`. `channels` in their kernel names: `accel_x`, `voltage0`.

    `rate_hz`: how often they are read, by polling: up to a few hundred a second. `device_rate_hz` is written to the
    device's `sampling_frequency` when given. `root`: where `sys` is looked for.
    """

    device: _Name
    channels: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    rate_hz: Rate
    device_rate_hz: Rate | None = None
    root: str = "/"

    @property
    def known_channels(self) -> int:
        """See `WindowOptions`."""
        return len(self.channels)


class IioSource:
    """Values in the kernel's units (m/s², rad/s, millivolt …): (raw + offset)·scale, or `_input` as it stands.

    After Documentation/ABI/testing/sysfs-bus-iio; scale and offset are a channel's own or its kind's
    (`in_accel_scale`), 1 and 0 where there is none, and read once. A sample is taken when it is due or, on a busy
    machine, up to two intervals (at least 50 ms) later; one later still, or a read that failed, makes a gap. Raises
    `SourceError` when a file vanishes or ten reads in a row fail; final for a channel the device lacks and for polling
    faster than it samples.
    """

    options = Options
    lossless = False
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._context = context
        self._folder = _find(Path(options.root, _DEVICES), options.device)
        self._where = f"stream {context.stream}: {self._folder}"
        _set_rate(self._folder, options)
        self._channels = [_Channel(self._folder, name) for name in options.channels]
        self._row = np.zeros((1, len(self._channels)), np.float64)
        self._windows = windows_of(options, len(self._channels))
        self._interval_ns = round(1e9 / options.rate_hz)
        self._late_ns = max(2 * self._interval_ns, _LATE_NS)
        self._due_ns: int | None = None
        self._bad = 0
        self._gap = True
        self.frame_size = (len(self._channels), options.samples)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        return collect(self._windows, self._read)

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The window: samples×channels float32 (not a picture, whatever `ports.Source` says), in `out` if it fits."""
        return self._windows.copy(out)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _read(self, most: int) -> Chunk | None:
        while self._wait():
            try:
                for at, channel in enumerate(self._channels):
                    self._row[0, at] = channel.read()
            except OSError as error:
                self._fail(error)
                continue
            if self._bad:
                _log.warning("%s: reads again after %d failures", self._where, self._bad)
            gap, self._gap, self._bad = self._gap, False, 0
            return Chunk(self._row, self._context.clock.mono_ns(), gap)
        return None

    def _wait(self) -> bool:
        """Until the next sample is due; False when the stream ended."""
        clock, stop = self._context.clock, self._context.stop
        now_ns = clock.mono_ns()
        due_ns = now_ns if self._due_ns is None else self._due_ns + self._interval_ns
        if now_ns - due_ns > self._late_ns:
            self._gap = True
            due_ns = now_ns
        elif due_ns > now_ns:
            clock.wait(stop, (due_ns - now_ns) / 1e9)
        self._due_ns = due_ns
        return not stop.is_set()

    def _fail(self, error: OSError) -> None:
        self._bad += 1
        self._gap = True
        got = f"{error.filename or 'a channel'}: {error.strerror or error}"
        if isinstance(error, SourceError):
            raise error
        if error.errno not in _PASSING or self._bad >= _BAD_MOMENTS:
            raise SourceError("the sensor cannot be read any more", where=self._where, got=got) from error
        if self._bad == 1:
            _log.warning("%s: a sample is missing: %s", self._where, got)


class _Channel:
    """One channel's file and how its number becomes a value."""

    def __init__(self, folder: Path, name: str) -> None:
        processed = folder / f"in_{name}_input"
        self._path = processed if processed.exists() else folder / f"in_{name}_raw"
        if not self._path.exists():
            known = sorted(p.name[3:-4] for p in folder.glob("in_*_raw")) + sorted(
                p.name[3:-6] for p in folder.glob("in_*_input")
            )
            raise SourceError(
                f"the sensor has no channel {name!r}",
                where=folder,
                expected=f"one of {', '.join(known)}" if known else "a sensor with channels",
                remedy=did_you_mean(name, known),
                final=_is_there(folder) and bool(known),
            )
        plain = self._path == processed
        self._scale = 1.0 if plain else _shared(folder, name, "scale", 1.0)
        self._offset = 0.0 if plain else _shared(folder, name, "offset", 0.0)

    def read(self) -> float:
        return (_number(self._path) + self._offset) * self._scale


def _number(path: Path) -> float:
    """The number in a sysfs file; opened anew each time, so that a device that is gone says so."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 64)
    finally:
        os.close(fd)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise SourceError("the sensor gives no number", where=path, got=repr(text.decode("ascii", "replace")))
    return value


def _shared(folder: Path, name: str, key: str, default: float) -> float:
    """`in_accel_x_scale`, else `in_accel_scale`, else `in_scale`, else the default. `voltage0` belongs to `voltage`."""
    kind = name.rpartition("_")[0] or name.rstrip("0123456789")
    for file in (f"in_{name}_{key}", f"in_{kind}_{key}", f"in_{key}"):
        path = folder / file
        if path.exists():
            try:
                return _number(path)
            except OSError as error:
                raise SourceError(f"the sensor's {key} cannot be read", where=path, got=error) from error
    return default


def _find(devices: Path, wanted: str) -> Path:
    """The device's folder. It may come later (a driver that loads slowly, USB), so this is not final."""
    names: dict[str, Path] = {}
    for folder in sorted(devices.glob("iio:device*")):
        names[folder.name] = folder
        try:
            names.setdefault((folder / "name").read_text("utf-8").strip(), folder)
        except (OSError, UnicodeDecodeError):
            continue  # going away just now, or without a name: still found by its number
    if wanted in names:
        return names[wanted]
    raise SourceError(
        f"there is no sensor {wanted!r}",
        where=devices,
        expected=f"one of {', '.join(names)}" if names else "an IIO device",
        remedy=did_you_mean(wanted, names) or "check that its driver is loaded and its overlay enabled",
    )


def _is_there(folder: Path) -> bool:
    """Whether the device is still plugged in: else what it seems to lack says nothing."""
    return (folder / "name").exists()


def _set_rate(folder: Path, options: Options) -> None:
    path = folder / "sampling_frequency"
    if options.device_rate_hz is not None:
        try:
            path.write_text(f"{options.device_rate_hz:g}\n", "ascii")
        except OSError as error:
            raise SourceError(
                "the sensor's rate cannot be set",
                where=path,
                got=error.strerror or str(error),
                remedy="leave device_rate_hz out, or let a udev rule give edgerun's group the file",
                final=_is_there(folder),
            ) from error
    if not path.exists():
        return
    try:
        samples_hz = _number(path)
    except OSError as error:
        _log.warning("%s: cannot be read: %s", path, error)
        return
    if options.rate_hz > samples_hz * 1.001:
        raise SourceError(
            "the sensor would be read faster than it samples",
            where=path,
            expected=f"rate_hz of at most {samples_hz:g}",
            got=f"{options.rate_hz:g}",
            remedy="lower rate_hz, or raise device_rate_hz to a rate of sampling_frequency_available",
            final=True,
        )
