"""The mqtt sink: results on their topics, at a real broker."""

from __future__ import annotations

import json

import pytest

from edgerun.clock import SystemClock
from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.mqtt import MqttSink
from edgerun.publish.wire import encode_result
from edgerun.registry import resolve
from tests import mosquitto
from tests.broker.parts import DEVICE, connection
from tests.publish.samples import publication
from tests.schemas import validate


def test_results_arrive_on_the_topic_of_their_stream() -> None:
    publications = [publication(n, stream=stream) for n in range(20) for stream in ("dock", "gate")]
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "site/#") as seen,
        connection(broker.url) as link,
    ):
        sink = MqttSink(MqttSink.Options(prefix="site/1"), SinkContext(DEVICE, SystemClock(), link))
        assert not sink.wants_picture
        for each in publications:
            sink.publish(each)
        sink.flush(60)
        assert link.flush(0)
        sink.close()
        assert link.connected, "the sink closed what it does not own"
        messages = seen.wait(lambda ms: len(ms) >= len(publications))
    assert [m.payload for m in messages] == [encode_result(each, DEVICE) for each in publications]
    assert {m.topic for m in messages} == {f"site/1/{DEVICE}/detections/{s}" for s in ("dock", "gate")}
    assert {(m.qos, m.retain) for m in messages} == {(1, False)}
    for message in messages:
        validate("result", json.loads(message.payload))


def test_flush_returns_when_the_broker_does_not() -> None:
    with connection(f"mqtt://127.0.0.1:{mosquitto.free_port()}") as link:
        sink = MqttSink(MqttSink.Options(), SinkContext(DEVICE, SystemClock(), link))
        sink.publish(publication())
        sink.flush(0.1)
        assert link.stats().waiting == 1


def test_needs_a_broker() -> None:
    with pytest.raises(ConfigError, match="mqtt"):
        MqttSink(MqttSink.Options(), SinkContext(DEVICE, SystemClock()))


def test_is_registered() -> None:
    assert resolve("sink", "mqtt") is MqttSink
