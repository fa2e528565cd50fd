"""The server over real sockets: what it answers, and that clients who misbehave harm nobody."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import pytest

from edgerun.clock import SystemClock
from edgerun.errors import DeviceError
from edgerun.web.binding import listen, reserve
from edgerun.web.message import Request, text
from edgerun.web.server import Answer, Deferred, Door, Limits, Server, _Connection

PART = b"p" * 200_000
LIVE = b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n"


class Endless:
    """A feed that always has something new."""

    content_type = "multipart/x-mixed-replace; boundary=x"
    closed = 0

    def take(self) -> bytes:
        return PART

    def close(self) -> None:
        Endless.closed += 1


class Silent:
    content_type = "text/plain"

    def take(self) -> None:
        return None

    def close(self) -> None:
        pass


class Site:
    def __init__(self) -> None:
        self.deferred: list[Deferred] = []

    def answer(self, request: Request) -> Answer:
        if request.path == "/live":
            return Endless()
        if request.path == "/silent":
            return Silent()
        if request.path == "/later":
            self.deferred.append(Deferred())
            return self.deferred[-1]
        if request.path == "/broken":
            raise DeviceError("the sensors cannot be read")
        return text(HTTPStatus.OK, f"{request.method} {request.path} {request.body.decode()}")


@contextmanager
def serving(
    limits: Limits | None = None, tick: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, Site, Server]]:
    site, listener = Site(), listen("127.0.0.1", 0)
    port = int(listener.getsockname()[1])
    server = Server([Door(listener, site.answer)], SystemClock(), limits=limits, tick=tick, tick_s=0.05)
    server.start()
    try:
        yield port, site, server
    finally:
        server.close()
        server.close()


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def dial(port: int, data: bytes, receive_bytes: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    client.sendall(data)
    return client


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass in 30 s"
        threading.Event().wait(0.01)


def connections(server: Server) -> list[_Connection]:
    """Those of this moment: its thread goes on."""
    return list(server._connections)


def read_to_the_end(client: socket.socket) -> bytes:
    got = b""
    while data := client.recv(65536):
        got += data
    return got


def test_the_answers() -> None:
    with serving() as (port, _, _):
        assert ask(port, "/x") == (200, b"GET /x \n")
        assert ask(port, "/x", "POST", b"hello") == (200, b"POST /x hello\n")
        assert ask(port, "/x", "HEAD") == (200, b"")
        assert ask(port, "/broken") == (500, b"the sensors cannot be read\n")
        assert ask(port, "/live", "HEAD")[0] == 200


def test_nonsense_is_answered() -> None:
    with serving() as (port, _, _):
        with dial(port, b"hello\r\n\r\n") as client:
            assert read_to_the_end(client).startswith(b"HTTP/1.1 400 ")
        with dial(port, b"\x16\x03\x01" + b"\x00" * 20_000) as client:
            assert b"HTTP/1.1 431 " in client.recv(65536)


def test_an_answer_may_come_later_from_another_thread() -> None:
    with serving() as (port, site, _):
        got: list[tuple[int, bytes]] = []
        thread = threading.Thread(target=lambda: got.append(ask(port, "/later")))
        thread.start()
        until(lambda: bool(site.deferred))
        assert ask(port, "/x")[0] == 200
        site.deferred[0].answer(text(HTTPStatus.OK, "at last"))
        site.deferred[0].answer(text(HTTPStatus.OK, "and again"))
        thread.join(30)
        assert got == [(200, b"at last\n")]


def test_an_answer_that_does_not_come_is_told() -> None:
    with serving(Limits(answer_s=0.2)) as (port, _, _):
        assert ask(port, "/later")[0] == 504


def test_fifty_viewers_who_read_nothing_harm_nobody() -> None:
    with serving() as (port, _, server):
        slow = [dial(port, LIVE, 4096) for _ in range(50)]
        until(lambda: len([one for one in connections(server) if one.feed is not None]) == 50)
        held = {id(one.outgoing.obj) for one in connections(server) if one.feed is not None}
        assert len(held) <= 2  # the head, and one picture that all of them share
        assert ask(port, "/x") == (200, b"GET /x \n")
        with dial(port, LIVE) as quick:
            got = 0
            while got < 20 * len(PART):
                got += len(quick.recv(1 << 20))
        for client in slow:
            client.close()


def test_a_viewer_who_reads_nothing_is_cut_off_and_one_who_waits_for_us_is_not() -> None:
    Endless.closed = 0
    with serving(Limits(reader_s=0.2)) as (port, _, server):
        quiet = dial(port, b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: any(one.feed is not None for one in connections(server)))
        slow = dial(port, LIVE, 4096)
        until(lambda: Endless.closed == 1)
        assert len(server._connections) == 1
        slow.close()
        quiet.close()
        until(lambda: not server._connections)


def test_a_request_that_does_not_come_is_cut_off() -> None:
    with serving(Limits(request_s=0.2)) as (port, _, _), dial(port, b"GET / HT") as client:
        assert client.recv(1) == b""


def test_too_many_are_told_to_come_again() -> None:
    with serving(Limits(connections=3, feeds=2)) as (port, _, server):
        live = [dial(port, LIVE, 4096) for _ in range(2)]
        until(lambda: [one.asked for one in connections(server)] == [True] * 2)
        assert ask(port, "/live")[0] == 503
        until(lambda: len(server._connections) == 2)
        later = dial(port, b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [one.asked for one in connections(server)] == [True] * 3)  # whoever still asks makes room
        with dial(port, b"") as refused:
            assert b" 503 " in refused.recv(65536)
        for client in (*live, later):
            client.close()
        until(lambda: not server._connections)
        assert ask(port, "/x")[0] == 200


def test_who_never_asks_keeps_nobody_out() -> None:
    with serving(Limits(connections=3)) as (port, _, server):
        live = dial(port, LIVE, 4096)
        until(lambda: [one.asked for one in connections(server)] == [True])
        idle = [dial(port, b"GET / HT") for _ in range(2)]
        until(lambda: len(server._connections) == 3)
        assert ask(port, "/x")[0] == 200
        assert idle[0].recv(1) == b""
        assert live.recv(1)
        for client in (live, *idle):
            client.close()


def test_the_tick_goes_on_while_nobody_asks() -> None:
    ticks: list[int] = []
    with serving(tick=lambda: ticks.append(1)):
        until(lambda: len(ticks) >= 3)


def test_an_address_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(DeviceError, match="Address already in use"):
        listen("127.0.0.1", first.getsockname()[1])


def test_an_address_may_be_reserved_until_it_is_listened_on() -> None:
    with listen("127.0.0.1", 0) as other:
        taken = other.getsockname()[1]
        port = reserve("127.0.0.1", taken)
        assert port != taken
        with listen("127.0.0.1", port) as listener:
            assert listener.getsockname()[1] == port
