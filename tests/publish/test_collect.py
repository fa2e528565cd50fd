"""What a model was unsure of is kept, whole, within its budget, and never at the expense of results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import SystemClock
from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.album import Album
from edgerun.publish.collect import CollectPlan, CollectSink
from edgerun.scene.mask import Blackout
from edgerun.types import Answer, Classification, Detection, Image, Publication
from tests.publish.samples import picture, publication
from tests.real_models import model_file
from tests.schemas import validate

SECOND_NS = 1_000_000_000


def sink(folder: Path, **plan: object) -> CollectSink:
    collect = CollectPlan(str(folder), **plan)  # type: ignore[arg-type]
    return CollectSink(CollectSink.Options({"dock": collect}), SinkContext("dock-7", SystemClock()))


def seen(*scores: float, label: str = "person") -> Answer:
    return Answer(detections=tuple(Detection(label, 1, score, (0.1, 0.1, 0.2, 0.5)) for score in scores))


def unsure(number: int, score: float = 0.45, **more: object) -> Publication:
    """A result of its own minute."""
    values: dict[str, object] = {"image": picture(64, 48), "interval_ns": 60 * SECOND_NS, **more}
    return publication(number, seen(score), **values)  # type: ignore[arg-type]


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def collected(folder: Path, publications: list[Publication], **plan: object) -> list[dict]:
    """The sidecars, after all of them were taken."""
    target = sink(folder, **plan)
    for one in publications:
        target.publish(one)
        target.flush(60)
    target.close()
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_picture_and_its_sidecar(tmp_path: Path) -> None:
    frame = cv2.imread(str(model_file("messi5.jpg")))
    (sidecar,) = collected(tmp_path / "c", [unsure(412, image=frame)])
    assert sidecar["v"] == 1
    assert sidecar["why"] == {"label": "person", "score": 0.45, "band": [0.3, 0.6]}
    validate("result", sidecar["result"])
    assert sidecar["result"]["seq"] == 412
    jpeg, text = (
        tmp_path / "c" / name for name in sorted(kept(tmp_path / "c"), key=lambda name: name.endswith("json"))
    )
    assert (jpeg.suffix, text.suffix) == (".jpg", ".json")
    assert jpeg.stem == text.stem
    assert jpeg.stem.startswith("00000000-2026")
    stored = cv2.imread(str(jpeg))
    assert stored.shape == frame.shape
    assert np.abs(stored.astype(int) - frame).mean() < 3
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0
    assert jpeg.stat().st_mode & 0o077 == 0


def test_the_masks_are_in_it(tmp_path: Path) -> None:
    frame = cv2.imread(str(model_file("messi5.jpg")))
    Blackout([((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))]).apply(frame)
    collected(tmp_path / "c", [unsure(1, image=frame)])
    (jpeg,) = (tmp_path / "c").glob("*.jpg")
    stored = cv2.imread(str(jpeg))
    assert stored[:, : stored.shape[1] // 2 - 8].max() < 8
    assert stored[:, stored.shape[1] // 2 + 8 :].mean() > 20


@pytest.mark.parametrize(
    ("answer", "plan", "is_kept"),
    [
        (seen(0.9, 0.31), {}, True),
        (seen(0.9, 0.29), {}, False),
        (seen(0.6), {}, True),
        (seen(), {}, False),
        (seen(0.45, label="car"), {"labels": ("person",)}, False),
        (seen(0.45), {"labels": ("person",)}, True),
        (seen(0.95), {"score": (0.9, 1.0)}, True),
        (Answer(classes=(Classification("cat", 1, 0.4), Classification("dog", 2, 0.35))), {}, True),
        (Answer(classes=(Classification("cat", 1, 0.8), Classification("dog", 2, 0.35))), {}, False),
        (Answer(value=0.4), {}, False),
    ],
)
def test_what_is_uncertain(answer: Answer, plan: dict, is_kept: bool, tmp_path: Path) -> None:
    done = collected(tmp_path / "c", [publication(answer=answer, image=picture(64, 48))], **plan)
    assert bool(done) == is_kept


def test_what_has_no_picture_of_its_own_is_not_kept(tmp_path: Path) -> None:
    plain = unsure(1)
    crop = msgspec.structs.replace(plain.result, crop=seen(0.4).detections[0])  # type: ignore[index]
    reused = msgspec.structs.replace(plain.result, reused="still")
    window = msgspec.structs.replace(plain.result, window=True)
    others = [Publication(result, plain.id, plain.age_ms) for result in (crop, reused, window)]
    assert collected(tmp_path / "c", [*others, unsure(2, image=None), unsure(3, stream="gate")]) == []


def test_one_in_its_time(tmp_path: Path) -> None:
    often = [unsure(i, interval_ns=SECOND_NS) for i in range(100)]
    done = collected(tmp_path / "c", often, every_s=10.0)
    assert [one["result"]["seq"] for one in done] == list(range(0, 100, 10))


def test_the_oldest_give_way_to_the_budget_also_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    (first,) = collected(folder, [unsure(0)])
    size = sum(path.stat().st_size for path in folder.iterdir())
    budget = round(size * 5.5)
    done = collected(folder, [unsure(i) for i in range(1, 12)], max_bytes=budget)
    assert [one["result"]["seq"] for one in done] == [7, 8, 9, 10, 11]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= budget
    assert len(kept(folder)) == 10
    assert collected(folder, [], max_bytes=round(size * 2.5)) == done[-2:]
    assert first["result"]["seq"] == 0


def test_a_picture_larger_than_the_budget_is_dropped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = sink(tmp_path / "c", max_bytes=100)
    for i in range(3):
        target.publish(unsure(i))
        target.flush(60)
    target.close()
    assert (target.kept, target.dropped) == (0, 3)
    assert kept(tmp_path / "c") == []
    assert len([record for record in caplog.records if "is not kept" in record.message]) == 1


def test_files_of_others_are_left_alone_and_halves_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    collected(folder, [unsure(0)])
    stem = next(folder.glob("*.jpg")).stem
    (folder / "notes.txt").write_text("mine")
    (folder / "00000007-20261121T000000Z.jpg").write_bytes(b"half")
    (folder / "00000008-20261121T000000Z.json.part").write_bytes(b"{")
    (folder / "00000009-20261121T000000Z.json").write_bytes(b"")
    (folder / "00000009-20261121T000000Z.jpg").write_bytes(b"jpeg")
    collected(folder, [unsure(1)])
    names = kept(folder)
    assert "notes.txt" in names
    assert {f"{stem}.jpg", f"{stem}.json"} <= set(names)
    assert len(names) == 1 + 2 + 2
    assert names[-2].startswith("00000010-")


def test_a_full_disk_costs_pictures_only(make_disk: Callable[[str], Path]) -> None:
    disk = make_disk("64k")
    target = sink(disk / "c", every_s=0.0)
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    for i in range(6):
        target.publish(unsure(i, image=noise))
        target.flush(60)
    target.close()
    assert target.dropped == 6
    target = sink(disk / "c", every_s=0.0)
    target.publish(unsure(9))
    target.flush(60)
    target.close()
    assert target.kept == 1


def test_a_twentieth_of_the_disk_is_left_to_others(make_disk: Callable[[str], Path]) -> None:
    album = Album(make_disk("1m") / "c", 1 << 30)
    added = [album.add(1.8e9, b"j" * 9000, b"{}") for _ in range(120)]
    assert added[0]
    assert not added[-1]
    disk = shutil.disk_usage(album._folder)
    assert 0.05 * disk.total - 4096 <= disk.free < 0.1 * disk.total


def test_the_publish_thread_never_waits_for_the_disk(tmp_path: Path) -> None:
    """A FIFO in the picture's place stands for a disk that does not answer."""
    folder = tmp_path / "c"
    target = sink(folder, every_s=0.0)
    shots = [unsure(i, interval_ns=1_000_000) for i in range(20)]  # all of one second, so that the name is known
    at = time.gmtime(shots[0].result.stamp.captured_unix_s)
    name = f"00000000-{time.strftime('%Y%m%dT%H%M%SZ', at)}.jpg.part"
    os.mkfifo(folder / name)
    for shot in shots:
        target.publish(shot)
    target.flush(0.05)
    assert target.kept == 0
    assert target.dropped in (17, 18)  # one is at the disk, the rest waits for it
    reader = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
    target.flush(60)
    os.close(reader)
    target.close()
    assert target.kept + target.dropped == 20


