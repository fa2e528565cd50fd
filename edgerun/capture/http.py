"""A small HTTP/1.1 client (RFC 9112) for bodies without end."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from edgerun.capture.auth import authorization
from edgerun.capture.connection import Connection, Patience
from edgerun.capture.url import mask_url
from edgerun.errors import SourceError

_LONGEST_HEAD = 65536
_LONGEST_CHUNK_LINE = 1024
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class Response:
    """Status, headers (names in lower case) and a body without end that is read as it comes."""

    def __init__(self, connection: Connection, status: int, reason: str, headers: dict[str, str], rest: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.connection = connection
        self._rest = rest
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._chunks = Dechunker() if chunked else None

    def may_have_more(self, count: int, room: int) -> bool:
        """Whether more may be there at once after `count` bytes were read into `room`: not after a short read of TCP.

        (A TLS record, or what is left of a chunk, may be shorter than what follows it.)
        """
        return count == room or self._chunks is not None or self.connection.secure or bool(self._rest)

    def read_into(self, view: memoryview) -> tuple[int, int] | None:
        """Body bytes read into `view` without waiting, and the age (ns) of the newest; None: none are there.

        0 bytes: the body has ended.
        """
        while self._chunks is None or not self._chunks.ended:
            if self._rest:
                count, age_ns = min(len(self._rest), len(view)), 0
                view[:count], self._rest = self._rest[:count], self._rest[count:]
            else:
                got = self.connection.receive_into(view)
                if got is None:
                    return None
                count, age_ns = got
            if self._chunks is None or not count:
                return count, age_ns
            if body := self._chunks.feed(bytes(view[:count])):
                view[: len(body)] = body
                return len(body), age_ns
        return 0, 0

    def close(self) -> None:
        self.connection.close()


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
