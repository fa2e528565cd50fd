"""The bytes of a segment: records that prove themselves.

A file begins with `MAGIC`. Each record, all numbers little-endian:

    2 bytes  marker, to find the next record behind a damaged one
    1 byte   kind: `DATA` or `ACKS`
    1 byte   flags: bit 0 = the content is deflated (RFC 1951) against `DICTIONARY`
    4 bytes  length of the body
    4 bytes  CRC-32 (IEEE 802.3, as zlib computes it) of kind, flags, length and body
    body     DATA: n, order (8 bytes each), Unix time in ms (8); then the content: length of the
             topic (2), topic, payload
             ACKS: any number of (first n, how many): 8 and 4 bytes

`n` numbers the records of one class without a gap, `order` those of all classes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import msgspec

MAGIC = b"EDGESPL1"
"""The last byte is the version of the format."""
_FAMILY = MAGIC[:-1]

DATA, ACKS = 1, 2
_MARKER = b"\xe5\x1e"
_HEAD = struct.Struct("<2sBBII")
_DATA_HEAD = struct.Struct("<QQQ")
_RANGE = struct.Struct("<QI")
_TOPIC_LENGTH = struct.Struct("<H")
_DEFLATED = 1
BODY_MAX_BYTES = 64 << 20
"""A longer one is damage: no packet of MQTT that a device sends is as long."""

DICTIONARY = (
    b'},"text":" entered  left  appeared","kind":"dwelled","zone":"seconds":"value":"values":[{"name":"unit":'
    b'"classes":[{"label":"keypoints":[["events":[{"reused":"still""cache""gap":true,"item":"crop":{'
    b'"skipped":0,"superseded":0},"window":{"samples":"channels":"embedding":[segments":[{"share":"polygons":[['
    b'{"v":1,"id":"00000000-000000-e0","ts":1790000000.000,"stream":"'
    b"\x1eedgerun/dock-7/event\x1eedgerun/dock-7/detections/main"
    b'{"v":1,"id":"00000000-000000","seq":1000,"device":"dock-7","stream":"main","ts":1790000000.000,'
    b'"mono_ns":81230000000,"age_ms":58.1,"latency_ms":{"capture":4.01,"wait":6.21,"decode_picture":1.02,'
    b'"preprocess":1.91,"infer":24.81,"decode":0.41},"model":{"name":"ssd-mobilenet-v2-oid","version":"2",'
    b'"accelerator":"cpu"},"frame":{"w":1280,"h":720},"frame":{"w":640,"h":480},"dropped":{"skipped":0,"superseded":0},'
    b'"detections":[{"label":"car","class":2,"score":0.9,"box":[0.1,0.2,0.3,0.4],"track":1},'
    b'{"label":"person","class":1,"score":0.8,"box":[0.5,0.6,0.7,0.8],"track":17}]}'
)
"""What most messages consist of, the commonest last. Part of the format: another one is another version."""


class Record(msgspec.Struct, frozen=True):
    """One spooled message. `unix_ms` is when it was published, by a clock that may have been wrong."""

    n: int
    order: int
    unix_ms: int
    topic: str
    payload: bytes


class Found(msgspec.Struct, frozen=True):
    """A record that proved itself, not yet unpacked: where it ends, and what it holds."""

    kind: int
    flags: int
    start: int
    end: int
    body: bytes

    @property
    def n(self) -> int:
        return int(_DATA_HEAD.unpack_from(self.body)[0])

    @property
    def order(self) -> int:
        return int(_DATA_HEAD.unpack_from(self.body)[1])

    @property
    def unix_ms(self) -> int:
        return int(_DATA_HEAD.unpack_from(self.body)[2])

    def record(self) -> Record:
        """Unpacked. Raises `ValueError` for what a writer of this format never wrote."""
        n, order, unix_ms = _DATA_HEAD.unpack_from(self.body)
        content = self.body[_DATA_HEAD.size :]
        if self.flags & _DEFLATED:
            inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
            try:
                content = inflate.decompress(content, BODY_MAX_BYTES)
            except zlib.error as error:
                raise ValueError(f"not deflated data: {error}") from error
        (length,) = _TOPIC_LENGTH.unpack_from(content) if len(content) >= 2 else (-1,)
        if not 0 < length <= len(content) - 2:
            raise ValueError("no topic")
        return Record(n, order, unix_ms, content[2 : 2 + length].decode("utf-8"), content[2 + length :])

    def ranges(self) -> list[tuple[int, int]]:
        """Of `ACKS`: (first n, how many)."""
        return list(_RANGE.iter_unpack(self.body[: len(self.body) // _RANGE.size * _RANGE.size]))


def encode(n: int, order: int, unix_ms: int, topic: str, payload: bytes) -> bytes:
    """One `DATA` record; deflated where that makes it shorter."""
    name = topic.encode("utf-8")
    content = _TOPIC_LENGTH.pack(len(name)) + name + payload
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 5, zdict=DICTIONARY)  # 5: 16 KiB of tables instead of 128
    packed = deflate.compress(content) + deflate.flush()
    flags = _DEFLATED if len(packed) < len(content) else 0
    return _frame(DATA, flags, _DATA_HEAD.pack(n, order, unix_ms) + (packed if flags else content))


def encode_acks(ranges: Sequence[tuple[int, int]]) -> bytes:
    """One `ACKS` record."""
    return _frame(ACKS, 0, b"".join(_RANGE.pack(first, count) for first, count in ranges))


def is_of_this_version(head: bytes) -> bool:
    """Whether a file that begins with `head` is a segment that this version reads."""
    return head.startswith(MAGIC)


def version_of(head: bytes) -> str | None:
    """The version of a segment of any version; None for what is no segment at all."""
    return chr(head[len(_FAMILY)]) if head.startswith(_FAMILY) and len(head) > len(_FAMILY) else None


def scan(data: bytes, start: int, *, final: bool = True) -> Iterator[Found | tuple[int, int]]:
    """The records of `data` from `start` on; (start, end) for bytes that are none, with records behind them or not.

    `final`: nothing follows `data`. Else what is cut off at its end is not told: it has still to be read.
    """
    at = start
    while at < len(data):
        found = _at(data, at)
        if found is not None:
            yield found
            at = found.end
            continue
        if not final and _is_cut_off(data, at):
            return
        behind = data.find(_MARKER, at + 1)
        while behind >= 0 and _at(data, behind) is None and not (not final and _is_cut_off(data, behind)):
            behind = data.find(_MARKER, behind + 1)
        end = behind if behind >= 0 else len(data)
        yield at, end
        at = end


def _at(data: bytes, at: int) -> Found | None:
    if len(data) - at < _HEAD.size:
        return None
    marker, kind, flags, length, crc = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + length
    if marker != _MARKER or kind not in (DATA, ACKS) or length > BODY_MAX_BYTES or end > len(data):
        return None
    body = data[at + _HEAD.size : end]
    if zlib.crc32(body, zlib.crc32(data[at + 2 : at + 8])) != crc or (kind == DATA and length < _DATA_HEAD.size + 3):
        return None
    return Found(kind, flags, at, end, body)


def _is_cut_off(data: bytes, at: int) -> bool:
    """Whether there may be a record at `at` that ends behind `data`."""
    head = data[at : at + _HEAD.size]
    if len(head) < _HEAD.size:
        return head[:2] == _MARKER[: len(head)]
    marker, kind, _, length, _ = _HEAD.unpack(head)
    return bool(
        marker == _MARKER and kind in (DATA, ACKS) and length <= BODY_MAX_BYTES and at + _HEAD.size + length > len(data)
    )


def _frame(kind: int, flags: int, body: bytes) -> bytes:
    head = _HEAD.pack(_MARKER, kind, flags, len(body), 0)
    crc = zlib.crc32(body, zlib.crc32(head[2:8]))
    return _HEAD.pack(_MARKER, kind, flags, len(body), crc) + body
