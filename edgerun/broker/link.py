"""One network connection, from CONNECT to its end: everything that knows paho.

paho is driven from outside (`loop_read`, `loop_write`, `loop_misc`), not by its own thread. That thread reconnects
without jitter, dies of an exception in a callback while `is_connected()` stays true, and takes messages without a
bound; driven from here, one thread of ours is the only one inside paho, callbacks only write down what happened, and a
message is handed over only when the one before has left paho's buffer. A new paho client is made for every connection,
so that nothing is kept inside it: what is unacknowledged lies in `Outgoing` and is published anew, in order, under new
packet ids. To a receiver of QoS 1 that is the same as the re-sending of MQTT 5.0, 4.4: it must expect duplicates.
"""

from __future__ import annotations

import itertools
import logging
import select
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from edgerun.broker import ending as endings
from edgerun.broker.ending import Ending
from edgerun.broker.message import Message
from edgerun.broker.options import Address, BrokerOptions
from edgerun.broker.paho import encrypt, new_client, properties
from edgerun.broker.reconnect import MQTT_5
from edgerun.broker.tls import ClientContext, tls_context
from edgerun.ports import Incoming

_log = logging.getLogger(__name__)

_INCOMING_MAX_BYTES = 8 << 20  # told to an MQTT 5 broker: no command or frame is larger, and memory is small
_MISC_NS = 250_000_000
_numbers = itertools.count()
_READABLE = select.POLLIN | select.POLLPRI | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Accepted(msgspec.Struct, frozen=True):
    """What the broker said in its CONNACK (MQTT 5.0, 3.2.2.3); 3.1.1 says none of it."""

    receive_maximum: int = 65535
    packet_max_bytes: int | None = None
    qos_max: int = 2
    can_retain: bool = True


class Link:
    """Used by one thread. Constructing connects and sends CONNECT, blocking up to twice `connect_timeout_s` (TCP, TLS).

    It raises what connecting raises: `OSError` (with `ssl.SSLError`), `ConfigError` for a certificate or password that
    cannot be read. After that nothing raises but a bug: `ending` is set when the link is over. `wake_fd` ends a `step`
    early when it becomes readable.
    """

    def __init__(self, options: BrokerOptions, address: Address, protocol: int, wake_fd: int) -> None:
        self._options, self._address, self.protocol = options, address, protocol
        self.accepted: Accepted | None = None
        self.ending: Ending | None = None
        self.acks: list[tuple[int, int, str]] = []
        """(packet id, reason code, its name) of every PUBACK since the owner last emptied the list."""
        self.incoming: list[Incoming] = []
        """Messages since the owner last emptied the list."""
        self._number = next(_numbers)
        self._misc_ns = 0
        self._tls = tls_context(options) if address.tls else None
        self._client = _client(options, address, protocol, self._tls)
        self._listen()
        try:
            self._connect()
        except BaseException:
            self.close()
            if self._tls is not None and self._tls.wrapped is not None:
                self._tls.wrapped.close()
            raise
        sock = self._client.socket()
        if sock is None:  # lost while CONNECT was written
            self.ending = self.ending or endings.closed_early(self._address)
            return
        self._poll = select.poll()
        self._wake_fd, self._fd = wake_fd, sock.fileno()
        self._pending = getattr(sock, "pending", lambda: 0)  # TLS may hold bytes that the kernel no longer shows
        self._events = select.POLLIN
        self._poll.register(wake_fd, select.POLLIN)
        self._poll.register(self._fd, self._events)

    @property
    def ready(self) -> bool:
        """Whether a message can be handed over: accepted, alive, and nothing of ours waits in paho's buffer."""
        return self.accepted is not None and self.ending is None and not self._client.want_write()

    def publish(self, message: Message, waited_s: int = 0) -> int:
        """Hand one message to paho, which writes it at once; returns its packet id.

        `waited_s` of its time to live have passed already.
        """
        properties = _properties(message, waited_s) if self.protocol == MQTT_5 else None
        return int(self._client.publish(message.topic, message.payload, message.qos, message.retain, properties).mid)

    def subscribe(self, topic_filter: str, qos: int, *, as_published: bool = False) -> None:
        """`as_published`: a message that is published with `retain` while we listen says so (MQTT 5 only)."""
        if as_published and self.protocol == MQTT_5:
            from paho.mqtt.subscribeoptions import SubscribeOptions

            self._client.subscribe(topic_filter, options=SubscribeOptions(qos=qos, retainAsPublished=True))
        else:
            self._client.subscribe(topic_filter, qos)

    def ack(self, packet: tuple[int, int]) -> None:
        """Acknowledge what came as `packet`; what came by another link is that one's."""
        if packet[0] == self._number and self.ending is None:
            self._client.ack(packet[1], 1)

    def unsubscribe(self, topic_filter: str) -> None:
        self._client.unsubscribe(topic_filter)

    def step(self, timeout_s: float, now_ns: int) -> bool:
        """Wait for the network, at most `timeout_s`, and do what there is to do. True when `wake_fd` was the reason."""
        if self.ending is not None:
            return False
        events = select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)
        if events != self._events:
            self._events = events
            self._poll.modify(self._fd, events)
        waiting = self._pending() > 0
        woken = False
        for fd, what in self._poll.poll(0 if waiting else max(0, round(timeout_s * 1000))):
            if fd == self._wake_fd:
                woken = True
                continue
            waiting = waiting or bool(what & _READABLE)
            if what & select.POLLOUT:
                self._client.loop_write()
        if waiting:
            self._read()
        if self.ending is None and now_ns - self._misc_ns >= _MISC_NS:
            self._misc_ns = now_ns
            self._client.loop_misc()
        return woken

    def _read(self) -> None:
        """All there is: what paho has taken out of a WebSocket frame, and not looked at yet, no poll would show."""
        before = -1
        while self.ending is None and before != (before := len(self.acks) + len(self.incoming)):
            self._client.loop_read()
            if not self._address.websocket:
                return

    def disconnect(self) -> None:
        """Say goodbye: the broker throws the will away."""
        self._client.disconnect()

    def close(self) -> None:
        """Hang up without a word; after anything but `disconnect` the broker publishes the will. Idempotent."""
        client = self._client
        client.on_disconnect = client.on_connect = client.on_message = client.on_publish = client.on_subscribe = None
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _connect(self) -> None:
        how: dict[str, Any] = {"keepalive": self._options.keepalive_s}
        if self.protocol == MQTT_5:
            how |= {"clean_start": False, "properties": _connect_properties(self._options)}
        self._client.connect(self._address.host, self._address.port, **how)

    def _listen(self) -> None:
        client = self._client
        client.on_socket_open = lambda _client, _data, sock: _no_delay(sock)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self.ending = endings.refused(self._options, self._address, code.value, str(code))
            return
        self.accepted = Accepted(
            receive_maximum=getattr(properties, "ReceiveMaximum", 65535),
            packet_max_bytes=getattr(properties, "MaximumPacketSize", None),
            qos_max=getattr(properties, "MaximumQoS", 2),
            can_retain=bool(getattr(properties, "RetainAvailable", 1)),
        )

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        """May come twice for one link; the first reason counts."""
        if self.ending is not None:
            return
        if flags.is_disconnect_packet_from_server:
            self.ending = endings.disconnected(self._options, self._address, code.value, str(code))
        elif self.accepted is None:
            self.ending = endings.closed_early(self._address, garbled=code.value == endings.PROTOCOL_ERROR)
        else:
            hung_up = "eep alive" not in str(code)
            got = "the end of the connection" if hung_up else "no answer to a ping"
            self.ending = endings.lost(self._address, got, hung_up=hung_up)

    def _on_publish(self, _client: Any, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        self.acks.append((mid, code.value, str(code) if code.is_failure else ""))

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if len(message.payload) > _INCOMING_MAX_BYTES:  # of MQTT 3.1.1, which knows no limit
            size = f"{len(message.payload)} bytes, more than {_INCOMING_MAX_BYTES}"
            _log.warning("%s: a message on %s is not taken: %s", self._address, message.topic, size)
            return
        properties = message.properties
        self.incoming.append(
            Incoming(
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=bool(message.retain),
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
                expires_in_s=getattr(properties, "MessageExpiryInterval", None),
                packet=(self._number, message.mid) if self._options.receive_max and message.qos else None,
            )
        )

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, codes: Sequence[Any], _properties: Any) -> None:
        for code in codes:
            if code.is_failure:
                _log.error("%s: the broker refuses a subscription: %s", self._address, code)


