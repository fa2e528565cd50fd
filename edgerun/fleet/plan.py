"""How a rollout over many devices goes on: in stages, each a share of them, until one is halted by what came of it.

Pure: a `Progress`, what is known of the devices, and the time give the next `Progress` and who is to be asked. Which
devices are in a share is `models.rollout.in_cohort`'s to say, here as on each of them. Each device tries the new
version by itself (shadow, canary) and goes back by itself; all that is decided here is whether more may begin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from edgerun.errors import ConfigError
from edgerun.fleet.fleet import Device
from edgerun.models.rollout import in_cohort

VERSION = 1
State = Literal["running", "halted", "done"]
Standing = Literal["offline", "unasked", "asked", "trying", "good", "rolled_back", "refused", "lost"]
_GOOD = ("active", "committed")
_FAILED: tuple[Standing, ...] = ("rolled_back", "refused", "lost")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is rolled out and how. `model` is the name of the `[models.NAME]` table on the devices.

    `stages` are shares of the devices with `labels`, growing, 0..1. It is halted when more than `limit` of those that
    have ended failed (went back, refused, or were lost), judged from `fewest` ended devices on, and at once when so
    many failed that it must come to that. A stage is over when the share `enough` of its devices has ended and it is
    `soak_s` old; one that is not over after `stage_s` halts the rollout. A device that goes offline while it tries is
    lost after `lost_s`.
    """

    id: str
    model: str
    version: str
    source: str | None = None
    sha256: str | None = None
    stages: tuple[float, ...] = (0.01, 0.1, 1.0)
    labels: dict[str, str] = {}
    limit: float = 0.05
    fewest: int = 20
    enough: float = 0.9
    soak_s: float = 0.0
    stage_s: float = 86400.0
    lost_s: float = 300.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is, as it is kept. `asked`: when each device was asked last (Unix seconds); `refused`: why it does
    not; `since`: when the stage `at` began.
    """

    v: int = VERSION
    plan: Plan
    state: State = "running"
    reason: str = ""
    at: int = 0
    since: float = 0.0
    asked: dict[str, float] = {}
    refused: dict[str, str] = {}

    @property
    def share(self) -> float:
        """Of the stage that it is in."""
        return self.plan.stages[self.at]


class Count(msgspec.Struct, frozen=True):
    """The devices of one stage. `standings` has those in its share, `reasons` why some went back or refused."""

    standings: Mapping[str, Standing]
    reasons: Mapping[str, int]

    def of(self, *standings: Standing) -> int:
        """How many stand so."""
        return sum(one in standings for one in self.standings.values())

    @property
    def failed(self) -> int:
        """Those that went back, refused, or were lost."""
        return self.of(*_FAILED)

    @property
    def ended(self) -> int:
        """Those of which is known what came of it."""
        return self.of("good") + self.failed

    @property
    def reached(self) -> int:
        """All but those that are offline and were never asked."""
        return len(self.standings) - self.of("offline")

    def told(self) -> dict[str, int]:
        """By standing, as JSON tells it."""
        return dict(Counter(self.standings.values()).most_common())


def parse_stages(text: str) -> tuple[float, ...]:
    """`1%,10%,100%`, or shares such as `0.01,0.1,1`. Raises `ConfigError` unless they grow and end within 0..1."""
    shares = []
    for word in text.split(","):
        number, percent = word.strip().removesuffix("%"), word.strip().endswith("%")
        try:
            shares.append(float(number) / (100 if percent else 1))
        except ValueError:
            raise ConfigError("not a share", where="--stages", expected="such as 1%,10%,100%", got=repr(word)) from None
    growing = all(a < b for a, b in zip([0.0, *shares], shares, strict=False))
    if not growing or shares[-1] > 1.0:  # a NaN does not grow
        raise ConfigError("stages have to grow, up to 100%", where="--stages", expected="1%,10%,100%", got=text)
    return tuple(shares)


def count(progress: Progress, devices: Iterable[Device], offline_since: Mapping[str, float], now: float) -> Count:
    """Where each device in the share of this stage stands. `offline_since` has Unix seconds."""
    plan = progress.plan
    standings: dict[str, Standing] = {}
    reasons: Counter[str] = Counter()
    for device in devices:
        if not _may(device, plan) or not in_cohort(device.id, plan.id, progress.share):
            continue
        standing, reason = _standing(device, progress, offline_since, now)
        standings[device.id] = standing
        if reason:
            reasons[reason] += 1
    return Count(standings, dict(reasons.most_common(10)))


def step(progress: Progress, found: Count, now: float) -> Progress:
    """The progress after a look at `found`: the same, the next stage, halted, or done."""
    if progress.state != "running":
        return progress
    plan = progress.plan
    if why := why_halt(progress, found, now):
        return msgspec.structs.replace(progress, state="halted", reason=why)
    pending = found.reached - found.ended
    over = pending <= (1 - plan.enough) * found.reached and not found.of("unasked")
    if not over or (found.reached and now - progress.since < plan.soak_s):
        return progress
    if progress.at + 1 < len(plan.stages):
        return msgspec.structs.replace(progress, at=progress.at + 1, since=now)
    if not found.reached:
        return msgspec.structs.replace(progress, state="halted", reason="no device is online that runs such a model")
    return msgspec.structs.replace(progress, state="done")


def why_halt(progress: Progress, found: Count, now: float) -> str:
    """Why no further device may begin; empty where nothing speaks against it."""
    plan = progress.plan
    failed, ended = found.failed, found.ended
    many = ended >= plan.fewest and failed > plan.limit * ended
    if many or failed > plan.limit * found.reached:
        parts = [f"{found.of(one)} {word}" for one, word in zip(_FAILED, ("went back", "refused", "lost"), strict=True)]
        named = ", ".join(part for part in parts if not part.startswith("0 "))
        of = f"{ended} that ended" if many else f"{found.reached} in this stage"
        first = next(iter(found.reasons), "")
        return f"{failed} of {of} failed ({named}); at most {plan.limit:.1%} may" + (
            f". Mostly: {first}" if first else ""
        )
    if now - progress.since > plan.stage_s:
        return f"only {ended} of {found.reached} devices have ended after {plan.stage_s:g} s"
    return ""


def to_ask(progress: Progress, found: Count, again_s: float, now: float, most: int) -> list[str]:
    """At most `most` devices that are to be asked now: those that never were, and those that were `again_s` ago and
    have given no sign.
    """
    if progress.state != "running":
        return []
    due = [
        name
        for name, standing in found.standings.items()
        if standing == "unasked" or (standing == "asked" and now - progress.asked.get(name, 0.0) >= again_s)
    ]
    return due[:most]


def _may(device: Device, plan: Plan) -> bool:
    """Whether it is one of those that are meant: it has the labels and runs such a model."""
    return device.info is not None and plan.model in device.info.models and device.has_labels(plan.labels)


def _standing(
    device: Device, progress: Progress, offline_since: Mapping[str, float], now: float
) -> tuple[Standing, str]:
    plan = progress.plan
    model = device.models.get(plan.model)
    rollout = model.rollout if model is not None and model.rollout is not None else None
    asked = device.id in progress.asked
    if rollout is not None and rollout.id == plan.id and rollout.state == "rolled_back":
        return "rolled_back", rollout.reason
    trying = rollout is not None and rollout.id == plan.id
    if trying and rollout is not None and rollout.state in _GOOD:
        return "good", ""
    if not trying and model is not None and model.installed_version == plan.version:
        return "good", ""
    if device.online is not True:
        since = offline_since.get(device.id)
        if not asked:
            return "offline", ""
        gone = since is not None and now - since > plan.lost_s
        return ("lost", "went offline while it tried") if gone else ("trying" if trying else "asked", "")
    if trying and rollout is not None and not rollout.waiting:  # who waits has heard of a smaller share only
        return "trying", ""
    if device.id in progress.refused:
        return "refused", progress.refused[device.id]
    return ("asked" if asked else "unasked"), ""
