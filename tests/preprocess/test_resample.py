"""Changing the rate of a window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.errors import ModelError
from edgerun.preprocess.resample import Method, Resample


@given(
    from_hz=st.floats(1, 1000),
    to_hz=st.floats(1, 1000),
    samples=st.integers(1, 200),
    method=st.sampled_from(["sinc", "linear"]),
)
@settings(deadline=None)
def test_the_window_lasts_as_long_and_a_constant_stays_one(
    from_hz: float, to_hz: float, samples: int, method: Method
) -> None:
    if not 0.02 < from_hz / to_hz < 50:
        return
    resample = Resample(from_hz, to_hz, samples, 2, method)
    lasts_s = (resample.window_samples - 1) / from_hz
    assert lasts_s >= (samples - 1) / to_hz - 1e-6
    assert lasts_s < (samples - 1) / to_hz + 1 / from_hz
    out = np.zeros((samples, 2), np.float32)
    resample.convert(np.full((resample.window_samples, 2), [9.81, -3], np.float32), out)
    assert np.allclose(out, [9.81, -3], atol=1e-4)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(100, 25), (10, 25), (104, 25), (48_000, 16_000), (11_025, 16_000)])
def test_sinc_keeps_what_both_rates_can_carry(from_hz: float, to_hz: float) -> None:
    samples = 400
    resample = Resample(from_hz, to_hz, samples)
    out = np.zeros((samples, 1), np.float32)
    tone_hz = 0.75 * min(from_hz, to_hz) / 2
    at = np.arange(resample.window_samples) / from_hz
    resample.convert(np.sin(2 * np.pi * tone_hz * at)[:, None].astype(np.float32), out)
    wanted = np.sin(2 * np.pi * tone_hz * np.arange(samples) / to_hz)
    inner = slice(50, -50)
    assert np.abs(out[inner, 0] - wanted[inner]).max() < 0.01


def test_long_windows_are_converted_like_short_ones() -> None:
    window = np.random.default_rng(5).normal(size=(2000, 2)).astype(np.float32)
    long, short = Resample(1.9, 1.0, 1050, 2), Resample(1.9, 1.0, 500, 2)
    whole, part = np.zeros((1050, 2), np.float32), np.zeros((500, 2), np.float32)
    long.convert(window[: long.window_samples], whole)
    short.convert(window[: short.window_samples], part)
    assert np.allclose(whole[:450], part[:450], atol=1e-5)


@pytest.mark.parametrize("share", [1.1, 1.3, 1.7])
def test_sinc_lets_nothing_alias(share: float) -> None:
    resample = Resample(100, 25, 400)
    out = np.zeros((400, 1), np.float32)
    at = np.arange(resample.window_samples) / 100
    resample.convert(np.sin(2 * np.pi * share * 12.5 * at + 0.3)[:, None].astype(np.float32), out)
    assert np.abs(out[50:-50]).max() < 1e-4


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=40), st.floats(0.3, 3))
@settings(deadline=None)
def test_linear_is_what_numpy_interpolates(values: list[float], ratio: float) -> None:
    samples = int((len(values) - 1) / ratio) + 1
    resample = Resample(ratio, 1.0, samples, method="linear")
    window = np.array(values, np.float32)[: resample.window_samples, None]
    out = np.zeros((samples, 1), np.float32)
    resample.convert(window, out)
    wanted = np.interp(np.arange(samples) * ratio, np.arange(len(window)), window[:, 0])
    assert np.allclose(out[:, 0], wanted, atol=2e-3)


@pytest.mark.parametrize("rates", [(0, 1), (1, 0), (float("nan"), 1), (1, float("inf"))])
def test_what_is_no_rate_is_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(ModelError, match="not a sample rate"):
        Resample(*rates, 10)
