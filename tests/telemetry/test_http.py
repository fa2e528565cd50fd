"""The small HTTP face: what it answers to whom, and that clients who misbehave harm nobody."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest

from edgerun.errors import ConfigError, DeviceError
from edgerun.security.tokens import hashed
from edgerun.telemetry.http import MetricsServer, Page, health_page, metrics_page

BIG = b"x 1\n" * 2_000_000
"""More than the kernel's socket buffers take."""


@contextmanager
def serving(**options: Any) -> Iterator[MetricsServer]:
    pages: dict[str, Page] = {
        "/metrics": metrics_page(lambda: b"edgerun_up 1\n", "text/plain; version=0.0.4"),
        "/healthz": health_page(lambda: None),
        "/readyz": health_page(lambda: "no results for 5 s"),
        "/big": lambda: (HTTPStatus.OK, "text/plain", BIG),
        "/broken": metrics_page(_broken, "text/plain"),
    }
    server = MetricsServer(pages, port=0, **options)
    try:
        yield server
    finally:
        server.close()


def _broken() -> bytes:
    raise DeviceError("the sensors cannot be read")


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_pages() -> None:
    with serving() as server:
        assert get(server.port, "/metrics") == (200, "edgerun_up 1\n")
        assert get(server.port, "/metrics?name=x") == (200, "edgerun_up 1\n")
        assert get(server.port, "/metrics", "HEAD") == (200, "")
        assert get(server.port, "/healthz") == (200, "ok\n")
        assert get(server.port, "/readyz") == (503, "no results for 5 s\n")
        assert get(server.port, "/broken") == (500, "the sensors cannot be read\n")
        assert get(server.port, "/../etc/passwd")[0] == 404
        assert get(server.port, "/metrics", "POST")[0] == 501


def test_a_page_of_somebody_else_s_cannot_read_it_through_a_name_of_its_own() -> None:
    with serving() as server:
        for host in ("evil.example", "evil.example:9464", "10.0.0.1:80", "localhost.evil.example", ""):
            assert get(server.port, "/metrics", Host=host)[0] == 401
        for host in ("localhost", "localhost:9464", "127.0.0.1:9464", "[::1]:9464", "[::1]"):
            assert get(server.port, "/metrics", Host=host)[0] == 200


TOKEN = "s3cret-of-a-length"


def test_a_token_is_asked_for_everywhere() -> None:
    with serving(token=TOKEN, host="0.0.0.0") as server:
        for path in ("/metrics", "/healthz", "/nothing"):
            assert get(server.port, path)[0] == 401
            assert get(server.port, path, Authorization="Bearer wrong")[0] == 401
        assert get(server.port, "/metrics", Authorization=f"Bearer {TOKEN}", Host="dock-7.example")[0] == 200


def test_the_hash_of_a_token_opens_nothing_by_itself() -> None:
    with serving(token=hashed(TOKEN)) as server:
        assert get(server.port, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert get(server.port, "/metrics", Authorization=f"Bearer {hashed(TOKEN)}")[0] == 401


def test_a_token_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigError, match="could be guessed"):
        MetricsServer({}, port=0, token="s3cret")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_there_is_nothing_without_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        MetricsServer({}, host=host, port=0)


def test_an_address_that_is_none_or_taken_is_an_error() -> None:
    with pytest.raises(ConfigError, match="IP address"):
        MetricsServer({}, host="dock-7.example", port=0)
    with serving() as server, pytest.raises(DeviceError, match="cannot be served"):
        MetricsServer({}, port=server.port)


def connect(port: int, text: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(text)
    return client


def is_closed(client: socket.socket) -> bool:
    """Reads to the end; a reset is one too."""
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionError:
        return True
    return True


def test_who_sends_nothing_and_who_reads_nothing_is_cut_off() -> None:
    with serving(deadline_s=3.0) as server:
        silent = connect(server.port)
        slow_sender = connect(server.port, b"GET /metrics HTT")
        slow_reader = connect(server.port, b"GET /big HTTP/1.0\r\n\r\n")
        assert is_closed(silent)
        assert is_closed(slow_sender)
        assert is_closed(slow_reader)
        assert get(server.port, "/healthz") == (200, "ok\n")
        for client in (silent, slow_sender, slow_reader):
            client.close()


def answers(port: int) -> bool:
    """Whether it answers within some seconds, asked again and again."""
    pause = threading.Event()
    return any(get(port, "/healthz")[0] == 200 or pause.wait(0.05) for _ in range(1200))


def test_one_who_reads_in_drops_holds_nobody_up_for_longer_than_the_deadline() -> None:
    with serving(deadline_s=5.0, most_at_once=1) as server:
        client = connect(server.port)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        enough = threading.Event()

        def drip() -> None:
            try:
                while not enough.wait(0.05) and client.recv(512):
                    pass
            except ConnectionError:
                return

        assert client.recv(1)
        assert get(server.port, "/healthz")[0] == 503
        reader = threading.Thread(target=drip)
        reader.start()
        assert answers(server.port)
        enough.set()
        reader.join()
        client.close()


def test_one_who_sends_in_drops_is_cut_off() -> None:
    with serving(deadline_s=1.0) as server:
        client = connect(server.port, b"GET /metrics HTTP/1.0\r\nX: ")
        enough = threading.Event()

        def drip() -> None:
            try:
                while not enough.wait(0.05):
                    client.sendall(b"y")
            except ConnectionError:
                return

        sender = threading.Thread(target=drip)
        sender.start()
        sender.join(60)
        was_cut_off = not sender.is_alive()
        enough.set()
        sender.join()
        client.close()
        assert was_cut_off


def test_too_many_at_once_are_told_to_come_again_and_the_rest_is_served() -> None:
    with serving(most_at_once=2, deadline_s=30) as server:
        busy = [connect(server.port, b"GET /big HTTP/1.0\r\n\r\n") for _ in range(2)]
        for client in busy:
            assert client.recv(16).startswith(b"HTTP/1.0 200")
        assert get(server.port, "/healthz")[0] == 503
        for client in busy:
            assert is_closed(client)
            client.close()
        assert answers(server.port)


GARBAGE = (
    b"\r\n\r\n",
    b"\x00" * 100 + b"\r\n\r\n",
    b"GET " + b"a" * 70_000 + b" HTTP/1.0\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 200 + b"\r\n",
)


def test_garbage_is_answered_or_closed_and_does_no_harm() -> None:
    with serving(deadline_s=30.0) as server:
        for garbage in GARBAGE:
            client = connect(server.port, garbage)
            assert is_closed(client)
            client.close()
        assert get(server.port, "/metrics")[0] == 200


def test_closing_ends_it_whoever_is_still_there() -> None:
    with serving(deadline_s=60) as server:
        client = connect(server.port, b"GET /big HTTP/1.0\r\n\r\n")
        assert client.recv(16)
        server.close()
        assert is_closed(client)
        client.close()
        with pytest.raises(ConnectionRefusedError):
            connect(server.port)
    assert not [thread for thread in threading.enumerate() if thread.name == "metrics"]
