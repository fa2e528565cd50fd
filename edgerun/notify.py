"""Telling systemd how the daemon is: the datagrams of sd_notify(3), without a library.

One datagram to the socket named by `$NOTIFY_SOCKET` holds KEY=VALUE lines. Without that variable every call does
nothing: the daemon need not ask whether it was started by systemd. The protocol is stable by systemd's promise
(systemd.io, "Portability and Stability Promise").
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Mapping, MutableMapping

_log = logging.getLogger(__name__)

_TIMEOUT_S = 1.0
_TEXT_BYTES = 1024
"""Of a status; systemd takes 4096 for the whole datagram (src/core/manager.c, NOTIFY_BUFFER_MAX)."""
_PATH_BYTES = 107
"""sockaddr_un holds 108, a path's last being zero (unix(7))."""


class Notifier:
    """Who is told. Driven by one thread. Nothing here raises: a daemon that cannot be heard goes on.

    `watchdog_s` is how long systemd waits from one ping to the next before it takes us for hung; None: no limit.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = _address_of(address) if address is not None else None
        self.watchdog_s = watchdog_s if self._address is not None else None
        self._complained = False
        self._status = ""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None, pid: int | None = None) -> Notifier:
        """As `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID` say; they are taken out, so that no child of ours
        speaks for us. A watchdog that is meant for another process (`pid`: ours) is none.
        """
        environ = os.environ if environ is None else environ
        address, usec, whose = (environ.pop(k, None) for k in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        return cls(address or None, _watchdog_s(usec, whose, os.getpid() if pid is None else pid))

    @property
    def told(self) -> bool:
        """Whether there is anybody to tell."""
        return self._address is not None

    def extend(self, seconds: float, status: str) -> None:
        """Not ready yet, and not hung: the next word comes within `seconds` (EXTEND_TIMEOUT_USEC=, systemd 236)."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}", *self._changed(status))

    def ready(self, status: str = "") -> None:
        """Up, or done with a reload."""
        self._send("READY=1", *self._changed(status))

    def reloading(self, mono_ns: int) -> None:
        """A reload begins, now being `mono_ns` (MONOTONIC_USEC=, which systemd 253 needs); `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={mono_ns // 1000}")

    def stopping(self, status: str = "") -> None:
        """On the way down."""
        self._send("STOPPING=1", *self._changed(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`; nothing is sent while it stays the same."""
        self._send(*self._changed(text))

    def ping(self) -> None:
        """Alive: the watchdog begins to wait anew."""
        self._send("WATCHDOG=1")

    def set_watchdog(self, seconds: float) -> None:
        """From now on a ping is due within `seconds`, the next one counted from now (WATCHDOG_USEC=, systemd 233).

        `watchdog_s` stays what it was at the start. Nothing is sent where systemd keeps no watchdog for us.
        """
        if self.watchdog_s is not None:
            self._send(f"WATCHDOG_USEC={round(seconds * 1e6)}", "WATCHDOG=1")

    def _changed(self, status: str) -> tuple[str, ...]:
        line = _one_line(status)
        if not line or line == self._status:
            return ()
        self._status = line
        return (f"STATUS={line}",)

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        try:  # a socket for each: a few a minute, and nothing to close
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_TIMEOUT_S)
                sock.sendto("\n".join(lines).encode("utf-8"), self._address)
        except OSError as error:
            self._status = ""  # it did not arrive
            if not self._complained:
                self._complained = True
                _log.warning("systemd cannot be told %s: %s", lines[0], error.strerror or error)
        else:
            self._complained = False


def status_line(states: Mapping[str, str], published: int, spell_s: float, connected: bool | None) -> str:
    """What `systemctl status` shows: "2 streams running, 1 stalled; 10.4 results/s; broker connected".

    `states`: each stream's; `published` results in the last `spell_s` seconds; `connected` None: there is no broker.
    """
    counts = Counter(states.values())
    order = sorted(counts, key=lambda state: (state != "running", state))
    parts = [f"{counts[state]} {state}" for state in order]
    if parts:
        parts[0] = parts[0].replace(" ", " stream " if counts[order[0]] == 1 else " streams ", 1)
    line = ", ".join(parts) or "no streams"
    if spell_s > 0:
        line += f"; {published / spell_s:.1f} results/s"
    if connected is not None:
        line += "; broker connected" if connected else "; broker away"
    return line


def _address_of(text: str) -> str | None:
    """A path, or a name in the abstract name space, which is written with @; None, told, for anything else."""
    if len(os.fsencode(text)) > _PATH_BYTES or text[0] not in "/@" or "\0" in text or len(text) < 2:
        _log.warning("$NOTIFY_SOCKET is neither a path nor @name: systemd is told nothing; got %r", text[:120])
        return None
    return "\0" + text[1:] if text.startswith("@") else text


def _watchdog_s(usec: str | None, whose: str | None, pid: int) -> float | None:
    """sd_watchdog_enabled(3): a number of microseconds above 0, for this process or for nobody in particular."""
    if not usec:
        return None
    if not (usec.isascii() and usec.isdecimal() and int(usec)):
        _log.warning("$WATCHDOG_USEC is not a number of microseconds: no watchdog is fed; got %r", usec[:40])
        return None
    return int(usec) / 1e6 if not whose or whose == str(pid) else None


def _one_line(text: str) -> str:
    """Without what would end the line or what systemd refuses (control characters), and not too long."""
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line.encode("utf-8", "replace")[:_TEXT_BYTES].decode("utf-8", "ignore")
