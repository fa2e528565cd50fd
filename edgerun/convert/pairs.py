"""The two sets of a conversion: to calibrate with and to judge by, which share nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgerun.convert.parts import Progress
from edgerun.convert.samples import CLASS_TASKS, SampleSet
from edgerun.convert.sets import Item, Wanted, find_items
from edgerun.convert.subject import Subject
from edgerun.errors import ConfigError

MIN_CALIBRATION = 10
"""Fewest that give usable ranges: EfficientNet-Lite0 loses 0.7 points with 10 pictures and none with 100."""
MIN_EVALUATION = 10
MOST_CALIBRATION, MOST_EVALUATION = 200, 500
_ENOUGH = 0.95
"""As `edgerun run` decodes JPEGs: a reduced picture may be this much of the input (app/joining.py)."""


class Pair(msgspec.Struct, frozen=True):
    """The two sets of a conversion; `notes` say how they came about."""

    calibration: SampleSet
    evaluation: SampleSet
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Close both."""
        self.calibration.close()
        self.evaluation.close()


def open_pair(
    subject: Subject,
    calibrate: Sequence[str],
    evaluate: Sequence[str],
    workdir: Path,
    progress: Progress,
    *,
    seed: int = 0,
    most: tuple[int, int] = (MOST_CALIBRATION, MOST_EVALUATION),
) -> Pair:
    """Calibration and evaluation sets that share nothing; one given set is split in two.

    At most `most` items of each are taken: of pictures a seeded choice, of recordings evenly spread. Raises
    `ConfigError` for sets that are too small, overlap, are of the wrong kind, or show nothing.
    """
    wanted = _wanted(subject)
    first = [item for source in calibrate for item in find_items(source, wanted)]
    second = [item for source in evaluate for item in find_items(source, wanted)]
    names = (" + ".join(calibrate), " + ".join(evaluate))
    notes: list[str] = []
    if not first or not second:
        given, name = first or second, names[0] or names[1]
        if not given:
            raise ConfigError(
                "there is nothing to calibrate and judge with",
                where="--calibrate",
                expected="a folder of pictures, a video, .npz or .csv of what the device will see",
                remedy="record some: edgerun run --source CAMERA --save frames.mp4",
            )
        given = _unique(given, notes)
        first, second = split(given, seed)
        names = (f"{name} (first part)", f"{name} (other part)")
        notes.append(f"{name} was split: {len(first)} items to calibrate with, {len(second)} others to judge by")
    else:
        first, second = _unique(first, notes), _unique(second, notes)
        refuse_overlap(first, second, names)
    _refuse_few(first, MIN_CALIBRATION, "calibration", names[0], notes)
    _refuse_few(second, MIN_EVALUATION, "evaluation", names[1], notes)
    chosen = choose(first, most[0], seed), choose(second, most[1], seed)
    for items, all_items, what in zip(chosen, (first, second), ("calibration", "evaluation"), strict=True):
        if len(items) < len(all_items):
            notes.append(f"{len(items)} of {len(all_items)} items of the {what} set were chosen (seed {seed})")
    calibration = SampleSet(subject, names[0], chosen[0], workdir, progress, "calibration")
    try:
        evaluation = SampleSet(subject, names[1], chosen[1], workdir, progress, "evaluation")
        shared = calibration.keys & evaluation.keys
        if shared:
            calibration.close()
            evaluation.close()
            raise _overlap(names, f"{len(shared)} items that look the same to the model")
    except BaseException:
        calibration.close()
        raise
    return Pair(calibration, evaluation, (*notes, *calibration.notes, *evaluation.notes))


