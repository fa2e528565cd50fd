"""What is retained of every device, and what follows from it. Anybody may publish anything: nothing is trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edgerun.decoding import decode

_LONGEST_BYTES = 1 << 20
_LONGEST_ID = 64
_MOST_NAMES = 200
"""Streams and models of one device that are kept."""
_ALARMING = ("stalled", "degraded")
KINDS = ("status", "info", "state/+", "models/+")
"""Topics below a device that are read, all of them retained."""


class Versions(msgspec.Struct, frozen=True):
    """As `info` tells them."""

    edgerun: str = ""


class Installed(msgspec.Struct, frozen=True):
    """A model as `info` names it."""

    name: str = ""
    version: str = ""


class Info(msgspec.Struct, frozen=True):
    """What is used of `…/info`."""

    versions: Versions = Versions()
    board: str = ""
    models: dict[str, Installed] = {}
    streams: dict[str, Any] = {}
    labels: dict[str, str] = {}
    security: dict[str, Any] = {}


class Stage(msgspec.Struct, frozen=True):
    """What is used of the rollout that `…/models/<name>` tells."""

    id: str = ""
    state: str = ""
    version: str = ""
    reason: str = ""
    waiting: bool = False


class Model(msgspec.Struct, frozen=True):
    """What is used of `…/models/<name>`."""

    installed_version: str = ""
    latest_version: str = ""
    rollout: Stage | None = None


class Stream(msgspec.Struct, frozen=True):
    """What is used of `…/state/<stream>`."""

    state: str = ""
    reason: str = ""


class Device(msgspec.Struct):
    """One device, as far as it has told: `online` is None where it never did."""

    id: str
    online: bool | None = None
    info: Info | None = None
    streams: dict[str, Stream] = {}
    models: dict[str, Model] = {}

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        """Whether it carries all of `labels`."""
        own = self.info.labels if self.info is not None else {}
        return all(own.get(name) == text for name, text in labels.items())

    def missing(self) -> list[str]:
        """Topics below it that it should retain by what its `info` says, and that have not come."""
        if self.info is None:
            return ["info", *(["status"] if self.online is None else [])]
        out = ["status"] if self.online is None else []
        out += [f"state/{name}" for name in self.info.streams if name not in self.streams]
        return out + [f"models/{name}" for name in self.info.models if name not in self.models]

    def alarms(self) -> list[str]:
        """What somebody should look at, a sentence each."""
        if self.online is not True:
            return ["offline" if self.online is False else "its status was never told"]
        out = [
            f"{name} {stream.state}" + (f": {stream.reason}" if stream.reason else "")
            for name, stream in sorted(self.streams.items())
            if stream.state in _ALARMING
        ]
        for name, model in sorted(self.models.items()):
            rollout = model.rollout
            if rollout is not None and rollout.state == "rolled_back":
                out.append(f"{name} {rollout.version or 'of a new version'} rolled back: {rollout.reason}")
        if self.info is not None and self.info.security.get("insecure") is True:
            out.append("the broker's certificate is not verified")
        return out

    def told(self) -> dict[str, Any]:
        """As JSON tells it; what is not known is left out."""
        out: dict[str, Any] = {} if self.online is None else {"status": "online" if self.online else "offline"}
        if self.info is not None:
            info = self.info
            known = {"labels": info.labels, "edgerun": info.versions.edgerun, "board": info.board}
            out |= {key: value for key, value in known.items() if value}
            out["models"] = {name: _told_model(one, self.models.get(name)) for name, one in sorted(info.models.items())}
        out["streams"] = {
            name: {"state": one.state, **({"reason": one.reason} if one.reason else {})}
            for name, one in sorted(self.streams.items())
        }
        return out | {"alarms": self.alarms()}


class Fleet:
    """Everything collected below `prefix`. `take` raises nothing, whatever it is given; what is not what the schemas of
    docs/schema say is counted in `refused`.
    """

    def __init__(self, prefix: str = "edgerun") -> None:
        self._root = prefix + "/"
        self.devices: dict[str, Device] = {}
        self.refused = 0

    def take(self, topic: str, payload: bytes) -> Device | None:
        """One message; the device that is known better now."""
        name, _, rest = topic.removeprefix(self._root).partition("/")
        kind, _, part = rest.partition("/")
        device = None
        if topic.startswith(self._root) and name and len(name) <= _LONGEST_ID and name.isprintable():
            device = self.devices.get(name) or Device(name)
        if device is None or len(payload) > _LONGEST_BYTES or not _take(device, kind, part, payload):
            self.refused += 1
            return None
        self.devices[name] = device
        return device

    def chosen(self, labels: Mapping[str, str]) -> list[Device]:
        """Those that carry all of `labels`, by name."""
        return [one for _, one in sorted(self.devices.items()) if one.has_labels(labels)]


def summary(devices: Iterable[Device]) -> dict[str, Any]:
    """Counts: of devices, by version of edgerun, of models by name and version, of rollouts by id and state."""
    found = list(devices)
    edgerun, models, rollouts = Counter[str](), dict[str, Counter[str]](), dict[str, Counter[str]]()
    for device in found:
        if device.info is not None:
            edgerun[device.info.versions.edgerun] += 1
            for name, installed in device.info.models.items():
                told = device.models.get(name)
                version = told.installed_version if told is not None else installed.version
                models.setdefault(name, Counter())[version] += 1
        for model in device.models.values():
            if model.rollout is not None and model.rollout.id:
                rollouts.setdefault(model.rollout.id, Counter())[model.rollout.state] += 1
    return {
        "devices": len(found),
        "online": sum(one.online is True for one in found),
        "offline": sum(one.online is False for one in found),
        "alarmed": sum(bool(one.alarms()) for one in found),
        "edgerun": dict(edgerun.most_common()),
        "models": {name: dict(counts.most_common()) for name, counts in sorted(models.items())},
        "rollouts": {name: dict(counts.most_common()) for name, counts in sorted(rollouts.items())},
    }


def _take(device: Device, kind: str, part: str, payload: bytes) -> bool:
    if kind == "status" and not part:
        if payload not in (b"online", b"offline"):
            return False
        device.online = payload == b"online"
        return True
    kept: dict[str, Any] = device.streams if kind == "state" else device.models
    if kind in ("state", "models") and part and not payload:  # it is gone
        kept.pop(part, None)
        return True
    try:
        if kind == "info" and not part:
            device.info = decode(payload, Info)
        elif kind in ("state", "models") and part and (part in kept or len(kept) < _MOST_NAMES):
            kept[part] = decode(payload, Stream) if kind == "state" else decode(payload, Model)
        else:
            return False
    except (ValueError, RecursionError):  # msgspec's are ValueErrors
        return False
    return True


def _told_model(installed: Installed, told: Model | None) -> dict[str, Any]:
    out: dict[str, Any] = {"model": installed.name, "version": installed.version}
    if told is not None:
        out["version"] = told.installed_version or installed.version
        if told.latest_version and told.latest_version != out["version"]:
            out["latest"] = told.latest_version
        if told.rollout is not None:
            out["rollout"] = {key: value for key, value in msgspec.structs.asdict(told.rollout).items() if value}
    return out
