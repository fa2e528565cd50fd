"""What models of sound are fed instead of sound: a spectrum in a few bands, frame by frame."""

from __future__ import annotations

import importlib
import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import MissingError, ModelError


class Features(Protocol):
    """`window_samples` of mono sound (-1..1) → frames×bins float32.

    `stateful`: it remembers what went before, so it belongs to one stream and takes its windows one behind the other
    without overlap; `reset` makes it forget.
    """

    stateful: bool
    window_samples: int
    shape: tuple[int, int]

    def extract(self, sound: NDArray[Any]) -> NDArray[np.float32]:
        """`sound`: `window_samples` float32. The frames, oldest first; valid until the next call."""
        ...

    def reset(self) -> None: ...


class MicroFeatures:
    """The TFLite Micro audio frontend that microWakeWord models are trained with, through the package pymicro-features.

    16 kHz; one frame of 40 bands every 10 ms, out of the last 30 ms. It estimates the noise over time. The first
    window of all lacks two frames, which are zeros. Raises `MissingError` without the package.
    """

    rate_hz = 16_000
    stateful = True
    _STEP = 160
    _BINS = 40

    def __init__(self, frames: int) -> None:
        try:
            frontend = importlib.import_module("pymicro_features").MicroFrontend
        except ImportError as error:
            raise MissingError(
                "the features of wake words need the package pymicro-features",
                got=error,
                remedy="pip install 'edgerun[wakeword]'",
            ) from error
        self._frontend: Any = frontend()
        self.window_samples = frames * self._STEP
        self.shape = (frames, self._BINS)
        self._frames = np.zeros(self.shape, np.float32)
        self._pcm = np.zeros(self.window_samples, np.int16)
        self._sound = np.zeros(self.window_samples, np.float32)

    def extract(self, sound: NDArray[Any]) -> NDArray[np.float32]:
        """See `Features`."""
        np.multiply(sound, 32768.0, out=self._sound)
        np.clip(self._sound, -32768, 32767, out=self._sound)
        np.rint(self._sound, out=self._sound)
        np.copyto(self._pcm, self._sound, casting="unsafe")
        made = []
        for start in range(0, self.window_samples, self._STEP):
            features = self._frontend.process_samples(self._pcm[start : start + self._STEP].tobytes()).features
            if features:
                made.append(features)
        self._frames[...] = 0
        if made:
            self._frames[-len(made) :] = made
        return self._frames

    def reset(self) -> None:
        """See `Features`."""
        self._frontend.reset()


class LogMel:
    """The log-mel spectrogram most sound classifiers take: Hann window, magnitude, triangles on the mel scale, log.

    The defaults are YAMNet's (tensorflow/models, research/audioset/yamnet): 25 ms every 10 ms at 16 kHz, 64 bands from
    125 to 7500 Hz on the HTK mel scale 1127·ln(1 + f/700), ln(mel + 0.001). Keeps nothing from window to window.
    """

    stateful = False

    def __init__(
        self,
        frames: int,
        *,
        rate_hz: float = 16_000,
        frame_ms: float = 25.0,
        step_ms: float = 10.0,
        bins: int = 64,
        low_hz: float = 125.0,
        high_hz: float = 7500.0,
        offset: float = 0.001,
    ) -> None:
        if frames < 1 or bins < 1 or not 0 <= low_hz < high_hz <= rate_hz / 2 or min(frame_ms, step_ms, offset) <= 0:
            raise ModelError(
                "no log-mel spectrogram can be made so",
                expected="frames, bins, times and offset above 0, 0 <= low_hz < high_hz <= rate_hz/2",
                got=f"{frames} frames of {frame_ms} ms every {step_ms} ms, {bins} bins, {low_hz} to {high_hz} Hz",
            )
        length, step = round(rate_hz * frame_ms / 1000), max(1, round(rate_hz * step_ms / 1000))
        self.window_samples = length + (frames - 1) * step
        self.shape = (frames, bins)
        self._fft = 2 ** math.ceil(math.log2(length))
        self._taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
        self._indices = np.arange(frames)[:, None] * step + np.arange(length)
        self._mel = _mel_weights(self._fft, bins, rate_hz, low_hz, high_hz)
        self._offset = np.float32(offset)

    def extract(self, sound: NDArray[Any]) -> NDArray[np.float32]:
        """See `Features`."""
        spectrum = np.abs(np.fft.rfft(sound[self._indices] * self._taper, self._fft)).astype(np.float32, copy=False)
        # Not by `@`, for which a BLAS starts threads.
        bands: NDArray[np.float32] = np.log(np.einsum("fk,bk->fb", spectrum, self._mel) + self._offset)
        return bands

    def reset(self) -> None:
        """See `Features`."""


def _mel_weights(fft: int, bins: int, rate_hz: float, low_hz: float, high_hz: float) -> NDArray[np.float32]:
    """bins×(fft/2 + 1): triangles of height 1, evenly spaced in mel."""

    def mel(hz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)

    edges = np.linspace(mel(low_hz), mel(high_hz), bins + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    at = mel(np.arange(fft // 2 + 1) * (rate_hz / fft))[:, None]
    weights = np.clip(np.minimum((at - lower) / (centre - lower), (upper - at) / (upper - centre)), 0, None)
    return np.ascontiguousarray(weights.T, np.float32)
