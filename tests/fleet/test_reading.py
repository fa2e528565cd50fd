"""What a fleet retains, read from a real broker; also from one that drops half of it, and when somebody lies."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.broker.message import Message
from edgerun.broker.options import BrokerOptions
from edgerun.errors import BrokerError
from edgerun.fleet.fleet import Device, Fleet, summary
from edgerun.fleet.line import Line
from edgerun.fleet.reading import read
from tests import mosquitto
from tests.broker.gate import HANG_UP, REFUSED_BY_3_1_1, REFUSED_BY_5, gate
from tests.fleet.parts import line_to, opened, publish, retained


def fleet_of(number: int) -> list[Message]:
    messages = []
    for at in range(number):
        messages += retained(f"d{at:04d}", {"site": "north" if at % 2 else "south"})
    return messages


def test_everything_that_is_retained_is_read() -> None:
    with mosquitto.broker() as broker:
        stalled = retained("d9999", {"site": "north"}, "stalled")
        publish(broker, [*fleet_of(30), *stalled, Message("edgerun/d0000/status", b"offline", 1, True)])
        with opened(broker) as line:
            found = read(line, "edgerun")
    assert (found.messages, found.again, found.incomplete, found.fleet.refused) == (31 * 4, 0, (), 0)
    told = summary(found.fleet.chosen({}))
    assert (told["devices"], told["online"], told["offline"], told["alarmed"]) == (31, 30, 1, 2)
    assert told["models"] == {"detector": {"2": 31}}
    assert len(found.fleet.chosen({"site": "north"})) == 16
    assert found.fleet.devices["d9999"].alarms() == ["dock stalled: no frames"]
    assert found.fleet.devices["d0000"].alarms() == ["offline"]
    assert found.fleet.devices["d0001"].told()["models"] == {"detector": {"model": "ssd", "version": "2"}}


def test_what_a_broker_drops_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a short queue, to a reader whose kernel takes little: it drops most of what is retained."""
    monkeypatch.setattr("edgerun.fleet.line._RECEIVE_BYTES", 131072)
    padding = {"note": "x" * 20_000}
    with mosquitto.broker("max_queued_messages 10") as broker:
        messages = [one for at in range(600) for one in retained(f"d{at:04d}", padding)]
        publish(broker, messages)
        with opened(broker) as line:
            found = read(line, "edgerun")
    assert found.again > 0, "else nothing was dropped, and nothing is tested"
    assert (len(found.fleet.devices), found.incomplete) == (600, ())


def test_what_nobody_retained_is_told() -> None:
    with mosquitto.broker() as broker:
        publish(broker, [one for one in fleet_of(40) if "/info" not in one.topic])
        with opened(broker) as line:
            found = read(line, "edgerun")
            assert len(found.incomplete) == 40
            assert read(line, "edgerun", ("status",)).incomplete == (), "nobody asked for more"
    assert summary(found.fleet.chosen({}))["edgerun"] == {}


def test_a_link_that_is_lost_comes_back_with_what_is_retained() -> None:
    with mosquitto.broker() as broker, opened(broker) as line:
        line.subscribe(["edgerun/+/status"])
        line.drain(quiet_s=0.05)
        broker.kill()
        mosquitto.wait_until(lambda: (line.step(0.05), not line.connected)[1], what="its end")
        broker.restart()
        publish(broker, fleet_of(3))
        came = []
        mosquitto.wait_until(lambda: came.extend(line.step(0.05)) or len(came) >= 3, 60, "what is retained")
    assert {one.payload for one in came} == {b"online"}


def test_a_broker_that_is_not_there_or_refuses_is_told() -> None:
    with mosquitto.broker(start=False) as broker, pytest.raises(BrokerError, match="cannot be reached"):
        line_to(broker).open()
    with mosquitto.broker_with_password("ops", "secret") as broker, pytest.raises(BrokerError, match="refuses"):
        line_to(broker).open()


def test_where_the_mark_may_not_be_sent_quiet_ends_it() -> None:
    from edgerun.secret import Secret

    with mosquitto.broker_with_password("ops", "secret", "topic read edgerun/+/status") as broker:
        line = line_to(broker, username="ops", password=Secret("plain", "secret"))
        line.open()
        line.subscribe(["edgerun/+/status"])
        assert line.drain(quiet_s=0.02) == []
        line.close()


@pytest.mark.parametrize("old", [REFUSED_BY_5, REFUSED_BY_3_1_1, HANG_UP], ids=["0x84", "0x01", "hangs up"])
def test_a_broker_of_3_1_1_will_do(old: bytes) -> None:
    with mosquitto.broker() as broker, gate(broker.port, old) as door:
        publish(broker, fleet_of(2))
        line = Line(BrokerOptions(url=door.url, client_id="fleet"))
        line.open()
        assert len(read(line, "edgerun").fleet.devices) == 2
        line.close()


def test_one_that_says_nothing_is_given_up() -> None:
    with mosquitto.broker() as broker, gate(broker.port) as door:
        door.deaf.set()
        line = Line(BrokerOptions(url=door.url, client_id="fleet", connect_timeout_s=0.3))
        with pytest.raises(BrokerError, match="said nothing"):
            line.open()


@given(
    st.sampled_from(["status", "info", "state/dock", "models/detector", "state/", "", "cmd/pause", "info/x"]),
    st.binary(max_size=60)
    | st.sampled_from([b"[]", b"null", b'{"models":3}', b'{"rollout":{"id":7}}', b'{"state":[]}', b"[" * 100_000]),
)
def test_whatever_is_published_is_taken_or_counted(topic: str, payload: bytes) -> None:
    fleet = Fleet()
    device = fleet.take(f"edgerun/dock-7/{topic}", payload)
    assert (device is None) == (fleet.refused == 1)
    summary(fleet.chosen({}))
    for one in fleet.devices.values():
        assert isinstance(one, Device)
        one.told()
        one.missing()


def test_a_line_does_not_hang_at_its_end() -> None:
    with mosquitto.broker() as broker:
        before = set(threading.enumerate())
        line = line_to(broker)
        line.open()
        line.close()
        line.close()
    assert set(threading.enumerate()) <= before, "a thread of its own is left"