def split(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Two halves that share nothing: recordings parted in the middle, between neighbours; pictures class by class,
    drawn by `seed`.
    """
    halves: tuple[list[Item], list[Item]] = ([], [])
    loose: list[tuple[str, float, Item]] = []
    rng = np.random.default_rng(seed)
    for run in _runs(items):
        if run[0].recording is None:
            order = rng.permutation(len(run))
            loose += [(item.label.name or "", float(rank), item) for rank, item in zip(order, run, strict=True)]
            continue
        halves[0].extend(run[: len(run) // 2])
        halves[1].extend(run[len(run) // 2 :])
    for at, (_, _, item) in enumerate(sorted(loose, key=lambda one: one[:2])):
        halves[at % 2].append(item)
    place = {id(item): at for at, item in enumerate(items)}
    first, second = (sorted(half, key=lambda item: place[id(item)]) for half in halves)
    return first, second


def choose(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """At most `most` of them in their order: of each recording evenly spread, of pictures a draw by `seed`."""
    if len(items) <= most:
        return list(items)
    rng = np.random.default_rng(seed)
    chosen: list[Item] = []
    left, wanted = len(items), most
    for run in _runs(items):
        share = min(len(run), math.ceil(wanted * len(run) / left)) if left else 0
        left, wanted = left - len(run), wanted - share
        if run[0].recording is None:
            picked = sorted(rng.choice(len(run), share, replace=False).tolist())
        else:
            picked = sorted({int(at) for at in np.linspace(0, len(run) - 1, share).round()}) if share else []
        chosen += [run[at] for at in picked]
    return chosen


def refuse_overlap(first: Sequence[Item], second: Sequence[Item], names: tuple[str, str]) -> None:
    """Raises `ConfigError` when an item is in both, or both take frames of the same stretch of a recording."""
    shared = {item.key for item in first} & {item.key for item in second}
    if shared:
        common = [item.origin for item in second if item.key in shared]
        raise _overlap(names, ", ".join(common[:5]) + (f" and {len(common) - 5} more" if len(common) > 5 else ""))
    spans: list[dict[str, tuple[int, int]]] = [{}, {}]
    for items, span in zip((first, second), spans, strict=True):
        for item in items:
            if item.recording is not None:
                name, at = item.recording
                low, high = span.get(name, (at, at))
                span[name] = (min(low, at), max(high, at))
    for name in spans[0].keys() & spans[1].keys():
        (a0, a1), (b0, b1) = spans[0][name], spans[1][name]
        if a0 <= b1 and b0 <= a1:
            raise _overlap(names, f"one recording, {a0} to {a1} of it here and {b0} to {b1} there")


def _overlap(names: tuple[str, str], got: str) -> ConfigError:
    return ConfigError(
        "the evaluation set overlaps the calibration set: it would prove nothing",
        where=f"--calibrate {names[0]} --evaluate {names[1]}",
        expected="sets that share nothing; of one recording, two stretches of it",
        got=got,
        remedy="give only one of the two and it is split, or choose with CLIP[0:400] and CLIP[420:]",
    )


def _unique(items: list[Item], notes: list[str]) -> list[Item]:
    found = list({item.key: item for item in reversed(items)}.values())[::-1]
    if len(found) < len(items):
        notes.append(f"{len(items) - len(found)} items that were there twice count once")
    return found


def _refuse_few(items: Sequence[Item], least: int, what: str, source: str, notes: Sequence[str]) -> None:
    if len(items) < least:
        raise ConfigError(
            f"the {what} set is too small to go by",
            where=source,
            expected=f"at least {least} items, better 100",
            got=", ".join((str(len(items)), *notes)),
            remedy="record more of what the device will see",
        )


def _runs(items: Sequence[Item]) -> list[list[Item]]:
    """Items by the recording they come from, all loose ones together."""
    found: dict[str | None, list[Item]] = {}
    for item in items:
        found.setdefault(item.recording[0] if item.recording else None, []).append(item)
    return list(found.values())


def _wanted(subject: Subject) -> Wanted:
    arrays = {spec.name: (spec.shape, spec.dtype) for spec in subject.inputs}
    folders = subject.bundle.task in CLASS_TASKS
    if subject.kind == "picture":
        width, height = subject.bundle.picture.size or (0, 0)
        enough = (round(_ENOUGH * width), round(_ENOUGH * height))
        return Wanted(enough, arrays=arrays, folders_are_labels=folders)
    signal = subject.bundle.signal
    if signal is None or signal.features is not None or signal.samples is None:
        return Wanted(arrays=arrays, folders_are_labels=folders)
    window = (signal.samples, signal.channels or 1)
    return Wanted(window=window, rate_hz=signal.rate_hz, arrays=arrays, folders_are_labels=folders)
