"""Asking a network camera whether it answers, before FFmpeg is let near it.

OpenCV holds one lock for the whole process while FFmpeg opens a source: a camera that says nothing would keep every
other source from being opened, and a looping file from beginning again, for as long as its time-out. Our own sockets
hold no lock, and end with the stream's `stop`. What this leaves: a camera that answers and then sends no picture.
"""

from __future__ import annotations

import ssl
from urllib.parse import SplitResult, quote, urlsplit

from edgerun.capture.connection import Connection, Patience, Stopped
from edgerun.capture.url import mask_url
from edgerun.errors import SourceError
from edgerun.ports import SourceContext

# What these schemes listen on where the URL does not say: RFC 2326 §3.2 and IANA's register of ports. The others that
# FFmpeg knows (udp, rtp, srt, tcp) may be listening themselves, or serve the first connection only: nobody to ask.
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
_LONGEST_STATUS_LINE = 4096
_NOT_FOUND = "404"
_AS_THEY_ARE = "/%:@!$&'()*+,;=~-._?[]"  # RFC 3986 §2.2 and §2.3; a % begins an escape that is there already


def ask(url: str, timeout_s: float, context: SourceContext) -> None:
    """Return once the server of `url` answers: an RTSP server any status but 404, any other one a connection.

    Raises `SourceError` when it refuses, has no such stream or does not answer within `timeout_s`, also (within 0.2 s)
    when the stream was stopped; a final one when `url` is none.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _PORTS:
        return
    where = mask_url(url)
    patience = Patience(context.clock, context.stop, where)
    deadline_ns = patience.deadline_ns(timeout_s)
    try:
        _ask(_split(url, where), patience, timeout_s, deadline_ns)
    except Stopped:
        raise
    except SourceError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            return  # it answered; whether its TLS will do is FFmpeg's to say, which speaks older versions too
        if context.clock.mono_ns() < deadline_ns:
            raise
        raise SourceError(
            f"does not answer within {timeout_s:g} s",
            where=where,
            got=error.what,
            remedy="is the camera on, and the host and port right?",
        ) from error


def _split(url: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SourceError(
            "this is not a usable URL",
            where=where,
            expected="scheme://host[:port]/path",
            remedy="a / ? or # in user or password is written %2F %3F %23",
            final=True,
        )
    return parts


def _ask(parts: SplitResult, patience: Patience, timeout_s: float, deadline_ns: int) -> None:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    address = f"{host}:{parts.port or _PORTS[parts.scheme]}"
    tls = parts.scheme == "rtsps"
    connection = Connection(SplitResult("https" if tls else "http", address, "", "", ""), patience, timeout_s, _tls)
    try:
        if parts.scheme in ("rtsp", "rtsps"):
            connection.send(options_request(parts), deadline_ns)
            _check_status(_status_line(connection, deadline_ns), patience.where)
    finally:
        connection.close()


def options_request(parts: SplitResult) -> bytes:
    """RTSP's harmless question (RFC 2326 §10.1), without user and password: refusing it is an answer as well."""
    host = parts.netloc.rpartition("@")[2]
    target = quote(parts._replace(netloc=host, fragment="").geturl(), safe=_AS_THEY_ARE)
    return f"OPTIONS {target} RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: edgerun\r\n\r\n".encode()


def _status_line(connection: Connection, deadline_ns: int) -> bytes:
    """What came up to the end of the first line, or to where it cannot become an RTSP status line any more."""
    data = b""
    while b"\n" not in data and b"RTSP/".startswith(data[:5]) and len(data) <= _LONGEST_STATUS_LINE:
        piece = connection.receive(deadline_ns)
        if not piece:
            break
        data += piece
    return data.partition(b"\n")[0].strip()


def _check_status(line: bytes, where: str) -> None:
    """`RTSP/1.0 200 OK` (RFC 2326 §7.1)."""
    version, _, status = line.decode("latin-1").partition(" ")
    code = status.strip()[:3]
    if not version.startswith("RTSP/") or not code.isdecimal():
        raise SourceError(
            "the answer is not RTSP",
            where=where,
            expected="RTSP/1.0 and a status",
            got=repr(line[:60].decode("latin-1")) if line else "a closed connection",
            remedy="is this the RTSP port? Web pages are on another one",
        )
    if code == _NOT_FOUND:
        raise SourceError(
            "the camera has no such stream",
            where=where,
            got=f"status {status.strip()[:60]}",
            remedy="is the path right? The camera's manual names it",
        )


def _tls() -> ssl.SSLContext:
    """Any certificate will do, as for FFmpeg (`tls_verify` is 0 unless it is told otherwise)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
