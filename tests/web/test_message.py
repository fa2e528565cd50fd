"""Requests are read strictly, whatever is sent."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgerun.web.message import MOST_HEAD_BYTES, BadRequest, Request, json, read_request, text

PLAIN = b"GET /live/dock.mjpg?x=1&y=%20 HTTP/1.1\r\nHost: a\r\nCookie: one=1; two=2\r\n\r\n"


def test_a_request() -> None:
    request = read_request(PLAIN, "::1")
    assert request is not None
    assert (request.method, request.path, request.query) == ("GET", "/live/dock.mjpg", {"x": "1", "y": " "})
    assert request.headers["host"] == "a"
    assert (request.cookie("one"), request.cookie("two"), request.cookie("three")) == ("1", "2", None)
    assert request.peer == "::1"


def test_a_body_is_waited_for() -> None:
    whole = b"POST /api/command HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    for n in range(len(whole)):
        assert read_request(whole[:n]) is None
    request = read_request(whole + b"more")
    assert request is not None
    assert request.body == b"hello"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MOST_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MOST_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_what_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        read_request(data)
    assert refused.value.status == status


@given(st.binary(max_size=400) | st.binary(max_size=60).map(lambda tail: PLAIN[:40] + tail + b"\r\n\r\n"))
@example(b"GET /%ff HTTP/1.1\r\n\r\n")
@example(b"GET /?" + b"&" * 100 + b" HTTP/1.1\r\n\r\n")
def test_any_bytes_are_a_request_or_none_or_refused(data: bytes) -> None:
    with suppress(BadRequest):
        request = read_request(data)
        assert request is None or isinstance(request, Request)


def test_every_answer_has_what_keeps_others_out() -> None:
    for answer in (text(HTTPStatus.OK, "hello"), json({"v": 1})):
        head, _, body = answer.encode().partition(b"\r\n\r\n")
        for wanted in (b"Content-Security-Policy: default-src 'none'", b"nosniff", b"Connection: close"):
            assert wanted in head
        assert b"Access-Control" not in head
        assert b"Content-Length: %d" % len(body) in head
        assert answer.encode(with_body=False) == head + b"\r\n\r\n"
