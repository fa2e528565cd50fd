"""The control socket: commands and answers, and peers that do what they should not."""

from __future__ import annotations

import json
import os
import queue
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.cli.control import ask
from edgerun.clock import SystemClock
from edgerun.control.desk import Command, Desk, Done, Rules
from edgerun.control.local import MOST_PEERS, LocalControl
from edgerun.errors import ConfigError, DeviceError
from tests.mosquitto import wait_until


class Room:
    """A socket, a desk behind it, and a thread that does the commands when it may."""

    def __init__(self, folder: Path, deadline_s: float = 10.0) -> None:
        self.told: list[Done] = []
        self.waiting: queue.Queue[Command | None] = queue.Queue()
        self.free = threading.Event()
        self.free.set()
        self.deaths: list[BaseException] = []

        def act(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"had": dict(arguments)}

        rules = Rules(frozenset({"pause"}))
        self.desk = Desk({"pause": act, "reload": act}, rules=rules, on_done=self.told.append)
        self.path = folder / "run" / "control.sock"
        self.control = LocalControl(
            self.path, self.desk, self.waiting.put, SystemClock(), on_death=self.deaths.append, deadline_s=deadline_s
        )
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()
        self.control.start()

    def _work(self) -> None:
        while (command := self.waiting.get()) is not None:
            self.free.wait(30)
            self.desk.do(command)

    def connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(20)
        link.connect(str(self.path))
        return link

    def close(self) -> None:
        self.free.set()
        self.waiting.put(None)
        self._worker.join(20)
        self.control.close()
        assert not self.deaths


@pytest.fixture
def open_room(tmp_path: Path) -> Iterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def make(**how: Any) -> Room:
        rooms.append(Room(tmp_path, **how))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


@pytest.fixture
def room(open_room: Callable[..., Room]) -> Room:
    return open_room()


def line_of(link: socket.socket) -> dict[str, Any]:
    came = b""
    while not came.endswith(b"\n"):
        piece = link.recv(1)
        assert piece, came
        came += piece
    answer: dict[str, Any] = json.loads(came)
    return answer


def test_one_line_in_one_line_out(room: Room) -> None:
    answer = ask(room.path, {"verb": "pause", "stream": "dock", "id": "7"})
    assert answer == {"v": 1, "verb": "pause", "ok": True, "id": "7", "had": {"stream": "dock"}}
    (done,) = room.told
    assert done.origin.via == "socket"
    assert f"uid={os.getuid()} pid={os.getpid()}" in done.origin.who


def test_it_may_be_reached_by_its_group_only(room: Room) -> None:
    assert stat.S_IMODE(room.path.stat().st_mode) == 0o660


def test_the_list_holds_here_too(room: Room) -> None:
    assert "not allowed here" in ask(room.path, {"verb": "reload"})["error"]
    assert room.told[-1].error


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b'{"verb": 7}', b'{"verb": "../x"}', b"\xff", b"[" * 60_000, b"{}", b'{"verb":"nope"}']
)
def test_what_is_no_command_is_answered_and_the_next_one_done(room: Room, line: bytes) -> None:
    with room.connect() as link:
        link.sendall(line + b"\n")
        assert line_of(link)["ok"] is False
        link.sendall(b'{"verb":"pause"}\n')
        assert line_of(link)["ok"] is True


def test_several_at_once_are_done_one_after_the_other(room: Room) -> None:
    with room.connect() as link:
        link.sendall(b"".join(b'{"verb":"pause","n":%d}\n' % n for n in range(10)))
        assert [line_of(link)["had"]["n"] for _ in range(10)] == list(range(10))


def test_one_that_only_writes_and_one_that_comes_in_pieces(room: Room) -> None:
    with room.connect() as link:
        link.sendall(b'{"verb":"pause"}\n')
        link.shutdown(socket.SHUT_WR)
        assert line_of(link)["ok"]
        assert link.recv(1) == b""
    with room.connect() as link:
        for byte in b'{"verb":"pause"}\n':
            link.sendall(bytes([byte]))
        assert line_of(link)["ok"]


def test_a_line_without_end_is_cut_off(room: Room) -> None:
    with room.connect() as link, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        link.sendall(b"x" * (64 << 20))
    assert ask(room.path, {"verb": "pause"})["ok"]


def test_silent_peers_do_not_shut_others_out(room: Room) -> None:
    silent = [room.connect() for _ in range(3 * MOST_PEERS)]
    assert ask(room.path, {"verb": "pause"})["ok"]
    for link in silent:
        link.close()


def test_a_slow_peer_is_cut_off_at_its_deadline(open_room: Callable[..., Room]) -> None:
    room = open_room(deadline_s=0.05)
    with room.connect() as link:
        link.sendall(b'{"verb":')
        assert link.recv(1) == b""


def test_a_peer_that_never_reads_holds_nothing(room: Room) -> None:
    with room.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b'{"verb":"pause","x":"%s"}\n' % (b"y" * 60_000))
        assert ask(room.path, {"verb": "pause"})["ok"]


def test_one_that_leaves_before_its_answer(room: Room) -> None:
    room.free.clear()
    with room.connect() as link:
        link.sendall(b'{"verb":"pause"}\n')
        wait_until(lambda: room.waiting.empty())
    room.free.set()
    assert ask(room.path, {"verb": "pause"})["ok"]


def test_a_daemon_that_is_busy_makes_nobody_wait_for_ever(open_room: Callable[..., Room]) -> None:
    room = open_room(deadline_s=0.05)
    room.free.clear()
    with room.connect() as link:
        link.sendall(b'{"verb":"pause"}\n')
        assert link.recv(1) == b""
    room.free.set()


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(room: Room, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="another process"):
        LocalControl(room.path, room.desk, room.waiting.put, SystemClock())
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(left))
    again = LocalControl(left, room.desk, room.waiting.put, SystemClock())
    again.close()
    assert not left.exists()


def test_where_no_socket_can_be(room: Room, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, error in (
        (tmp_path / "file", DeviceError),
        (tmp_path / "file" / "x.sock", DeviceError),
        (tmp_path / ("x" * 200), ConfigError),
    ):
        with pytest.raises(error):
            LocalControl(path, room.desk, room.waiting.put, SystemClock())
    assert (tmp_path / "file").read_text() == "mine"


@given(st.lists(st.binary(max_size=300), max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_do_more_than_be_refused(room: Room, pieces: list[bytes]) -> None:
    with room.connect() as link:
        for piece in pieces:
            link.sendall(piece)
        link.shutdown(socket.SHUT_WR)
        while link.recv(65536):
            pass
    assert room.control._thread.is_alive()
