"""A small HTTP face for those who scrape and probe: `/metrics`, `/healthz`, `/readyz`, and nothing else.

One request a connection (HTTP/1.0), a bounded number of threads, and a deadline for each connection as a whole: a
client that sends or reads slowly is cut off, one too many is told to come again. Loopback needs no token; any other
address does.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from edgerun.errors import ConfigError, DeviceError, EdgerunError
from edgerun.security.tokens import Gate

_log = logging.getLogger(__name__)

MOST_AT_ONCE = 8
DEADLINE_S = 10.0
_POLL_S = 0.2
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Status, content type and body of one path; called by the thread that answers."""


def health_page(is_well: Callable[[], str | None]) -> Page:
    """200 and "ok", or 503 and the reason that `is_well` gives."""

    def page() -> tuple[HTTPStatus, str, bytes]:
        reason = is_well()
        status = HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "text/plain; charset=utf-8", f"{reason or 'ok'}\n".encode()

    return page


def metrics_page(exposition: Callable[[], bytes], content_type: str) -> Page:
    """Whatever `exposition` gives."""
    return lambda: (HTTPStatus.OK, content_type, exposition())


class MetricsServer:
    """Serves `pages` by path on `host`:`port` (0: any free one) with threads of its own, until `close`.

    Raises `ConfigError` for an address beyond loopback without a `token` (sent as `Authorization: Bearer …`; here
    it, or its hash) and for one that could be guessed, and `DeviceError` when it cannot be bound.
    """

    def __init__(
        self,
        pages: dict[str, Page],
        *,
        host: str = "127.0.0.1",
        port: int = 9464,
        token: str | None = None,
        most_at_once: int = MOST_AT_ONCE,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        address = _address(host)
        if not address.is_loopback and not token:
            raise ConfigError(
                "metrics are only served to this machine unless there is a token",
                where="listen",
                expected="a loopback address, or a token",
                got=host,
                remedy="give a token, or use 127.0.0.1",
            )
        gate = None if token is None else Gate(token, "metrics.token")
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        try:
            self._server = _Server(family, (host, port), pages, gate, most_at_once, deadline_s)
        except OSError as error:
            raise DeviceError(
                "metrics cannot be served there",
                where=f"{host}:{port}",
                got=error.strerror or error,
                remedy="choose another port, or end what uses this one",
            ) from error
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Take no more requests and cut off those under way. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _run(self) -> None:
        try:
            self._server.serve_forever(_POLL_S)
        except BaseException:  # noqa: BLE001  a thread's body: metrics end, what they are about goes on
            _log.exception("metrics are no longer served")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[str, int],
        pages: dict[str, Page],
        gate: Gate | None,
        most_at_once: int,
        deadline_s: float,
    ) -> None:
        self.address_family = family
        self.pages, self.gate = pages, gate
        self._free = threading.BoundedSemaphore(most_at_once)
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without `HTTPServer`'s look into the DNS for a name that nobody reads."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            request.setblocking(False)
            try:
                request.send(_BUSY)
            except OSError:
                _log.debug("a client that had to wait has gone")
            self.shutdown_request(request)
            return
        request.settimeout(self._deadline_s)
        with self._lock:
            self._open[request] = time.monotonic() + self._deadline_s
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._done(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._done(request)

    def service_actions(self) -> None:
        """Several times a second: cut off whoever has taken too long."""
        now_s = time.monotonic()
        self._cut(lambda deadline_s: deadline_s <= now_s)

    def server_close(self) -> None:
        super().server_close()
        self._cut(lambda deadline_s: True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing that a client does is worth more."""
        _log.debug("a client of the metrics was not served", exc_info=True)

    def _done(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)
        self._free.release()

    def _cut(self, is_due: Callable[[float], bool]) -> None:
        with self._lock:
            for request, deadline_s in self._open.items():
                if is_due(deadline_s):
                    try:
                        request.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        _log.debug("a slow client has gone by itself")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.0"
    server_version = "edgerun"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    _HEAD: ClassVar[tuple[str, ...]] = ("GET", "HEAD")

    def do_GET(self) -> None:
        """Answer one of the pages."""
        page = self.server.pages.get(self.path.partition("?")[0])
        if not self._may_ask():
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND, "there is " + ", ".join(sorted(self.server.pages)))
            return
        try:
            status, content_type, body = page()
        except EdgerunError as error:
            status, content_type, body = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                self.error_content_type,
                f"{error}\n".encode(),
            )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""
        _log.debug("metrics: %s", format % args)

    def _may_ask(self) -> bool:
        if self.server.gate is not None:
            return self.server.gate.check_bearer(self.headers.get("Authorization"))
        # A page of somebody else's, open in a browser here, must not read this through a name that leads to loopback.
        host = self.headers.get("Host")
        return host is None or _is_loopback_name(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(
            "metrics are served on an address", where="listen", expected="an IP address", got=repr(host)
        ) from None


def _is_loopback_name(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
