"""A small HTTP/1.1 client (RFC 9112) for endless bodies: every wait ends with the stream or at its time-out."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from edgerun.capture.auth import authorization
from edgerun.capture.url import mask_url
from edgerun.clock import Clock
from edgerun.errors import SourceError

_RECEIVE_BYTES = 65536
# What may pile up unread in the kernel (Linux doubles it): a few frames, so that a slow reader meets its camera's
# flow control instead of seconds of old pictures.
_RECEIVE_BUFFER = 131072
_LONGEST_HEAD = 65536
_LONGEST_CHUNK_LINE = 1024
_MOST_REDIRECTS = 5
_WAIT_STEP_S = 0.2
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class Stopped(SourceError):
    """The stream ended while the source was waiting."""


class Patience:
    """How long to wait and for whom: the stream's `stop`, its clock, and the URL to name in errors (masked)."""

    def __init__(self, clock: Clock, stop: threading.Event, where: str) -> None:
        self.where = where
        self._clock = clock
        self._stop = stop

    def deadline_ns(self, seconds: float) -> int:
        return self._clock.mono_ns() + round(seconds * 1e9)

    def left_s(self, deadline_ns: int, what: str) -> float:
        """How long to sleep at most before asking again; raises `Stopped`, or `SourceError` past the deadline."""
        if self._stop.is_set():
            raise Stopped("the stream was stopped", where=self.where)
        left_s = (deadline_ns - self._clock.mono_ns()) / 1e9
        if left_s <= 0:
            raise SourceError(f"timed out {what}", where=self.where, remedy="is it reachable from this device?")
        return min(left_s, _WAIT_STEP_S)

    def ready(self, sock: socket.socket, event: int, deadline_ns: int, what: str) -> None:
        """Wait until `sock` can be read (POLLIN) or written (POLLOUT)."""
        poll = select.poll()
        poll.register(sock, event)
        while not poll.poll(self.left_s(deadline_ns, what) * 1000):
            pass


