"""The control socket: commands and answers, and peers that do what they should not."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.cli.control import ask
from edgerun.clock import Clock, FakeClock, SystemClock
from edgerun.control.desk import Command, Desk, Done, Rules
from edgerun.control.local import MOST_PEERS, LocalControl
from edgerun.errors import ConfigError, DeviceError
from tests.mosquitto import wait_until
from tests.real_models import ROOT


class Room:
    """A socket, a desk behind it, and a thread that does the commands when it may."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.told: list[Done] = []
        self.waiting: queue.Queue[Command | None] = queue.Queue()
        self.taken = threading.Semaphore(0)
        self.free = threading.Event()
        self.free.set()
        self.deaths: list[BaseException] = []

        def act(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"had": dict(arguments)}

        rules = Rules(frozenset({"pause"}))
        self.desk = Desk({"pause": act, "reload": act}, rules=rules, on_done=self.told.append)
        self.path = folder / "run" / "control.sock"
        self.control = LocalControl(
            self.path, self.desk, self.waiting.put, clock or SystemClock(), on_death=self.deaths.append
        )
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()
        self.control.start()

    def _work(self) -> None:
        while (command := self.waiting.get()) is not None:
            self.taken.release()
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


def cut_off(link: socket.socket, clock: FakeClock) -> bool:
    """Whether the other end hangs up by the next second."""
    clock.advance(1)
    link.settimeout(0.05)
    try:
        return link.recv(1) == b""
    except TimeoutError:
        return False


def test_a_slow_peer_is_cut_off_at_its_deadline(open_room: Callable[..., Room]) -> None:
    clock = FakeClock()
    room = open_room(clock=clock)
    with room.connect() as link:
        link.sendall(b'{"verb":"pause"}\n{"verb":')  # in one piece: its answer says that both were read
        assert line_of(link)["ok"]
        wait_until(lambda: cut_off(link, clock), 60, "the end of who says no more")


def test_a_peer_that_never_reads_holds_nothing(room: Room) -> None:
    with room.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b'{"verb":"pause","x":"%s"}\n' % (b"y" * 60_000))
        assert ask(room.path, {"verb": "pause"})["ok"]


def test_one_that_leaves_before_its_answer(room: Room) -> None:
    room.free.clear()
    with room.connect() as link:
        link.sendall(b'{"verb":"pause"}\n')
        assert room.taken.acquire(timeout=30)
    room.free.set()
    assert ask(room.path, {"verb": "pause"})["ok"]


def test_a_daemon_that_is_busy_makes_nobody_wait_for_ever(open_room: Callable[..., Room]) -> None:
    clock = FakeClock()
    room = open_room(clock=clock)
    room.free.clear()
    with room.connect() as link:
        link.sendall(b'{"verb":"pause"}\n')
        assert room.taken.acquire(timeout=30)
        wait_until(lambda: cut_off(link, clock), 60, "the end of its wait")
    room.free.set()


def test_who_gives_way_in_the_turn_in_which_it_speaks_harms_nobody(room: Room) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hand_over(command: Command) -> None:
        inside.set()
        go_on.wait(30)
        room.waiting.put(command)

    room.control._hand_over = hand_over
    with contextlib.ExitStack() as links:
        idle = [links.enter_context(room.connect()) for _ in range(MOST_PEERS - 1)]
        busy = links.enter_context(room.connect())
        busy.sendall(b'{"verb":"pause"}\n')
        assert inside.wait(30)
        links.enter_context(room.connect())  # the first thing that is seen in the next turn
        for link in idle:
            link.sendall(b"{")
        go_on.set()
        assert line_of(busy)["ok"]
    assert ask(room.path, {"verb": "pause"})["ok"]
    assert not room.deaths


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(room: Room, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="another process"):
        LocalControl(room.path, room.desk, room.waiting.put, SystemClock())
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(left))
    again = LocalControl(left, room.desk, room.waiting.put, SystemClock())
    again.close()
    assert not left.exists()


@pytest.fixture
def busy() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def opened(path: Path) -> LocalControl | None:
    """None where another one has that path."""
    with contextlib.suppress(DeviceError):
        return LocalControl(path, Desk({}), lambda command: None, SystemClock())
    return None


@pytest.mark.usefixtures("busy")
def test_of_two_that_begin_at_once_one_has_the_socket(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def begin(path: Path) -> LocalControl | None:
        together.wait(30)
        return opened(path)

    with ThreadPoolExecutor(2) as pool:
        for number in range(400):
            path = tmp_path / str(number) / "control.sock"
            path.parent.mkdir()
            with socket.socket(socket.AF_UNIX) as left_behind:
                left_behind.bind(str(path))
            made = list(pool.map(begin, [path] * 2))
            for one in made:
                if one is not None:
                    with socket.socket(socket.AF_UNIX) as link:
                        link.connect(str(path))
                    one.close()
            assert made.count(None) == 1, number


def test_one_that_ends_serves_its_socket_until_the_file_is_gone(tmp_path: Path) -> None:
    """What nobody serves is another process' to replace, and its file would go then."""
    code = """
import socket, sys
from pathlib import Path
from tests.control.test_local import opened

def look(event, args):
    if event == "os.remove" and str(args[0]) == sys.argv[1]:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(sys.argv[1])
        print("served")

one = opened(Path(sys.argv[1]))
sys.addaudithook(look)
one.close()
"""
    words = [sys.executable, "-c", code, str(tmp_path / "control.sock")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("served\n", "")


@pytest.mark.usefixtures("busy")
def test_what_other_threads_make_meanwhile_keeps_its_mode(tmp_path: Path) -> None:
    made: list[Path] = []
    done = threading.Event()

    def make_folders() -> None:
        while not done.is_set():
            made.append(tmp_path / f"folder-{len(made)}")
            made[-1].mkdir(mode=0o700)

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(make_folders)
        try:
            for _ in range(300):
                one = opened(tmp_path / "control.sock")
                assert one is not None
                one.close()
        finally:
            done.set()
        making.result(30)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in made} == {0o700}


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
