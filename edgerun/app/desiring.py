"""The shadow of the config: what `…/config/desired` wishes for is made to run, and `…/config/reported` says what came
of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from edgerun.app.reloading import Done, Outcome
from edgerun.broker.message import Message
from edgerun.config.overlay import Overlay
from edgerun.control.desired import NAME, Desired, digest, read_desired, version_in
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.ports import Broker, Incoming
from edgerun.slot import Slot

_log = logging.getLogger(__name__)

_WAITING = 4  # a sender that is faster than a reload means its last

Reload = Callable[[Overlay | None, Done], None]
"""Has the file's config with this laid over it run."""


class Desiring:
    """Used by the main thread; `birth` by any. `root` is `<prefix>/<device>`.

    The message is retained, so that it comes again with every connection and is applied anew after a restart. One that
    came already is passed over; an older version than the one that runs is refused, and so is the same one with another
    content. An empty message ends it: the file's config runs again.
    """

    def __init__(self, broker: Broker, root: str, reload: Reload) -> None:
        self._broker, self._root, self._reload = broker, root, reload
        self._inbox: Slot[Incoming] = Slot(_WAITING)
        self._running: Desired | None = None
        self._seen = ""
        self._busy = False
        self._reported: bytes | None = None
        broker.subscribe(f"{root}/{NAME}", self._inbox, 1)

    @property
    def overlay(self) -> Overlay | None:
        """What is wished for and runs."""
        return None if self._running is None else self._running.overlay

    def birth(self) -> list[Message]:
        """What every new connection begins with."""
        body = self._reported
        return [] if body is None else [Message(f"{self._root}/config/reported", body, qos=1, retain=True)]

    def tick(self) -> None:
        """Take what came, one after the other."""
        while not self._busy and len(self._inbox):
            incoming = self._inbox.take(0)
            if incoming is not None:
                self._take(incoming.payload)

    def close(self) -> None:
        """Listen no more. Idempotent."""
        self._inbox.close()

    def _take(self, payload: bytes) -> None:
        mark = digest(payload) if payload.strip() else ""
        if mark == self._seen:
            return
        self._seen = mark
        if not mark:
            _log.info("%s: nothing is wished for any more", NAME)
            self._ask(None, b"")
            return
        try:
            wanted = read_desired(payload)
            self._check_version(wanted)
        except ConfigErrors as error:
            self._report(version_in(payload), mark, tuple(map(str, error.errors)))
            return
        self._ask(wanted, payload)

    def _check_version(self, wanted: Desired) -> None:
        running = self._running
        if running is None or wanted.version > running.version or wanted.sha256 == running.sha256:
            return
        same = wanted.version == running.version
        what = "another config of the version that runs" if same else "older than what runs"
        expected = f"a version from {running.version + 1} on"
        error = ConfigError(what, where=f"{NAME}: version", expected=expected, got=wanted.version)
        raise ConfigErrors([error])

    def _ask(self, wanted: Desired | None, payload: bytes) -> None:
        def done(outcome: Outcome) -> None:
            self._busy = False
            if not outcome.errors:
                self._running = wanted
            if wanted is not None:
                self._report(wanted.version, digest(payload), outcome.errors)
            elif not outcome.errors:
                self._publish(b"")
            self.tick()

        self._busy = True
        try:
            self._reload(None if wanted is None else wanted.overlay, done)
        except ConfigError as error:
            done(Outcome(errors=(str(error),)))

    def _report(self, version: int | None, mark: str, errors: tuple[str, ...]) -> None:
        for error in errors:
            _log.warning("refused: %s", error)
        said: dict[str, Any] = {
            "v": 1,
            "version": version,
            "state": "rejected" if errors else "applied",
            "errors": errors,
            "sha256": mark,
        }
        self._publish(msgspec.json.encode(said))

    def _publish(self, body: bytes) -> None:
        self._reported = body or None
        self._broker.publish(f"{self._root}/config/reported", body, qos=1, retain=True)
