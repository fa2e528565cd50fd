"""Windows into tensors, against the same written out one number at a time."""

from __future__ import annotations

import tracemalloc
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgerun.errors import FrameError, ModelError
from edgerun.preprocess.features import LogMel, MicroFeatures
from edgerun.preprocess.signal import SignalPreprocess
from edgerun.types import Placement, TensorSpec

QUANTISED = {"uint8": ((0.05,), (128,)), "int8": ((0.1,), (-5,)), "int16": ((0.001,), (0,))}


def spec_of(shape: tuple[int, ...], dtype: str = "float32") -> TensorSpec:
    scale, zero_point = QUANTISED.get(dtype, ((), ()))
    return TensorSpec("signal", shape, dtype, scale, zero_point)


def by_hand(value: float, mean: float, std: float, spec: TensorSpec) -> float:
    real = (value - mean) / std
    if not spec.scale:
        return real
    number = real / spec.scale[0]
    rounded = floor(number + 0.5) if number >= 0 else -floor(-number + 0.5)
    limits = np.iinfo(spec.dtype)
    return min(limits.max, max(limits.min, rounded + spec.zero_point[0]))


@given(
    layout=st.sampled_from(["TC", "CT"]),
    channels=st.integers(1, 4),
    samples=st.integers(5, 12),
    dtype=st.sampled_from(["float32", "float64", "float16", "uint8", "int8", "int16"]),
    open_sides=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_it_is_its_definition(
    layout: Any, channels: int, samples: int, dtype: str, open_sides: bool, seed: int
) -> None:
    sides = (samples, channels) if layout == "TC" else (channels, samples)
    spec = spec_of((-1, -1, -1) if open_sides else (1, *sides), dtype)
    random = np.random.default_rng(seed)
    mean, std = random.normal(size=channels), random.uniform(0.5, 3, channels)
    preprocess = SignalPreprocess(
        spec, samples=samples if open_sides else None, channels=channels, layout=layout, mean=mean, std=std
    )
    window = random.normal(0, 10, (samples, channels)).astype(np.float32)
    tensor, placement = preprocess.prepare(window)
    assert preprocess.size == (channels, samples)
    assert placement == Placement()
    assert tensor.dtype == dtype
    assert tensor.shape == (1, *sides)
    for t in range(samples):
        for c in range(channels):
            got = float(tensor[(0, t, c) if layout == "TC" else (0, c, t)])
            wanted = by_hand(float(window[t, c]), mean[c], std[c], spec)
            near = {"float16": 0.05, "uint8": 1, "int8": 1, "int16": 1}.get(dtype, 1e-4)
            assert got == pytest.approx(wanted, abs=near)


def test_halves_are_rounded_away_from_zero() -> None:
    preprocess = SignalPreprocess(TensorSpec("x", (1, 6), "int8", (2.0,), (1,)))
    tensor, _ = preprocess.prepare(np.array([[1], [3], [-1], [-3], [1000], [-1000]], np.float32))
    assert tensor.tolist() == [[2, 3, 0, -1, 127, -128]]


@pytest.mark.parametrize(
    ("shape", "channels", "given_samples", "wanted"),
    [
        ((1, 128, 3, 1), 3, None, (1, 128, 3, 1)),
        ((1, 3, 1, 128), 3, None, (1, 3, 1, 128)),
        ((1, 16), 1, None, (1, 16)),
        ((16,), 1, None, (16,)),
        ((-1, -1), 1, 576, (1, 576)),
        ((1, 1, 576), 1, None, (1, 1, 576)),
        ((1, 4), 4, 1, (1, 4)),
        ((-1, 4, -1), 4, 9, (1, 4, 9)),
        ((1, 1), 1, None, (1, 1)),
    ],
)
def test_the_shape_tells_the_layout(
    shape: tuple[int, ...], channels: int, given_samples: int | None, wanted: tuple[int, ...]
) -> None:
    preprocess = SignalPreprocess(spec_of(shape), channels=channels, samples=given_samples)
    window = np.arange(preprocess.size[0] * preprocess.size[1], dtype=np.float32)
    tensor, _ = preprocess.prepare(window.reshape(preprocess.size[1], preprocess.size[0]))
    assert tensor.shape == wanted
    assert sorted(tensor.ravel().tolist()) == window.tolist()


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 5, 5), {"channels": 5}),
        ((1, -1, -1), {"channels": 3, "samples": 8}),
        ((1, 128, 3), {"channels": 2}),
        ((1, 128, 3), {"channels": 3, "layout": "CT"}),
        ((1, 128), {"samples": 64}),
        ((-1, -1), {}),
        ((1, 224, 224, 3), {"channels": 3}),
        ((1, 8), {"mean": (1.0, 2.0)}),
        ((1, 8), {"std": (0.0,)}),
        ((1, 8), {"std": (float("nan"),)}),
        ((8,), {"rows": 2}),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="signal") as caught:
        SignalPreprocess(spec_of(shape), **options)
    assert caught.value.where == "signal"


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "complex64"])
def test_types_that_hold_no_signal_are_refused(dtype: str) -> None:
    with pytest.raises(ModelError, match="cannot hold a signal"):
        SignalPreprocess(spec_of((1, 8), dtype))


