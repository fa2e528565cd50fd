from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.capture.images import ImagesSource, Options, natural_key
from edgerun.capture.picture import decode_picture
from edgerun.capture.stamp import read_stamp
from edgerun.clock import FakeClock
from edgerun.errors import FrameError, SourceError
from edgerun.types import View
from tests.capture.scenes import context, write_pictures


def _items(source: ImagesSource) -> list[str | None]:
    items = []
    while (grab := source.grab()) is not None:
        items.append(grab.item)
    return items


def test_natural_order_relative_names_and_sub_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["10.jpg", "2.jpg", "1.png", "cat/3.webp", ".hidden.jpg"])
    (tmp_path / "labels.csv").write_text("2.jpg,1\n")
    source = ImagesSource(Options(str(tmp_path)), context())
    assert source.lossless
    assert _items(source) == ["1.png", "2.jpg", "10.jpg", "cat/3.webp"]
    source.close()


def test_a_glob_and_a_single_file(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a/1.jpg", "a/2.png", "b/3.jpg"])
    assert _items(ImagesSource(Options(str(tmp_path / "*" / "*.jpg")), context())) == ["a/1.jpg", "b/3.jpg"]
    assert _items(ImagesSource(Options(str(tmp_path / "**" / "*.png")), context())) == ["a/2.png"]
    source = ImagesSource(Options(str(tmp_path / "a" / "2.png")), context())
    assert _items(source) == ["2.png"]
    assert read_stamp(source.retrieve(None)) == (1, 1)


def test_an_unreadable_picture_is_one_failed_frame(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"])
    (tmp_path / "2.jpg").write_text("not a picture")
    (tmp_path / "3.jpg").write_bytes(b"")
    whole = (tmp_path / "4.jpg").read_bytes()
    (tmp_path / "4.jpg").write_bytes(whole[:-100])
    source = ImagesSource(Options(str(tmp_path)), context())
    (tmp_path / "5.jpg").unlink()
    outcomes = []
    while source.grab() is not None:
        try:
            outcomes.append(str(source.retrieve(None).shape))
        except FrameError as error:
            outcomes.append(error.reason)
    assert outcomes == ["(96, 160, 3)", "decode", "empty", "decode", "read"]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    jpeg = bytes(cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1])
    # One little-endian TIFF directory with tag 0x0112 (Orientation) = 6, "turn 90° clockwise" (Exif 2.32 §4.6.4).
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    source = ImagesSource(Options(str(path)), context())
    source.grab()
    assert source.retrieve(None).shape == (40, 20, 3)


def test_fps_paces_and_as_fast_does_not(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.jpg", "2.jpg", "3.jpg"])
    for as_fast, total_s in ((False, 1.0), (True, 0.0)):
        clock = FakeClock()
        began_ns = clock.mono_ns()
        assert len(_items(ImagesSource(Options(str(tmp_path), fps=2.0), context(clock, as_fast=as_fast)))) == 3
        assert clock.mono_ns() - began_ns == total_s * 1e9


def test_loop(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.jpg", "2.jpg"])
    source = ImagesSource(Options(str(tmp_path)), context(loop=True))
    grabs = [source.grab() for _ in range(5)]
    assert [g.item for g in grabs if g] == ["1.jpg", "2.jpg", "1.jpg", "2.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("below", "message"), [("", "no picture here"), ("*.jpg", "no picture here"), ("gone", "no such file or folder")]
)
def test_nothing_there(tmp_path: Path, below: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        ImagesSource(Options(str(tmp_path / below) if below else str(tmp_path)), context())
    assert raised.value.final


@given(st.lists(st.text("ab12²٣.", max_size=8), unique=True, max_size=8))
def test_natural_order_is_total(names: list[str]) -> None:
    assert sorted(names, key=natural_key) == sorted(names, key=natural_key)


def test_a_cut_jpeg_is_refused_and_one_with_a_trailer_is_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    jpeg = bytes(cv2.imencode(".jpg", noise)[1])
    for whole in (jpeg, jpeg + b"\x00" * 10, jpeg + b"a phone's own trailer " * 20):
        assert decode_picture(cv2, whole, None, "here")[0].shape == (96, 160, 3)
    for cut in (jpeg[:-2], jpeg[:-100], jpeg[: len(jpeg) // 2]):
        with pytest.raises(FrameError, match="cut short") as raised:
            decode_picture(cv2, cut, None, "here")
        assert raised.value.reason == "decode"


def test_equal_files_have_equal_keys(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.jpg", "3.jpg"])
    (tmp_path / "2.jpg").write_bytes((tmp_path / "1.jpg").read_bytes())
    source = ImagesSource(Options(str(tmp_path)), context())
    keys = [grab.key for _ in range(3) if (grab := source.grab()) is not None]
    assert keys[0] == keys[1] != keys[2]
    assert all(key is not None and len(key) == 16 for key in keys)
    assert source.retrieve(None, View((20, 12), grey=True)).shape == (12, 20)
    assert source.frame_size == (160, 96)
