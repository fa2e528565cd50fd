"""Spectral features, against their definitions written out."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from edgerun.errors import MissingError, ModelError
from edgerun.preprocess.features import LogMel, MicroFeatures

NEEDED = "the package pymicro-features is not installed (pip install pymicro-features)"


def tone(hz: float, samples: int, rate_hz: float = 16_000) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz)).astype(np.float32)


def test_log_mel_is_its_definition() -> None:
    log_mel = LogMel(3)
    assert log_mel.window_samples == 400 + 2 * 160
    sound = np.random.default_rng(0).normal(0, 0.1, log_mel.window_samples).astype(np.float32)
    got = log_mel.extract(sound)
    assert got.shape == log_mel.shape == (3, 64)

    def mel(hz: float) -> float:
        return 1127 * math.log(1 + hz / 700)

    step = (mel(7500) - mel(125)) / 65
    for frame in range(3):
        part = sound[frame * 160 : frame * 160 + 400]
        tapered = [part[i] * (0.5 - 0.5 * math.cos(2 * math.pi * i / 400)) for i in range(400)]
        magnitudes = np.abs(np.fft.rfft(tapered, 512))
        for band in range(0, 64, 7):
            left = mel(125) + band * step
            total = 0.0
            for k in range(1, 257):
                at = (mel(k * 16_000 / 512) - left) / step
                total += magnitudes[k] * max(0.0, min(at, 2 - at))
            assert got[frame, band] == pytest.approx(math.log(total + 0.001), abs=1e-4)


def test_log_mel_hears_a_tone_where_it_is() -> None:
    log_mel = LogMel(1, bins=40, low_hz=0.0, high_hz=8000.0)
    bands = [int(log_mel.extract(tone(hz, log_mel.window_samples))[0].argmax()) for hz in (300, 1000, 3000, 6000)]
    assert bands == sorted(set(bands))


@pytest.mark.parametrize("wrong", [{"high_hz": 9000.0}, {"low_hz": 7500.0}, {"bins": 0}, {"step_ms": 0.0}])
def test_log_mel_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="no log-mel"):
        LogMel(3, **wrong)


def test_micro_features_come_one_a_step_once_they_have_their_window() -> None:
    pytest.importorskip("pymicro_features", reason=NEEDED)
    micro = MicroFeatures(3)
    assert (micro.window_samples, micro.shape) == (480, (3, 40))
    sound = tone(1000, 480 * 3)
    first = micro.extract(sound[:480]).copy()
    assert not first[:2].any()
    assert first[2].any()
    second = micro.extract(sound[480:960]).copy()
    assert second.any(axis=1).all()
    micro.reset()
    assert np.array_equal(micro.extract(sound[:480]), first)


def test_micro_features_are_the_packages_own_whatever_the_windows() -> None:
    features = pytest.importorskip("pymicro_features", reason=NEEDED)
    pcm = np.random.default_rng(3).integers(-9000, 9000, 1920).astype(np.int16)
    frontend, wanted = features.MicroFrontend(), []
    for start in range(0, 1920, 160):
        wanted += [made for made in [frontend.process_samples(pcm[start : start + 160].tobytes()).features] if made]
    for frames in (1, 2, 3, 4):
        micro = MicroFeatures(frames)
        size = micro.window_samples
        got = [micro.extract((pcm[at : at + size] / 32768).astype(np.float32)).copy() for at in range(0, 1920, size)]
        assert np.array_equal(np.concatenate(got)[-len(wanted) :], np.array(wanted, np.float32))


def test_what_is_louder_than_full_scale_is_clipped() -> None:
    pytest.importorskip("pymicro_features", reason=NEEDED)
    loud, full = MicroFeatures(3), MicroFeatures(3)
    square = np.sign(tone(500, 480) + 1e-3)
    assert np.array_equal(loud.extract(square * 4), full.extract(square))


def test_without_the_package_the_remedy_is_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymicro_features", None)
    with pytest.raises(MissingError, match=r"pip install 'edgerun\[wakeword\]'"):
        MicroFeatures(3)
