"""Films and snapshots."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerun.clock import FakeClock
from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.picture import PictureSink
from edgerun.types import Answer, Image
from tests.mosquitto import wait_until
from tests.publish.samples import PERSON, picture, publication


def make(clock: FakeClock | None = None, **options: object) -> PictureSink:
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return PictureSink(PictureSink.Options(**options), SinkContext(device="dock-7", clock=clock or FakeClock()))


def film_of(path: Path) -> tuple[list[Image], float]:
    film = cv2.VideoCapture(str(path))
    fps = film.get(cv2.CAP_PROP_FPS)
    frames = []
    while True:
        there, frame = film.read()
        if not there:
            film.release()
            return frames, fps
        frames.append(frame)


@pytest.mark.parametrize("count", [1, 5, 9, 30])
def test_the_film_has_every_result_at_the_measured_rate(count: int, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = make(save=path)
    for number in range(count):
        sink.publish(publication(number, image=picture(gray=10 + 5 * number), interval_ns=80_000_000))
    sink.close()
    frames, fps = film_of(path)
    assert len(frames) == count
    assert fps == pytest.approx(12.5 if count > 1 else 10.0, rel=0.01)
    for number, frame in enumerate(frames):
        assert frame.shape == (480, 640, 3)
        assert np.median(frame) == pytest.approx(10 + 5 * number, abs=4)
        assert np.ptp(frame[240:, 255:310].astype(int)) > 50, "the box of the person is drawn"


def test_the_rate_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    sink = make(save=tmp_path / "out.mp4", fps=5.0)
    for number in range(4):
        sink.publish(publication(number, image=picture()))
    sink.close()
    frames, fps = film_of(tmp_path / "out.mp4")
    assert (len(frames), fps) == (3, 5.0), "0.3 s at 5 frames/s, and the last one"


def test_a_film_playable_in_browsers(tmp_path: Path) -> None:
    sink = make(save=tmp_path / "out.mp4", codec="vp09")
    for number in range(3):
        sink.publish(publication(number, image=picture(160, 120)))
    sink.close()
    assert len(film_of(tmp_path / "out.mp4")[0]) == 3


@pytest.mark.parametrize("size", [(320, 240), (641, 481), (240, 600), (1280, 720)])
def test_a_resolution_that_changes_is_fitted_into_the_film(size: tuple[int, int], tmp_path: Path) -> None:
    sink = make(save=tmp_path / "out.mp4", snapshot=tmp_path / "out.jpg")
    for number in range(12):
        sink.publish(publication(number, image=picture(), answer=Answer(detections=())))
    sink.publish(publication(12, image=picture(*size, gray=200), answer=Answer(detections=())))
    sink.close()
    frames, _ = film_of(tmp_path / "out.mp4")
    assert len(frames) == 13
    assert {frame.shape for frame in frames} == {(480, 640, 3)}
    assert frames[-1][240, 320] == pytest.approx(200, abs=5)
    assert cv2.imread(str(tmp_path / "out.jpg")).shape == (size[1], size[0], 3)


def test_the_leased_picture_is_left_as_it_is(tmp_path: Path) -> None:
    image = picture()
    sink = make(save=tmp_path / "out.mp4", snapshot=tmp_path / "out.jpg")
    sink.publish(publication(image=image))
    sink.close()
    assert (image == 90).all()


def test_a_result_without_a_picture_draws_nothing(tmp_path: Path) -> None:
    sink = make(save=tmp_path / "out.mp4", snapshot=tmp_path / "out.jpg")
    sink.publish(publication())
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_the_snapshot_is_taken_once_a_second_and_the_last_one_at_the_end(tmp_path: Path) -> None:
    path, clock = tmp_path / "out.jpg", FakeClock()
    sink = make(clock, snapshot=path)
    seen = []
    for number in range(25):
        sink.publish(publication(number, image=picture(gray=10 * number), answer=Answer(detections=())))
        seen.append(round(float(np.median(cv2.imread(str(path)))), -1))
        clock.advance(0.1)
    assert sorted(set(seen)) == [0, 100, 200]
    sink.close()
    assert np.median(cv2.imread(str(path))) == pytest.approx(240, abs=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jpg"]


def test_a_reader_never_sees_half_a_snapshot(tmp_path: Path) -> None:
    path, clock = tmp_path / "out.jpg", FakeClock()
    sink = make(clock, snapshot=path)
    noise = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    sink.publish(publication(image=noise))
    done, torn, reads = threading.Event(), [], []

    def read() -> None:
        while not done.is_set():
            jpeg = path.read_bytes()
            reads.append(1)
            if not (jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")):
                torn.append(jpeg)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            clock.advance(1.0)
            sink.publish(publication(number, image=noise))
        wait_until(lambda: reads, 60, "the reader's turn")
    finally:
        done.set()
        reader.join()
    sink.close()
    assert reads
    assert not torn


@pytest.mark.parametrize("told", [True, False])
def test_several_streams_have_films_of_their_own(told: bool, tmp_path: Path) -> None:
    streams = ("dock", "yard")
    sink = make(save=tmp_path / "out.mp4", snapshot=tmp_path / "now.jpg", streams=streams if told else ())
    for number in range(3):
        for stream in streams:
            sink.publish(publication(number, stream=stream, image=picture(160, 120)))
    sink.close()
    first = "-dock" if told else ""
    names = {f"out{first}.mp4", "out-yard.mp4", f"now{first}.jpg", "now-yard.jpg"}
    assert {entry.name for entry in tmp_path.iterdir()} == names
    for name in names:
        if name.endswith(".mp4"):
            assert len(film_of(tmp_path / name)[0]) == 3


def test_the_age_of_a_source_without_deadline_is_not_shown(tmp_path: Path) -> None:
    for name, max_age_ns in (("live", 250_000_000), ("folder", 0)):
        sink = make(snapshot=tmp_path / f"{name}.jpg")
        sink.publish(publication(image=picture(), max_age_ns=max_age_ns, stream="s"))
        sink.close()
    live, folder = (cv2.imread(str(tmp_path / f"{name}.jpg")) for name in ("live", "folder"))
    assert (live[:16, :100] < 60).sum() > (folder[:16, :100] < 60).sum()


@pytest.mark.parametrize("option", ["save", "snapshot"])
@pytest.mark.parametrize("name", ["missing/out", "folder", "out.avi"])
def test_what_cannot_be_written_is_told_at_the_start(option: str, name: str, tmp_path: Path) -> None:
    suffix = "" if name.endswith(".avi") else {"save": ".mp4", "snapshot": ".jpg"}[option]
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(ConfigError) as caught:
        make(**{option: tmp_path / (name + suffix)})
    assert str(caught.value).startswith(f"{tmp_path / (name + suffix)}: cannot write a picture or film there; ")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(fps: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not positive"):
        make(save=tmp_path / "out.mp4", fps=fps)


def test_an_encoder_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    # In a process of its own: FFmpeg writes about its missing encoder on stderr.
    code = (
        "import sys; from pathlib import Path; from edgerun.errors import ConfigError\n"
        "from tests.publish.test_picture import make\n"
        "try: make(save=Path(sys.argv[1]), codec='avc1'); print('opened')\n"
        "except ConfigError as error: print(error)"
    )
    path = tmp_path / "out.mp4"
    told = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    if told.strip() == "opened":
        pytest.skip("this device has an H.264 encoder that FFmpeg can use")
    assert told.startswith(f"{path}: this OpenCV cannot write films with the codec 'avc1'; got OpenCV ")
    assert told.strip().endswith("Use codec 'mp4v'")


@pytest.fixture
def tiny_disk(make_disk: Callable[[str], Path]) -> Path:
    return make_disk("12m")


def test_a_film_is_not_begun_on_a_full_disk(make_disk: Callable[[str], Path]) -> None:
    disk = make_disk("16k")
    with pytest.raises(
        ConfigError, match=r"out\.mp4: cannot write a picture or film there; got No space left on device"
    ):
        make(save=disk / "out.mp4")
    assert not list(disk.iterdir())


def test_a_full_disk_ends_the_film_playable_and_costs_snapshots(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    sink = make(clock, save=tiny_disk / "out.mp4", snapshot=tiny_disk / "out.jpg")
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    for number in range(20):
        sink.publish(publication(number, image=noise))
        clock.advance(0.05)
    with (tiny_disk / "ballast").open("wb", buffering=0) as ballast:
        ballast.write(bytes(6 << 20))
        for number in range(20, 120):
            sink.publish(publication(number, image=noise))
            clock.advance(0.1)
        before = (tiny_disk / "out.jpg").read_bytes()
        while ballast.write(bytes(4096)) == 4096 and os.statvfs(tiny_disk).f_bavail:
            pass
        for number in range(120, 200):
            sink.publish(publication(number, image=noise))
            clock.advance(0.1)
    sink.close()
    frames, _ = film_of(tiny_disk / "out.mp4")
    assert frames
    assert (tiny_disk / "out.jpg").read_bytes() == before
    told = [record.getMessage() for record in caplog.records if record.name.startswith("edgerun")]
    assert sum("the film ends here" in line for line in told) == 1
    assert sum("the snapshot cannot be written: No space left on device" in line for line in told) == 1
    assert not list(tiny_disk.glob(".*"))


def test_the_film_of_a_folder_has_every_picture(tmp_path: Path) -> None:
    sink = make(save=tmp_path / "out.mp4")
    rng = np.random.default_rng(1)
    at_ms = np.cumsum(rng.choice([1, 2, 700], 30))  # an --as-fast run: read when there was time
    for number, ms in enumerate(at_ms):
        sink.publish(publication(number, image=picture(96, 64, 8 * number), interval_ns=0, max_age_ns=0, late_ms=ms))
    sink.close()
    frames, _ = film_of(tmp_path / "out.mp4")
    assert len(frames) == 30


def test_boxes_lie_where_the_answer_says(tmp_path: Path) -> None:
    sink = make(snapshot=tmp_path / "out.jpg")
    sink.publish(publication(image=picture(1000, 1000), answer=Answer(detections=(PERSON,))))
    sink.close()
    shot = cv2.imread(str(tmp_path / "out.jpg")).astype(int)
    differs = np.abs(shot - 90).max(axis=2) > 60
    differs[:60] = False  # the corner
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    assert columns.min() == pytest.approx(410, abs=4)
    assert rows.max() == pytest.approx(510, abs=4)
