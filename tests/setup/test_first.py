"""`edgerun init`: what is found or said becomes a config that is checked before it is written."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.setup import detect, toml_text
from tests import terminal
from tests.real_models import ROOT

INIT = [sys.executable, "-m", "edgerun", "init"]

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    text | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(text, values, max_size=4), text)
def test_what_is_written_is_read_back(table: dict[str, object], name: str) -> None:
    assert tomllib.loads(toml_text.table(["a", name], table)) == {"a": {name: table}}


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*INIT, *words], capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL)


def test_with_nothing_it_is_the_demo_and_checks(tmp_path: Path) -> None:
    done = run("--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == "edgerun.toml"
    made = tomllib.loads((tmp_path / "edgerun.toml").read_text())
    assert made["streams"]["main"]["loop"] is True
    check = [sys.executable, "-m", "edgerun", "check", "--config", str(tmp_path / "edgerun.toml")]
    assert subprocess.run(check, capture_output=True).returncode == 0


def test_a_model_of_the_store_does_not_hide_the_clip(tmp_path: Path) -> None:
    """A newer version of the bundled detector in the store has no clip beside it."""
    there = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    edgerun, detector = [sys.executable, "-m", "edgerun"], ROOT / "models/ssd-mobilenet-v2-oid"
    for words in (["models", "add", str(detector)], ["init", "--yes"], ["demo", "--frames", "1", "--no-page"]):
        done = subprocess.run([*edgerun, *words], capture_output=True, text=True, cwd=tmp_path, env=there)
        assert done.returncode == 0, done.stderr


def test_what_is_said_counts_and_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    words = (
        "--yes",
        "--source",
        "rtsp://cam.example/1",
        "--broker",
        "mqtts://dock@broker.example",
        "--device",
        "dock-7",
    )
    done = run(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    made = tomllib.loads((tmp_path / "edgerun.toml").read_text())
    assert made["device"]["id"] == "dock-7"
    assert made["mqtt"] == {
        "url": "mqtts://broker.example",
        "username": "dock",
        "home_assistant": True,
        "password": {"credential": "mqtt-password"},
    }
    again = run(*words, folder=tmp_path)
    assert (again.returncode, "there is such a file" in again.stderr) == (2, True)
    assert run(*words, "--force", folder=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--source", "nosuch.mp4"), "nosuch.mp4"),
        (("--device", "Not A Name"), "--device: not of the right form"),
        (("--broker", "mqtt://u:secret@h"), "a password is not written into the config"),
        (("--model", "no-such-model"), "no-such-model"),
    ],
)
def test_what_cannot_be_a_config_is_not_written(tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    done = run("--yes", *words, folder=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert "secret" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_broker_that_listens_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        assert detect.broker(["mqtt://127.0.0.1:1", url]) == url
    assert detect.broker(["mqtt://127.0.0.1:1", url]) is None


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_it_asks_a_person(tmp_path: Path) -> None:
    with terminal.tmux(f"cd {tmp_path} && {' '.join(INIT)}; sleep 60", tmp_path) as screen:
        screen.wait(lambda seen: "camera, address, file or folder [" in seen)
        screen.press("rtsp://cam.example/1", "Enter")
        screen.wait(lambda seen: "model [" in seen)
        screen.press("Enter")
        screen.wait(lambda seen: "MQTT broker" in seen)
        screen.press("none", "Enter")
        screen.wait(lambda seen: "this device's name" in seen)
        screen.press("door", "Enter")
        screen.wait(lambda seen: "What comes next" in seen)
    made = tomllib.loads((tmp_path / "edgerun.toml").read_text())
    assert made["device"]["id"] == "door"
    assert made["streams"]["main"]["source"] == "rtsp://cam.example/1"
    assert "mqtt" not in made


def test_completion_knows_commands_and_flags() -> None:
    done = subprocess.run([sys.executable, "-m", "edgerun", "completion", "bash"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("convert", "import-frigate", "--max-age-ms"):
        assert word in done.stdout
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
