"""The status page's addresses and tokens: taken at the start, long before the page itself, which can wait."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable

from edgerun.clock import Clock
from edgerun.config import Config
from edgerun.config.watching import MetricsConfig
from edgerun.config.web import WebConfig, split_address
from edgerun.security.tokens import Gate, check_bound
from edgerun.web.binding import listen

_log = logging.getLogger(__name__)

_MOST_EARLY = 50

Event = tuple[float, str, str, str | None]
"""Unix seconds, kind, text, stream."""


class Entrance:
    """What `[web]` and, beside it, `[metrics]` listen on. Clients that come early wait in the kernel's queue.

    `check` and `check_metrics`: whether a token is the right one; None where none is asked for. Raises `ConfigError`,
    `DeviceError`.
    """

    def __init__(self, web: WebConfig, metrics: MetricsConfig | None, clock: Clock) -> None:
        self._clock = clock
        self.host, port = split_address(web.listen)
        self.check = _check_of(web)
        self.check_metrics: Callable[[str], bool] | None = None
        self.metrics: socket.socket | None = None
        self.metrics_host = ""
        self.early: list[Event] = []
        """What happened before there was a page."""
        check_bound(self.host, web.token is not None, "web.listen")
        self.web = listen(self.host, port)
        try:
            if metrics is not None and (metrics.listen, metrics.port) != (self.host, port):
                check_bound(metrics.listen, metrics.token is not None, "metrics.listen")
                self.check_metrics, self.metrics_host = _check_of(metrics), metrics.listen
                self.metrics = listen(metrics.listen, metrics.port)
        except BaseException:
            self.web.close()
            raise
        _log.info("status page: %s", self.url)

    @property
    def port(self) -> int:
        """The page's port."""
        return int(self.web.getsockname()[1])

    @property
    def url(self) -> str:
        """The page's address as a browser on this machine takes it."""
        address = ipaddress.ip_address(self.host)
        host = str(address)
        if address.is_unspecified:
            host = "::1" if address.version == 6 else "127.0.0.1"
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def note(self, kind: str, text: str, stream: str | None) -> None:
        """Keep what happened for the page's event log. Used by one thread."""
        if len(self.early) < _MOST_EARLY:
            self.early.append((self._clock.unix_s(), kind, text, stream))

    def close(self) -> None:
        """Give the addresses back. Idempotent."""
        self.web.close()
        if self.metrics is not None:
            self.metrics.close()


def open_entrance(config: Config, clock: Clock) -> Entrance | None:
    """None where there is no `[web]`."""
    return None if config.web is None else Entrance(config.web, config.metrics, clock)


def _check_of(config: WebConfig | MetricsConfig) -> Callable[[str], bool] | None:
    return None if config.token is None else Gate.of(config.token).check
