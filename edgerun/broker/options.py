"""Where the broker is and how to talk to it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from edgerun.errors import ConfigError
from edgerun.secret import Secret
from edgerun.validate import show

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


class BrokerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One broker and one client. Made by whoever read the config; a user and password in `url` are taken out of it.

    `client_id` is the device id and stands in the status topic `<prefix>/<client_id>/status`. Raises `ConfigError`.
    """

    url: str
    client_id: str
    more_urls: tuple[str, ...] = ()
    """Brokers to go to, in this order, while the one at `url` cannot be reached or refuses us."""
    username: str | None = None
    password: Secret | None = None
    prefix: str = "edgerun"
    ca_file: Path | None = None
    """Certificates (PEM) to trust instead of the system's."""
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure: bool = False
    """Do not verify the broker's certificate; every connection warns of it."""
    keepalive_s: int = 30
    inflight_max: int = 20
    """QoS 1 messages on the way without their PUBACK; measured best between 20 and 100 on loopback."""
    queue_max: int = 1000
    """Messages waiting of each of QoS 0 and QoS 1; the oldest gives way."""
    queue_max_bytes: int = 16 << 20
    """Topic and payload bytes waiting, QoS 0 and QoS 1 together; the oldest give way, QoS 0 first."""
    connect_timeout_s: float = 5.0
    """For TCP, for the TLS handshake and for the broker's CONNACK, each."""
    ack_timeout_s: float = 30.0
    """Without any PUBACK for this long, though one is due, the connection is taken for dead."""
    session_expiry_s: int = 3600
    """How long the broker keeps the session after the link is lost (MQTT 5)."""
    will_delay_s: int = 10
    """How long the broker waits for us to come back before it publishes `offline` (MQTT 5)."""
    reconnect_max_s: float = 60.0
    """Longest back-off between attempts, except after a take-over."""
    receive_max: int = 0
    """Messages of QoS 1 that the broker may have on the way to us (MQTT 5's Receive Maximum): each is then acknowledged
    by `Connection.ack`, not as it comes. 0: as they come."""
    takeover_delay_s: float = 60.0
    """Shortest back-off after another client took the session over; up to twice that, at random."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        username, password = self.username, self.password
        if parts.username and username is None:
            username = unquote(parts.username)
        if parts.password and password is None:
            password = Secret("plain", unquote(parts.password))
        bare = _without_credentials(self.url)
        msgspec.structs.force_setattr(self, "url", bare)
        msgspec.structs.force_setattr(self, "more_urls", tuple(_without_credentials(url) for url in self.more_urls))
        msgspec.structs.force_setattr(self, "username", username)
        msgspec.structs.force_setattr(self, "password", password)
        self.addresses  # noqa: B018  raises for those that are none
        if not self.client_id:
            raise ConfigError("the MQTT client id is empty", where="client_id", expected="the device id")
        if set(self.status_topic) & set("+#\0"):
            raise ConfigError(
                "cannot stand in a topic",
                where="client_id, prefix",
                expected="no + # or NUL",
                got=self.status_topic,
            )
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("a client certificate and its key go together", where="cert_file, key_file")
        for name, lowest in (("inflight_max", 1), ("queue_max", 1), ("queue_max_bytes", 1), ("keepalive_s", 1)):
            if getattr(self, name) < lowest:
                raise ConfigError("too small", where=name, expected=f"at least {lowest}", got=getattr(self, name))

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The brokers, in their order."""
        return tuple(parse_address(url) for url in (self.url, *self.more_urls))

    @property
    def status_topic(self) -> str:
        return f"{self.prefix}/{self.client_id}/status"


class Address(msgspec.Struct, frozen=True):
    """A broker's address, taken apart."""

    host: str
    port: int
    tls: bool
    websocket: bool
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(url: str) -> Address:
    """`mqtt://`, `mqtts://`, `ws://` or `wss://` `host[:port][/path]`; the path only counts for the latter two.

    Ports default to 1883 and 8883 (IANA: mqtt, secure-mqtt), 80 and 443; the path to `/mqtt`. Raises `ConfigError`,
    whose message leaves out a user and password.
    """
    try:
        parts = urlsplit(url)
        shown, port = _without_credentials(url), parts.port
    except ValueError:  # a broken IPv6 address, or a port that is no number
        parts, shown, port = urlsplit(""), show(url.rpartition("@")[2]), -1
    if parts.scheme not in _PORTS or not parts.hostname or port in (-1, 0):
        raise ConfigError(
            "not a broker's address", where="url", expected="mqtt://, mqtts://, ws:// or wss://host[:port]", got=shown
        )
    return Address(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme in ("mqtts", "wss"),
        websocket=parts.scheme in ("ws", "wss"),
        path=parts.path if parts.path not in ("", "/") else "/mqtt",
    )


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
