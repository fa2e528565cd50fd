"""How a new version of a model comes to stay, or goes back: the states, and what leads from one to the next.

    staged → verified → shadow → canary → active → committed
                 any of them → rolled_back

`step` is a pure function of a rollout and of what happened; whoever drives it keeps what it returns on the medium
before acting on it, so that a rollout is taken up where a crash or a power cut left it. What has to be done to store
and pipeline follows from the rollout alone: see `wants_placed`.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from edgerun import decoding
from edgerun.config.rollout import RolloutConfig
from edgerun.errors import ModelError

VERSION = 1
State = Literal["staged", "verified", "shadow", "canary", "active", "committed", "rolled_back"]
ORDER: tuple[State, ...] = ("staged", "verified", "shadow", "canary", "active", "committed")
SERVING: tuple[State, ...] = ("canary", "active", "committed")
"""States in which the new version is the store's active one, or is to be."""
ENDED: tuple[State, ...] = ("committed", "rolled_back")
FEWEST = 20
"""Frames below which neither a share nor a p95 says anything."""
MAX_BYTES = 1 << 20


class Comparison(msgspec.Struct, frozen=True):
    """What two models said of the same frames. `frames` were compared, in `seen` of them at least one model saw
    something; `disagreement` is the mean over those, 0..1. `failures`: frames that the new model could not look at.
    `ms` are p50 and p95 of the inference of each, `before` and `after`; the new one's was in idle time, at the lowest
    priority. `scores` is what `telemetry.distribution.compare` says of the new one's scores against the old one's.
    """

    frames: int = 0
    seen: int = 0
    disagreement: float = 0.0
    failures: int = 0
    before_ms: tuple[float, float] | None = None
    after_ms: tuple[float, float] | None = None
    scores: dict[str, Any] = {}
    age_ratio: float | None = None
    """p99 of the age of live results while the new model looked too, over that of the times when it did not."""

    def told(self) -> dict[str, Any]:
        """As it is published."""
        out: dict[str, Any] = {
            "frames": self.frames,
            "seen": self.seen,
            "disagreement": round(self.disagreement, 4),
            "failures": self.failures,
        }
        for name, pair in (("before_ms", self.before_ms), ("after_ms", self.after_ms)):
            if pair is not None:
                out[name] = {"p50": round(pair[0], 2), "p95": round(pair[1], 2)}
        if self.age_ratio is not None:
            out["age_ratio"] = round(self.age_ratio, 3)
        for key in ("score_psi", "label_psi", "drifted"):
            if key in self.scores:
                out[key] = self.scores[key]
        return out


class Health(msgspec.Struct, frozen=True):
    """How the new version does while it serves: `minutes` and `results` in this state; the rest None where unknown.

    `frames` ended lately, `failures` of them because they failed or came too late; `p95_ms` is of the inference lately,
    `temp_rise_c` of the hottest temperature against when it began to serve.
    """

    minutes: float = 0.0
    results: int = 0
    frames: int = 0
    failures: int = 0
    p95_ms: float | None = None
    temp_rise_c: float | None = None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout on one device, as it is kept. `model` is the store's name, `name` that of the `[models.NAME]` table.

    `share` of the devices are canaries. `placed`: the store has `version` as the active one because of this rollout.
    `passed`: the comparison is over and good; a device that is no canary waits then for a larger share. `starts`: those
    in a row that were begun with the new version and of which nothing good is known. `baseline_ms` is the p95 of the
    inference of the version before, `baseline_failures` its share of failures.
    """

    v: int = VERSION
    id: str
    device: str
    model: str
    name: str
    share: float = 1.0
    source: str | None = None
    sha256: str | None = None
    wanted: str | None = None
    version: str | None = None
    previous: str | None = None
    state: State = "staged"
    reason: str = ""
    since: float = 0.0
    placed: bool = False
    passed: bool = False
    starts: int = 0
    baseline_ms: float | None = None
    baseline_failures: float = 0.0
    comparison: Comparison | None = None
    health: Health = Health()

    @property
    def ended(self) -> bool:
        """Nothing happens any more by itself."""
        return self.state in ENDED

    @property
    def wants_placed(self) -> bool:
        """Whether the new version is to be the store's active one."""
        return self.state in SERVING

    @property
    def is_canary(self) -> bool:
        """Whether this device is one of the share that serves with it."""
        return in_cohort(self.device, self.id, self.share)

    @property
    def waiting(self) -> bool:
        """It is good, and this device is not one of those that are to have it yet."""
        return self.state in ("verified", "shadow") and self.passed


