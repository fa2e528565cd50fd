"""What is told of rollouts: in the log, as events, with the models' versions, and on record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.app.auditing import Auditing
from edgerun.app.opening import LoadedModel
from edgerun.config import Config, RolloutConfig
from edgerun.models.rollout import Rollout
from edgerun.models.versions import order

if TYPE_CHECKING:  # for runs with a broker
    from edgerun.publish.homeassistant import ModelTopics

_log = logging.getLogger(__name__)


class RolloutTelling:
    """Used by the main thread, but for `audit_store`. `audit` gives the audit log, where there is one."""

    def __init__(
        self,
        config: Callable[[], Config],
        models: Mapping[str, LoadedModel],
        note: Callable[[str, str], None],
        audit: Callable[[], Auditing | None],
        versions: ModelTopics | None,
    ) -> None:
        self._config, self._models, self._note, self._audit, self._versions = config, models, note, audit, versions

    def say(self, rollout: Rollout) -> None:
        """Log, publish and put on record which state it is in."""
        text = _sentence(rollout)
        bad = rollout.state == "rolled_back"
        _log.log(logging.WARNING if bad else logging.INFO, "%s", text)
        self._note(f"rollout_{rollout.state}", text)
        auditing = self._audit()
        if auditing is not None:
            more = {"model": rollout.model, "rollout": rollout.id, "version": rollout.version or rollout.wanted}
            more |= {"previous": rollout.previous, "reason": rollout.reason or None, "source": rollout.source}
            known = {key: value for key, value in more.items() if value is not None}
            auditing.record(f"rollout_{rollout.state}", who="edgerun", via="rollout", ok=not bad, more=known)
        self.tell(rollout)

    def tell(self, rollout: Rollout) -> None:
        """Publish what is known of it with the model's versions."""
        versions = self._versions
        known = None if versions is None else versions.versions(rollout.name)
        if versions is None or known is None:
            return
        running = self._models[rollout.name].bundle.version
        changed = msgspec.structs.replace(
            known,
            installed=running,
            latest=running if rollout.state == "rolled_back" or rollout.version is None else rollout.version,
            in_progress=rollout.state in ("staged", "verified", "shadow", "canary") and not rollout.waiting,
            percentage=_percentage(rollout, self._config().rollout),
            summary=_sentence(rollout),
            rollout={"id": rollout.id, **told(rollout)},
        )
        versions.tell(rollout.name, changed)

    def offer(self, name: str, version: str) -> None:
        """The store has this version of a model, of which no rollout says otherwise."""
        versions = self._versions
        known = None if versions is None else versions.versions(name)
        if versions is not None and known is not None:
            running = self._models[name].bundle.version
            latest = max(version, running, key=order)
            versions.tell(name, msgspec.structs.replace(known, installed=running, latest=latest))

    def audit_store(self, what: str, details: Mapping[str, Any]) -> None:
        """Told by the store, on the thread that changes it."""
        auditing = self._audit()
        if auditing is not None:
            known = {key: value for key, value in details.items() if value is not None}
            auditing.record(f"model_{what}", who="edgerun", via="rollout", more=known)


def told(rollout: Rollout) -> dict[str, Any]:
    """A rollout as it is published."""
    out: dict[str, Any] = {"state": rollout.state, "model": rollout.model, "share": rollout.share}
    for key in ("version", "previous", "reason"):
        if getattr(rollout, key):
            out[key] = getattr(rollout, key)
    if rollout.waiting:
        out["waiting"] = True
    if rollout.comparison is not None:
        out["comparison"] = rollout.comparison.told()
    if rollout.state in ("canary", "active"):
        health = rollout.health
        out["health"] = {
            key: round(value, 3) for key, value in msgspec.structs.asdict(health).items() if value is not None
        }
    return out


def _sentence(rollout: Rollout) -> str:
    version = rollout.version or rollout.wanted or "of a new version"
    state = "waits for a larger share" if rollout.waiting else rollout.state.replace("_", " ")
    text = f"model {rollout.name} {version}: {state}"
    if rollout.state == "rolled_back" and rollout.previous is not None:
        text += f", {rollout.previous} serves"
    if rollout.reason:
        text += f": {rollout.reason}"
    elif (found := rollout.comparison) is not None and found.frames and rollout.state in ("shadow", "canary"):
        text += f": disagreement {found.disagreement:.2f} over {found.seen} of {found.frames} frames"
    return text


def _percentage(rollout: Rollout, rules: RolloutConfig) -> int:
    if rollout.state == "shadow":
        seen = rollout.comparison.seen if rollout.comparison is not None else 0
        return 10 + round(40 * min(1.0, seen / rules.shadow_frames))
    if rollout.state == "canary":
        shares = [rollout.health.minutes / rules.canary_minutes if rules.canary_minutes else 1.0]
        shares.append(rollout.health.results / rules.canary_frames if rules.canary_frames else 1.0)
        return 50 + round(50 * min(1.0, *shares))
    return {"staged": 0, "verified": 10}.get(rollout.state, 100)
