"""Cameras that fall silent, break off, refuse, change, crawl and flood, beside one that is well."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import emulators
from tests.faults.box import Box, box

SMALL = ("--size", "320x240", "--fps", 5)
RTSP = ("--size", "320x240", "--fps", 20)  # of which FFmpeg takes the first dozens to find out what they are
SICK = {
    "silent": ("mjpeg", *SMALL, "--silent-after", 5),
    "mute": ("mjpeg", *SMALL, "--never-answer"),
    "half": ("mjpeg", *SMALL, "--half-frame-at", 5),
    "smaller": ("mjpeg", *SMALL, "--resize-at", 5),
    "torn": ("mjpeg", *SMALL, "--corrupt-every", 4),
    "refused": ("mjpeg", *SMALL, "--status", 404),
    "teardown": ("rtsp", *RTSP, "--teardown-after", 60),
    "silent-rtsp": ("rtsp", *RTSP, "--silent-after", 60),
    "slow": ("mjpeg", "--size", "320x240", "--fps", 1),
}


def stream(name: str, kind: str, url: str, more: str = "") -> str:
    kind = {"mjpeg": "mjpeg", "rtsp": "stream"}[kind]
    return f"""
[streams.{name}]
source = {{ kind = "{kind}", url = "{url}", read_timeout_s = 1.5 }}
model = "detector"
max_fps = 5
{more}
"""


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One daemon that has all of them at once."""
    with contextlib.ExitStack() as open_:
        cameras = {name: open_.enter_context(emulators.start(*how)) for name, how in SICK.items()}
        config = "".join(stream(name, SICK[name][0], camera.url) for name, camera in cameras.items())
        yield open_.enter_context(box(tmp_path_factory.mktemp("ward"), config))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent", "timed out waiting for data"),
        ("half", "ended the stream"),
        ("teardown", "the stream ended"),
        ("silent-rtsp", "no frame within 1.5 s"),
    ],
)
def test_a_camera_that_is_lost_is_told_and_opened_again(ward: Box, name: str, reason: str) -> None:
    ward.wait(lambda: len(ward.events("stalled", name)) >= 2 and ward.events("running", name), f"{name} lost twice")
    assert all(reason in event["text"] for event in ward.events("stalled", name))
    ward.wait(lambda: ward.states(name)[:4] == ["stalled", "running", "stalled", "running"])
    ward.wait(lambda: any(one["streams"][name].get("stalls_1h", 0) >= 2 for one in ward.bodies("telemetry")))
    ward.wait(lambda: any(one["streams"][name].get("reconnects_1h", 0) >= 1 for one in ward.bodies("telemetry")))
    ward.well_goes_on()


@pytest.mark.parametrize(("name", "reason"), [("refused", "got status 404"), ("mute", "timed out waiting for data")])
def test_a_camera_that_never_comes_up_is_told_and_asked_again(ward: Box, name: str, reason: str) -> None:
    ward.wait(lambda: ward.events("stalled", name), "its event")
    (event,) = ward.events("stalled", name)
    assert reason in event["text"]
    assert ward.states(name) == ["stalled"]
    assert not ward.results(name)
    ward.well_goes_on()


def test_a_resolution_that_changes_in_mid_stream_costs_no_frame(ward: Box) -> None:
    ward.wait(lambda: {one["frame"]["w"] for one in ward.results("smaller")} == {320, 160})
    widths = [one["frame"]["w"] for one in ward.results("smaller")]
    assert widths == sorted(widths, reverse=True)
    assert not ward.events("stalled", "smaller")


def test_frames_that_are_no_pictures_are_failed_frames(ward: Box) -> None:
    ward.wait(lambda: any(one["streams"]["torn"]["failed"] for one in ward.bodies("telemetry")))
    ward.wait(lambda: any(one["seq"] > 6 for one in ward.results("torn")))
    assert not ward.events("stalled", "torn")


def test_one_frame_a_second_is_no_stall(ward: Box) -> None:
    ward.wait(lambda: len(ward.results("slow")) >= 4)
    assert not ward.events("stalled", "slow")
    gaps_s = [b["ts"] - a["ts"] for a, b in zip(ward.results("slow"), ward.results("slow")[1:], strict=False)]
    assert sorted(gaps_s)[len(gaps_s) // 2] > 0.5


def test_the_account_of_all_of_them_adds_up_and_the_healthy_one_noticed_nothing(ward: Box) -> None:
    ward.wait(lambda: any(one["streams"]["torn"]["failed"] for one in ward.bodies("telemetry")))
    summary = ward.stop()
    ward.check_well()
    for name in SICK:
        account, results = summary["streams"][name], ward.results(name)
        assert account["published"] == len(results), name
        assert (account["failed"] > 0) == (name == "torn"), account
    for name in ("refused", "mute"):
        assert summary["streams"][name]["grabbed"] == 0
    assert set(summary["streams"]["torn"]["failed_reasons"]) == {"decode"}


def test_a_camera_that_freezes_vanishes_and_returns(tmp_path: Path) -> None:
    with contextlib.ExitStack() as first:
        camera = first.enter_context(emulators.start("mjpeg", *SMALL))
        with box(tmp_path, stream("dock", "mjpeg", camera.url)) as made:
            made.wait(lambda: len(made.results("dock")) >= 3)
            os.kill(camera.pid, signal.SIGSTOP)  # its kernel goes on taking connections
            made.wait(lambda: made.states("dock")[-1] == "stalled", "the stall of a frozen camera")
            made.well_goes_on()
            os.kill(camera.pid, signal.SIGCONT)
            made.wait(lambda: made.states("dock")[-1] == "running", "its return")
            first.close()  # it is gone, and its port with it
            made.wait(lambda: made.states("dock")[-1] == "stalled", "the stall of a vanished camera")
            made.well_goes_on()
            with emulators.start("mjpeg", *SMALL, "--port", camera.port):
                made.wait(lambda: made.states("dock")[-1] == "running", "the return of a vanished camera")
                made.wait(lambda: made.states("dock").count("running") >= 3)
                summary = made.stop()
            made.check_well()
    assert summary["streams"]["dock"]["failed"] == 0
    assert [e["kind"] for e in made.bodies("event")] == ["stalled", "running", "stalled", "running"]


def test_a_camera_that_floods_takes_nothing_from_the_other(tmp_path: Path) -> None:
    """A thousand frames a second, of which the engine manages a part: the others are never decoded."""
    with (
        emulators.start("mjpeg", "--size", "320x240", "--fps", 1000, "--same") as camera,
        box(tmp_path, stream("flood", "mjpeg", camera.url).replace("max_fps = 5\n", "")) as made,
    ):
        made.wait(lambda: len(made.results("flood")) >= 50)
        made.well_goes_on(20)
        summary = made.stop()
        made.check_well()
        ages = [one["age_ms"] for one in made.results("flood")]
    flood, well = summary["streams"]["flood"], summary["streams"]["well"]
    assert max(ages) <= 1000
    assert flood["grabbed"] > 4 * flood["published"]
    assert flood["skipped"] > flood["superseded"] + flood["expired"]
    assert well["published"] * 2 > well["grabbed"], "it gets its turns"
