"""Records prove themselves: whatever is damaged or cut off, what is read was written."""

from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.spool.record import ACKS, DATA, DICTIONARY, MAGIC, Found, encode, encode_acks, is_of_this_version, scan
from edgerun.spool.record import version_of as version

RECORDS = st.lists(
    st.tuples(st.text(min_size=1, max_size=40).filter(lambda t: t.isprintable()), st.binary(max_size=300)),
    min_size=1,
    max_size=8,
)


GOLDEN = bytes.fromhex(
    "e51e0101310000005b70a1c10300000000000000050000000000000080e30bfca1010000e36780a5ac44484a43"
    "494a8669c68996c90646baa9864ab500"
)
GOLDEN_DICTIONARY = 3381046792


def written(records: list[tuple[str, bytes]]) -> list[bytes]:
    return [encode(n, 7 * n, 1_795_230_000_000 + n, *record) for n, record in enumerate(records, 1)]


def read(data: bytes) -> list[Found]:
    return [found for found in scan(data, 0) if isinstance(found, Found)]


@settings(max_examples=200, deadline=None)
@given(RECORDS)
def test_what_is_written_is_read(records: list[tuple[str, bytes]]) -> None:
    found = read(b"".join([*written(records), encode_acks([(1, 2), (9, 1)])]))
    assert [f.kind for f in found] == [DATA] * len(records) + [ACKS]
    made = [f.record() for f in found[:-1]]
    assert [(m.topic, m.payload) for m in made] == records
    assert [(m.n, m.order, m.unix_ms - m.n) for m in made] == [
        (n, 7 * n, 1_795_230_000_000) for n in range(1, len(made) + 1)
    ]
    assert found[-1].ranges() == [(1, 2), (9, 1)]


@settings(max_examples=300, deadline=None)
@given(RECORDS, st.data())
def test_damage_costs_only_what_it_touches(records: list[tuple[str, bytes]], data: st.DataObject) -> None:
    frames = written(records)
    whole = bytearray(b"".join(frames))
    start = data.draw(st.integers(0, len(whole) - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=60))
    whole[start : start + len(garbage)] = garbage
    end = start + len(garbage)
    spans, at = [], 0
    for n, frame in enumerate(frames, 1):
        spans.append((n, at, at + len(frame)))
        at += len(frame)
    intact = {n for n, a, b in spans if b <= start or a >= end}
    got = {f.n: f.record() for f in read(bytes(whole)) if f.n <= len(records)}
    assert intact <= set(got)
    assert all((got[n].topic, got[n].payload) == records[n - 1] for n in got)


@settings(max_examples=200, deadline=None)
@given(RECORDS, st.data())
def test_a_torn_tail_is_cut(records: list[tuple[str, bytes]], data: st.DataObject) -> None:
    frames = written(records)
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))
    complete = sum(1 for n in range(1, len(frames) + 1) if sum(map(len, frames[:n])) <= cut)
    found = list(scan(whole[:cut], 0))
    assert [f.n for f in found if isinstance(f, Found)] == list(range(1, complete + 1))
    assert [f for f in scan(whole[:cut], 0, final=False) if not isinstance(f, Found)] == []


def test_a_result_takes_less_than_half_of_its_bytes() -> None:
    payload = (
        b'{"v":1,"id":"1f3a9c02-000412","seq":412,"device":"gate-3","stream":"yard","ts":1795230000.123,'
        b'"mono_ns":81230000000,"age_ms":58.1,"latency_ms":{"capture":4.0,"wait":6.2,"preprocess":1.9,"infer":24.8,'
        b'"decode":0.4},"model":{"name":"ssd-mobilenet-v2-oid","version":"2","accelerator":"cpu"},"frame":{"w":768,'
        b'"h":576},"dropped":{"skipped":3,"superseded":0},"detections":[{"label":"person","class":1,"score":0.81,'
        b'"box":[0.41,0.22,0.47,0.51],"track":17}]}'
    )
    assert len(encode(1, 1, 1, "edgerun/gate-3/detections/yard", payload)) < len(payload) / 2


def test_the_format_of_this_version_stays_readable() -> None:
    """These bytes lie on devices."""
    assert MAGIC == b"EDGESPL1"
    assert zlib.crc32(DICTIONARY) == GOLDEN_DICTIONARY, "another dictionary is another version of the format"
    (found,) = read(GOLDEN)
    assert isinstance(found, Found)
    record = found.record()
    assert (record.n, record.order, record.unix_ms) == (3, 5, 1_795_230_000_000)
    assert (record.topic, record.payload) == ("edgerun/a/event", b'{"v":1,"id":"1f3a9c02-e1"}')


def test_versions_are_told_apart() -> None:
    assert is_of_this_version(MAGIC + b"...")
    assert version(b"EDGESPL9") == "9"
    assert version(b"something") is None
    assert not is_of_this_version(b"EDGESPL0")