class Connection:
    """One TCP connection, with TLS where the scheme says so. Owns its socket."""

    def __init__(
        self, url: SplitResult, patience: Patience, timeout_s: float, tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._patience = patience
        deadline_ns = patience.deadline_ns(timeout_s)
        host = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self.socket = _connect(host, port, patience, deadline_ns)
        if url.scheme == "https":
            try:
                self.socket = tls().wrap_socket(self.socket, server_hostname=host, do_handshake_on_connect=False)
                self._retry(self.socket.do_handshake, deadline_ns, "during the TLS handshake")
            except BaseException:
                self.close()
                raise

    def send(self, data: bytes, deadline_ns: int) -> None:
        while data:
            sent = self._retry(lambda: self.socket.send(data), deadline_ns, "sending the request", select.POLLOUT)
            data = data[int(sent) :]

    def receive(self, deadline_ns: int) -> bytes:
        """What has arrived, at least one byte; b"" when the other side has closed."""
        return self._retry(lambda: self.socket.recv(_RECEIVE_BYTES), deadline_ns, "waiting for data")

    def close(self) -> None:
        self.socket.close()

    def _retry(self, call, deadline_ns: int, what: str, event: int = select.POLLIN):  # type: ignore[no-untyped-def]
        """`call` until it neither wants to read nor to write; a lost connection is a `SourceError`."""
        while True:
            try:
                return call()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
                if isinstance(wants, ssl.SSLWantReadError):
                    event = select.POLLIN
                elif isinstance(wants, ssl.SSLWantWriteError):
                    event = select.POLLOUT
                self._patience.ready(self.socket, event, deadline_ns, what)
            except ssl.SSLCertVerificationError as error:
                raise SourceError(
                    "the camera's certificate is not trusted",
                    where=self._patience.where,
                    got=error.verify_message,
                    remedy="name its authority with tls_ca = FILE, or accept any with tls_verify = false",
                ) from error
            except OSError as error:
                raise SourceError(
                    f"the connection broke {what}", where=self._patience.where, got=error.strerror or str(error)
                ) from error


class Response:
    """Status, headers (names in lower case) and a body that is read as it comes."""

    def __init__(self, connection: Connection, status: int, reason: str, headers: dict[str, str], rest: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._connection = connection
        self._rest = rest
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._chunks = Dechunker() if chunked else None

    def read(self, deadline_ns: int) -> bytes:
        """The next piece of the body, at least one byte; b"" at its end."""
        while True:
            data, self._rest = self._rest or self._connection.receive(deadline_ns), b""
            if not data or self._chunks is None:
                return data
            if body := self._chunks.feed(data):
                return body
            if self._chunks.ended:
                return b""

    def close(self) -> None:
        self._connection.close()


class Dechunker:
    """Takes the chunked transfer coding (RFC 9112 §7.1) off a body, however it is cut into pieces."""

    def __init__(self) -> None:
        self.ended = False
        self._line = bytearray()
        self._left = 0
        self._behind_data = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes in `data`; raises `SourceError` for a damaged chunk header."""
        body = bytearray()
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                body += piece
                at += len(piece)
                self._left -= len(piece)
                self._behind_data = self._left == 0
                continue
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > _LONGEST_CHUNK_LINE:
                raise SourceError("a chunk header is longer than a chunk header can be", got=f"{len(self._line)} bytes")
            if end >= 0:
                self._take_line()
        return bytes(body)

    def _take_line(self) -> None:
        line = bytes(self._line).strip()
        self._line.clear()
        if self._behind_data:  # the line end that closes a chunk's data
            self._behind_data = False
            if not line:
                return
        digits = line.partition(b";")[0].strip()
        try:
            if not digits or not all(c in b"0123456789abcdefABCDEF" for c in digits):
                raise ValueError
            self._left = int(digits, 16)
        except ValueError as error:
            raise SourceError(
                "a chunk header is damaged", expected="a length in hexadecimal", got=repr(line)
            ) from error
        self.ended = self._left == 0


def fetch(url: str, patience: Patience, connect_s: float, read_s: float, tls: Callable[[], ssl.SSLContext]) -> Response:
    """GET `url`, following redirects and answering Basic and Digest challenges with the URL's user and password.

    The password goes to the host it was given for only. Raises `SourceError` for a connection that fails, times out or
    does not speak HTTP; any final status is returned.
    """
    parts = split_url(url)
    credentials, home = _credentials(parts), parts.hostname
    challenge = ""
    redirects = 0
    while True:
        allowed = credentials if parts.hostname == home else None
        response = _get(parts, allowed, challenge, patience, connect_s, read_s, tls)
        asked = response.headers.get("www-authenticate", "")
        location = response.headers.get("location")
        if response.status == 401 and allowed and not challenge and "digest" in asked.lower():
            challenge = asked
        elif response.status in _REDIRECTS and location:
            redirects += 1
            if redirects > _MOST_REDIRECTS:
                response.close()
                raise SourceError(
                    "redirected without end",
                    where=patience.where,
                    got=f"{redirects} redirects, to {mask_url(location)}",
                )
            parts, challenge = split_url(urljoin(parts.geturl(), location)), ""
        else:
            return response
        response.close()


def split_url(url: str) -> SplitResult:
    """The parts of an http(s) URL; raises a final `SourceError` for anything else."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SourceError("this is not a URL", where=mask_url(url), got=mask_url(str(error)), final=True) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError("this is not an HTTP URL", where=mask_url(url), expected="http://host/path", final=True)
    return parts


def _credentials(parts: SplitResult) -> tuple[str, str] | None:
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def _get(
    parts: SplitResult,
    credentials: tuple[str, str] | None,
    challenge: str,
    patience: Patience,
    connect_s: float,
    read_s: float,
    tls: Callable[[], ssl.SSLContext],
) -> Response:
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    host = parts.netloc.rpartition("@")[2]
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: edgerun",
        "Accept: multipart/x-mixed-replace, image/jpeg, */*;q=0.5",
        "Connection: close",
    ]
    if credentials:
        lines.append("Authorization: " + authorization(credentials, challenge, target))
    connection = Connection(parts, patience, connect_s, tls)
    try:
        deadline_ns = patience.deadline_ns(read_s)
        connection.send(("\r\n".join(lines) + "\r\n\r\n").encode(), deadline_ns)
        return _read_head(connection, patience, deadline_ns)
    except BaseException:
        connection.close()
        raise


def _read_head(connection: Connection, patience: Patience, deadline_ns: int) -> Response:
    data = bytearray()
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        piece = connection.receive(deadline_ns)
        data += piece
        if not piece or len(data) > _LONGEST_HEAD or not b"HTTP/".startswith(data[:5]):
            raise SourceError(
                "the answer is not HTTP",
                where=patience.where,
                got=repr(bytes(data[:60])) if data else "a closed connection",
            )
    ends = [(data.find(mark), len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if mark in data]
    at, length = min(ends)
    first, *lines = bytes(data[:at]).decode("latin-1").splitlines()
    _, _, status = first.partition(" ")
    code, _, reason = status.strip().partition(" ")
    if not code.isdecimal():
        raise SourceError("the answer is not HTTP", where=patience.where, got=repr(first[:60]))
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Response(connection, int(code), reason, headers, bytes(data[at + length :]))


def _connect(host: str, port: int, patience: Patience, deadline_ns: int) -> socket.socket:
    """A connected, non-blocking socket to the first address that answers."""
    refused = "no address"
    for family, kind, protocol, _, address in _resolve(host, port, patience, deadline_ns):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
            patience.ready(sock, select.POLLOUT, deadline_ns, "connecting")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            refused = os.strerror(code)
        except OSError as error:
            if isinstance(error, SourceError):
                sock.close()
                raise
            refused = error.strerror or str(error)
        sock.close()
    raise SourceError(
        "cannot connect", where=patience.where, got=refused, remedy="is the camera on, and the host and port right?"
    )


def _resolve(host: str, port: int, patience: Patience, deadline_ns: int) -> list[tuple]:  # type: ignore[type-arg]
    """The host's addresses. A resolver may block for half a minute whatever one does, so it gets a thread to do it in."""
    found: list[list[tuple]] = []  # type: ignore[type-arg]
    failed: list[OSError] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)
        except UnicodeError as error:
            failed.append(OSError(0, f"not a host name: {error}"))
        finally:
            done.set()

    threading.Thread(target=ask, name=f"resolve:{host}", daemon=True).start()
    while not done.wait(patience.left_s(deadline_ns, "looking up the host's address")):
        pass
    if failed:
        raise SourceError(
            "the host's address cannot be found", where=patience.where, got=failed[0].strerror or str(failed[0])
        )
    return found[0]
