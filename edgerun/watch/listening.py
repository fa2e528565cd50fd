"""The watcher's own connection: it publishes nothing, has no will, and is no device."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

from edgerun.broker import ending as endings
from edgerun.broker.options import BrokerOptions, parse_address
from edgerun.broker.paho import encrypt, new_client, properties
from edgerun.broker.reconnect import MQTT_3_1_1, MQTT_5
from edgerun.broker.tls import tls_context
from edgerun.errors import BrokerError, EdgerunError

_log = logging.getLogger(__name__)

_KINDS = ("status", "info", "state/+", "telemetry", "event")
_RESULTS = "detections/+"
_LONGEST_PACKET = 2 << 20  # an MQTT 5 broker keeps longer messages to itself
_RECONNECT_S = (1, 30)


class Listener:
    """Brings what devices say to `take(topic, payload)`, called by the thread of paho. Reconnects by itself.

    `options.client_id` is not used: a watcher has a name of its own. `device`: only that one's messages. `results`:
    these, too.
    """

    def __init__(
        self,
        options: BrokerOptions,
        take: Callable[[str, bytes], None],
        device: str | None = None,
        *,
        results: bool = False,
    ) -> None:
        self._options, self._take = options, take
        self._address = parse_address(options.url)
        front = f"{options.prefix}/{device or '+'}/"
        self._filters = [(front + kind, 1) for kind in _KINDS] + [(front + _RESULTS, 0)] * results
        self._answered = threading.Event()
        self._subscribed = threading.Event()
        self._refusal: tuple[int, str] | None = None
        self._client: Any = None
        self.connected = False

    def start(self) -> None:
        """Connect and subscribe. Raises `BrokerError` when that fails, `MissingError` without paho, `ConfigError`."""
        self._try(MQTT_5)
        if self._refusal is not None and self._refusal[0] == endings.UNSUPPORTED_VERSION:
            self.stop()
            self._try(MQTT_3_1_1)
        if self._refusal is not None:
            error: BrokerError = endings.refused(self._options, self._address, *self._refusal).error
        elif not self._answered.is_set() or not self._subscribed.wait(self._options.connect_timeout_s):
            error = endings.no_connack(self._options, self._address).error
        else:
            return
        self.stop()
        raise error

    def stop(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _try(self, protocol: int) -> None:
        self._refusal = None
        self._answered.clear()
        options = self._options
        name = f"edgerun-watch-{secrets.token_hex(4)}"
        client = self._client = new_client(options, self._address, protocol, name)
        client.suppress_exceptions = True
        client.reconnect_delay_set(*_RECONNECT_S)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, lambda *_: self._subscribed.set()
        how: dict[str, Any] = {"keepalive": options.keepalive_s}
        if protocol == MQTT_5:
            how["properties"] = properties("CONNECT", MaximumPacketSize=_LONGEST_PACKET)
        try:
            if self._address.tls:
                encrypt(client, options, self._address, tls_context(options))
            client.connect(self._address.host, self._address.port, **how)
        except (OSError, EdgerunError) as error:
            raise endings.cannot_connect(options, self._address, error).error from error
        client.loop_start()
        self._answered.wait(options.connect_timeout_s)

    def _on_connect(self, client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._refusal = code.value, str(code)
            client.disconnect()  # else it would try for ever
        else:
            self.connected = True
            client.subscribe(self._filters)
        self._answered.set()

    def _on_disconnect(self, *_: Any) -> None:
        self.connected = False

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # paho hands over what no broker should let through
            return
        self._take(topic, bytes(message.payload))
