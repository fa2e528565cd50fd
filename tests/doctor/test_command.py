"""The command as a user meets it: a real process on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mosquitto, schemas

CODE = (
    "import sys; from edgerun.cli import main; main.COMMANDS.setdefault('doctor', ('edgerun.cli.doctor', '')); "
    "sys.exit(main.main(['doctor', *sys.argv[1:]]))"
)


def doctor(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-c", CODE, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, env=environ, check=False)


def test_the_default_job_runs_here(tmp_path: Path) -> None:
    done = doctor(home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model ssd-mobilenet-v2-oid" in done.stdout
    assert "all that the job needs is there" in done.stdout
    assert "\033" not in done.stdout, "colours are for terminals"


def test_json_with_a_broker_that_is_missing(tmp_path: Path) -> None:
    done = doctor("--json", "--wx", "--broker", f"mqtt://127.0.0.1:{mosquitto.free_port()}", home=tmp_path)
    assert done.returncode == 4, done.stderr
    answer = json.loads(done.stdout)
    schemas.validate("doctor", answer)
    assert answer["ok"] is False
    missing = [check["what"] for check in answer["checks"] if check.get("needed") and check["status"] == "red"]
    assert missing == ["broker"]
    assert [check for check in answer["checks"] if "write-xor-execute" in check["what"]]


@pytest.mark.parametrize("mistake", ["--config", "--broker"])
def test_a_mistake_is_the_operators(mistake: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[devices]\n")
    done = doctor(mistake, str(wrong) if mistake == "--config" else "http://broker", home=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_config_names_what_is_needed(tmp_path: Path) -> None:
    config = tmp_path / "edgerun.toml"
    config.write_text(
        '[device]\nid = "dock-7"\n[models.detector]\npath = "ssd-mobilenet-v2-oid"\n'
        'accelerators = ["edgetpu", "cpu"]\n'
        '[streams.dock]\nsource = "/dev/video77"\nmodel = "detector"\n'
    )
    done = doctor("--config", str(config), home=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "/dev/video77 is not there, and stream dock reads it" in done.stdout
    assert "edgetpu was refused" in done.stdout
    assert "missing for the job: camera" in done.stdout
