"""The messages themselves."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["telemetry", "detection", "event"]
"""Classes of messages that a spool keeps."""
KINDS: tuple[Kind, ...] = ("telemetry", "detection", "event")
"""The first gives way to the others."""


class Message(msgspec.Struct, frozen=True):
    """One message on its way out; `qos` is 0 or 1, `correlation` that of the request it answers (MQTT 5).

    `keep`: a spool stores it under this class until the broker has it; None for what is of no use later. `number`: of
    the result in it, by which a loss can be named. `expires_s`: worthless after so many seconds; it is then neither
    sent nor, by a broker of MQTT 5, delivered. `response_topic`: where an answer to it is awaited (MQTT 5).
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    correlation: bytes | None = None
    keep: Kind | None = None
    number: int | None = None
    expires_s: int | None = None
    response_topic: str | None = None

    @property
    def weight(self) -> int:
        """Bytes of topic, payload and correlation data."""
        return len(self.topic) + len(self.payload) + len(self.correlation or b"")


def check_topic(topic: str) -> None:
    """Raises `ValueError` unless `topic` can be published to (MQTT 5.0, 4.7)."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode("utf-8")) > 65535:
        raise ValueError(f"a topic is 1 to 65535 bytes of UTF-8 without + # or NUL; got {topic[:80]!r}")


def packet_bytes(message: Message, *, mqtt5: bool) -> int:
    """Size of the PUBLISH packet (MQTT 5.0, 3.3): what a broker's Maximum Packet Size counts."""
    topic = len(message.topic.encode("utf-8"))
    properties = 3 + len(message.correlation) if message.correlation is not None else 0  # its id, its length, itself
    properties += 5 if message.expires_s is not None else 0
    properties += 3 + len(message.response_topic.encode("utf-8")) if message.response_topic is not None else 0
    length = 1 if properties < 128 else 2 if properties < 16384 else 3
    rest = 2 + topic + (2 if message.qos else 0) + (length + properties if mqtt5 else 0) + len(message.payload)
    length_field = 1 if rest < 128 else 2 if rest < 16384 else 3 if rest < 2097152 else 4
    return 1 + length_field + rest
