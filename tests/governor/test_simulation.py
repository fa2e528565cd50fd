"""What docs/governor.md says of the governor in sealed boxes, on every case of the grid."""

from __future__ import annotations

import importlib.util
import re
import xml.dom.minidom
from importlib.machinery import SourceFileLoader
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from tests.governor.simulation import BOARDS, Case, Governed, Outcome, Result, fixed_rates, results, run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def grid() -> tuple[Result, ...]:
    return results()


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "draw-governor"
    spec = importlib.util.spec_from_loader("draw_governor", SourceFileLoader("draw_governor", str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(one: Result) -> str:
    case = one.case
    return f"{case.board.name} {case.box_k_per_w:g} {case.box_j_per_k:g} {case.ambient.name}"


def test_it_never_reaches_the_hard_trip_and_ages_keep_their_bound(grid: tuple[Result, ...]) -> None:
    for one in grid:
        board = one.case.board
        assert one.governed.highest_c < board.kernel.hard_trip_c - 2.0, name(one)
        assert one.governed.highest_c < board.temp_c[1] + 1.0, name(one)
        assert one.governed.p99_age_ms <= board.age_bound_ms, name(one)


def test_it_infers_nearly_as_much_as_the_best_fixed_rate(grid: tuple[Result, ...]) -> None:
    for one in grid:
        assert one.governed.inferences >= 0.94 * one.best_below_hot, name(one)
        assert one.governed.inferences >= 0.93 * one.best_in_bounds, name(one)


def asks_nothing(one: Result) -> bool:
    """Whether the kernel alone keeps below `hot` and the ages in bound."""
    board = one.case.board
    return one.kernel.highest_c < board.temp_c[1] and one.kernel.p99_age_ms <= board.age_bound_ms


def test_where_nothing_is_hot_nothing_is_taken_away(grid: tuple[Result, ...]) -> None:
    cool = [one for one in grid if asks_nothing(one)]
    assert len(cool) >= 16
    assert len([one for one in cool if one.kernel.highest_c > one.case.board.kernel.acts_c > 90]) == 8
    for one in cool:
        assert one.governed.moves == 0, name(one)
        assert one.governed.inferences == pytest.approx(one.kernel.inferences)


def test_it_does_not_swing(grid: tuple[Result, ...]) -> None:
    """In a place that stays as warm as it is the last two hours see hardly a move; with the sun it goes up and down."""

    def swings(rates: list[float]) -> int:
        late = rates[len(rates) * 2 // 3 :]
        return sum(abs(b - a) > 0.05 * max(a, b) for a, b in pairwise(late))

    for one in grid:
        assert one.governed.moves <= 60, name(one)
        if one.case.ambient.swing_c == 0 and one.case.box_k_per_w == one.case.board.boxes_k_per_w[1]:
            rates = run(one.case, Governed(one.case.board), keep=True).rates
            if one.governed.moves:
                assert swings(rates) <= 6, name(one)
            else:  # nothing is taken away, and what swings is the kernel
                assert rates == run(one.case, None, keep=True).rates, name(one)


def test_the_page_says_where_the_kernel_alone_does_better(grid: tuple[Result, ...], tool: ModuleType) -> None:
    better = [one for one in grid if tool.does_better(one)]
    boards = [one.case.board.name for one in better]
    assert boards == ["pi4"]
    most = max(one.kernel.inferences / one.governed.inferences for one in better)
    assert 1.04 < most < 1.07
    assert tool.table().count("†") == len(better)


def test_all_fixed_rates_at_once_come_to_what_each_alone_does() -> None:
    chosen = [Case(board, board.boxes_k_per_w[2], 150.0, ambient) for board in BOARDS for ambient in (_warm(),)]
    for case, fixed in zip(chosen, fixed_rates(chosen), strict=True):
        for hundredth in (10, 50, 100):
            alone: Outcome = run(case, None, hundredth / 100)
            assert fixed.inferences[hundredth - 1] == pytest.approx(alone.inferences, rel=1e-6)
            assert fixed.highest_c[hundredth - 1] == pytest.approx(alone.highest_c, abs=1e-6)
            assert fixed.p99_age_ms[hundredth - 1] == pytest.approx(alone.p99_age_ms, rel=0.01)


def _warm() -> object:
    from tests.governor.simulation import AMBIENTS

    return AMBIENTS[2]


def test_the_table_in_the_docs_is_what_the_simulation_gives(tool: ModuleType) -> None:
    """Within 2 %: the last digits of exponentials differ between C libraries."""
    page = (ROOT / "docs" / "governor.md").read_text(encoding="utf-8")
    written = page.partition(tool.BEGIN)[2].partition(tool.END)[0].strip()
    number = re.compile(r"\d+(?:\.\d+)?")
    now = tool.table()
    assert number.sub("", written) == number.sub("", now)
    there = [float(n) for n in number.findall(written)]
    assert there == pytest.approx([float(n) for n in number.findall(now)], rel=0.02, abs=1.1)


def test_the_picture_is_the_one_the_tool_draws(tool: ModuleType) -> None:
    picture = (ROOT / "docs" / "pictures" / "governor.svg").read_text(encoding="utf-8")
    xml.dom.minidom.parseString(picture)
    coordinate = re.compile(r"-?\d+(?:\.\d+)?")
    now = tool.draw()
    assert coordinate.sub("", picture) == coordinate.sub("", now)
    there = [float(n) for n in coordinate.findall(picture)]
    assert there == pytest.approx([float(n) for n in coordinate.findall(now)], rel=0.02, abs=3.0)
