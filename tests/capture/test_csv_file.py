"""Recordings in CSV files, whole and with holes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.capture.csv_file import CsvSource, Options
from edgerun.clock import Clock, FakeClock
from edgerun.errors import ConfigError, SourceError
from edgerun.types import Grab
from tests.capture.scenes import context


def opened(
    path: Path, *, as_fast: bool = True, loop: bool = False, clock: Clock | None = None, **changed: object
) -> CsvSource:
    options = {"path": str(path), "rate_hz": 10.0, "window_samples": 3, **changed}
    return CsvSource(Options(**options), context(clock or FakeClock(), as_fast=as_fast, loop=loop))


def written(folder: Path, text: str) -> Path:
    path = folder / "samples.csv"
    path.write_text(text)
    return path


def all_windows(source: CsvSource) -> list[tuple[Grab, list[list[float]]]]:
    found = []
    while (grab := source.grab()) is not None:
        found.append((grab, source.retrieve(None).tolist()))
    return found


def test_a_header_and_columns_by_name_or_number(tmp_path: Path) -> None:
    path = written(tmp_path, "t,ax,ay\n0,1,10\n0.1,2,20\n0.2,3,30\n")
    assert all_windows(opened(path, columns=("ay", 1)))[0][1] == [[10, 1], [20, 2], [30, 3]]
    assert all_windows(opened(path, time_column="t"))[0][1] == [[1, 10], [2, 20], [3, 30]]
    assert all_windows(opened(path))[0][1][0] == [0, 1, 10]


def test_without_a_header_every_line_is_a_sample(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff1;-1\n\n2;-2\n3;-3\n")
    source = opened(path, delimiter=";")
    ((grab, window),) = all_windows(source)
    assert window == [[1, -1], [2, -2], [3, -3]]
    assert (grab.item, grab.gap, source.frame_size, source.lossless) == ("0", False, (2, 3), True)


def test_windows_overlap_and_are_numbered_by_their_first_sample(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(map(str, range(8))))
    got = all_windows(opened(path, hop_samples=2))
    assert [grab.item for grab, _ in got] == ["0", "2", "4"]
    assert [window[0][0] for _, window in got] == [0, 2, 4]


def test_it_is_replayed_at_its_own_pace(tmp_path: Path) -> None:
    path = written(tmp_path, "ms,v\n0,0\n100,1\n200,2\n350,3\n400,4\n500,5\n")
    clock = FakeClock()
    source = opened(path, as_fast=False, clock=clock, rate_hz=None, time_column="ms", time_unit="ms")
    first, second = source.grab(), source.grab()
    assert first is not None
    assert second is not None
    assert second.captured_ns - first.captured_ns == 300_000_000
    assert clock.mono_ns() == second.captured_ns
    assert source.grab() is None
    assert not source.lossless


@pytest.mark.parametrize("cell", ["", "nan", "inf", "err", " "])
def test_a_hole_is_a_gap_or_held_or_refused(tmp_path: Path, cell: str) -> None:
    path = written(tmp_path, f"a,b\n1,1\n2,2\n3,{cell}\n4,4\n5,5\n6,6\n")
    ((grab, window),) = all_windows(opened(path))
    assert (grab.gap, window) == (True, [[4, 4], [5, 5], [6, 6]])
    held = all_windows(opened(path, holes="hold"))
    assert [grab.gap for grab, _ in held] == [False, False]
    assert held[0][1] == [[1, 1], [2, 2], [3, 2]]
    with pytest.raises(SourceError, match="sample 2: a cell holds no number") as caught:
        all_windows(opened(path, holes="refuse"))
    assert caught.value.final


def test_a_line_with_too_few_cells_is_a_hole(tmp_path: Path) -> None:
    path = written(tmp_path, "1,1\n2,2\n3\n4,4\n5,5\n6,6\n")
    assert [(grab.gap, window[0]) for grab, window in all_windows(opened(path))] == [(True, [4, 4])]


@pytest.mark.parametrize("times", ["0,.1,.2,.9,1,1.1", "5,5.1,5.2,0,.1,.2"])
def test_times_that_jump_or_run_back_are_gaps(tmp_path: Path, times: str) -> None:
    path = written(tmp_path, "t,v\n" + "\n".join(f"{t},{n}" for n, t in enumerate(times.split(","))))
    got = all_windows(opened(path, time_column="t", window_samples=2, hop_samples=1))
    assert [(window[0][0], grab.gap) for grab, window in got] == [(0, False), (1, False), (3, True), (4, False)]


def test_a_loop_begins_again_with_a_gap(tmp_path: Path) -> None:
    path = written(tmp_path, "1\n2\n3\n4\n")
    source = opened(path, loop=True)
    got = [(source.grab(), source.retrieve(None)[:, 0].tolist()) for _ in range(3)]
    assert [window for _, window in got] == [[1, 2, 3]] * 3
    assert [grab.gap for grab, _ in got if grab] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "changed", "says"),
    [
        ("", {}, "the file is empty"),
        ("a,b\n1,2\n1,2\n", {}, "shorter than one window"),
        ("a,b\n1,2\n", {"columns": ("c",)}, "no column 'c'"),
        ("1,2\n", {"columns": (2,)}, "from 0 to 1"),
        ("a\n1\n", {"time_column": "a"}, "no columns to read"),
        ("\x00\x01\xff\n" * 9, {}, "shorter than one window"),
        ("1\nx\n2\nx\n3\nx\n", {}, "shorter than one window"),
    ],
)
def test_what_cannot_be_used_is_final(tmp_path: Path, text: str, changed: dict[str, object], says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        all_windows(opened(written(tmp_path, text), **changed))
    assert caught.value.final


def test_a_file_that_is_not_there_is_final(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file") as caught:
        opened(tmp_path / "none.csv")
    assert caught.value.final


@pytest.mark.parametrize("text", ["a,b\nx,y\nx,y\n", "1\n2\n", "1\n2\nx\n3\n4\n"])
def test_a_loop_that_never_has_a_window_ends(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match="shorter than one window"):
        all_windows(opened(written(tmp_path, text), loop=True))


def test_times_must_come_from_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("1\n2\n")
    options = Options(path=str(path), window_samples=1)
    with pytest.raises(SourceError, match="rate_hz or time_column"):
        CsvSource(options, context())
    with pytest.raises(ConfigError, match="window_samples"):
        CsvSource(Options(path=str(path), rate_hz=1.0), context())


@given(data=st.binary(max_size=300), loop=st.booleans(), column=st.sampled_from([None, 0, 1, "a"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_do_more_than_refuse(tmp_path: Path, data: bytes, loop: bool, column: str | int | None) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(data)
    with contextlib.suppress(SourceError):
        source = opened(path, loop=loop, window_samples=2, time_column=column)
        for _ in range(5):
            if source.grab() is None:
                break
            assert np.isfinite(source.retrieve(None)).all()


def test_a_number_too_large_for_a_float32_is_a_hole(tmp_path: Path) -> None:
    path = written(tmp_path, "1\n2\n1e300\n4\n5\n6\n")
    assert [(grab.gap, window) for grab, window in all_windows(opened(path))] == [(True, [[4], [5], [6]])]
