"""Messages that come in: inboxes, filters, subscriptions after a restart."""

from __future__ import annotations

from edgerun.ports import Incoming
from edgerun.slot import Slot
from tests import mosquitto
from tests.broker.parts import DEVICE, LATE_S, connection
from tests.mosquitto import wait_until


def test_incoming_messages_wait_in_an_inbox_and_harm_nobody() -> None:
    inbox: Slot[Incoming] = Slot(4)
    with mosquitto.broker("log_type all") as broker, connection(broker.url) as link:
        link.subscribe(f"edgerun/{DEVICE}/cmd/#", inbox)
        wait_until(lambda: "Sending SUBACK" in broker.log, what="the subscription")
        topic = f"edgerun/{DEVICE}/cmd/reload"
        for n in range(20):
            link.publish(topic, b"%d" % n, qos=1)
        assert link.flush(LATE_S)
        wait_until(lambda: inbox.stats().put == 20)
        assert inbox.stats().victims == 16
        last = [inbox.take(5) for _ in range(4)]
        assert [m.payload for m in last if m] == [b"16", b"17", b"18", b"19"]
        inbox.close()
        link.publish(topic, b"nobody listens", qos=1)
        assert link.flush(LATE_S)
        assert link.connected


def test_two_inboxes_of_one_filter_and_what_is_left_when_they_close() -> None:
    first: Slot[Incoming] = Slot(100)
    second: Slot[Incoming] = Slot(100)
    with mosquitto.broker() as broker, connection(broker.url) as link:
        link.subscribe("t/+", first)
        link.subscribe("t/+", second)

        def both_hear() -> bool:
            link.publish("t/1", b"1", qos=1)
            return first.take(0.2) is not None and second.take(0.2) is not None

        wait_until(both_hear, what="both subscriptions")
        first.close()
        again: Slot[Incoming] = Slot(100)
        link.subscribe("t/+", again)  # as a source does that is opened again while its old inbox is forgotten

        def the_others_hear() -> bool:
            link.publish("t/2", b"2", qos=1)
            return again.take(0.2) is not None and second.take(0.2) is not None

        wait_until(the_others_hear, what="those that are left")
        second.close()
        again.close()
        wait_until(lambda: not link._inboxes._inboxes and not link._inboxes.waits, what="the end of the subscription")
        assert link.connected


def test_subscriptions_are_asked_for_again_after_a_restart() -> None:
    inbox: Slot[Incoming] = Slot(100)
    with mosquitto.broker() as broker, connection(broker.url) as link:
        link.subscribe("t/+", inbox)
        wait_until(lambda: link.connected)
        broker.kill()
        wait_until(lambda: not link.connected)
        broker.restart()
        wait_until(lambda: link.connected)

        def sent_and_received() -> bool:
            link.publish("t/1", b"1", qos=1)
            return inbox.take(0.2) is not None

        wait_until(sent_and_received, what="the subscription")
