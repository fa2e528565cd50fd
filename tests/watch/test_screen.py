"""The rows of the terminal view."""

from __future__ import annotations

import json

from edgerun.watch.picture import Picture
from edgerun.watch.screen import lines
from tests.watch.test_picture import TELEMETRY, of_dock


def test_a_device_fits_into_80_columns_and_24_rows() -> None:
    picture = of_dock(
        ("status", b"online"),
        ("state/dock", {"state": "running"}),
        ("state/yard", {"state": "stalled", "reason": "the camera gives no frames"}),
        ("telemetry", TELEMETRY),
        ("event", {"kind": "stalled", "text": "the camera gives no frames", "ts": 1.0, "stream": "yard"}),
    )
    shown = lines(picture.as_dict(), 80, 24)
    assert len(shown) == 24
    text = "\n".join(line.text for line in shown)
    for words in (
        "1 of 1 device online", "dock-7  online  61 °C  THROTTLED (under_voltage)  4.1 W  148 MiB",
        "! yard/faces       stalled", "11.8          61/89  sk 181 su 1", "stalled: the camera gives no frames",
    ):  # fmt: skip
        assert words in text, text
    assert [line.style for line in shown if "yard/faces" in line.text] == ["alarm"]


def test_the_fleet_scrolls_and_says_what_is_below() -> None:
    picture = Picture()
    for i in range(40):
        picture.take(f"edgerun/d{i:02d}/status", b"offline")
    told = picture.as_dict()
    assert "… 19 more rows" in lines(told, 80, 24)[-1].text
    assert "d00" in lines(told, 80, 24)[2].text
    assert "d10" in lines(told, 80, 24, top=10)[2].text
    assert "d39" in lines(told, 80, 24, top=99)[-1].text


def test_large_counts_stay_short() -> None:
    picture = Picture()
    streams = {"s": {"skipped": 123_456_789, "superseded": 99_999, "failed": 10**18}}
    picture.take("edgerun/a/telemetry", json.dumps({"streams": streams}).encode())
    row = next(line.text for line in lines(picture.as_dict(), 120, 10) if " s " in line.text)
    assert "sk 123M su 99999 fa 1000000T" in row


def test_nobody_there_is_said() -> None:
    assert "no device yet" in lines(Picture().as_dict(), 80, 24, notice="BROKER AWAY")[0].text
    assert "BROKER AWAY" in lines(Picture().as_dict(), 80, 24, notice="BROKER AWAY")[0].text
