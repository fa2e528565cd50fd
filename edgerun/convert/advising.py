"""What to try next, in sentences, from what a conversion found out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.convert.parts import Outcome, Quality
from edgerun.convert.search import Found

_ENOUGH_CALIBRATION = 100
_FEW_EVALUATED = 50
_NAMED = 4
_WORTH = 0.95
"""Of the original's time: what saves less is not worth the quality that integers cost."""
_NEARLY = 0.9
"""Kept without integers: more than this a fault of the conversion would not leave."""
_DOUBTFUL = {"accuracy": 0.5, "map50": 0.2}
"""Against labels an original below this is hardly the model that someone meant to ship, or sees something else."""


def advise(outcome: Outcome, found: Found | None, calibrated: int, warnings: Sequence[str] = ()) -> tuple[str, ...]:
    """What held the result back and what to do about it; of one that passed only what its figures rest on."""
    advice = list(warnings)
    if outcome.quality.samples < _FEW_EVALUATED:
        advice.append(
            f"Only {outcome.quality.samples} samples were judged: one of them is worth "
            f"{1 / outcome.quality.samples:.1%}. Give more with --evaluate."
        )
    quality = outcome.quality
    if quality.original < _DOUBTFUL.get(quality.metric, 0.0):
        advice.append(
            f"The original itself reaches a {quality.metric} of only {quality.original:.2f} against the labels: are "
            "--mean, --std, --color, --fit and the order of --labels those it was trained with? See --preview."
        )
    if outcome.passed:
        if found is not None and not found.complete:
            advice.append(
                "The time was over before the search was done: more layers may do in int8 with --time-budget."
            )
        return (*advice, *_no_faster(outcome))
    advice += _what_suffers(outcome.quality)
    if found is None:
        if quality.kept >= _NEARLY:
            advice.append(
                "This is rounding: answers that were undecided fall to the other side. Judge by more samples, so that "
                "a few of them weigh less, or say with --min-quality what the use can bear."
            )
        else:
            advice.append(
                "Not even without 8-bit integers does the converted model agree with the original: check --mean, "
                "--std, --color and --fit, and report the model."
            )
        return tuple(advice)
    if calibrated < _ENOUGH_CALIBRATION:
        advice.append(f"The ranges come from {calibrated} samples: 100 or more from the real place often help.")
    if outcome.precision == "int8" and not found.sensitivity:
        advice.append("Let the most sensitive layers stay in higher precision: --precision mixed.")
    elif not found.complete:
        advice.append("The time was over before the search was done: give more with --time-budget.")
    if found.sensitivity:
        weakest = sorted(found.sensitivity, key=lambda name: found.sensitivity[name])[:_NAMED]
        said = ", ".join(f"{name} ({found.sensitivity[name]:.1f} dB)" for name in weakest)
        advice.append(f"The layers that lose most: {said}.")
    advice.append("Try another way to choose ranges (--calibration percentile, entropy or mse), or --precision fp16.")
    return tuple(advice)


def in_words(quality: Quality) -> str:
    """What is kept, in a sentence."""
    extra = f", {quality.more['extra']:.1%} extra" if "extra" in quality.more else ""
    return f"{quality.metric} {quality.value:.4f} of {quality.original:.4f} ({quality.kept:.2%} kept{extra})."


def _no_faster(outcome: Outcome) -> list[str]:
    """Where integers bought no time on the first device: float16 would have bought the size alone, for less work."""
    if outcome.precision not in ("int8", "mixed") or len(outcome.measured) < 2:
        return []
    first, result = outcome.measured[:2]
    if result.p50_ms < _WORTH * first.p50_ms:
        return []
    return [
        "The result is hardly faster here: too much stays in higher precision, or the model is too small. Calibrate "
        "with more, or take --precision fp16, which keeps more of the quality."
    ]


def _what_suffers(quality: Quality) -> list[str]:
    """The classes that lose most, those that are only added, and how many samples that is."""
    lost = sorted(
        (one for one in quality.classes if one.reference > one.kept), key=lambda one: one.kept - one.reference
    )
    added = sorted((one for one in quality.classes if one.extra), key=lambda one: -one.extra)
    found = []
    if lost:
        said = ", ".join(f"{one.name} (keeps {one.kept} of {one.reference})" for one in lost[:_NAMED])
        found.append(f"The classes that lose most: {said}.")
    if added:
        said = ", ".join(f"{one.name} ({one.extra})" for one in added[:_NAMED])
        found.append(f"Found where the original finds nothing: {said}.")
    return found
