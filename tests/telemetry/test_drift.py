"""Drift is told when a model sees something else than it used to, and not before."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.errors import ModelError
from edgerun.telemetry.distribution import MOST_LABELS, SCORE_BINS, Reference, Tally, chance_psi, psi
from edgerun.telemetry.drift import DriftLane, DriftWatch, Learnt, observations, parse_reference
from edgerun.types import Answer, Classification, Detection, Publication
from tests.publish.samples import MODEL, publication
from tests.schemas import validate
from tests.telemetry.test_payload import sent, telemetry_of

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=20)


def found(label: str, score: float) -> Detection:
    return Detection(label, 0, score, (0.1, 0.1, 0.2, 0.2))


def day(watch: DriftWatch, rng: random.Random, mean: float, cars: float, seconds: int, start: int = 0) -> None:
    """A result a second: one object each."""
    for i in range(start, start + seconds):
        label = "car" if rng.random() < cars else "person"
        score = min(1.0, max(0.0, rng.gauss(mean, 0.1)))
        watch.publish(publication(i, Answer(detections=(found(label, score),)), interval_ns=1_000_000_000))


def usual(rng: random.Random) -> Reference:
    tally = Tally()
    for _ in range(20_000):
        tally.add("car" if rng.random() < 0.3 else "person", min(1.0, max(0.0, rng.gauss(0.7, 0.1))))
    return tally.reference()


def lane(reference: Reference | None = None) -> DriftLane:
    return DriftLane("dock", "dock", MODEL.name, reference=reference)


def told(watch: DriftWatch) -> dict[str, Any]:
    report = watch.report("dock")
    assert report is not None
    stream = dict.fromkeys(("grabbed", "published", "skipped", "superseded", "expired", "gated", "limited"), 0)
    validate("telemetry", sent(telemetry_of({"dock": {**stream, "failed": 0, "in_flight": 0, "drift": report}})))
    return report


@given(counts)
def test_psi_of_the_same_is_nothing(bins: list[int]) -> None:
    assert psi(bins, bins) == 0


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=20))
def test_psi_is_symmetric_and_not_negative(bins: list[tuple[int, int]]) -> None:
    a, e = [a for a, _ in bins], [e for _, e in bins]
    assert psi(a, e) == pytest.approx(psi(e, a))
    assert psi(a, e) >= -1e-12
    assert math.isfinite(psi(a, e))


def test_a_textbook_psi() -> None:
    actual, expected = [30_000, 40_000, 30_000], [20_000, 50_000, 30_000]
    by_hand = 0.1 * math.log(1.5) - 0.1 * math.log(0.8)
    assert psi(actual, expected) == pytest.approx(by_hand, rel=1e-3)


def test_chance_is_beyond_what_chance_does_in_a_hundred_draws() -> None:
    rng = random.Random(5)
    shares = [0.05, 0.1, 0.3, 0.3, 0.2, 0.05]
    for _ in range(100):
        draws = [rng.choices(range(6), shares, k=n) for n in (300, 900)]
        a, e = ([draw.count(i) for i in range(6)] for draw in draws)
        assert psi(a, e) < chance_psi(300, 900, 6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1)), min_size=1, max_size=100), st.integers(0, 100))
def test_tallies_merge(seen: list[tuple[str, float]], cut: int) -> None:
    whole, first, rest = Tally(), Tally(), Tally()
    for i, (label, score) in enumerate(seen):
        whole.add(label, score)
        (first if i < cut else rest).add(label, score)
    merged = first.merged(rest)
    assert (merged.count, merged.scores) == (whole.count, whole.scores)
    for label, moments in whole.moments().items():
        assert merged.moments()[label] == pytest.approx(moments, abs=1e-6)
    assert sum(share for share, _, _ in merged.moments().values()) == pytest.approx(1)


def test_labels_are_bounded() -> None:
    tally = Tally()
    for i in range(5000):
        tally.add(f"label-{i}", 0.5)
    assert len(tally.labels) == MOST_LABELS + 1
    assert tally.count == 5000


def test_the_same_day_again_is_no_drift_and_a_worse_one_is() -> None:
    for seed in range(5):
        rng = random.Random(seed)
        reference = usual(rng)
        same, blurred, traffic = (DriftWatch([lane(reference)]) for _ in range(3))
        day(same, rng, 0.7, 0.3, 1500)
        day(blurred, rng, 0.5, 0.3, 1500)
        day(traffic, rng, 0.7, 0.95, 1500)
        assert told(same)["drifted"] is False
        assert told(blurred)["drifted"] is True
        assert told(blurred)["score_psi"] > 0.25 > told(blurred)["label_psi"]
        assert told(blurred)["labels"]["person"]["shift"] == pytest.approx(-2, abs=0.3)
        assert told(traffic)["drifted"] is True
        assert told(traffic)["label_psi"] > 0.25 > told(traffic)["score_psi"]
        assert told(traffic)["reference"] == "bundle"


def test_without_a_reference_the_beginning_of_the_run_is_one_and_says_so() -> None:
    rng = random.Random(1)
    watch = DriftWatch([lane()], learn_h=0.5)
    assert told(watch) == {"reference": "learning", "observations": 0}
    day(watch, rng, 0.7, 0.3, 1000)
    assert told(watch) == {"reference": "learning", "observations": 1000}
    assert watch.references() == {}
    day(watch, rng, 0.7, 0.3, 1500, start=1000)
    assert told(watch)["reference"] == "run"
    assert told(watch)["drifted"] is False
    day(watch, rng, 0.3, 0.3, 4000, start=2500)
    assert told(watch)["drifted"] is True
    learnt = watch.references()["dock"]
    assert parse_reference(msgspec.to_builtins(learnt), "manifest.json") == learnt


def again(watch: DriftWatch, subject: str = "a") -> DriftWatch:
    """A later run: what is kept goes through JSON."""
    kept = {name: msgspec.json.decode(msgspec.json.encode(one), type=Learnt) for name, one in watch.learnt().items()}
    one = DriftLane("dock", "dock", MODEL.name, subject=subject, learnt=kept.get("dock"))
    return DriftWatch([one], learn_h=0.5)


def test_what_was_learnt_survives_a_restart() -> None:
    rng = random.Random(4)
    watch = again(DriftWatch([]))
    assert watch.learnt() == {}
    for _ in range(3):  # none of them lasts long enough by itself
        day(watch, rng, 0.7, 0.3, 700)
        watch = again(watch)
    assert told(watch) == {"reference": "run", "observations": 0}
    assert watch.learnt()["dock"].counted is None
    day(watch, rng, 0.7, 0.3, 1000)
    assert told(watch)["drifted"] is False
    blurred = again(watch)
    day(blurred, rng, 0.3, 0.3, 1000)
    assert told(blurred)["drifted"] is True
    assert told(again(watch, subject="b")) == {"reference": "learning", "observations": 0}


def test_what_a_bundle_says_is_not_kept() -> None:
    rng = random.Random(4)
    watch = DriftWatch([lane(usual(rng))])
    day(watch, rng, 0.7, 0.3, 700)
    assert watch.learnt() == {}


def test_too_little_is_not_compared_and_an_hour_ago_is_forgotten() -> None:
    rng = random.Random(2)
    watch = DriftWatch([lane(usual(rng))])
    day(watch, rng, 0.2, 0.9, 99)
    assert told(watch) == {"reference": "bundle", "observations": 99}
    day(watch, rng, 0.7, 0.3, 1000, start=10_000)
    assert told(watch)["observations"] == 1000
    assert told(watch)["drifted"] is False


def test_a_live_source_is_looked_at_once_a_second_and_a_folder_always() -> None:
    live, folder = DriftWatch([lane()]), DriftWatch([lane()])
    for i in range(100):
        live.publish(publication(i, interval_ns=100_000_000))
        folder.publish(publication(i, interval_ns=100_000_000, max_age_ns=0))
    assert told(live)["observations"] == 2 * 10
    assert told(folder)["observations"] == 2 * 100


def test_results_of_others_are_not_counted() -> None:
    watch = DriftWatch([lane()])
    watch.publish(publication(stream="gate"))
    plate = publication()
    crop = msgspec.structs.replace(plate.result, crop=found("car", 0.9))
    watch.publish(Publication(crop, plate.id, plate.age_ms))
    reused = msgspec.structs.replace(plate.result, reused="still")
    watch.publish(Publication(reused, plate.id, plate.age_ms))
    assert told(watch)["observations"] == 0
    assert watch.report("gate") is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(detections=(found("a", 0.3), found("b", 0.9))), [("a", 0.3), ("b", 0.9)]),
        (Answer(detections=()), []),
        (Answer(classes=(Classification("cat", 1, 0.2), Classification("dog", 2, 0.7))), [("dog", 0.7)]),
        (Answer(value=3.5), [("value", 3.5)]),
        (Answer(value=math.nan), []),
        (Answer(embedding=(0.1, 0.2)), []),
    ],
)
def test_what_is_observed(answer: Answer, expected: list[tuple[str, float]]) -> None:
    assert list(observations(answer)) == expected


GOOD = {
    "observations": 100,
    "labels": {"a": {"share": 1.0, "mean": 0.5, "std": 0.1}},
    "scores": [0.0] * (SCORE_BINS - 1) + [1.0],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"observations": 0},
        {"observations": "many"},
        {"labels": {}},
        {"labels": {"a": {"share": 0.2, "mean": 0.5, "std": 0.1}}},
        {"labels": {"a": {"share": 1.2, "mean": 0.5, "std": 0.1}}},
        {"labels": {"a": {"share": 1.0, "mean": 0.5, "std": -1}}},
        {"scores": [1.0]},
        {"scores": [0.5] * SCORE_BINS},
    ],
)
def test_a_reference_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    assert parse_reference(GOOD, "here").observations == 100
    with pytest.raises(ModelError, match="reference"):
        parse_reference(GOOD | wrong, "manifest.json")
