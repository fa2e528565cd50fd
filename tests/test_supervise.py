"""What the daemon tells systemd, and when: real datagrams, a clock turned by hand, threads that hang or wait."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edgerun.clock import FakeClock
from edgerun.notify import Notifier, status_line
from edgerun.progress import Progress, waiting
from edgerun.service.supervise import Supervisor


class Systemd:
    """The other end, and a supervisor that talks to it."""

    def __init__(self, folder: Path, watchdog_s: float | None = 30.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.setblocking(False)
        self.clock, self.progress = FakeClock(), Progress()
        self.supervisor = Supervisor(Notifier(str(folder / "notify"), watchdog_s), self.progress, self.clock)

    def heard(self) -> list[str]:
        """All that was said since the last time, a datagram in one string."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().replace("\n", " "))
            except BlockingIOError:
                return found

    def live(self, seconds: int) -> list[str]:
        for _ in range(2 * seconds):
            self.clock.advance(0.5)
            self.supervisor.feed()
        return self.heard()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path)
    yield made
    made.socket.close()


def test_loading_asks_for_time_until_it_is_ready(systemd: Systemd) -> None:
    systemd.supervisor.loading(60, "loading model detector (1 of 2)")
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=60000000 STATUS=loading model detector (1 of 2)"]
    systemd.supervisor.ready("1 stream running")
    assert systemd.heard() == ["WATCHDOG_USEC=30000000 WATCHDOG=1", "WATCHDOG=1", "READY=1 STATUS=1 stream running"]


def test_it_pings_four_times_in_a_period_and_not_more(systemd: Systemd) -> None:
    systemd.supervisor.ready("")
    systemd.heard()
    assert systemd.live(60) == ["WATCHDOG=1"] * 8


def test_a_load_in_the_midst_of_a_reload_may_outlast_the_watchdog(systemd: Systemd) -> None:
    systemd.supervisor.ready("")
    systemd.heard()
    systemd.supervisor.reloading()
    systemd.supervisor.loading(20, "model a")
    systemd.supervisor.loading(90, "model b")
    systemd.supervisor.ready("")
    said = systemd.heard()
    assert said[0].startswith("RELOADING=1 MONOTONIC_USEC=")
    assert said[1:] == [
        "WATCHDOG_USEC=90000000 WATCHDOG=1", "WATCHDOG_USEC=30000000 WATCHDOG=1", "WATCHDOG=1", "READY=1",
    ]  # fmt: skip


def test_a_hung_thread_ends_the_pings_and_is_named(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    hangs, released = threading.Event(), threading.Event()

    def body() -> None:
        with systemd.progress.watched("worker:detector"):
            hangs.set()
            released.wait(60)

    thread = threading.Thread(target=body)
    thread.start()
    assert hangs.wait(60)
    systemd.supervisor.ready("")
    systemd.heard()
    assert systemd.live(60) == []
    assert "worker:detector: no progress for 15 s; after 30 s systemd starts the daemon again" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    released.set()
    thread.join(60)
    assert systemd.live(1) == ["WATCHDOG=1"]
    assert "there is progress again, after 60 s" in caplog.text


def test_threads_that_wait_keep_the_pings_going(systemd: Systemd) -> None:
    end, waits = threading.Event(), threading.Semaphore(0)

    def body(name: str) -> None:
        with systemd.progress.watched(name), waiting():
            waits.release()
            end.wait(60)

    threads = [threading.Thread(target=body, args=(name,)) for name in ("capture:dock", "worker:detector", "mqtt")]
    for thread in threads:
        thread.start()
        assert waits.acquire(timeout=60)
    systemd.supervisor.ready("")
    systemd.heard()
    assert systemd.live(15) == ["WATCHDOG=1"] * 2
    end.set()
    for thread in threads:
        thread.join(60)


def test_stopping_is_told_and_nothing_is_fed_after_it(systemd: Systemd) -> None:
    systemd.supervisor.ready("")
    systemd.heard()
    systemd.supervisor.stopping("SIGTERM")
    assert systemd.heard() == ["STOPPING=1 STATUS=SIGTERM"]
    assert systemd.live(60) == []


def test_the_status_is_asked_for_now_and_then(systemd: Systemd) -> None:
    systemd.supervisor.ready("a")
    systemd.heard()
    said = []
    for second in range(25):
        systemd.clock.advance(1)
        systemd.supervisor.feed(lambda second=second: f"{second}")  # type: ignore[misc]
        said += [line for line in systemd.heard() if line.startswith("STATUS")]
    assert said == ["STATUS=9", "STATUS=19"]


def test_without_a_watchdog_nothing_is_fed(tmp_path: Path) -> None:
    made = Systemd(tmp_path, None)
    made.supervisor.ready("up")
    made.supervisor.loading(90, "x")
    assert made.live(60) == ["READY=1 STATUS=up"]
    made.socket.close()


def test_without_systemd_nothing_happens() -> None:
    supervisor = Supervisor(Notifier(), Progress(), FakeClock())
    supervisor.loading(5, "x")
    supervisor.ready("x")
    supervisor.feed(lambda: pytest.fail("nobody wants to know"))
    supervisor.stopping("x")


@pytest.mark.parametrize(
    ("states", "published", "spell_s", "connected", "line"),
    [
        ({}, 0, 0.0, None, "no streams"),
        ({"a": "running"}, 104, 10.0, True, "1 stream running; 10.4 results/s; broker connected"),
        (
            {"a": "stalled", "b": "running", "c": "running"}, 0, 10.0, False,
            "2 streams running, 1 stalled; 0.0 results/s; broker away",
        ),
        ({"a": "stalled", "b": "paused"}, 0, 0.0, None, "1 stream paused, 1 stalled"),
    ],
)  # fmt: skip
def test_the_status_line(
    states: Mapping[str, str], published: int, spell_s: float, connected: bool | None, line: str
) -> None:
    assert status_line(states, published, spell_s, connected) == line
