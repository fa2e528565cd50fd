"""Loud once, not with every message: the counters tell the rest."""

from __future__ import annotations

import logging

from edgerun.broker.ending import Cause, Ending
from edgerun.errors import BrokerError

_log = logging.getLogger("edgerun.broker")

_AGAIN_NS = 600 * 10**9
_KEYS_MAX = 1000


class Complaints:
    """What has been logged already. Used by the thread "mqtt" only."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._last, self._last_ns = "", 0

    def once(self, key: str, error: BrokerError) -> None:
        """Log `error`, the first time that `key` comes up in this process."""
        if key not in self._keys and len(self._keys) < _KEYS_MAX:
            self._keys.add(key)
            _log.error("%s", error)

    def ended(self, ending: Ending, delay_s: float, now_ns: int) -> None:
        """Log why a link ended, once per reason and then every ten minutes."""
        text = str(ending.error).rstrip(".")
        if self._last == text and now_ns - self._last_ns < _AGAIN_NS:
            _log.debug("%s. Next attempt in %.1f s", text, delay_s)
            return
        self._last, self._last_ns = text, now_ns
        level = logging.ERROR if ending.cause in (Cause.TAKEN, Cause.REFUSED, Cause.FAULT) else logging.WARNING
        _log.log(level, "%s. Next attempt in %.1f s", text, delay_s)

    def connected(self) -> None:
        """All is well: the next end is news again."""
        self._last = ""