def _client(options: BrokerOptions, address: Address, protocol: int, tls: ClientContext | None) -> Any:
    client = new_client(
        options,
        address,
        protocol,
        options.client_id,
        clean_session=None if protocol == MQTT_5 else False,
        reconnect_on_failure=False,
        manual_ack=options.receive_max > 0,
    )
    client.max_inflight_messages_set(0)  # the window is ours; paho's own makes every PUBACK walk its queue
    client.will_set(options.status_topic, b"offline", qos=1, retain=True, properties=_will(options, protocol))
    if tls is not None:
        encrypt(client, options, address, tls)
    return client


def _connect_properties(options: BrokerOptions) -> Any:
    return properties(
        "CONNECT",
        SessionExpiryInterval=max(options.session_expiry_s, options.will_delay_s),
        MaximumPacketSize=_INCOMING_MAX_BYTES,
        ReceiveMaximum=options.receive_max or None,
    )


def _will(options: BrokerOptions, protocol: int) -> Any:
    """Its delay. A session that expired first would publish the will early (MQTT 5.0, 3.1.3.2): hence the max above."""
    return properties("WILLMESSAGE", WillDelayInterval=options.will_delay_s) if protocol == MQTT_5 else None


def _properties(message: Message, waited_s: int) -> Any:
    """Message Expiry Interval (MQTT 5.0, 3.3.2.3.3), and what makes requests and answers (4.10)."""
    if message.correlation is None and message.expires_s is None and message.response_topic is None:
        return None
    return properties(
        "PUBLISH",
        CorrelationData=message.correlation,
        ResponseTopic=message.response_topic,
        MessageExpiryInterval=None if message.expires_s is None else max(1, message.expires_s - waited_s),
    )


def _no_delay(sock: Any) -> None:
    """Small packets at once. A WebSocket wrapper keeps its socket to itself; there the kernel may gather them."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
