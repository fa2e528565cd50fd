"""tools/fleet-sim runs, and its devices do what real ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgerun.config.structs import device_labels
from tests import mosquitto
from tests.schemas import validate
from tools.fleet_sim_parts.device import Habits, SimDevice

ROOT = Path(__file__).parent.parent.parent


def test_what_a_simulated_device_says_is_what_the_schemas_say() -> None:
    device = SimDevice("sim-1", Habits(results_per_s=1.0), "edgerun", 0.0)
    said = [*device.birth(), *device.due(100.0)]
    kinds = [message.topic.split("/")[2] for message in said]
    assert kinds == ["status", "info", "state", "models", "telemetry", "detections"]
    for kind, message in zip(kinds, said, strict=True):
        schema = {"detections": "result"}.get(kind, kind)
        if kind not in ("status", "models"):
            validate(schema, json.loads(message.payload))


@pytest.mark.parametrize(("bad", "ends"), [(1.0, "rolled_back"), (0.0, "active")])
def test_its_rollouts_end_as_the_state_machine_says(bad: float, ends: str) -> None:
    device = SimDevice("sim-1", Habits(bad_versions=("3",), bad_share=bad), "edgerun", 0.0)
    asked = msgspec.json.encode({"name": "detector", "version": "3", "rollout": "r1", "share": 1.0})
    device.take("edgerun/sim-1/cmd/model/install", asked, 0.0)
    for turn in range(1, 8):
        device.due(turn * 2.0)
    assert device.rollout is not None
    assert device.rollout.state == ends
    assert device.version == ("2" if ends == "rolled_back" else "3")


def test_the_tool_runs_and_tells() -> None:
    mosquitto.program("mosquitto")
    done = subprocess.run(
        [ROOT / "tools" / "fleet-sim", "spread", "--devices", "30", "--telemetry", "1", "--processes", "1"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| phase | by hash | all alike |" in done.stdout
    assert "| devices | 30 | 30 |" in done.stdout


def test_labels_that_could_not_be_asked_for_are_refused() -> None:
    assert device_labels({"site": "north"}) == {"site": "north"}
    for wrong in ({"site": ""}, {"a=b": "c"}, {"site": "x" * 64}, {f"l{at}": "x" for at in range(17)}):
        with pytest.raises(ValueError, match="label"):
            device_labels(wrong)
