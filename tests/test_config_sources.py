"""Sources as a config and the command line name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgerun.cli.flags import options_of
from edgerun.cli.main import main
from edgerun.config import build, parse_source
from edgerun.config.source import check_url
from edgerun.errors import ConfigError, ConfigErrors
from tests import config_parts
from tests.config_parts import find_model, outcome

bundled_models = config_parts.bundled_models


def test_paths_too_long_for_the_file_system_are_not_there(tmp_path: Path) -> None:
    raw = {
        "mqtt": {"url": "mqtts://h", "ca_file": "é" * 300},
        "models": {"m": {"path": "é" * 300, "labels": "./" * 3000}},
        "streams": {"s": {"source": "é" * 300, "model": "m"}},
    }
    with pytest.raises(ConfigErrors) as caught:
        build(raw, options_of, folder=tmp_path, find_model=find_model)
    places = {error.where for error in caught.value.errors}
    assert places == {"mqtt.ca_file", "models.m.path", "models.m.labels", "streams.s.source"}


def test_sources_on_disk_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "dock.mp4").touch()
    (tmp_path / "[1].jpg").touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").touch()

    def told(source: Any) -> str:
        raw = {
            "models": {"m": {"path": "ssd-mobilenet-v2-oid"}},
            "streams": {"s": {"source": source, "model": "m"}},
        }
        return outcome(lambda: build(raw, options_of, folder=tmp_path, find_model=find_model))[1]

    for there in ("dock.mp4", "[1].jpg", "deep", "deep/**/*.png", "*/er/?.png", str(tmp_path / "dock.mp4")):
        assert told(there) == ""
    assert told({"kind": "images", "path": "deep/**"}) == ""
    assert told("docks.mp4") == (
        f"streams.s.source: no such file; expected a video file; got {tmp_path}/docks.mp4. "
        'Did you mean "dock.mp4"?'
    )  # fmt: skip
    assert told("deep/*.png").startswith("streams.s.source: no such file; expected a folder, a picture, or a glob that")
    assert told({"kind": "images", "path": "deeq"}).endswith('/deeq. Did you mean "deep"?')
    assert told({"kind": "file", "path": "dock.mp4/x.mp4"}).startswith("streams.s.source.path: no such file")
    assert told({"kind": "file", "path": "x.mp4", "loop": True}).count("streams.s.source") == 2  # both at once
    assert 'For a folder of pictures use { kind = "images"' in told({"kind": "file", "path": "deep"})
    assert told({"kind": "file", "path": ""}).startswith("streams.s.source.path: a folder; expected a video file")
    assert told({"kind": "wav", "path": "deep"}).startswith("streams.s.source.path: a folder; expected a WAV file")
    mjpeg = told({"kind": "mjpeg", "url": "rtsp://me:hunter2@cam/1"})
    assert mjpeg.startswith("streams.s.source.url: not an HTTP URL; expected http://host/path; got 'rtsp://me:***@cam")
    assert told({"kind": "stream", "url": "/dev/video0"}).startswith("streams.s.source.url: not a URL; expected rtsp:")


def test_a_folder_is_no_file_of_labels(tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    raw = {
        "models": {"m": {"path": "ssd-mobilenet-v2-oid", "labels": "names"}},
        "streams": {"s": {"source": "synthetic", "model": "m"}},
    }
    told = outcome(lambda: build(raw, options_of, folder=tmp_path, find_model=find_model))[1]
    assert told == f"models.m.labels: not a file; expected a text file with one label a line; got {tmp_path}/names"


def test_a_source_of_the_command_line_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "nape.mp4").touch()
    monkeypatch.chdir(tmp_path)
    for source, says in (
        ("nope.mp4", '--source: no such file; expected a video file; got nope.mp4. Did you mean "nape.mp4"?'),
        ("rtsp://", "--source: no host in the URL; expected rtsp://host[:port]/path; got 'rtsp://'"),
        ("http://me:hunter2@/x", "--source: no host in the URL; expected http://host[:port]/path; got 'http://***@/x'"),
    ):
        assert main(["run", "--model", "model.onnx", "--source", source]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["rtsp://:554/x", "RTSPS:///x", "http://me:pw@:80", "https://?x", "rtmp://", "http://h:x/"]
)
def test_cameras_need_a_host(url: str) -> None:
    with pytest.raises(ConfigError, match="in the URL; expected"):
        check_url(url)


@pytest.mark.parametrize("url", ["rtsp://cam", "http://[::1]:80/v", "udp://@:1234", "srt://:9000?mode=listener", "cam"])
def test_who_listens_needs_none(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("rtsp://cam/1", "stream", {"url": "rtsp://cam/1"}),
        ("RTSPS://cam/1", "stream", {"url": "RTSPS://cam/1"}),
        ("http://cam/v", "mjpeg", {"url": "http://cam/v"}),
        ("https://cam/v.jpg", "mjpeg", {"url": "https://cam/v.jpg"}),
        ("0", "camera", {"device": "/dev/video0"}),
        ("/dev/video2", "camera", {"device": "/dev/video2"}),
        ("/dev/v4l/by-id/usb-1", "camera", {"device": "/dev/v4l/by-id/usb-1"}),
        ("videotestsrc ! appsink", "camera", {"device": "videotestsrc ! appsink"}),
        ("synthetic", "synthetic", {}),
        ("synthetic:64x48", "synthetic", {"size": [64, 48]}),
        ("synthetic:640x480@29.97", "synthetic", {"size": [640, 480], "fps": 29.97}),
        ("a/b.MP4", "file", {"path": "here/a/b.MP4"}),
        ("/a/b.avi", "file", {"path": "/a/b.avi"}),
        ("b.jpeg", "images", {"path": "here/b.jpeg"}),
        ("b/**/*", "images", {"path": "here/b/**/*"}),
    ],
)
def test_source_text(text: str, kind: str, options: dict[str, Any]) -> None:
    assert parse_source(text, Path("here")) == (kind, options)


def test_a_folder_is_images_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "birds.mp4").mkdir()
    assert parse_source("birds.mp4", tmp_path) == ("images", {"path": str(tmp_path / "birds.mp4")})


@pytest.mark.parametrize(
    "text", ["", "cam", "ftp://x/y.mp4", "synthetic:", "synthetic:1x", "1234", "-1", "notes.txt", "é" * 300]
)
def test_what_is_not_a_source(text: str) -> None:
    with pytest.raises(ConfigError, match="synthetic"):
        parse_source(text)
