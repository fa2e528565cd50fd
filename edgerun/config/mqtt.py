"""`[mqtt]` and `[mqtt.spool]`: the broker, and what is kept until it has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from edgerun.secret import Secret, guarded

_MQTT_SCHEMES = ("mqtt", "mqtts", "ws", "wss")


def broker_url(text: str) -> str:
    """`text` when it is a broker's address. Raises `ValueError` that says what is wrong with it."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        meant = re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", text)
        raise ValueError(f"no scheme (did you mean mqtt://{text}?)" if meant else "no scheme")
    if scheme not in _MQTT_SCHEMES:
        raise ValueError("unknown scheme")
    parts = urlsplit(text)  # raises ValueError for a broken IPv6 address
    try:
        port = parts.port
    except ValueError:
        raise ValueError("port is not a number from 1 to 65535") from None
    if not parts.hostname or port == 0 or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("no usable host or port")
    if parts.query or parts.fragment or (parts.path not in ("", "/") and scheme.startswith("mqtt")):
        raise ValueError("something behind the port")
    return text


def topic_prefix(text: str) -> str:
    """`text` when topics may begin with it (MQTT 5.0, 4.7). Raises `ValueError`."""
    if not text or re.search(r"[+#\s\x00-\x1f]", text) or text[0] in "$/" or text[-1] == "/" or len(text) > 200:
        raise ValueError("cannot begin a topic")
    return text


Text = Annotated[str, Meta(min_length=1)]
Url = Annotated[str, Meta(extra={"parse": broker_url, "expected": "mqtt://, mqtts://, ws:// or wss://host[:port]"})]
Prefix = Annotated[str, Meta(extra={"parse": topic_prefix, "expected": "topic levels without + # $ or spaces"})]


class SpoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mqtt.spool]`: what is kept on disk until the broker has it."""

    durability: Annotated[
        Literal["outage", "always"],
        Meta(
            description="`outage`: in memory while the broker acknowledges within a second, on disk otherwise; "
            "`always`: on disk before it is sent."
        ),
    ] = "outage"
    max_bytes: Annotated[
        Annotated[int, Meta(ge=65536, le=2**50, extra={"unit": "bytes"})],
        Meta(
            description="Of all files. At the bound the oldest of the lowest class goes: telemetry, detections, events."
        ),
    ] = 64 << 20
    max_age: Annotated[
        Annotated[float, Meta(ge=1, le=1e9, extra={"unit": "s"})], Meta(description="Older messages are dropped.")
    ] = 604800.0
    sync_ms: Annotated[
        Annotated[int, Meta(ge=0, le=60000)],
        Meta(description="What a power cut may take; 0: every message is synced before it is sent."),
    ] = 1000
    min_free: Annotated[
        Annotated[int, Meta(ge=0, le=2**50, extra={"unit": "bytes"})], Meta(description="Left free on the file system.")
    ] = 32 << 20
    free_share: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        Meta(description="Never more than this share of what would be free without the spool."),
    ] = 0.1
    replay_rate: Annotated[
        Annotated[float, Meta(ge=1, le=100_000)], Meta(description="Spooled messages a second, behind live ones.")
    ] = 500.0
    folder: Annotated[
        Path | None, Meta(description="By default in the state folder; `/run/edgerun/spool` for a tmpfs.")
    ] = None


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[mqtt]`: the broker results go to. Without it nothing is published."""

    url: Annotated[Url, Meta(description="The broker. Default port: 1883, 8883 for mqtts, 80 for ws, 443 for wss.")]
    username: Annotated[Text | None, Meta(description="Who to log in as.")] = None
    password: Annotated[
        Secret | None,
        Meta(
            description="`{ credential = … }` (systemd), `{ env = … }`, `{ file = … }`, or the text itself.",
            extra={"expected": "a table that says where it is"},
        ),
    ] = None
    prefix: Annotated[Prefix, Meta(description="The first level of every topic.")] = "edgerun"
    ca_file: Annotated[Path | None, Meta(description="Certificates (PEM) to trust instead of the system's.")] = None
    cert_file: Annotated[Path | None, Meta(description="This device's certificate (PEM), with `key_file`.")] = None
    key_file: Annotated[Path | None, Meta(description="The private key (PEM) of `cert_file`.")] = None
    insecure: Annotated[bool, Meta(description="Do not verify the broker's certificate: for a test bench only.")] = (
        False
    )
    keepalive_s: Annotated[
        Annotated[int, Meta(ge=5, le=65535)], Meta(description="Longest silence before a ping is sent.")
    ] = 30
    inflight_max: Annotated[
        Annotated[int, Meta(ge=1, le=100)], Meta(description="QoS 1 messages on the way without their acknowledgement.")
    ] = 20
    more_urls: Annotated[
        tuple[Url, ...],
        Meta(description="Brokers that stand in, in this order, while `url` cannot be reached, with its user."),
    ] = ()
    spool: Annotated[SpoolConfig, Meta(description="A table, see below.")] = msgspec.field(default_factory=SpoolConfig)
    home_assistant: Annotated[
        bool, Meta(description="Announce device and streams to Home Assistant (MQTT discovery).")
    ] = False
    home_assistant_prefix: Annotated[Prefix, Meta(description="Home Assistant's discovery prefix.")] = "homeassistant"
    desired: Annotated[
        bool,
        Meta(
            description="Run what the retained message `…/config/desired` wishes for, answer on `…/config/reported`. "
            "Whoever may publish there decides what this device looks at."
        ),
    ] = False
    telemetry_interval: Annotated[
        Annotated[float, Meta(ge=1, le=86400, extra={"unit": "s"})],
        Meta(description="Time between telemetry messages."),
    ] = 30.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "more_urls", tuple(map(guarded, self.more_urls)))
