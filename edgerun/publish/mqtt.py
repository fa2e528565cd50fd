"""Results to the broker: `<prefix>/<device>/detections/<stream>`, and what happened in the scene to `…/event`.

A result that answers a request goes to the request's response topic too.

Both QoS 1, not retained.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.wire import encode_events, encode_result
from edgerun.types import Publication

_ANSWER_S = 60
"""Who asked does not wait longer for an answer."""


class MqttSink:
    """Publishes through the process's one connection, which it does not own. Raises `ConfigError` without one."""

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """`prefix`: the first levels of the topic."""

        prefix: str = "edgerun"

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_picture = False
    broken = False

    def __init__(self, options: Options, context: SinkContext) -> None:
        if context.broker is None:
            raise ConfigError("the mqtt sink needs a broker", expected="[mqtt] with an url", remedy="add it")
        self._broker, self._device = context.broker, context.device
        self._root = f"{options.prefix}/{context.device}"

    def publish(self, publication: Publication) -> None:
        """Queue one result and its events; what cannot be kept is counted by the connection."""
        payload = encode_result(publication, self._device)
        stamp = publication.result.stamp
        number = int(publication.id.rpartition("-")[2])
        topic = f"{self._root}/detections/{stamp.stream}"
        self._broker.publish(topic, payload, qos=1, keep="detection", number=number)
        if stamp.reply is not None:
            self._broker.publish(
                stamp.reply.topic, payload, qos=1, correlation=stamp.reply.correlation, expires_s=_ANSWER_S
            )
        if publication.result.events:
            for event in encode_events(publication):
                self._broker.publish(f"{self._root}/event", event, qos=1, keep="event")

    def flush(self, timeout_s: float) -> None:
        """Return when the broker has acknowledged everything, or after `timeout_s`."""
        self._broker.flush(timeout_s)

    def close(self) -> None:
        """The connection belongs to whoever made it."""
