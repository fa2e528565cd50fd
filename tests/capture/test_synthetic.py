from __future__ import annotations

import numpy as np
import pytest

from edgerun.capture.stamp import read_stamp
from edgerun.capture.synthetic import Options, SyntheticSource
from edgerun.clock import FakeClock
from edgerun.errors import ConfigError, SourceError
from edgerun.types import NOT_YET, View
from tests.capture.scenes import context


def test_every_frame_says_which_it_is_and_when_it_was_due() -> None:
    clock = FakeClock()
    source = SyntheticSource(Options(size=(160, 96), fps=20.0, frames=5), context(clock))
    began_ns = clock.mono_ns()
    for number in range(5):
        grab = source.grab()
        assert grab is not None
        assert grab.captured_ns == began_ns + number * 50_000_000
        assert grab.item == str(number)
        assert read_stamp(source.retrieve(None)) == (number, grab.captured_ns)
    assert source.grab() is None


def test_as_fast_is_lossless_and_unpaced() -> None:
    clock = FakeClock()
    source = SyntheticSource(Options(size=(160, 96), frames=100), context(clock, as_fast=True))
    began_ns = clock.mono_ns()
    assert source.lossless
    assert sum(source.grab() is not None for _ in range(101)) == 100
    assert clock.mono_ns() == began_ns


def test_loop_and_no_frames() -> None:
    looped = SyntheticSource(Options(size=(160, 96), frames=2), context(FakeClock(), loop=True))
    grabs = [looped.grab() for _ in range(5)]
    assert [g.item for g in grabs if g] == ["0", "1", "0", "1", "0"]
    assert SyntheticSource(Options(frames=0), context(FakeClock())).grab() is None


def test_seed_changes_the_picture() -> None:
    pictures = []
    for seed in (1, 1, 2):
        source = SyntheticSource(Options(size=(160, 96), seed=seed), context(FakeClock()))
        source.grab()
        pictures.append(source.retrieve(None)[64:])
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_too_small_for_its_stamp() -> None:
    with pytest.raises(SourceError, match="at least 128×64; got 100×100") as raised:
        SyntheticSource(Options(size=(100, 100)), context())
    assert raised.value.final


def test_too_large_for_any_device() -> None:
    with pytest.raises(ConfigError, match="at most 64 megapixels; got 99999×99999"):
        Options(size=(99999, 99999))
    assert Options(size=(16384, 3906)).size == (16384, 3906)


def test_a_frame_that_is_not_due_yet_is_not_given() -> None:
    clock = FakeClock()
    source = SyntheticSource(Options(size=(160, 96), fps=10.0), context(clock))
    first = source.grab()
    assert first is not None
    assert source.grab(first.captured_ns + 40_000_000) is NOT_YET
    assert clock.mono_ns() == first.captured_ns + 40_000_000
    assert read_stamp(source.retrieve(None)) == (0, first.captured_ns)
    second = source.grab(first.captured_ns + 200_000_000)
    assert second is not None
    assert second.captured_ns == first.captured_ns + 100_000_000
    grey = source.retrieve(None, View(grey=True))
    assert np.array_equal(grey, source.retrieve(None)[:, :, 1])
