"""The supply's voltage sinks and recovers, on a board's tree that this process changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boards import tree
from tests.faults.box import WELL_MAX_AGE_MS, box

GOVERNOR = """
[governor]
means = ["fps"]
up_s = 1
settle_s = 1
[sensors]
root = "{root}"
interval_s = 0.2
"""


@pytest.mark.slow  # half a minute, of which most is the governor making sure
def test_under_voltage_slows_the_device_down_told_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "board"
    tree.unpack(tree.read("pi5"), root)
    (alarm,) = root.glob("sys/devices/platform/soc*/soc*firmware/raspberrypi-hwmon/hwmon/hwmon2/in0_lcrit_alarm")
    why = "the supply's voltage is too low"
    with box(tmp_path, GOVERNOR.format(root=root)) as made:
        made.wait(lambda: made.bodies("telemetry"), "telemetry")
        assert made.bodies("telemetry")[-1]["governor"]["level"] == 0
        alarm.write_text("1\n")
        made.wait(lambda: made.events("governed"), "its event")
        assert why in made.events("governed")[0]["text"]
        made.wait(lambda: made.states("well")[-1] == "degraded", "the stream's state")
        assert made.bodies("state/well")[-1]["reason"] == why
        made.wait(lambda: made.bodies("telemetry")[-1]["governor"].get("reason") == why, "telemetry's word for it")
        made.wait(lambda: made.bodies("telemetry")[-1]["streams"]["well"]["limited"] > 3, "fewer frames")
        made.well_goes_on(3)
        alarm.write_text("0\n")
        made.wait(lambda: made.events("recovered"), "its end")
        made.wait(lambda: made.states("well")[-1] == "running", "the stream's state")
        account = made.stop()["streams"]["well"]
    assert account["limited"] > 3
    assert account["failed"] == 0
    assert max(one["age_ms"] for one in made.results("well")) <= WELL_MAX_AGE_MS, "slower, and as fresh"
    assert made.states("well")[-4:] == ["running", "degraded", "running", "ended"]
