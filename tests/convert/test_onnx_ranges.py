"""What is kept of a tensor's values, and the ranges that follow from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgerun.convert.onnx.ranges import BINS, Histogram, Method, Observed

METHODS: tuple[Method, ...] = ("minmax", "average", "percentile", "entropy", "mse")
values = arrays(
    np.float32,
    st.integers(1, 50),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
)


def error(of: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    taken = np.clip(np.round((of - low) / step), 0, 255) * step + low
    return float(np.square(taken - of).sum())


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=5))
def test_no_value_is_lost_however_the_reach_grows(batches: list[np.ndarray]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    total = np.concatenate(batches)
    if histogram.reach == 0:
        assert not total.any()
        return
    counted = np.cumsum(histogram.counts)
    before = next((i for i, batch in enumerate(batches) if batch.any()), len(batches))
    kept = np.concatenate(batches[before:]).astype(np.float64)
    assert counted[-1] == kept.size
    width = 2 * histogram.reach / BINS
    for at in (BINS // 4, BINS // 2, BINS * 3 // 4):
        edge = at * width - histogram.reach
        assert abs(int(counted[at - 1]) - int((kept < edge).sum())) <= int((np.abs(kept - edge) <= width).sum())


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=5), st.sampled_from(METHODS))
def test_a_range_holds_zero_and_lies_within_what_was_seen(batches: list[np.ndarray], method: Method) -> None:
    seen = Observed()
    for batch in batches:
        seen.add(batch)
    low, high = seen.range(method, 99.99)
    total = np.concatenate(batches)
    assert min(float(total.min()), 0) <= low <= 0 <= high <= max(float(total.max()), 0)


def test_minmax_is_the_extremes_and_average_their_mean() -> None:
    seen = Observed()
    seen.add(np.array([-1, 2], np.float32))
    seen.add(np.array([-3, 8], np.float32))
    assert seen.range("minmax", 99.99) == (-3, 8)
    assert seen.range("average", 99.99) == (-2, 5)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_outlier_does_not_set_the_range(method: Method) -> None:
    seen = Observed()
    body = np.random.default_rng(3).normal(size=50_000).astype(np.float32)
    seen.add(np.append(body, np.float32(1000)))
    low, high = seen.range(method, 99.99)
    assert high < 500
    assert error(body, low, high) < error(body, *seen.range("minmax", 99.99))


def test_mse_is_better_than_the_extremes_for_tails() -> None:
    chance = np.random.default_rng(4)
    for shape in (chance.normal, chance.laplace, chance.exponential):
        of = shape(size=20_000).astype(np.float32)
        seen = Observed()
        seen.add(of)
        assert error(of, *seen.range("mse", 99.99)) < error(of, *seen.range("minmax", 99.99))


def test_what_a_relu_cut_off_does_not_drive_the_entropy_to_nothing() -> None:
    """Most values exactly 0, some at a ceiling of 6: the range must still reach most of what lies between."""
    of = np.clip(np.random.default_rng(5).normal(-1, 3, 60_000), 0, 6).astype(np.float32)
    seen = Observed()
    seen.add(of)
    assert seen.range("entropy", 99.99)[1] > 4


def test_channels_are_kept_apart() -> None:
    seen = Observed()
    for sign in (1, -1):
        seen.add(np.stack([np.full((4, 4), 1.0), np.full((4, 4), sign * 5.0)])[None].astype(np.float32))
    assert seen.channel_low is not None
    assert seen.channel_high is not None
    assert seen.channel_mean is not None
    np.testing.assert_array_equal(seen.channel_low, [1, -5])
    np.testing.assert_array_equal(seen.channel_high, [1, 5])
    np.testing.assert_array_equal(seen.channel_mean, [1, 0])


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_the_range_zero(method: Method) -> None:
    seen = Observed()
    seen.add(np.zeros((1, 3, 2), np.float32))
    assert seen.range(method, 99.99) == (0, 0)
