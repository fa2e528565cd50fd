"""Pipeline mode on real processes: cameras, edgerun, the bare loop."""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgerun.bench.live import Conservation, LiveReport, run_live, table
from edgerun.bench.watched import StampSink, read_pss_mib
from edgerun.capture.stamp import draw_stamp
from edgerun.errors import ConfigError, DeviceError
from edgerun.meter import FATES
from edgerun.types import Answer, Lease, ModelInfo, Publication, Result, Stamp

MODEL = "ssd-mobilenet-v2-oid"


@pytest.fixture(scope="module")
def reports() -> list[LiveReport]:
    return run_live(MODEL, overloads=(0.3, 3.0), seconds=2, warmup_s=0.3, bare_s=0.5, size=(640, 480))


def test_every_frame_is_accounted_for(reports: list[LiveReport]) -> None:
    for report in reports:
        for account in report.account.values():
            assert account.in_flight == 0
            assert account.grabbed == sum(account.fates.values())
        assert report.conserved
        assert sum(a.fates["published"] for a in report.account.values()) >= sum(report.results.values()) > 0
        assert sum(a.grabbed for a in report.account.values()) <= sum(camera.sent for camera in report.cameras) + 1


def test_the_pictures_own_age_is_never_below_what_edgerun_says(reports: list[LiveReport]) -> None:
    for report in reports:
        assert report.unreadable == report.backwards == 0
        assert report.age_gap_ms["min"] >= 0
        assert report.own_age_ms["min"] > 0
        for name, value in report.own_age_ms.items():
            assert report.age_ms[name] >= value


def test_overload_is_the_ratio_to_the_bare_loop(reports: list[LiveReport]) -> None:
    calm, busy = reports
    assert busy.fps > calm.fps
    assert busy.account["camera-0"].grabbed > busy.account["camera-0"].fates["published"]
    assert calm.share_of_bare > 0
    assert calm.results_per_s == pytest.approx(sum(calm.results.values()) / calm.seconds, rel=1e-3)
    assert busy.bare_spread >= 1
    assert busy.cpu_ms_per_result > 0
    assert set(busy.age_bound_ms) == {"p50", "p99"}
    assert busy.decoded <= busy.account["camera-0"].grabbed


def test_a_report_goes_through_json_and_into_a_table(reports: list[LiveReport]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(reports), type=list[LiveReport]) == reports
    text = table(reports)
    assert "0.3×" in text
    assert "exact" in text
    wrong = Conservation(3, dict.fromkeys(FATES, 0), 3, {})
    lost = msgspec.structs.replace(reports[0], account={"camera-0": wrong}, unreadable=2, backwards=1)
    assert "WRONG" in table([lost])
    assert "2 unreadable stamps, 1 results out of order" in table([lost])
    assert not lost.conserved


def test_several_streams_have_a_camera_each() -> None:
    (report,) = run_live(
        MODEL, fps=(60,), seconds=1, warmup_s=0.2, bare_s=0.3, streams=2, size=(320, 240), pattern="jitter"
    )
    assert report.fps == 60
    assert report.overload > 0
    assert set(report.account) == {"camera-0", "camera-1"}
    assert len(report.cameras) == 2
    assert report.conserved
    assert report.age_bound_ms == {}
    assert report.fairness >= 1


def test_what_a_child_complains_of_is_told() -> None:
    with pytest.raises(DeviceError, match=r"edgerun.bench.watched.*no-such-model"):
        run_live("no-such-model", seconds=1)


@pytest.mark.parametrize(
    "wrong", [{"overloads": ()}, {"overloads": (0,)}, {"fps": (-1.0,)}, {"seconds": 0}, {"streams": 0}]
)
def test_figures_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        run_live(MODEL, **wrong)


def publication(image: np.ndarray | None, stream: str = "a") -> Publication:
    lease = Lease(image) if image is not None else None
    result = Result(Stamp(stream, 0, 0, 0.0), Answer(), ModelInfo("m", "1", "cpu"), (640, 480), {}, {}, lease=lease)
    return Publication(result, "r-0", 1.0)


def test_the_sink_counts_pictures_without_a_stamp_and_results_out_of_order() -> None:
    sink = StampSink(0.0, 1e9)
    images = []
    for number in (5, 6, 4):
        image = np.zeros((480, 640, 3), np.uint8)
        draw_stamp(image, number, 1_000)
        images.append(image)
    for image in (*images[:1], *images, images[2], np.zeros((480, 640, 3), np.uint8), None):
        sink.publish(publication(image))  # the first one opens the measured time
    assert sink.results == {"a": 6}
    assert (sink.unreadable, sink.backwards) == (2, 2)
    assert isinstance(sink.age_ms, array)
    assert len(sink.age_ms) == 4
    assert min(sink.age_ms) > 0


def test_memory_is_absent_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    assert read_pss_mib(tmp_path) is None
    folder = tmp_path / "proc" / "self"
    folder.mkdir(parents=True)
    (folder / "smaps_rollup").write_text("0-1 ---p 0 [rollup]\nRss:  2048 kB\nPss:  102400 kB\nPss_Anon: 5 kB\n")
    assert read_pss_mib(tmp_path) == 100.0