def test_a_scale_per_channel_is_refused() -> None:
    with pytest.raises(ModelError, match="quantised per channel"):
        SignalPreprocess(TensorSpec("signal", (1, 8, 2), "int8", (1.0, 2.0), (0, 0), 2), channels=2)


@pytest.mark.parametrize(
    "window",
    [
        np.zeros((8, 2), np.float32),
        np.zeros((9, 1), np.float32),
        np.zeros((8, 1), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.full((8, 1), np.nan, np.float32),
        np.array([[np.inf]] * 8, np.float32),
    ],
)
def test_a_window_that_cannot_be_used_is_told(window: NDArray[Any]) -> None:
    with pytest.raises(FrameError) as caught:
        SignalPreprocess(spec_of((1, 8))).prepare(window)
    assert caught.value.reason == "preprocess"


def test_a_region_is_refused() -> None:
    with pytest.raises(FrameError, match="all of it"):
        SignalPreprocess(spec_of((1, 8))).prepare(np.zeros((8, 1), np.float32), (0, 0, 1, 0.5))


def test_rows_are_one_batch_without_a_copy() -> None:
    preprocess = SignalPreprocess(spec_of((-1, 8)), samples=8, rows=3)
    for row in range(3):
        preprocess.prepare(np.full((8, 1), row, np.float32), row=row)
    batch = preprocess.batch(2, 1)
    assert batch[:, 0].tolist() == [1, 2]
    tensor, _ = preprocess.prepare(np.full((8, 1), 7, np.float32), row=1)
    assert tensor.shape == (1, 8)
    assert np.shares_memory(tensor, batch)
    assert batch[0, 0] == 7


def test_another_rate_changes_the_window_not_the_tensor() -> None:
    preprocess = SignalPreprocess(spec_of((1, 51, 3)), channels=3, rates=(100.0, 25.0))
    assert preprocess.size == (3, 201)
    slope = np.arange(201, dtype=np.float32)[:, None] * [0.01, 0.02, -0.01]
    tensor, _ = preprocess.prepare(slope.astype(np.float32))
    assert np.allclose(tensor[0, 20:30], slope[80:120:4], atol=1e-3)
    assert SignalPreprocess(spec_of((1, 51, 3)), channels=3, rates=(25.0, 25.0)).size == (3, 51)


def test_features_take_the_place_of_the_samples() -> None:
    log_mel = LogMel(3)
    preprocess = SignalPreprocess(spec_of((1, 3, 64)), features=log_mel, mean=(1.0,), std=(2.0,))
    assert preprocess.size == (1, 720)
    assert not preprocess.stateful
    sound = np.random.default_rng(0).normal(0, 0.1, (720, 1)).astype(np.float32)
    tensor, _ = preprocess.prepare(sound)
    assert np.allclose(tensor[0], (log_mel.extract(sound[:, 0]) - 1) / 2, atol=1e-6)
    assert SignalPreprocess(spec_of((1, 3, 64)), features=LogMel(3), rates=(48_000, 16_000)).size == (1, 2158)


def test_reset_forgets_what_went_before() -> None:
    pytest.importorskip("pymicro_features", reason="pymicro-features is not installed (pip install pymicro-features)")
    preprocess = SignalPreprocess(spec_of((1, 3, 40)), features=MicroFeatures(3))
    sound = np.random.default_rng(0).normal(0, 0.1, (480, 1)).astype(np.float32)
    first = preprocess.prepare(sound)[0].copy()
    assert not np.array_equal(preprocess.prepare(sound)[0], first)
    preprocess.reset()
    assert np.array_equal(preprocess.prepare(sound)[0], first)


def test_preparing_allocates_no_window() -> None:
    preprocess = SignalPreprocess(TensorSpec("x", (1, 16000), "int8", (0.01,), (0,)))
    window = np.random.default_rng(0).normal(size=(16000, 1)).astype(np.float32)
    preprocess.prepare(window)
    tracemalloc.start()
    try:
        preprocess.prepare(window)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16000
