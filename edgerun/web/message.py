"""One HTTP request and its answer (RFC 9112): what is read strictly, and what is written.

One request a connection, no transfer codings, no obsolete line folding: what is not understood is refused, so that
nothing in front of this server can understand it differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

MOST_HEAD_BYTES = 8192
MOST_BODY_BYTES = 65536

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_SAFE = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
)
"""On every answer: the page is made of what this server has, and nobody else may embed or read it (Fetch, CSP 3)."""


class BadRequest(Exception):
    """What was sent is no request that this server takes; `status` says why."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Request(msgspec.Struct, frozen=True):
    """What was asked for. `path` is decoded; names in `headers` are lower case; `peer` is the client's address."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str = ""

    def cookie(self, name: str) -> str | None:
        """The cookie of that name (RFC 6265)."""
        for one in self.headers.get("cookie", "").split(";"):
            key, _, value = one.strip().partition("=")
            if key == name:
                return value
        return None


class Response(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, *, with_body: bool = True) -> bytes:
        """As it goes on the wire."""
        head = encode_head(self.status, (("Content-Length", str(len(self.body))), *self.headers), self.content_type)
        return head + self.body if with_body else head


def text(status: HTTPStatus, words: str, *headers: tuple[str, str]) -> Response:
    """An answer of plain words."""
    return Response(status, f"{words}\n".encode(), headers=(*headers, ("Cache-Control", "no-store")))


def json(value: Any, status: HTTPStatus = HTTPStatus.OK, *headers: tuple[str, str]) -> Response:
    """An answer of JSON, which nobody keeps."""
    return Response(status, msgspec.json.encode(value), "application/json", (*headers, ("Cache-Control", "no-store")))


def encode_head(status: HTTPStatus, headers: tuple[tuple[str, str], ...], content_type: str) -> bytes:
    """Status line and headers, with those that every answer has."""
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Type: {content_type}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (*_SAFE, *headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_request(data: bytes | bytearray, peer: str = "") -> Request | None:
    """The request that `data` begins with, or None as long as it is not there as a whole. Raises `BadRequest`."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MOST_HEAD_BYTES:
            raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too long")
        return None
    if end > MOST_HEAD_BYTES:
        raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too long")
    lines = bytes(data[:end]).decode("latin-1").split("\r\n")
    method, target = _request_line(lines[0])
    headers = _headers(lines[1:])
    length = _length(headers)
    if len(data) < end + 4 + length:
        return None
    path, _, query = target.partition("?")
    return Request(
        method,
        unquote(path, errors="strict") if _is_utf8(path) else path,
        dict(parse_qsl(query, max_num_fields=20)) if query.count("&") < 20 else {},
        headers,
        bytes(data[end + 4 : end + 4 + length]),
        peer,
    )


def _request_line(line: str) -> tuple[str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "that is no request line")
    if parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return parts[0], parts[1]


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or re.search(r"[\x00\r\n]", value):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "that is no header")
        name = name.lower()
        if name in found and name in ("host", "content-length", "authorization", "origin"):
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"the header {name} is there twice")
        value = value.strip(" \t")
        found[name] = f"{found[name]}; {value}" if name in found else value
    return found


def _length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise BadRequest(HTTPStatus.NOT_IMPLEMENTED, "a body comes with its Content-Length, not with a transfer coding")
    text = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "that is no Content-Length")
    if int(text) > MOST_BODY_BYTES:
        raise BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MOST_BODY_BYTES} bytes")
    return int(text)


def _is_utf8(path: str) -> bool:
    try:
        unquote(path, errors="strict")
    except UnicodeDecodeError:
        return False
    return True
