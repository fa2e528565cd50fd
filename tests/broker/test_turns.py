"""What others see of a connection while its thread is in the midst of something: threads take turns at every step."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from tests import mosquitto
from tests.broker.gate import TAKEN_OVER, gate
from tests.broker.parts import DEVICE, TOPIC, connection
from tests.mosquitto import wait_until


@pytest.fixture(autouse=True)
def _turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@contextlib.contextmanager
def publishing(link: object) -> Iterator[None]:
    """Several threads that publish, from before it is started."""
    end = threading.Event()

    def publish() -> None:
        while not end.is_set():
            link.publish(TOPIC, b"1")  # type: ignore[attr-defined]

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join(60)


def test_who_publishes_while_it_starts_does_not_start_it_again(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        with connection("mqtt://127.0.0.1:1", start=False) as link, publishing(link):
            link.start()
    assert "died" not in caplog.text


def test_a_link_that_is_counted_is_there() -> None:
    with mosquitto.broker() as broker, gate(broker.port) as door, connection(door.url, takeover_delay_s=0.01) as link:
        wait_until(lambda: link.connected)
        for _ in range(100):
            count = link.stats().reconnects
            door.cut()
            while (stats := link.stats()).reconnects == count:
                pass
            assert stats.protocol == "5"
            assert stats.connected


def test_an_error_that_is_seen_is_told_and_says_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker() as broker, gate(broker.port) as door:
        for _ in range(100):
            caplog.clear()
            with connection(door.url) as link:
                wait_until(lambda: link.connected)
                with publishing(link):
                    door.say(TAKEN_OVER)
                    while link.last_error is None:
                        pass
                    assert link.stats().retry_in_s is not None
                    assert link.taken_over
            assert [r for r in caplog.records if r.levelno == logging.ERROR and f"'{DEVICE}'" in r.getMessage()]
