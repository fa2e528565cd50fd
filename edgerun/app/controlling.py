"""Who may change a run, by which way, and what is put on record of it: broker, control socket, rules, audit log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from edgerun import __version__
from edgerun.app.auditing import Auditing, audit_folder
from edgerun.app.commanding import Commanding
from edgerun.app.opening import LoadedModel
from edgerun.broker.message import Message
from edgerun.clock import Clock
from edgerun.config import Config, SecurityConfig
from edgerun.config.security import VERBS
from edgerun.control.desk import Act, Command, Desk, Done, Rules
from edgerun.control.local import LocalControl, default_path
from edgerun.control.probes import PROBES
from edgerun.control.signed import Nonces, Signatures
from edgerun.errors import DeviceError
from edgerun.pipeline.notice import Asked, NoticeBoard, ThreadDied
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Broker
from edgerun.security.keys import parse_public

_log = logging.getLogger(__name__)


def socket_path(security: SecurityConfig) -> Path | None:
    """Where the control socket is: what the config says, else where the service manager has it."""
    return security.socket if security.socket is not None else default_path()


class RuleBook:
    """Makes rules of what `[security]` says of commands. All of them remember the same nonces."""

    def __init__(self, device: str, clock: Clock) -> None:
        self._device, self._clock = device, clock
        self._nonces: Nonces | None = None

    def rules(self, security: SecurityConfig) -> Rules:
        """Raises `MissingError` where there are keys and nothing to check them with."""
        signatures = None
        if security.command_keys:
            keys = [parse_public(line) for line in security.command_keys]
            if self._nonces is None:
                self._nonces = Nonces(audit_folder(self._device) / "nonces.json", self._clock)
            signatures = Signatures(self._device, keys, self._nonces, self._clock)
        return Rules(frozenset(security.commands), signatures, security.signed_commands)


class Controlling:
    """Everything that may change a run from outside. Driven by the main thread.

    `more` are verbs besides `Commanding`'s own. Raises `DeviceError` where the control socket of the config cannot be
    made, `MissingError`.
    """

    def __init__(
        self,
        config: Config,
        models: Mapping[str, LoadedModel],
        broker: Broker | None,
        pipeline: Pipeline,
        notices: NoticeBoard,
        clock: Clock,
        run_id: str,
        more: Mapping[str, Act] | None = None,
    ) -> None:
        self._config, self._models, self._notices, self._run_id = config, models, notices, run_id
        self._clock, self._secured = clock, config.security
        device, security = config.device.id, config.security
        root = f"{config.mqtt.prefix}/{device}" if config.mqtt is not None else device
        path = socket_path(security)
        self.audit: Auditing | None = None
        if security.audit and (broker is not None or path is not None):
            self.audit = Auditing(audit_folder(device), clock, broker, root)
        self._book = RuleBook(device, clock)
        self._rules = rules = self._book.rules(security)

        def make_desk(verbs: Mapping[str, Act]) -> Desk:
            return Desk(verbs, rules=rules, clock=clock, on_done=self._done)

        self.commanding = Commanding(broker, root, pipeline, notices, make_desk, more)
        assert self.commanding.verbs <= frozenset(VERBS), "a config may name every command"
        self._local = None if path is None else self._open_socket(path, clock, wanted=security.socket is not None)
        self._begun = self._closed = False

    @property
    def open_verbs(self) -> frozenset[str]:
        """What Home Assistant may ask for: it signs nothing."""
        rules = self._rules
        return frozenset(verb for verb in self.commanding.verbs if rules.allows(verb) and not rules.require_signed)

    def check(self, config: Config) -> None:
        """Raises what would keep `config` from being renewed to. Called by any thread."""
        if config.security != self._secured:
            RuleBook(config.device.id, self._clock).rules(config.security)

    def renew(self, config: Config) -> None:
        """From now on commands are taken as `config`, which was checked, has it."""
        if config.security != self._secured:
            self._rules, self._secured = self._book.rules(config.security), config.security
            self.commanding.desk.renew(self._rules)

    def _open_socket(self, path: Path, clock: Clock, *, wanted: bool) -> LocalControl | None:
        """One that the config does not ask for, and that cannot be made, is told and done without."""
        died = partial(self._died, "control-socket")
        try:
            return LocalControl(path, self.commanding.desk, self._hand_over, clock, on_death=died)
        except DeviceError as error:
            if wanted:
                raise
            _log.warning("%s", error)
            return None

    def start(self) -> None:
        """Put the start on record and take commands from now on."""
        self._begun = True
        if self.audit is not None:
            self.audit.started(self._config, self._models, self._run_id, __version__)
        self.commanding.start()
        if self._local is not None:
            self._local.start()

    def close(self) -> None:
        """Take no more commands, and put the end on record. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.commanding.close()
        if self._local is not None:
            self._local.close()
        if self.audit is not None and self._begun:
            self.audit.stopped(self._run_id)

    def reloaded(self, config: Config, text: str, *, ok: bool) -> None:
        """Put on record that the config which runs was changed, or was not. Called by any thread."""
        before, self._config = self._config, config
        if self.audit is not None:
            self.audit.reloaded(before, config, text, ok=ok)

    def birth(self) -> list[Message]:
        """What every new connection begins with: the head of the audit log."""
        head = self.audit.head() if self.audit is not None else None
        return [] if self.audit is None or head is None else [Message(self.audit.topic, head, qos=1, retain=True)]

    def _hand_over(self, command: Command) -> None:
        """Called by the thread "control-socket", of whose peers each has one command at a time on its way."""
        self._notices.put(Asked(partial(self.commanding.desk.do, command)))

    def _died(self, thread: str, error: BaseException) -> None:
        self._notices.put(ThreadDied(thread, error))

    def _done(self, done: Done) -> None:
        if self.audit is not None and (done.verb not in PROBES or done.not_told):
            self.audit.done(done)
