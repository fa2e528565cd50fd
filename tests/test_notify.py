"""What systemd is told: real datagrams into real sockets."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The other end, bound as systemd binds it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify") if request.param == "path" else f"\0edgerun-test-{os.getpid()}")
        sock.settimeout(10)
        yield sock


def address(sock: socket.socket) -> str:
    name = sock.getsockname()
    return "@" + name[1:].decode() if isinstance(name, bytes) else str(name)


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode("utf-8").split("\n")


def nothing_more(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(4096)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(10)
    return False


def test_a_life(manager: socket.socket) -> None:
    notifier = Notifier(address(manager))
    assert notifier.told
    notifier.extend(60, "loading model detector")
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=loading model detector"]
    notifier.ready("2 streams")
    assert heard(manager) == ["READY=1", "STATUS=2 streams"]
    notifier.ping()
    assert heard(manager) == ["WATCHDOG=1"]
    notifier.reloading(81_230_000_999)
    assert heard(manager) == ["RELOADING=1", "MONOTONIC_USEC=81230000"]
    notifier.ready()
    assert heard(manager) == ["READY=1"]
    notifier.stopping("stopped by SIGTERM")
    assert heard(manager) == ["STOPPING=1", "STATUS=stopped by SIGTERM"]
    assert nothing_more(manager)


def test_a_status_is_sent_when_it_changes(manager: socket.socket) -> None:
    notifier = Notifier(address(manager))
    for text in ("a", "a", "", "b"):
        notifier.status(text)
    assert [heard(manager), heard(manager)] == [["STATUS=a"], ["STATUS=b"]]
    assert nothing_more(manager)


def test_a_status_cannot_smuggle_in_another_key(manager: socket.socket) -> None:
    notifier = Notifier(address(manager))
    notifier.status("one\nMAINPID=1\r\0\x1b[31m\u2028two")
    assert heard(manager) == ["STATUS=one MAINPID=1   [31m two"]
    notifier.status("é" * 4000)
    (line,) = heard(manager)
    assert line == "STATUS=" + "é" * 512


@given(text=st.text(st.characters(codec=None)))
def test_any_status_is_one_line_of_utf_8_that_fits(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses an abstract name
        name = sock.getsockname()
        notifier = Notifier("@" + name[1:].decode())
        notifier.stopping(text)
        message = sock.recv(8192)
    assert len(message) < 4096
    lines = message.decode("utf-8").split("\n")
    assert lines[0] == "STOPPING=1"
    assert len(lines) <= 2
    assert all(line.startswith("STATUS=") for line in lines[1:])


def test_the_environment_is_taken_and_cleared(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": address(manager), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7", "HOME": "/"}
    notifier = Notifier.from_environment(environ, pid=7)
    assert environ == {"HOME": "/"}
    assert notifier.watchdog_s == 30.0
    notifier.ping()
    assert heard(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "5000000"}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": ""}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
    ],
)
def test_whose_watchdog_it_is(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/nowhere", **environ}, pid=7).watchdog_s == watchdog_s


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "5000000"})
    assert not notifier.told
    assert notifier.watchdog_s is None
    for say in (notifier.ready, notifier.stopping, notifier.ping):
        say()


@pytest.mark.parametrize("name", ["relative", "vsock:2:9999", "@", "/" + "x" * 200, "/a\0b"])
def test_an_address_that_is_none_is_told_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(name)
    notifier.ready()
    notifier.ping()
    assert not notifier.told
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_systemd_that_is_gone_is_told_once_until_it_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "notify"
    notifier = Notifier(str(path))
    for _ in range(3):
        notifier.status("here")
    assert len(caplog.records) == 1
    assert os.strerror(errno.ENOENT) in caplog.text
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        notifier.status("here")
        assert heard(sock) == ["STATUS=here"]


def test_a_systemd_that_does_not_listen_holds_nobody_for_long(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        while not caplog.records:  # until its queue is full: net.unix.max_dgram_qlen
            notifier.ping()
        assert "timed out" in caplog.text


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgerun.notify; sys.exit(', '.join({'numpy', 'cv2', 'paho', 'msgspec'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
