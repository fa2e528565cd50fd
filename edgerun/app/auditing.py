"""The audit log of a run: what was changed, put on record, and the head of the chain published."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgerun.app.opening import LoadedModel
from edgerun.clock import Clock
from edgerun.config import Config, dump
from edgerun.control.audit import AuditLog, Value
from edgerun.control.desk import Done
from edgerun.errors import DeviceError
from edgerun.ports import Broker
from edgerun.spool.options import spool_folder, state_folder

_log = logging.getLogger(__name__)


def audit_folder(device: str) -> Path:
    """`<state>/audit/<device>`."""
    return state_folder() / "audit" / spool_folder(device).name


def config_hash(config: Config) -> str:
    """SHA-256 of what `config` says, in hexadecimal. Passwords count by where they are kept."""
    return hashlib.sha256(msgspec.json.encode(dump(config), enc_hook=repr, order="sorted")).hexdigest()


class Auditing:
    """Puts changes on record. Thread-safe. A log that cannot be written is told loudly, and the run goes on.

    `broker`: where the head is published, retained, as `{"v": 1, "seq", "hash"}` on `<root>/audit/head`.
    """

    def __init__(self, folder: Path, clock: Clock, broker: Broker | None, root: str) -> None:
        self._folder, self._broker, self._topic = folder, broker, f"{root}/audit/head"
        self._complained = False
        self._log: AuditLog | None = None
        try:
            self._log = AuditLog(folder, clock)
        except DeviceError as error:
            self._complain(error)

    @property
    def topic(self) -> str:
        """Where the head is published."""
        return self._topic

    @property
    def works(self) -> bool:
        """Whether the last record was written."""
        return self._log is not None and not self._complained

    def head(self) -> bytes | None:
        """What is published of the log; None of an empty one."""
        if self._log is None or not self._log.head.seq:
            return None
        return msgspec.json.encode({"v": 1, "seq": self._log.head.seq, "hash": self._log.head.hash})

    def record(
        self, what: str, *, who: str, via: str, ok: bool = True, more: Mapping[str, Value] | None = None
    ) -> None:
        """One change. `more`: further members, among them `before` and `after`, hashes of what was changed."""
        if self._log is None:
            return
        try:
            self._log.append(what, who=who, via=via, ok=ok, more=more)
        except DeviceError as error:
            self._complain(error)
            return
        self._complained = False
        head = self.head()
        if self._broker is not None and head is not None:
            self._broker.publish(self._topic, head, qos=1, retain=True)

    def done(self, done: Done) -> None:
        """A command that was done or refused."""
        more: dict[str, Value] = {"error": done.error} if done.error else {}
        if done.not_told:
            more["refused_before"] = done.not_told
        more["verb"] = done.verb
        self.record("command", who=done.origin.who, via=done.origin.via, ok=not done.error, more=more)

    def started(self, config: Config, models: Mapping[str, LoadedModel], run: str, version: str) -> None:
        """The run began: with which version, config and models."""
        more: dict[str, Value] = {"run": run, "version": version, "config": config_hash(config)}
        more |= {
            f"model.{name}": f"{model.bundle.name} {model.bundle.version} {model.bundle.sha256}"
            for name, model in models.items()
        }
        self.record("start", who="edgerun", via="start", more=more)

    def reloaded(self, before: Config, after: Config, text: str, *, ok: bool) -> None:
        """The config that runs was exchanged, whoever asked for it; or was refused."""
        more: dict[str, Value] = {"before": config_hash(before), "after": config_hash(after), "changed": text}
        self.record("reload", who="edgerun", via="reload", ok=ok, more=more)

    def stopped(self, run: str) -> None:
        """The run ended as it should; a crash leaves no such record."""
        self.record("stop", who="edgerun", via="stop", more={"run": run})

    def _complain(self, error: DeviceError) -> None:
        if not self._complained:
            _log.error("%s", error)
        self._complained = True
