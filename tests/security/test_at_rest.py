"""What lies on the disk of a real run with a state key: nothing of what was planted can be read without it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.cli.main import main
from edgerun.models.sealed import seal_model_file
from edgerun.publish.album import Album
from edgerun.security.sealing import SealingKey, open_sealed, seal_as
from edgerun.spool.options import SpoolOptions
from edgerun.spool.record import Record
from edgerun.spool.sealed import TOPIC, Sealed
from edgerun.spool.store import New, Store
from tests import mosquitto
from tests.mosquitto import wait_until
from tests.real_models import model_file
from tests.test_end_to_end import CLIP, DETECTOR, edgerun, start

KEY = SealingKey(bytes(range(32)))
JPEG, JSON = b"\xff\xd8\xff", b'"detections"'


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def found(folder: Path, *planted: bytes) -> list[str]:
    return [str(path) for path in files_of(folder) for what in planted if what in path.read_bytes()]


@given(st.text(min_size=1, max_size=50), st.binary(max_size=500), st.integers(0, 2**40), st.integers(0, 2**40))
@settings(max_examples=60)
def test_a_spooled_message_is_opened_where_it_belongs_only(topic: str, payload: bytes, order: int, ms: int) -> None:
    name, sealed = Sealed(KEY).close("event", order, ms, topic, payload)
    assert name == TOPIC
    record = Record(3, order, ms, name, sealed)
    reader = Sealed(KEY)
    opened = reader.open("event", record)
    assert opened == Record(3, order, ms, topic, payload)
    for wrong in (
        reader.open("detection", record),
        reader.open("event", Record(3, order + 1, ms, name, sealed)),
        reader.open("event", Record(3, order, ms + 1, name, sealed)),
        reader.open("event", Record(3, order, ms, name, sealed[:-1])),
        Sealed(SealingKey.new()).open("event", record),
        Sealed(None).open("event", record),
    ):
        assert wrong is None


def test_a_store_seals_what_it_keeps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def store(key: SealingKey | None) -> Store:
        made = Store(SpoolOptions(tmp_path, min_free_bytes=0, free_share=1.0, key=key))
        made.open()
        return made

    ends = {"telemetry": 1 << 62, "detection": 1 << 62, "event": 1 << 62}
    news = [New("event", "edgerun/dock-9/event", b'planted-%d "text"' % n, 1_800_000_000_000 + n) for n in range(50)]
    one = store(KEY)
    one.append(news, lambda kind, first, end: first)
    one.close()
    assert found(tmp_path, b"planted", b"dock-9") == []
    two = store(KEY)
    records, lost = two.read(100, ends)
    assert ([record.payload for _, record in records], lost) == ([new.payload for new in news], 0)
    assert {record.topic for _, record in records} == {"edgerun/dock-9/event"}
    two.abandon()
    three = store(None)
    assert three.read(100, ends) == ([], 50)
    assert "there is no state_key" in caplog.text
    three.abandon()


def test_a_message_kept_before_there_was_a_key_is_read_all_the_same(tmp_path: Path) -> None:
    record = Record(1, 1, 1, "a/b", b"x")
    assert Sealed(KEY).open("event", record) == record
    assert Sealed(None).close("event", 1, 1, "a/b", b"x") == ("a/b", b"x")


def test_an_album_of_sealed_pictures_keeps_its_budget(tmp_path: Path) -> None:
    def seal(content: bytes, purpose: str, name: str) -> bytes:
        return seal_as(KEY, content, purpose, name)

    plain = Album(tmp_path, 10_000)
    assert plain.add(0.0, b"P" * 1000, b"{}")
    album = Album(tmp_path, 10_000, seal)  # what lay there before counts too
    for _ in range(20):
        assert album.add(1e9, b"P" * 1000, b'{"planted":1}')
    assert album.taken_bytes <= 10_000
    names = sorted(path.name for path in tmp_path.iterdir())
    assert all(name.endswith((".jpg.sealed", ".json.sealed")) for name in names)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == album.taken_bytes
    assert Album(tmp_path, 10_000, seal).taken_bytes == album.taken_bytes
    newest = tmp_path / names[-1]
    assert open_sealed(newest, KEY, "collect", newest.name.removesuffix(".sealed")) == b'{"planted":1}'
    assert found(tmp_path, b"planted", b"PPPP") == []


def test_a_run_with_a_state_key_leaves_nothing_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed without a broker in sight: spool, collected pictures and the snapshot are what a thief finds."""
    state, work = tmp_path / "state", tmp_path / "work"
    work.mkdir()
    key = tmp_path / "key"
    key.write_text(KEY.text())
    model = work / "secret.tflite"
    plain = model_file("image_classification.tflite").read_bytes()
    model.write_bytes(plain)
    seal_model_file(model, KEY)
    file = work / "edge.toml"
    file.write_text(
        f'[device]\nid = "dock-9"\n[mqtt]\nurl = "mqtt://127.0.0.1:{mosquitto.free_port()}"\ntelemetry_interval = 1\n'
        '[mqtt.spool]\ndurability = "always"\nmin_free = 0\nfree_share = 1.0\n'
        f'[security]\nstate_key = {{ file = "{key}" }}\nmodel_key = {{ file = "{key}" }}\n'
        f'[models.m]\npath = "{DETECTOR}"\n[models.s]\npath = "{model}"\n'
        f'[streams.planted-stream]\nmodel = "m"\nsource = "{CLIP}"\nloop = true\n'
        "[streams.planted-stream.collect]\nscore = [0.0, 1.0]\nevery_s = 0\n"
        f'[streams.b]\nmodel = "s"\nsource = "synthetic:320x240@5"\n'
    )
    snapshot = work / "shot.jpg"
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgerun", "run", "--config", file, "--quiet", "--snapshot", snapshot],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True,
    )  # fmt: skip
    shots = state / "edgerun" / "collect" / "planted-stream"
    spool = state / "edgerun" / "spool" / "dock-9"
    sealed_shot = work / "shot-planted-stream.jpg.sealed"
    try:
        wait_until(
            lambda: process.poll() is not None
            or (len(list(shots.glob("*.sealed"))) >= 6 and list(spool.glob("detection-*")) and sealed_shot.exists()),
            60, "what is kept",
        )  # fmt: skip
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert plain[100:1100] not in model.read_bytes()
        piece = plain[len(plain) // 2 :][:256]
        opened = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir() if link.is_symlink()]
        for name in opened:
            with contextlib.suppress(OSError):  # gone in the meantime, or a device
                assert not (Path(name).is_file() and piece in Path(name).read_bytes()), name
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    kept = [path for path in (*files_of(state), *files_of(work)) if path not in (file,)]
    texts = {path: path.read_bytes() for path in kept if path.name != "audit.jsonl"}
    assert not [path for path, content in texts.items() if JPEG in content[:16] or JSON in content or piece in content]
    assert not [path for path in files_of(spool) if b"planted-stream" in path.read_bytes()]
    newest = max(shots.glob("*.json.sealed"))
    main(["control", "unseal", str(newest), str(sealed_shot), "--key-file", str(key), "-o", str(tmp_path / "seen")])
    assert json.loads((tmp_path / "seen" / newest.name.removesuffix(".sealed")).read_bytes())["result"]["detections"]
    assert (tmp_path / "seen" / "shot-planted-stream.jpg").read_bytes()[:3] == JPEG
    assert capsys.readouterr().out.count("\n") == 2


