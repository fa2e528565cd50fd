"""A broker that refuses, speaks an older protocol, or gives the id to another."""

from __future__ import annotations

import logging

import pytest

from edgerun.errors import BrokerError
from tests import mosquitto
from tests.broker.gate import HANG_UP, REFUSED_BY_3_1_1, REFUSED_BY_5, TAKEN_OVER, gate
from tests.broker.parts import DEVICE, LATE_S, STATUS, TOPIC, connection, numbers
from tests.mosquitto import wait_until

PLANTED = "pl4nted-s3cret"


def test_a_silent_broker_is_given_up_after_the_connect_time_out() -> None:
    with mosquitto.broker() as broker:
        broker.freeze()
        with connection(broker.url, connect_timeout_s=0.3) as link:
            wait_until(lambda: link.last_error is not None)
            assert "CONNACK" in str(link.last_error)
            broker.thaw()
            wait_until(lambda: link.connected)


def test_a_wrong_password_is_told_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with mosquitto.broker_with_password("dock", "right") as broker:
        url = broker.url.replace("://", f"://dock:{PLANTED}@")
        with connection(url) as link:
            wait_until(lambda: link.last_error is not None)
            assert isinstance(link.last_error, BrokerError)
            shown = [str(link.last_error), repr(link.last_error), repr(link), repr(vars(link)), caplog.text]
            assert not link.connected
            assert link.stats().retry_in_s is not None or link.last_error is not None
    assert "refuses user 'dock'" in shown[0]
    assert not [text for text in [*shown, caplog.text] if PLANTED in text]


def test_the_right_password_works_and_a_refused_topic_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    acl = (f"topic readwrite edgerun/{DEVICE}/#",)
    with (
        mosquitto.broker_with_password("dock", PLANTED, *acl) as broker,
        connection(broker.url.replace("://", f"://dock:{PLANTED}@")) as link,
    ):
        link.publish(TOPIC, b"1", qos=1)
        link.publish("elsewhere/forbidden", b"2", qos=1)
        link.publish("elsewhere/forbidden", b"3", qos=1)
        assert link.flush(LATE_S)
        stats = link.stats()
    assert stats.acked == 1
    assert stats.dropped == {"refused": 2}
    assert caplog.text.count("elsewhere/forbidden") == 1
    assert PLANTED not in caplog.text


@pytest.mark.parametrize("old", [REFUSED_BY_5, REFUSED_BY_3_1_1, HANG_UP], ids=["0x84", "0x01", "hangs up"])
def test_falls_back_to_3_1_1_by_itself(old: bytes) -> None:
    with (
        mosquitto.broker() as broker,
        gate(broker.port, old) as door,
        connection(door.url) as link,
        mosquitto.subscriber(broker, TOPIC) as seen,
    ):
        link.publish(TOPIC, b"1", qos=1)
        assert link.flush(LATE_S)
        assert numbers(seen.wait(len)) == [1]
        assert link.stats().protocol == "3.1.1"
        assert door.versions == ([5, 5, 4] if old == HANG_UP else [5, 4])
        door.cut()
        wait_until(lambda: link.stats().reconnects == 1)
        assert link.stats().protocol == "3.1.1"


def test_3_1_1_publishes_its_will_and_says_goodbye() -> None:
    with (
        mosquitto.broker() as broker,
        gate(broker.port, REFUSED_BY_5) as door,
        mosquitto.subscriber(broker, STATUS) as seen,
    ):
        with connection(door.url):
            seen.wait(lambda ms: ms[-1].payload == b"online")
            door.locked.set()
            door.cut()
            assert seen.wait(lambda ms: len(ms) >= 2)[-1].payload == b"offline"
            door.locked.clear()
            seen.wait(lambda ms: len(ms) >= 3)
        messages = seen.wait(lambda ms: len(ms) >= 4)
    assert [m.payload for m in messages] == [b"online", b"offline", b"online", b"offline"]


def test_a_take_over_waits_long_and_names_the_id(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker() as broker, gate(broker.port) as door, connection(door.url) as link:
        wait_until(lambda: link.connected)
        door.say(TAKEN_OVER)
        wait_until(lambda: link.stats().retry_in_s)
        wait_s = link.stats().retry_in_s
        assert wait_s is not None
        assert 50 < wait_s <= 120
        assert f"'{DEVICE}'" in str(link.last_error)
    assert [r for r in caplog.records if r.levelno == logging.ERROR and f"'{DEVICE}'" in r.getMessage()]


@pytest.mark.parametrize("old", [None, REFUSED_BY_5], ids=["5", "3.1.1"])
def test_two_of_one_id_do_not_fight_for_ever(old: bytes | None) -> None:
    with (
        mosquitto.broker() as broker,
        gate(broker.port, old) as door,
        connection(door.url) as one,
        connection(door.url) as other,
    ):
        wait_until(lambda: max(link.stats().retry_in_s or 0 for link in (one, other)) > 50)
        left, right = (one, other) if (one.stats().retry_in_s or 0) > 50 else (other, one)
        assert f"another client with the id '{DEVICE}'" in str(left.last_error)
        wait_until(lambda: right.connected)


def test_a_broker_that_throws_us_out_again_and_again_is_left_alone_for_a_while() -> None:
    with (
        mosquitto.broker() as broker,
        gate(broker.port, REFUSED_BY_5, hang_up_after_connack=True) as door,
        connection(door.url) as link,
    ):
        wait_until(lambda: "another client" in str(link.last_error))
        wait_s = link.stats().retry_in_s
        assert wait_s is not None
        assert wait_s > 50
        assert door.versions == [5, 4, 4, 4]
