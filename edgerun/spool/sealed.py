"""Spooled messages sealed on disk, each on its own: topic and payload can be read with the key only.

A sealed message is a record like any other, with the topic `TOPIC` and as payload the message, deflated as other
records are and sealed with what it must not be parted from: its class, its order among all messages and its time. What
a thief still sees is how many messages wait, of which class, when they were made and how long they are.
"""

from __future__ import annotations

import logging
import struct
import zlib

from edgerun.errors import SealError
from edgerun.security.sealing import RecordSealer, SealingKey
from edgerun.spool.record import BODY_MAX_BYTES, DICTIONARY, Record

_log = logging.getLogger(__name__)

TOPIC = "$edgerun/sealed"
"""No message is published to it: names that begin with $ are the broker's own (MQTT 5.0, 4.7.2)."""
MORE_BYTES = 64
"""What sealing adds to a message, at most."""
_ABOUT = struct.Struct("<QQ")
_LENGTH = struct.Struct("<H")


class Sealed:
    """Seals and opens the messages of one store. Used by one thread. `key` None: opens nothing, seals nothing."""

    def __init__(self, key: SealingKey | None) -> None:
        self._sealer = None if key is None else RecordSealer(key, "spool")
        self._told = False

    def close(self, kind: str, order: int, unix_ms: int, topic: str, payload: bytes) -> tuple[str, bytes]:
        """Topic and payload as they are to be written."""
        if self._sealer is None:
            return topic, payload
        name = topic.encode()
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 5, zdict=DICTIONARY)
        packed = deflate.compress(_LENGTH.pack(len(name)) + name + payload) + deflate.flush()
        return TOPIC, self._sealer.seal(packed, _about(kind, order, unix_ms))

    def open(self, kind: str, record: Record) -> Record | None:
        """The message in a record; None, told in the log, where it cannot be opened."""
        if record.topic != TOPIC:
            return record
        try:
            if self._sealer is None:
                raise SealError("a spooled message is sealed, and there is no state_key")
            packed = self._sealer.unseal(record.payload, _about(kind, record.order, record.unix_ms))
            inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
            content = inflate.decompress(packed, BODY_MAX_BYTES)
            (length,) = _LENGTH.unpack_from(content)
            topic = content[2 : 2 + length].decode("utf-8")
        except (SealError, zlib.error, struct.error, UnicodeDecodeError) as error:
            if not self._told:
                self._told = True
                _log.error("spooled messages are lost: %s", error)
            return None
        return Record(record.n, record.order, record.unix_ms, topic, content[2 + length :])


def _about(kind: str, order: int, unix_ms: int) -> bytes:
    return _ABOUT.pack(order, unix_ms) + kind.encode()