class Verified(msgspec.Struct, frozen=True):
    """The new version is in the store, verified; `previous` is the one that runs."""

    version: str
    previous: str


class Began(msgspec.Struct, frozen=True):
    """The new version's engine is about to be opened for the shadow, or there is none to be."""

    baseline_ms: float | None = None
    baseline_failures: float = 0.0


class Compared(msgspec.Struct, frozen=True):
    """So far in the shadow. `over`: its time is up; `impossible`: why there is nothing to compare, if so."""

    comparison: Comparison = Comparison()
    over: bool = False
    impossible: str = ""


class Placed(msgspec.Struct, frozen=True):
    """The store's active version is the new one (`there`), or no longer."""

    there: bool


class Looked(msgspec.Struct, frozen=True):
    """How it does while it serves."""

    health: Health


class Starting(msgspec.Struct, frozen=True):
    """A process is about to open the new version."""


class Lasted(msgspec.Struct, frozen=True):
    """A start has lasted for long enough (`stable`), or the process ended before that as it should."""

    stable: bool


class Widened(msgspec.Struct, frozen=True):
    """More devices are to be canaries."""

    share: float


class Failed(msgspec.Struct, frozen=True):
    """It is not to be: something could not be done, or somebody wants it back."""

    reason: str


Event = Verified | Began | Compared | Placed | Looked | Starting | Lasted | Widened | Failed


def step(rollout: Rollout, event: Event, rules: RolloutConfig, now: float) -> Rollout:
    """The rollout after `event` at `now` (Unix seconds); unchanged where the event means nothing in its state."""
    match event:
        case Failed(reason):
            return rollout if rollout.state == "rolled_back" else back(rollout, reason, now)
        case Placed(there):
            return msgspec.structs.replace(rollout, placed=there)
        case Lasted(stable):
            return msgspec.structs.replace(rollout, starts=0 if stable else max(0, rollout.starts - 1))
        case Starting():
            return _starting(rollout, rules, now)
        case Widened(share):
            if rollout.ended or share <= rollout.share:
                return rollout
            return _forward(msgspec.structs.replace(rollout, share=share), now)
        case Verified(version, previous) if rollout.state == "staged":
            if rollout.wanted not in (None, version):
                return back(rollout, f"the source holds version {version}, not {rollout.wanted}", now)
            if version == previous:
                return back(rollout, f"version {version} is the one that runs", now)
            return _to(rollout, "verified", now, version=version, previous=previous)
        case Began() if rollout.state == "verified" and not rollout.passed:
            known = {"baseline_ms": event.baseline_ms, "baseline_failures": event.baseline_failures}
            if rules.shadow > 0:
                return _to(rollout, "shadow", now, **known)
            return _forward(msgspec.structs.replace(rollout, passed=True, **known), now)
        case Compared() if rollout.state == "shadow" and not rollout.passed:
            return _compared(rollout, event, rules, now)
        case Looked(health) if rollout.state in ("canary", "active") and rollout.placed:
            return _looked(rollout, health, rules, now)
        case _:
            return rollout


def back(rollout: Rollout, reason: str, now: float) -> Rollout:
    """Rolled back. What is `placed` has still to be taken out of the store."""
    return _to(rollout, "rolled_back", now, reason=reason or "no reason was given", starts=0)


def why_unhealthy(rollout: Rollout, health: Health, rules: RolloutConfig) -> str:
    """What is wrong while the new version serves; empty where nothing is, or too little is known."""
    frames = health.frames
    if frames >= FEWEST:
        rate = health.failures / frames
        limit = max(rules.failure_rate, 1.5 * rollout.baseline_failures)
        if rate > limit:
            return f"{rate:.1%} of {frames} frames failed or came too late; at most {limit:.1%} may"
    if frames - health.failures >= FEWEST and health.p95_ms is not None and rollout.baseline_ms:
        ratio = health.p95_ms / rollout.baseline_ms
        if ratio > rules.latency_ratio:
            return (
                f"slow: the p95 of its inference is {health.p95_ms:.1f} ms, {ratio:.2f} times that of "
                f"{rollout.previous}; at most {rules.latency_ratio:g} times is allowed"
            )
    if health.temp_rise_c is not None and health.temp_rise_c > rules.temp_rise_c:
        return f"the device is {health.temp_rise_c:.1f} °C hotter with it; at most {rules.temp_rise_c:g} are allowed"
    return ""


