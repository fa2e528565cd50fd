"""Brokers that refuse in every way there is, that talk nonsense, and that never acknowledge."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from tests import mosquitto
from tests.broker.parts import LATE_S, Ahead, balanced, connection
from tests.faults.server import deaf, refused, server
from tests.mosquitto import wait_until
from tests.spool.test_spool import TOPIC, device, heard, on_disk, told

OLD = 4
"""The protocol level of MQTT 3.1.1."""
QUICK = {"reconnect_max_s": 0.05, "takeover_delay_s": 0.05}

# MQTT 5.0, 3.2.2.2, table 3-1; what the operator is to read, and what makes sense to do about it.
REFUSALS_5 = {
    0x80: ("refuses the connection", "the broker's log"),
    0x81: ("refuses the connection", "the broker's log"),
    0x82: ("refuses the connection", "the broker's log"),
    0x83: ("refuses the connection", "the broker's log"),
    0x85: ("refuses the client id 'dock-7'", "Choose another device id"),
    0x86: ("refuses a client without a user name", "Check username and password"),
    0x87: ("refuses a client without a user name", "Check username and password"),
    0x88: ("refuses the connection", "keeps trying"),
    0x89: ("refuses the connection", "keeps trying"),
    0x8A: ("refuses a client without a user name", "Check username and password"),
    0x8C: ("refuses the connection", "the broker's log"),
    0x90: ("refuses the connection", "the broker's log"),
    0x95: ("refuses the connection", "the broker's log"),
    0x97: ("refuses the connection", "keeps trying"),
    0x9A: ("refuses the connection", "the broker's log"),
    0x9B: ("refuses the connection", "the broker's log"),
    0x9C: ("refuses the connection", "the broker's log"),
    0x9D: ("refuses the connection", "the broker's log"),
    0x9F: ("refuses the connection", "keeps trying"),
}
# MQTT 3.1.1, 3.2.2.3, table 3.1, but for 1, the version.
REFUSALS_3_1_1 = {
    2: ("refuses the client id 'dock-7'", "Choose another device id"),
    3: ("refuses the connection", "keeps trying"),
    4: ("refuses a client without a user name", "Check username and password"),
    5: ("refuses a client without a user name", "Check username and password"),
}


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "edgerun.broker" and r.levelno >= logging.ERROR]


@pytest.mark.parametrize("code", REFUSALS_5, ids=hex)
def test_a_refusal_of_5_is_told_once_with_its_code_and_tried_again(code: int, caplog: pytest.LogCaptureFixture) -> None:
    what, remedy = REFUSALS_5[code]
    with server(lambda level: refused(level, code)) as broker, connection(broker.url, **QUICK) as link:
        wait_until(lambda: len(broker.levels) >= 3, what="a third attempt")
        assert not link.connected
        assert balanced(link)
    assert set(broker.levels) == {5}, "no reason to change the version"
    (said,) = complaints(caplog)
    assert what in said
    assert f"0x{code:02X}" in said
    assert remedy in said


@pytest.mark.parametrize("code", REFUSALS_3_1_1)
def test_a_refusal_of_3_1_1_is_told_once_and_tried_again(code: int, caplog: pytest.LogCaptureFixture) -> None:
    what, remedy = REFUSALS_3_1_1[code]

    def answer(level: int) -> bytes:
        return refused(OLD, code if level == OLD else 1)  # of 5 it knows nothing, not even how to say so

    with server(answer) as broker, connection(broker.url, **QUICK) as link:
        wait_until(lambda: broker.levels.count(OLD) >= 3, what="a third attempt")
        assert not link.connected
    assert broker.levels[0] == 5
    assert broker.levels[-2:] == [OLD, OLD], "settled on what it understands"
    told_of = [one for one in complaints(caplog) if "version of MQTT" not in one]
    assert len(told_of) == 1
    assert what in told_of[0]
    assert remedy in told_of[0]


def test_a_broker_of_neither_version_is_asked_for_both_in_turn(caplog: pytest.LogCaptureFixture) -> None:
    with server(lambda level: refused(level, 0x84 if level == 5 else 1)) as broker, connection(broker.url, **QUICK):
        wait_until(lambda: len(broker.levels) >= 6, what="six attempts")
    assert set(broker.levels) == {5, OLD}
    assert any("does not speak this version" in r.getMessage() for r in caplog.records)


NONSENSE = {
    "a code that is reserved": lambda level: refused(level, 0x42),
    "a code of a payload that CONNECT has none of": lambda level: refused(level, 0x99),
    "the highest code": lambda level: refused(level, 0xFF),
    "an empty CONNACK": lambda level: b"\x20\x00",
    "a length that never ends": lambda level: b"\x20\xff\xff\xff\xff\xff\x7f",
    "properties that are cut off": lambda level: b"\x20\x05\x00\x00\x7f\x21\x00",
    "a property that is none": lambda level: b"\x20\x05\x00\x00\x02\x7f\x00",
}
CUT_OFF = {
    "another packet first": lambda level: b"\x40\x02\x00\x01",
    "a web server": lambda level: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "half a CONNACK": lambda level: refused(level, 0)[:2],
}


@pytest.mark.parametrize("hang_up", [True, False], ids=["then hangs up", "then is silent"])
@pytest.mark.parametrize("answer", [*NONSENSE.values(), *CUT_OFF.values()], ids=[*NONSENSE, *CUT_OFF])
def test_nonsense_is_told_and_tried_again(answer: object, hang_up: bool, caplog: pytest.LogCaptureFixture) -> None:
    with (
        server(answer, hang_up=hang_up) as broker,  # type: ignore[arg-type]
        connection(broker.url, **QUICK, connect_timeout_s=0.3 if answer in CUT_OFF.values() else 30.0) as link,
    ):
        link.publish("edgerun/dock-7/event", b"{}", qos=1)
        wait_until(lambda: len(broker.levels) >= 3, what="a third attempt")
        wait_until(lambda: link.last_error is not None)
        assert balanced(link)
        assert link.stats().acked == 0
    told_of = [r.getMessage() for r in caplog.records if r.name == "edgerun.broker" and r.levelno >= logging.WARNING]
    assert told_of
    assert not any("\n" in one for one in told_of)
    assert (answer in NONSENSE.values()) == any("the broker's answer makes no sense" in one for one in told_of)


def test_a_broker_that_never_acknowledges_costs_nothing_that_is_kept(tmp_path: Path) -> None:
    """It takes everything and says nothing but yes to CONNECT: on disk within a second or so, sent again, replayed."""
    count = 50
    with server(deaf, hang_up=False) as broker:
        clock = Ahead()
        with device(broker.url, tmp_path, clock=clock, ack_timeout_s=600.0) as made:
            wait_until(lambda: made.connected)
            for n in range(count):
                made.result(n)
            wait_until(lambda: on_disk(tmp_path) > 0, what="copies on disk")
            assert made.connected, "the link is not given up yet"
            assert made.stats().reconnects == 0
            clock.ahead_ns = 601_000_000_000
            wait_until(lambda: made.stats().reconnects >= 1, what="a link given up")
            assert made.spool.spool_stats().messages <= count
            assert made.stats().acked == 0
            assert balanced(made)
            assert told(made) == []
            began = time.monotonic()
        assert time.monotonic() - began < 10, "nor does it hold up the end"
        assert broker.swallowed > 20 * 100, "a window full"
    with mosquitto.broker() as real, mosquitto.subscriber(real, TOPIC) as seen, device(real.url, tmp_path) as made:
        messages = seen.wait(lambda ms: len(ms) >= count)
        assert made.flush(LATE_S)
        assert heard(messages) == [(n, True) for n in range(count)]
        assert told(made) == [], "a stop in order is no unclean one"
