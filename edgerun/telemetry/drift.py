"""Whether a model still sees what it used to: labels and scores of the last hour against a reference.

The reference is the bundle's; without one, the first day of looking (and at least 500 observations) becomes it, which
may be that of several runs, and the report says so. Frames of a live source resemble one another, so one result a
second is looked at, and ten observations count as one: somebody stays in the picture for about so long.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgerun.decoding import convert
from edgerun.errors import ModelError
from edgerun.telemetry.distribution import Counts, Reference, Tally, compare
from edgerun.types import Answer, Publication

_LOOK_NS = 1_000_000_000
_PER_NEWS = 10.0
_FEWEST = 100
"""Observations before anything is compared."""
_FEWEST_LEARNT = 500
_HOUR_NS = 3_600_000_000_000


class Learnt(msgspec.Struct, frozen=True):
    """What is usual of one account as far as it was learnt, to be kept across restarts: the reference, or what was
    counted on the way to it in `watched_s`. `subject` says of what: it is of no use to another one.
    """

    subject: str
    watched_s: Annotated[float, Meta(ge=0)] = 0.0
    reference: Reference | None = None
    counted: Counts | None = None


class DriftLane(msgspec.Struct, frozen=True):
    """One account whose results are watched: those of `model` (the bundle's name) on `stream`, or on its crops.

    `subject` names the model, the source and what else decides what is usual; `learnt` is from earlier runs.
    """

    account: str
    stream: str
    model: str
    crops: bool = False
    reference: Reference | None = None
    subject: str = ""
    learnt: Learnt | None = None


def parse_reference(raw: Mapping[str, Any], where: object) -> Reference:
    """A manifest's `reference`, checked. Raises `ModelError`."""
    try:
        reference = convert(raw, Reference)
    except msgspec.ValidationError as error:
        raise ModelError(
            "the reference to compare results with is not valid",
            where=where,
            expected="observations, labels with share, mean and std, and the shares of 10 bins of scores",
            got=error,
            remedy="make the bundle anew, or leave `reference` out of its manifest",
        ) from error
    shares = sum(one.share for one in reference.labels.values()), sum(reference.scores)
    if any(abs(total - 1.0) > 0.01 for total in shares):
        raise ModelError(
            "the reference's shares do not add up",
            where=where,
            expected="1 for the labels and 1 for the scores",
            got=" and ".join(f"{total:.3f}" for total in shares),
        )
    return reference


class DriftWatch:
    """A sink that tallies results; `report` and `references` may be called by any thread.

    `learn_h`: how long a run without a bundle's reference watches before that is the reference. `window_h`: the time
    that is compared with it; half of it is forgotten at once.
    """

    wants_picture = False
    broken = False

    def __init__(self, lanes: Sequence[DriftLane], *, learn_h: float = 24.0, window_h: float = 1.0) -> None:
        self._learn_ns, self._half_ns = round(learn_h * _HOUR_NS), round(window_h * _HOUR_NS / 2)
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, str, bool], _Lane] = {}
        self._accounts: dict[str, _Lane] = {}
        self.renew(lanes)

    def renew(self, lanes: Sequence[DriftLane], anew: Collection[str] = ()) -> None:
        """Watch these from now on. What was watched before goes on, but for the accounts of `anew`."""
        known: dict[tuple[str, str, bool], _Lane] = {}
        accounts: dict[str, _Lane] = {}
        for lane in lanes:
            key = (lane.stream, lane.model, lane.crops)
            before = None if lane.account in anew else self._lanes.get(key)
            known[key] = accounts[lane.account] = before or _Lane(lane, self._learn_ns, self._half_ns)
        with self._lock:
            self._lanes, self._accounts = known, accounts

    def publish(self, publication: Publication) -> None:
        """Tally one result, or not: of a live source one a second."""
        result = publication.result
        lane = self._lanes.get((result.stamp.stream, result.model.name, result.crop is not None))
        if lane is None or result.reused is not None:
            return
        at_ns = result.stamp.captured_ns
        if result.max_age_ns and result.crop is None and at_ns - lane.looked_ns < _LOOK_NS:
            return
        with self._lock:
            lane.looked_ns = at_ns
            lane.take(result.answer, at_ns)

    def report(self, account: str) -> dict[str, Any] | None:
        """The `drift` of a stream in telemetry; None for one that is not watched."""
        lane = self._accounts.get(account)
        if lane is None:
            return None
        with self._lock:
            return lane.report()

    def references(self) -> dict[str, Reference]:
        """The references that were learnt from this run, by account."""
        with self._lock:
            return {name: lane.learnt for name, lane in self._accounts.items() if lane.learnt is not None}

    def learnt(self) -> dict[str, Learnt]:
        """What there is to keep, by account."""
        with self._lock:
            told = {name: lane.keep() for name, lane in self._accounts.items()}
        return {name: one for name, one in told.items() if one is not None}

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way here."""

    def close(self) -> None:
        """Nothing is held."""


class _Lane:
    def __init__(self, lane: DriftLane, learn_ns: int, half_ns: int) -> None:
        before = lane.learnt if lane.learnt is not None and lane.learnt.subject == lane.subject else Learnt("")
        self.looked_ns = -_LOOK_NS
        self.learnt = before.reference
        self._given, self._subject = lane.reference, lane.subject
        self._learn_ns, self._half_ns = learn_ns, half_ns
        self._began_ns: int | None = None
        self._last_ns = 0
        self._watched_ns = round(before.watched_s * 1e9)
        """In earlier runs."""
        self._half_began_ns = 0
        self._learning = Tally() if before.counted is None else Tally.of(before.counted)
        self._before, self._now = Tally(), Tally()

    def take(self, answer: Answer, at_ns: int) -> None:
        if self._began_ns is None:
            self._began_ns = self._half_began_ns = at_ns
        self._last_ns = at_ns
        if at_ns - self._half_began_ns >= self._half_ns:
            stale = at_ns - self._half_began_ns >= 2 * self._half_ns
            self._before, self._now, self._half_began_ns = Tally() if stale else self._now, Tally(), at_ns
        into = [self._now]
        if self._given is None and self.learnt is None:
            into.append(self._learning)
        for label, score in observations(answer):
            for tally in into:
                tally.add(label, score)
        if len(into) > 1 and self._watched() >= self._learn_ns and self._learning.count >= _FEWEST_LEARNT:
            self.learnt = self._learning.reference()
            self._learning = Tally()

    def keep(self) -> Learnt | None:
        if self._given is not None or not (self.learnt or self._learning.count):
            return None
        if self.learnt is not None:
            return Learnt(self._subject, reference=self.learnt)
        return Learnt(self._subject, round(self._watched() / 1e9, 1), counted=self._learning.counts())

    def _watched(self) -> int:
        return self._watched_ns + (0 if self._began_ns is None else self._last_ns - self._began_ns)

    def report(self) -> dict[str, Any]:
        reference = self._given or self.learnt
        if reference is None:
            return {"reference": "learning", "observations": self._learning.count}
        now = self._before.merged(self._now)
        out: dict[str, Any] = {
            "reference": "bundle" if self._given is not None else "run",
            "observations": now.count,
        }
        return out if now.count < _FEWEST else out | compare(now, reference, per_news=_PER_NEWS)


def observations(answer: Answer) -> Iterator[tuple[str, float]]:
    """Label and score of every detection, or of the surest class, or `value` with the one number that a model gives."""
    found = answer.detections
    if found is None and answer.classes:
        found_class = max(answer.classes, key=lambda one: one.score)
        yield found_class.label, found_class.score
    elif found is None and answer.value is not None and math.isfinite(answer.value):
        yield "value", answer.value
    for one in found or ():
        yield one.label, one.score