def why_disagrees(comparison: Comparison, rules: RolloutConfig) -> str:
    """What is wrong with what the new version said in the shadow; empty where nothing is."""
    tried = comparison.frames + comparison.failures
    if tried and comparison.failures / tried > rules.failure_rate:
        return f"{comparison.failures} of {tried} frames failed in the shadow"
    if comparison.seen and comparison.disagreement > rules.disagreement:
        return (
            f"disagreement {comparison.disagreement:.2f} over {comparison.seen} frames in the shadow; "
            f"at most {rules.disagreement:g} is allowed"
        )
    return ""


def in_cohort(device: str, rollout_id: str, share: float) -> bool:
    """Whether the device is one of the share (0..1) that goes first: by a hash of both names, so that every device
    knows by itself, other devices go first in other rollouts, and a larger share has all of a smaller one.
    """
    digest = hashlib.sha256(f"{rollout_id}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def encode(rollout: Rollout) -> bytes:
    """As `decode` reads it."""
    return msgspec.json.format(msgspec.json.encode(rollout), indent=1) + b"\n"


def decode(content: bytes, where: object) -> Rollout:
    """The rollout in `content`. Raises `ModelError` for what edgerun has not written so."""
    try:
        rollout = decoding.decode(content, Rollout)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise ModelError("the file of a rollout is damaged", where=where, got=error) from error
    if rollout.v != VERSION or (rollout.state != "staged" and not rollout.ended and rollout.version is None):
        raise ModelError("the file of a rollout is damaged", where=where, got=f"v {rollout.v}, {rollout.state}")
    return rollout


def _to(rollout: Rollout, state: State, now: float, **changes: Any) -> Rollout:
    reason = changes.pop("reason", "")
    return msgspec.structs.replace(rollout, state=state, since=now, reason=reason, health=Health(), **changes)


def _starting(rollout: Rollout, rules: RolloutConfig, now: float) -> Rollout:
    if rollout.state not in ("shadow", "canary", "active"):
        return rollout
    if rollout.starts >= rules.starts:
        return back(rollout, f"{rollout.starts} starts with it failed", now)
    return msgspec.structs.replace(rollout, starts=rollout.starts + 1)


def _forward(rollout: Rollout, now: float) -> Rollout:
    """On to the canaries, where it is good and this device is one of them."""
    if rollout.state in ("verified", "shadow") and rollout.passed and rollout.is_canary:
        return _to(rollout, "canary", now, starts=0)
    return rollout


def _compared(rollout: Rollout, event: Compared, rules: RolloutConfig, now: float) -> Rollout:
    comparison = event.comparison
    rollout = msgspec.structs.replace(rollout, comparison=comparison)
    enough = comparison.seen >= rules.shadow_frames
    early = comparison.seen + comparison.failures >= max(FEWEST, rules.shadow_frames // 4)
    if (enough or early or event.over) and (wrong := why_disagrees(comparison, rules)):
        return back(rollout, wrong, now)
    if not enough and not event.over and not event.impossible:
        return rollout
    if not enough and not event.impossible and comparison.frames < rules.shadow_frames / 10:
        told = f"only {comparison.frames} frames could be compared in {rules.shadow_minutes:g} minutes"
        return back(rollout, told, now)
    return _forward(msgspec.structs.replace(rollout, passed=True, starts=0, reason=event.impossible), now)


def _looked(rollout: Rollout, health: Health, rules: RolloutConfig, now: float) -> Rollout:
    rollout = msgspec.structs.replace(rollout, health=health)
    if wrong := why_unhealthy(rollout, health, rules):
        return msgspec.structs.replace(back(rollout, wrong, now), health=health)
    if rollout.state == "canary":
        done = health.minutes >= rules.canary_minutes and health.results >= rules.canary_frames
        return _to(rollout, "active", now) if done else rollout
    return _to(rollout, "committed", now) if health.minutes >= rules.watch_minutes else rollout
