"""Requests through a real broker."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerun.broker.connection import Connection
from edgerun.capture.mqtt_request import MqttRequestSource, Options
from edgerun.clock import SystemClock
from edgerun.errors import ConfigError, FrameError, SourceError
from edgerun.ports import Incoming, SourceContext
from edgerun.slot import Slot
from edgerun.types import Grab, Reply, View
from tests import mosquitto
from tests.broker.parts import connection
from tests.capture.scenes import context

TOPIC = "edgerun/dock-7/requests"


@pytest.fixture(scope="module")
def broker() -> Iterator[mosquitto.Broker]:
    with mosquitto.broker() as started:
        yield started


@pytest.fixture
def link(broker: mosquitto.Broker) -> Iterator[Connection]:
    with connection(broker.url) as made:
        mosquitto.wait_until(lambda: made.connected)
        yield made


def opened(link: Connection, stop: threading.Event | None = None, **changed: object) -> MqttRequestSource:
    options = Options(**{"topic": TOPIC, **changed})
    source = MqttRequestSource(options, SourceContext("dock", SystemClock(), stop or threading.Event(), broker=link))
    mosquitto.wait_until(lambda: not link._inboxes.waits)
    return source


def send(broker: mosquitto.Broker, payload: bytes, folder: Path, *args: str, topic: str = TOPIC) -> None:
    """One message of MQTT 5 from another program; it returns when the broker has acknowledged it."""
    (folder / "payload").write_bytes(payload)
    command = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-V", "5", "-q", "1"]
    subprocess.run([*command, "-t", topic, "-f", str(folder / "payload"), *args], check=True)


@pytest.mark.parametrize(
    "topic", ["a/#/b", "#/a", "+a/b", "a#", "$share/g", "$share/g/", "$share//a", "$share/+/a", "a\0b", "é" * 40_000]
)
def test_what_cannot_be_subscribed_to_is_told_at_once(topic: str) -> None:
    with pytest.raises(ConfigError, match=r"not a topic filter|too long"):
        Options(topic=topic)


@pytest.mark.parametrize("topic", ["a", "/", "+", "#", "a/+/b/#", "$share/g/a/#", "$share/g//", "+/+"])
def test_topic_filters(topic: str) -> None:
    assert Options(topic=topic).topic == topic


class Fed:
    """A broker that hands over what the test puts into the inbox."""

    connected = True

    def subscribe(self, topic_filter: str, inbox: Slot[Incoming], qos: int = 1, *, as_published: bool = False) -> None:
        self.inbox = inbox

    def put(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.inbox.put(Incoming("a", payload, 1, retain=False))


def test_requests_that_gave_way_make_a_gap(caplog: pytest.LogCaptureFixture) -> None:
    fed = Fed()
    source = MqttRequestSource(
        Options(topic="a", waiting=2),
        SourceContext("dock", SystemClock(), threading.Event(), broker=fed),  # type: ignore[arg-type]
    )

    def grabbed(number: int) -> list[bool]:
        return [grab.gap for grab in (source.grab() for _ in range(number)) if grab is not None]

    fed.put(b"1", b"2")
    assert grabbed(2) == [False, False]
    fed.put(b"3", b"4", b"5")  # 3 gives way
    assert grabbed(2) == [True, False]
    fed.put(b"6")
    assert grabbed(1) == [False]
    take = source._inbox.take
    source._inbox.take = lambda timeout_s=None: (take(timeout_s), fed.put(b"8", b"9", b"10"))[0]  # type: ignore
    fed.put(b"7")
    first = grabbed(1)  # 8 gives way behind 7, before anybody has looked
    source._inbox.take = take  # type: ignore[method-assign]
    assert (first, grabbed(2)) == ([True], [True, False])
    assert source.dropped == 2
    fed.put(b"11")
    source.close()
    source.close()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "a: 1 requests gave way so far, more than 2 waited",
        "a: 1 requests still waited and are not answered",
    ]


def test_a_picture_is_a_request_with_its_way_back(link: Connection, broker: mosquitto.Broker, tmp_path: Path) -> None:
    source = opened(link)
    image = np.full((48, 64, 3), (10, 120, 200), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    back = ("-D", "PUBLISH", "response-topic", "answers/7", "-D", "PUBLISH", "correlation-data", "job-1")
    send(broker, jpeg, tmp_path, *back)
    grab = source.grab()
    assert grab is not None
    assert grab.item == "job-1"
    assert grab.reply == Reply("answers/7", b"job-1")
    picture = source.retrieve(None)
    assert np.abs(picture.astype(int) - image).max() < 6
    assert source.frame_size == (64, 48)
    assert source.retrieve(None, View(enough=(8, 8), grey=True)).ndim == 2
    out = np.zeros_like(image)
    assert source.retrieve(out) is out
    send(broker, jpeg, tmp_path)
    again = source.grab()
    assert again is not None
    assert (again.key, again.item, again.reply) == (grab.key, TOPIC, None)
    source.close()


def test_samples_are_a_request(link: Connection, broker: mosquitto.Broker, tmp_path: Path) -> None:
    source = opened(link, payload="samples", window_samples=4, channels=2, dtype="int16", scale=0.5)
    send(broker, np.arange(8, dtype="<i2").tobytes(), tmp_path)
    assert source.grab() is not None
    assert source.frame_size == (2, 4)
    assert source.retrieve(None).tolist() == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]
    out = np.zeros((4, 2), np.float32)
    assert source.retrieve(out) is out
    assert out[3, 1] == 3.5
    for wrong in (b"", bytes(15), bytes(17)):
        send(broker, wrong, tmp_path)
        source.grab()
        with pytest.raises(FrameError, match="16 bytes: 4 samples of 2 int16") as caught:
            source.retrieve(None)
        assert caught.value.reason == "decode"
    source.close()


@pytest.mark.parametrize("payload", [b"", b"\xff\xd8\xff", b"not a picture"])
def test_what_is_no_picture_costs_only_itself(
    link: Connection, broker: mosquitto.Broker, tmp_path: Path, payload: bytes
) -> None:
    source = opened(link)
    send(broker, payload, tmp_path)
    assert source.grab() is not None
    with pytest.raises(FrameError):
        source.retrieve(None)
    source.close()


def test_more_than_may_wait_push_the_oldest_out_and_the_order_stays(link: Connection) -> None:
    source = opened(link, payload="samples", window_samples=1, dtype="uint8", waiting=3)
    for number in range(8):
        link.publish(TOPIC, bytes([number]), qos=1)
    mosquitto.wait_until(lambda: source.dropped == 5)
    got = []
    for _ in range(3):
        source.grab()
        got.append(float(source.retrieve(None)[0, 0]))
    assert got == [5, 6, 7]
    source.close()


def test_retained_messages_are_no_requests(link: Connection, broker: mosquitto.Broker, tmp_path: Path) -> None:
    topic = "edgerun/dock-7/kept"
    send(broker, b"\x01", tmp_path, "-r", topic=topic)
    source = opened(link, topic=topic, payload="samples", window_samples=1, dtype="uint8")
    send(broker, b"\x02", tmp_path, topic=topic)
    source.grab()
    assert source.retrieve(None).tolist() == [[2]]
    source.close()


def test_requests_come_again_after_the_broker_was_away(tmp_path: Path) -> None:
    with mosquitto.broker() as own, connection(own.url) as link:
        mosquitto.wait_until(lambda: link.connected)
        source = opened(link, payload="samples", window_samples=1, dtype="uint8")
        own.kill()
        mosquitto.wait_until(lambda: not link.connected)
        own.restart()
        mosquitto.wait_until(lambda: link.connected and not link._inboxes.waits)
        link.publish(TOPIC, b"\x09", qos=1)
        assert source.grab() is not None
        assert source.retrieve(None).tolist() == [[9]]
        source.close()


def test_stop_ends_the_wait(link: Connection) -> None:
    stop = threading.Event()
    source = opened(link, stop)
    ended: list[Grab | None] = []
    thread = threading.Thread(target=lambda: ended.append(source.grab()))
    thread.start()
    stop.set()
    thread.join(20)
    assert ended == [None]
    source.close()
    source.close()


def test_without_a_broker_it_is_final() -> None:
    with pytest.raises(SourceError, match="there is none") as caught:
        MqttRequestSource(Options(topic=TOPIC), context())
    assert caught.value.final


@pytest.mark.parametrize("wrong", [{"payload": "samples"}, {"window_samples": 5}])
def test_options_that_contradict_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="window_samples"):
        Options(topic=TOPIC, **wrong)