def test_what_was_spooled_sealed_is_sent_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_text(KEY.text())
    with mosquitto.broker(start=False) as broker:
        file = tmp_path / "edge.toml"
        file.write_text(
            f'[device]\nid = "dock-9"\n[mqtt]\nurl = "{broker.url}"\n'
            "[mqtt.spool]\nmin_free = 0\nfree_share = 1.0\n"
            f'[security]\nstate_key = {{ file = "{key}" }}\n'
            f'[models.m]\npath = "{DETECTOR}"\n[streams.a]\nmodel = "m"\nsource = "{CLIP}"\n'
        )
        done = edgerun("run", "--config", file, "--quiet", "--json", "--seconds", 6)
        assert done.returncode == 0, done.stderr
        published = json.loads(done.stdout.splitlines()[-1])["streams"]["a"]["published"]
        broker.start()
        with mosquitto.subscriber(broker, "edgerun/dock-9/detections/a") as seen:
            process = start("run", "--config", file, "--quiet")
            try:
                messages = seen.wait(lambda ms: sum(b'"replayed":true' in one.payload for one in ms) >= published, 60)
            finally:
                process.terminate()
                _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    assert published >= 5
    bodies: list[dict[str, Any]] = [json.loads(one.payload) for one in messages]
    assert len({body["id"] for body in bodies}) == len(bodies)


def test_a_film_is_refused_where_everything_is_to_be_sealed(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY.text())
    file = tmp_path / "edge.toml"
    file.write_text(
        f'[security]\nstate_key = {{ file = "{key}" }}\n'
        f'[models.m]\npath = "{DETECTOR}"\n[streams.a]\nmodel = "m"\nsource = "{CLIP}"\n'
    )
    done = edgerun("run", "--config", file, "--quiet", "--save", tmp_path / "film.mp4")
    assert done.returncode == 2
    assert "cannot be sealed" in done.stderr
    assert not (tmp_path / "film.mp4").exists()
