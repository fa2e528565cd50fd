"""A command whose work was lost, or that was asked for what is not there, does not end as if all were well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.cli.main import main
from edgerun.clock import FakeClock
from edgerun.config import Config, ModelConfig, MqttConfig, RunOptions, SourceConfig, SpoolConfig, StreamConfig
from edgerun.control.audit import AuditLog
from edgerun.daemon import serve
from edgerun.registry import resolve
from tests import mosquitto, schemas
from tests.cli.test_commands import edgerun

MODEL = "ssd-mobilenet-v2-oid"
DETECTOR = Path(__file__).parents[2] / "models" / MODEL


def config(kind: str, **options: Any) -> Config:
    source = SourceConfig(kind, resolve("source", kind).options(**options))
    streams = {"dock": StreamConfig(source=source, model="detector", as_fast=True)}
    return Config(models={"detector": ModelConfig(path=DETECTOR)}, streams=streams)


def ended(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, in this process."""
    code = main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_source_of_which_not_one_frame_could_be_used(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").touch()
    done = edgerun("run", "--model", MODEL, "--source", tmp_path / "zero.jpg", "--no-page", "--quiet", "--json")
    summary = json.loads(done.stdout)
    schemas.validate("summary", summary)
    assert done.returncode == 1
    assert summary["incomplete"] == ["stream main: not one of 1 frames could be used: empty 1"]
    assert "not one of 1 frames could be used: empty 1" in done.stderr


@pytest.mark.parametrize("end", [{}, {"seconds": 60}])
def test_lines_that_a_full_disk_did_not_take(end: dict[str, float]) -> None:
    summary = serve(config("synthetic", frames=3), RunOptions(console=False, as_fast=True, jsonl="/dev/full", **end))
    assert summary["streams"]["dock"]["published"] == 3
    assert summary["incomplete"] == ["3 lines were not written to /dev/full: No space left on device"]


@pytest.mark.parametrize("kept", [True, False])
def test_results_that_neither_a_broker_nor_a_spool_took(kept: bool, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    if not kept:
        folder.touch()
    mqtt = MqttConfig(f"mqtt://127.0.0.1:{mosquitto.free_port()}", spool=SpoolConfig(folder=folder))
    run = msgspec.structs.replace(config("synthetic", frames=3), mqtt=mqtt)
    summary = serve(run, RunOptions(console=False, as_fast=True, seconds=6))
    lost = summary["mqtt"]["dropped"].get("stopped", 0)
    told = None if kept else [f"{lost} messages did not reach the broker: stopped {lost}"]
    assert summary.get("incomplete") == told
    assert kept or lost >= 3


def test_a_run_that_lost_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    options = RunOptions(console=False, as_fast=True, jsonl=str(tmp_path / "out.jsonl"), save=tmp_path / "out.mp4")
    assert "incomplete" not in serve(config("synthetic", frames=3), options)


@pytest.mark.parametrize("action", ["show", "verify"])
def test_an_audit_log_that_is_not_there(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(capsys, "audit", action, "--folder", tmp_path)
    assert (code, out) == (4, "")
    assert err == (
        f"edgerun: {tmp_path}: no audit log is there; expected audit.jsonl. Name the --config or --folder of the "
        "device that you mean.\n"
    )


@pytest.mark.parametrize("action", ["show", "verify"])
def test_an_audit_log_without_a_record(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AuditLog(tmp_path, FakeClock())
    code, out, err = ended(capsys, "audit", action, "--folder", tmp_path)
    assert code == 0
    assert "no records" in out + err
    assert "--head" in err
    assert "as they were written" not in out


def test_the_audit_log_of_another_device_is_not_this_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(capsys, "audit", "verify", "--folder", tmp_path, "--head", "0" * 64)
    assert code == 1
    assert "is missing: the log was cut, or is another one" in err


def test_a_daemon_without_a_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(capsys, "control", "ready", "--socket", tmp_path / "control.sock")
    assert code == 4
    assert "started by hand" in err
    assert "`socket` in its config" in err
    assert "$RUNTIME_DIRECTORY" in err
