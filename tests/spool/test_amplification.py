"""What the disk is made to write, counted by the kernel: bytes it sent towards the device for each byte of message."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.broker.message import KINDS, Kind
from edgerun.spool.options import SpoolOptions
from edgerun.spool.store import New, Store
from tests.delivery.harness import note
from tests.delivery.publisher import payload

END = dict.fromkeys(KINDS, 1 << 62)
SECONDS, RATE = 100, 10


def written_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    raise AssertionError("no write_bytes")


def release(kind: Kind, first: int, behind: int) -> int:
    return 1 << 62


@pytest.mark.parametrize("acked", [False, True], ids=["in an outage", "always, each acknowledged"])
def test_ten_messages_a_second_are_written_at_most_twice(tmp_path: Path, acked: bool) -> None:
    """One sync a second, and in between every message by itself, as a kill wants it; the high-water mark with it."""
    store = Store(SpoolOptions(tmp_path / "spool", min_free_bytes=0, free_share=1.0))
    store.open()
    before = written_bytes()
    size = 0
    for second in range(SECONDS):
        for n in range(RATE):
            body = payload("1f3a9c02", second * RATE + n, 400)
            size += len(body)
            places, _, error = store.append([New("detection", "edgerun/a/detections/b", body, 0)], release)
            assert error is None
            assert isinstance(places[0], int)
            if acked:
                store.ack("detection", places[0])
                store.write_acks()
        store.sync()
    total = written_bytes() - before
    store.close()
    if total == 0:
        pytest.skip("this file system does not write to a device (tmpfs)")
    note(f"write amplification, {'each acknowledged' if acked else 'in an outage'}: {total / size:.2f}")
    assert total <= 2 * size
