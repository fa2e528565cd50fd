"""The operator's own connection: no device, no will, driven by the thread that uses it."""

from __future__ import annotations

import logging
import secrets
import select
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from edgerun.broker import ending as endings
from edgerun.broker.ending import Cause, Ending
from edgerun.broker.message import Message
from edgerun.broker.options import BrokerOptions, parse_address
from edgerun.broker.paho import encrypt, load_paho, new_client, properties
from edgerun.broker.reconnect import MQTT_3_1_1, MQTT_5, Reconnect
from edgerun.broker.tls import tls_context
from edgerun.errors import BrokerError, EdgerunError

_log = logging.getLogger(__name__)

_LONGEST_PACKET = 2 << 20  # told to a broker of MQTT 5: nothing that is read here is longer
_RECEIVE_BYTES = 4 << 20
"""Asked of the kernel: a broker gives what is retained in one go, and drops what its queue for us does not hold."""
_READS = 512
_MISC_S = 0.25


class Came(NamedTuple):
    """One message."""

    topic: str
    payload: bytes


class Line:
    """Used by one thread. `open` connects and subscribes to nothing yet; `step` is what keeps it alive.

    A link that is lost comes back by itself, after a full-jitter back-off, with every subscription: what is retained
    comes again then. `options.client_id` is not used: an operator has a name of his own.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options, self._address = options, parse_address(options.url)
        load_paho()
        self._name = f"edgerun-fleet-{secrets.token_hex(4)}"
        self._mark_topic = f"{options.prefix}/_fleet/{self._name}"
        self._reconnect = Reconnect(options, self._address)
        self._filters: dict[str, int] = {}
        self._client: Any = None
        self._ending: Ending | None = None
        self._up_since: float | None = None
        self._again_at = self._began = 0.0
        self._came: list[Came] = []
        self._subscribing: set[int] = set()
        self._marks = 0
        self._misc_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us."""
        return self._up_since is not None and self._ending is None

    def open(self) -> None:
        """Connect. Raises `BrokerError` when that fails, `ConfigError` for a certificate or password that is none."""
        for last in (False, False, True):  # an old broker may hang up on MQTT 5 twice before 3.1.1 is tried
            self._connect()
            while not self.connected and self._ending is None:
                self._pump(0.1)
            ending = self._ending
            if ending is None:
                return
            other_version = self._again_at <= time.monotonic()
            if last or not (other_version or ending.cause is Cause.MUTE_CLOSE):
                self.close()
                raise ending.error

    def subscribe(self, filters: Iterable[str], qos: int = 0) -> None:
        """What is retained under them comes again, also when they were subscribed to before."""
        fresh = [(one, qos) for one in filters]
        self._filters.update(fresh)
        if self.connected and fresh:
            self._send_subscribe(fresh)

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Hear no more of them."""
        gone = [one for one in filters if self._filters.pop(one, None) is not None]
        if self.connected and gone:
            self._client.unsubscribe(gone)

    def publish(self, message: Message) -> None:
        """Raises `BrokerError` while there is no connection."""
        if not self.connected:
            raise BrokerError("the broker is away", where=self._address)
        expiry = None
        if self._reconnect.protocol == MQTT_5 and message.expires_s is not None:
            expiry = properties("PUBLISH", MessageExpiryInterval=message.expires_s)
        self._client.publish(message.topic, message.payload, message.qos, message.retain, expiry)

    def step(self, timeout_s: float) -> list[Came]:
        """What came, after waiting at most `timeout_s` for it."""
        now = time.monotonic()
        if self._ending is not None:
            if now < self._again_at:
                time.sleep(min(timeout_s, self._again_at - now))
                return []
            try:
                self._connect()
            except BrokerError as error:
                self._lost(Ending(Cause.UNREACHABLE, error))
                return []
        self._pump(timeout_s)
        came, self._came = self._came, []
        return came

    def drain(self, quiet_s: float = 0.3, longest_s: float = 60.0) -> list[Came]:
        """Everything that is retained under what was subscribed to: until the broker has acknowledged the
        subscriptions, has given back a mark that was sent behind them, and then nothing came for `quiet_s`; where it
        gives neither back (its access list, its full queue), until nothing came for ten times as long.

        Raises `BrokerError` when that has not come to an end after `longest_s`.
        """
        before, sent = self._marks, False
        came: list[Came] = []
        began = newest = time.monotonic()
        while (now := time.monotonic()) - began < longest_s:
            if self.connected and not self._subscribing and not sent:
                self.subscribe([self._mark_topic])
                self.publish(Message(self._mark_topic, b""))
                sent, newest = True, now
            got = self.step(0.05)
            if got:
                came += got
                newest = time.monotonic()
            enough = quiet_s if self._marks > before else 10 * quiet_s
            quiet = time.monotonic() - newest
            if came and quiet >= 10 * quiet_s:  # mosquitto drops its SUBACK too, where its queue for us was full
                self._subscribing.clear()
                return came
            if sent and not self._subscribing and quiet >= enough:
                return came
        raise BrokerError(
            "what is retained does not come to an end",
            where=self._address,
            expected=f"quiet after at most {longest_s:g} s",
            got=f"{len(came)} messages",
        )

    def close(self) -> None:
        """Disconnect. Idempotent."""
        client, self._client = self._client, None
        if client is None:
            return
        client.on_disconnect = client.on_connect = client.on_message = client.on_subscribe = None
        if self.connected:
            client.disconnect()
        self._up_since = None
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _connect(self) -> None:
        """Raises `BrokerError`."""
        self.close()
        options, protocol = self._options, self._reconnect.protocol
        self._ending, self._subscribing, self._began = None, set(), time.monotonic()
        client = self._client = new_client(
            options,
            self._address,
            protocol,
            self._name,
            clean_session=None if protocol == MQTT_5 else True,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0)  # what is published stays in order, the mark behind it
        client.on_socket_open = _widen
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        how: dict[str, Any] = {"keepalive": options.keepalive_s}
        if protocol != MQTT_3_1_1:
            how["properties"] = properties("CONNECT", MaximumPacketSize=_LONGEST_PACKET)
        try:
            if self._address.tls:
                encrypt(client, options, self._address, tls_context(options))
            client.connect(self._address.host, self._address.port, **how)
        except (OSError, EdgerunError) as error:
            raise endings.cannot_connect(options, self._address, error).error from error

    def _pump(self, timeout_s: float) -> None:
        client = self._client
        sock = client.socket()
        if sock is None:
            self._lost(endings.closed_early(self._address))
            return
        pending = getattr(sock, "pending", lambda: 0)() > 0  # TLS may hold bytes that the kernel no longer shows
        writers = [sock] if client.want_write() else []
        readable, writable, _ = select.select([sock], writers, [], 0 if pending else timeout_s)
        if writable:
            client.loop_write()
        if readable or pending:
            seen = -1
            for _ in range(_READS):  # until nothing more came: paho reads one packet at a time
                if client.socket() is None or seen == (seen := len(self._came)):
                    break
                client.loop_read()
        now = time.monotonic()
        if now - self._misc_at >= _MISC_S and client.socket() is not None:
            self._misc_at = now
            client.loop_misc()
        if self._up_since is None and self._ending is None and now - self._began > self._options.connect_timeout_s:
            self._lost(endings.no_connack(self._options, self._address))

    def _send_subscribe(self, filters: list[tuple[str, int]]) -> None:
        _, mid = self._client.subscribe(filters)
        if mid is not None:
            self._subscribing.add(mid)

    def _lost(self, ending: Ending) -> None:
        if self._ending is not None:
            return
        served_s = None if self._up_since is None else time.monotonic() - self._up_since
        self._ending, self._up_since = ending, None
        plan = self._reconnect.after(ending, served_s)
        self._again_at = time.monotonic() + plan.delay_s
        _log.info("%s: in %.1f s again", ending.error, plan.delay_s)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._lost(endings.refused(self._options, self._address, code.value, str(code)))
            return
        self._up_since = time.monotonic()
        if self._filters:
            self._send_subscribe(list(self._filters.items()))

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        if self._ending is not None:
            return
        if flags.is_disconnect_packet_from_server:
            self._lost(endings.disconnected(self._options, self._address, code.value, str(code)))
        elif self._up_since is None:
            self._lost(endings.closed_early(self._address))
        else:
            self._lost(endings.lost(self._address, "the end of the connection", hung_up=True))

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        self._subscribing.discard(mid)
        for code in codes:
            if code.is_failure:
                _log.warning("%s: the broker refuses a subscription: %s", self._address, code)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # paho hands over what no broker should let through
            return
        if topic == self._mark_topic:
            self._marks += 1
        elif len(message.payload) <= _LONGEST_PACKET:
            self._came.append(Came(topic, bytes(message.payload)))


def _widen(_client: Any, _data: Any, sock: Any) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
