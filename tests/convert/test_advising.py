"""What is said to people whose conversion missed the gate, or passed on thin ice."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgerun.convert.advising import advise
from edgerun.convert.parts import ClassQuality, Measured, Network, Outcome, Quality
from edgerun.convert.search import Found

PLAIN = Outcome(
    source="net.onnx",
    name="net",
    task="classify",
    format="onnx",
    precision="fp16",
    passed=False,
    gate="accuracy: at least 99.0% of the original's",
    original=Network(Path("net.onnx"), "onnx"),
    quality=Quality("accuracy", 0.9, 1.0, 0.9, 100),
    quality_naive=None,
    measured=(),
    layers=(),
    steps=(),
    repeat={},
)


def said(kept: float, **changes: object) -> str:
    quality = Quality("accuracy", kept, 1.0, kept, 100)
    return " ".join(advise(msgspec.structs.replace(PLAIN, quality=quality, **changes), None, 100))


def test_rounding_and_faults_are_told_apart_where_there_are_no_integers() -> None:
    assert "This is rounding" in said(0.97)
    assert "--min-quality" in said(0.97)
    assert "check --mean" not in said(0.97)
    assert "check --mean" in said(0.4)
    assert said(1.0, passed=True) == ""


def test_a_result_that_is_no_faster_is_told() -> None:
    before, after = (Measured(name, "a board", 1, ms, ms, 9) for name, ms in (("original", 10.0), ("result", 9.7)))
    assert "hardly faster here" in said(1.0, passed=True, precision="mixed", measured=(before, after))
    assert "--precision fp16" in said(1.0, passed=True, precision="mixed", measured=(before, after))
    fast = msgspec.structs.replace(after, p50_ms=5.0)
    assert said(1.0, passed=True, precision="mixed", measured=(before, fast)) == ""
    assert said(1.0, passed=True, precision="fp16", measured=(before, after)) == ""


def test_a_search_that_was_cut_short_is_told_even_where_the_gate_was_met() -> None:
    quality = Quality("accuracy", 1.0, 1.0, 1.0, 100)
    cut = Found(b"", frozenset({"conv"}), quality, True, quality, {"conv": 20.0}, (), 1.0, False)
    outcome = msgspec.structs.replace(PLAIN, quality=quality, passed=True, precision="mixed")
    assert "--time-budget" in " ".join(advise(outcome, cut, 100))
    assert advise(outcome, msgspec.structs.replace(cut, complete=True), 100) == ()


def test_the_classes_that_lose_are_named_in_the_order_of_their_loss() -> None:
    classes = tuple(ClassQuality(f"c{at}", 10, 10 - at, 0) for at in range(8))
    quality = Quality("accuracy", 0.5, 1.0, 0.5, 100, {}, classes)
    text = " ".join(advise(msgspec.structs.replace(PLAIN, quality=quality), None, 100))
    assert "c7 (keeps 3 of 10), c6 (keeps 4 of 10), c5 (keeps 5 of 10), c4 (keeps 6 of 10)." in text