@pytest.mark.parametrize(
    ("plans", "why"),
    [
        ({"dock": CollectPlan("{}/a", score=(0.6, 0.3))}, "upside down"),
        ({"dock": CollectPlan("{}/a"), "gate": CollectPlan("{}/b/../a")}, "one folder"),
        ({"dock": CollectPlan("{}/file/c")}, "cannot be collected"),
        ({"dock": CollectPlan("/proc/collect")}, "cannot be collected"),
    ],
)
def test_plans_that_cannot_be(plans: dict[str, CollectPlan], why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    placed = {n: msgspec.structs.replace(p, folder=p.folder.replace("{}", str(tmp_path))) for n, p in plans.items()}
    with pytest.raises(ConfigError, match=why):
        CollectSink(CollectSink.Options(placed), SinkContext("dock-7", SystemClock()))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 100)), max_size=25), st.integers(100, 900))
def test_an_album_keeps_to_its_budget_whatever_comes(shots: list[tuple[int, int]], budget: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        album = Album(Path(folder), budget)
        unix_s = 1.8e9
        for jpeg, sidecar in shots:
            unix_s -= 1000  # a clock that runs backwards
            assert album.add(unix_s, b"j" * jpeg, b"s" * sidecar) == (jpeg + sidecar <= budget)
            on_disk = sum(path.stat().st_size for path in Path(folder).iterdir())
            assert on_disk == album.taken_bytes <= budget
        again = Album(Path(folder), budget)
        assert again.taken_bytes == album.taken_bytes
        names = sorted(path.stem for path in Path(folder).glob("*.jpg"))
        wanted = [i for i, (jpeg, sidecar) in enumerate(s for s in shots if sum(s) <= budget)][
            -len(names) or len(shots) :
        ]
        assert [int(name.partition("-")[0]) for name in names] == wanted


WRITER = """
import sys
from pathlib import Path
from edgerun.publish.album import Album
album, i = Album(Path(sys.argv[1]), 1 << 20), 0
print("ready", flush=True)
while True:
    album.add(1.8e9 + i, bytes([i % 256]) * 20_000, b"{}" * (i % 100 + 1))
    i += 1
"""


def test_what_is_there_is_whole_after_a_kill(tmp_path: Path) -> None:
    for turn in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        while len(list(tmp_path.glob("*.json"))) < 5 * (turn + 1):
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        album = Album(tmp_path, 1 << 20)
        stems = {path.stem for path in tmp_path.iterdir()}
        for stem in stems:
            content = (tmp_path / f"{stem}.jpg").read_bytes()
            assert len(content) == 20_000
            assert len(set(content)) == 1
            assert (tmp_path / f"{stem}.json").read_bytes().startswith(b"{}")
        assert album.taken_bytes <= 1 << 20


def test_pictures_are_copied(tmp_path: Path) -> None:
    image: Image = picture(64, 48, 200)
    target = sink(tmp_path / "c")
    target.publish(unsure(1, image=image))
    image[:] = 0
    target.close()
    (jpeg,) = (tmp_path / "c").glob("*.jpg")
    assert cv2.imread(str(jpeg)).min() > 190
