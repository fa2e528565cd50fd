"""What others leave in a device's way: enormous retained commands, spools of other versions and of other users."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerun.broker.options import BrokerOptions
from edgerun.errors import ConfigError
from edgerun.spool.options import SpoolOptions
from edgerun.spool.record import MAGIC
from edgerun.spool.store import New, Store
from tests import mosquitto
from tests.broker.parts import TOPIC
from tests.faults.box import box
from tests.mosquitto import program, wait_until
from tests.spool.test_spool import device, heard

ROOT = Path(__file__).parents[2]
ENORMOUS = json.dumps({"stream": "well", "x": "y" * 10_000_000}).encode()
NOBODY = 65534


def retain(broker: mosquitto.Broker) -> None:
    """Enormous commands, and one that would stop the healthy stream, all retained."""
    for topic, payload in (("cmd/pause", ENORMOUS), ("cmd/resume", ENORMOUS), ("cmd/pause/all", b'{"stream": "well"}')):
        subprocess.run(
            [program("mosquitto_pub"), "-p", str(broker.port), "-t", f"edgerun/box/{topic}", "-r", "-q", "1", "-s"],
            input=payload,
            check=True,
        )


@pytest.mark.parametrize("old", [False, True], ids=["5", "3.1.1"])
def test_enormous_retained_commands_are_not_done_and_hold_nothing_up(tmp_path: Path, old: bool) -> None:
    with box(tmp_path, "", old=old, prepare=retain) as made:
        made.wait(lambda: made.bodies("telemetry"), "telemetry")
        made.well_goes_on(10)
        if old:  # of 5 the broker knows that this is too large for us, and keeps it
            said = f"edgerun/box/cmd/pause is not taken: {len(ENORMOUS)} bytes"
            made.wait(lambda: said in made.log, "that it is told")
        made.stop()
        made.check_well()
    assert "paused" not in made.states("well")
    assert "the connection to the broker was lost" not in made.log


@pytest.mark.parametrize("where", ["client_id", "prefix"])
@pytest.mark.parametrize("name", ["dock+", "#", "a/+/b", "do\0ck"])
def test_wildcards_in_a_device_id_are_refused(where: str, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a topic"):
        BrokerOptions(**{"url": "mqtt://a", "client_id": "dock", where: name})


def leave(folder: Path, count: int) -> None:
    """What a run before left to be replayed."""
    store = Store(SpoolOptions(folder, min_free_bytes=0, free_share=1.0))
    store.open()
    bodies = [json.dumps({"id": f"r-{n}"}).encode() for n in range(count)]
    store.append([New("detection", TOPIC, body, 0) for body in bodies], lambda kind, first, behind: 1 << 62)
    store.close()


def test_a_spool_of_another_version_is_set_aside_told_and_the_rest_replayed(tmp_path: Path) -> None:
    """Kept for a person, byte for byte; neither read as if it were ours nor deleted."""
    leave(tmp_path, 20)
    strange = {
        "detection-00000000000000a0.seg": MAGIC[:-1] + b"0" + b"what an older one wrote" * 9,
        "event-0000000000000001.seg": MAGIC[:-1] + b"9" + b"what a newer one wrote" * 9,
        "results.db-wal.seg": b"SQLite format 3\0" + bytes(100),
    }
    for name, data in strange.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "mark").write_text('{"version": 0, "up_to": 12}')
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        device(broker.url, tmp_path) as made,
    ):
        notices = made.spool.take_notices()
        wait_until(lambda: made.connected)  # else it would join those that wait
        made.result(100)
        messages = seen.wait(lambda ms: len(ms) >= 21)
        assert made.flush(60)
    assert [notice.kind for notice in notices] == ["spool_set_aside"] * len(strange)
    text = " ".join(notice.text for notice in notices)
    for words in ("format version '0'", "format version '9'", "no segment of a spool", *strange):
        assert words in text
    assert [n for n, replayed in heard(messages) if replayed] == list(range(20))
    assert {p.name: p.read_bytes() for p in (tmp_path / "aside").iterdir()} == strange


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user may enter."""
    if os.geteuid() != 0:
        pytest.skip("to be another user one has to be root first")
    words = as_nobody("-c", "import edgerun")
    if subprocess.run(words, capture_output=True, cwd=ROOT, check=False).returncode:
        pytest.skip("another user may not read this checkout or its Python")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(*words: str) -> list[str]:
    who = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [program("setpriv"), *who, sys.executable, *words]


@contextlib.contextmanager
def publisher(shared: Path, url: str) -> Iterator[list[dict[str, str]]]:
    """Publishes 30 results as nobody; the list fills with what its spool told when it has ended."""
    said: list[dict[str, str]] = []
    how = {"url": url, "folder": str(shared / "spool"), "journal": str(shared / "journal"), "run": "0b", "rate": 100}
    words = json.dumps({**how, "count": 30, "drain": True, "spool": {"min_free_bytes": 0, "free_share": 1.0}})
    process = subprocess.Popen(as_nobody("-m", "tests.delivery.publisher", words), cwd=ROOT)
    try:
        yield said
    finally:
        process.terminate()
        assert process.wait(60) == 0
        if (shared / "journal.told").exists():
            said += [json.loads(line) for line in (shared / "journal.told").read_text().splitlines()]
            (shared / "journal.told").unlink()


def test_files_of_another_user_are_told_by_name_and_replayed_once_they_may_be_read(shared: Path) -> None:
    """Somebody has run it by hand as root. Nothing of it is deleted or set aside; live results go on meanwhile."""
    spool = shared / "spool"
    leave(spool, 20)
    os.chown(spool, NOBODY, NOBODY)  # its files are root's, and only root's to read
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "#") as seen:
        with publisher(shared, broker.url) as said:
            seen.wait(lambda ms: sum("/detections/" in m.topic for m in ms) >= 30)
        (notice,) = said
        assert notice["kind"] == "spool_broken"
        assert str(spool / "lock") in notice["text"]
        assert "Permission denied" in notice["text"]
        assert not any(m.topic == TOPIC for m in seen.messages)
        for path in spool.iterdir():
            os.chown(path, NOBODY, NOBODY)
        (shared / "journal").unlink()
        with publisher(shared, broker.url) as said:
            seen.wait(lambda ms: sum(m.topic == TOPIC for m in ms) >= 20)
        assert said == []
        assert [n for n, replayed in heard(seen.messages) if replayed] == list(range(20))
