"""Carries a rollout out: asks devices, watches what they retain, keeps the progress, and stops when it is halted."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgerun.broker.message import Message
from edgerun.decoding import decode
from edgerun.errors import BrokerError, ConfigError
from edgerun.fleet import keeping
from edgerun.fleet.line import Came, Line
from edgerun.fleet.plan import Count, Progress, count, step, to_ask
from edgerun.fleet.reading import read
from edgerun.validate import show

_log = logging.getLogger(__name__)

Sign = Callable[[str, str, Mapping[str, Any]], dict[str, Any]]
"""Makes a signed message of (device, verb, arguments)."""
_KINDS = ("status", "info", "models/+")
_EXPIRES_S = 300
"""A command that has not reached its device by then never does."""
_TURN_S = 0.5
_BACK_S, _BACK_AGAIN_S = 60.0, 20.0
"""How long those that are to go back are waited for, and after how long each is asked again."""
_LONGEST_REASON = 300
_MOST_LABELS = 12


def unsigned(_device: str, _verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The message as it is."""
    return dict(arguments)


class Driver:
    """One rollout from where it is to its end. Used by one thread.

    `rate`: commands a second. `take_back`: when it is halted, the devices that have the new version are asked to go
    back. `look` is called after every turn. Commands are answered on each device's own `…/cmd/model/install/result`,
    where its access list lets it publish anyway.
    """

    def __init__(
        self,
        line: Line,
        prefix: str,
        progress: Progress,
        path: Path,
        *,
        rate: float = 50.0,
        again_s: float = 120.0,
        take_back: bool = False,
        sign: Sign = unsigned,
        look: Callable[[Progress, Count], None] = lambda progress, found: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._line, self._prefix, self._path = line, prefix, path
        self._rate, self._again_s, self._take_back = rate, again_s, take_back
        self._sign, self._look, self._clock = sign, look, clock
        self.progress = progress
        self._offline_since: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        """Answers since the last turn."""
        self._back: set[str] = set()
        """Those that have answered whether they go back."""
        self._credit, self._paid = 1.0, time.monotonic()

    def run(self, stop: Callable[[], bool] = lambda: False) -> Progress:
        """Until it is done, halted, or `stop`. Raises `BrokerError` where what is retained cannot be read,
        `DeviceError` where the progress cannot be kept, `ConfigError` before anything is where no device is meant.
        """
        self.fleet = read(self._line, self._prefix, _KINDS, stay=True).fleet
        self._check_labels(self.progress.plan.labels)
        now = self._clock()
        for device in self.fleet.devices.values():
            if device.online is not True:
                self._offline_since[device.id] = now
        self._line.subscribe([f"{self._prefix}/+/cmd/model/install/result"], 1)
        self._keep(self.progress)
        turn_at = 0.0
        while not stop():
            for came in self._line.step(0.1):
                self._take(came)
            if not self._line.connected or time.monotonic() < turn_at:
                continue
            turn_at = time.monotonic() + _TURN_S
            if self._turn():
                break
        if self.progress.state == "halted" and self._take_back:
            self._ask_back(stop)
        return self.progress

    def _check_labels(self, wanted: Mapping[str, str]) -> None:
        if not wanted or self.fleet.chosen(wanted) or self.progress.asked:
            return
        infos = [one.info for one in self.fleet.devices.values() if one.info is not None]
        there = sorted({f"{key}={text}" for info in infos for key, text in info.labels.items()})
        shown = ", ".join(show(one) for one in there[:_MOST_LABELS]) or "no labels at all"
        asked = " ".join(f"{key}={text}" for key, text in wanted.items())
        raise ConfigError("no device has these labels", where="--label", expected=f"of {shown}", got=asked)

    def _turn(self) -> bool:
        """Look at all of them, and ask whose turn it is. True when it is over."""
        now = self._clock()
        if self._refused:
            refused, self._refused = {**self.progress.refused, **self._refused}, {}
            self._keep(msgspec.structs.replace(self.progress, refused=refused))
        found = count(self.progress, self.fleet.devices.values(), self._offline_since, now)
        after = step(self.progress, found, now)
        if after is not self.progress:
            self._keep(after)
        self._look(self.progress, found)
        if self.progress.state != "running":
            return True
        self._credit = min(self._rate, self._credit + self._rate * (time.monotonic() - self._paid))
        self._paid = time.monotonic()
        due = to_ask(self.progress, found, self._again_s, now, int(self._credit))
        if due:
            self._credit -= len(due)
            asked = {**self.progress.asked, **dict.fromkeys(due, now)}
            refused = {name: why for name, why in self.progress.refused.items() if name not in due}
            self._keep(msgspec.structs.replace(self.progress, asked=asked, refused=refused))
            for name in due:
                self._command(name, "model/install", self._arguments())
        return False

    def _arguments(self) -> dict[str, Any]:
        """As `model/install` takes them; each device knows by its own hash whether it is in `share`."""
        plan = self.progress.plan
        known = {"source": plan.source, "sha256": plan.sha256}
        told = {"name": plan.model, "version": plan.version, "rollout": plan.id, "share": self.progress.share}
        return told | {key: value for key, value in known.items() if value is not None}

    def _ask_back(self, stop: Callable[[], bool]) -> None:
        """The version before is to come back where the new one is, is tried, or is on its way. Until all of these have
        gone back, or said why not; those that do neither are told.
        """
        self._line.subscribe([f"{self._prefix}/+/cmd/model/rollback/result"], 1)
        plan, until = self.progress.plan, time.monotonic() + _BACK_S
        arguments = {"name": plan.model, "reason": f"rollout {plan.id} was halted"}
        asked: dict[str, float] = {}
        while (left := self._left()) and time.monotonic() < until and not stop():
            now = time.monotonic()
            for name, knows in left.items():
                if knows and self._line.connected and now - asked.get(name, -_BACK_AGAIN_S) >= _BACK_AGAIN_S:
                    asked[name] = now
                    self._command(name, "model/rollback", arguments)
            for came in self._line.step(0.1):
                self._take(came)
        if left:
            names = ", ".join(sorted(left)[:_MOST_LABELS])
            _log.warning("%d devices have not said that they went back: %s", len(left), names)

    def _left(self) -> dict[str, bool]:
        """Devices that have not gone back yet, and whether each knows of the rollout by now."""
        plan, out = self.progress.plan, dict[str, bool]()
        for device in self.fleet.devices.values():
            model = device.models.get(plan.model)
            rollout = model.rollout if model is not None else None
            knows = rollout is not None and rollout.id == plan.id
            refused = device.id in self.progress.refused or device.id in self._refused
            if device.online is not True or device.id in self._back or (refused and not knows):
                continue
            if rollout is not None and knows and rollout.state == "rolled_back":
                continue
            installed = model is not None and model.installed_version == plan.version
            if knows or (device.id in self.progress.asked and not installed):
                out[device.id] = knows
        return out

    def _command(self, device: str, verb: str, arguments: Mapping[str, Any]) -> None:
        body = self._sign(device, verb, arguments)
        body["id"] = f"{self.progress.plan.id}/{secrets.token_hex(4)}"
        topic = f"{self._prefix}/{device}/cmd/{verb}"
        try:
            self._line.publish(Message(topic, msgspec.json.encode(body), 1, expires_s=_EXPIRES_S))
        except BrokerError:  # it is asked again
            return

    def _take(self, came: Came) -> None:
        if came.topic.endswith(("/cmd/model/install/result", "/cmd/model/rollback/result")):
            self._answer(came)
            return
        device = self.fleet.take(came.topic, came.payload)
        if device is None:
            return
        if device.online is False:
            self._offline_since.setdefault(device.id, self._clock())
        elif device.online:
            self._offline_since.pop(device.id, None)

    def _answer(self, came: Came) -> None:
        """One that says no is known by it; what one that says yes does, it tells under `models/`."""
        device = came.topic.removeprefix(self._prefix + "/").partition("/")[0]
        try:
            told = decode(came.payload, dict[str, Any])
        except (ValueError, RecursionError):
            return
        ours = str(told.get("id", "")).startswith(self.progress.plan.id + "/")
        if came.topic.endswith("/rollback/result"):
            self._back |= {device} if ours else set()
        elif ours and device in self.progress.asked and told.get("ok") is False:
            why = str(told.get("error", "no reason given"))[:_LONGEST_REASON]
            self._refused[device] = why

    def _keep(self, progress: Progress) -> None:
        self.progress = progress
        keeping.keep(self._path, progress)
