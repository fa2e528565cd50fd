"""`edgerun import-frigate`: what maps is a config, what does not is told."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgerun.cli import flags
from edgerun.config import build
from edgerun.errors import ConfigError
from edgerun.setup import frigate

FOLDER = Path(__file__).parent / "frigate"
LABELS = ("person", "dog", "car", "cat")


def converted(text: str) -> frigate.Imported:
    return frigate.convert(frigate.parse(text), "ssd-mobilenet-v2-oid", LABELS)


def camera(**more: object) -> dict[str, object]:
    return {"ffmpeg": {"inputs": [{"path": "rtsp://cam/1", "roles": ["detect"]}]}, **more}


def test_a_config_maps_and_what_does_not_is_told() -> None:
    made = converted((FOLDER / "two-cameras.yml").read_text())
    assert made.text == (FOLDER / "two-cameras.toml").read_text()
    assert "".join(f"{key}: {why}\n" for key, why in made.left_out) == (FOLDER / "two-cameras.left-out").read_text()


def test_what_is_written_is_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRIGATE_MQTT_PASSWORD", "x")
    config = build(
        tomllib.loads((FOLDER / "two-cameras.toml").read_text()), flags.options_of, find_model=flags.find_model
    )
    assert set(config.streams) == {"front-door", "garage"}
    assert config.streams["front-door"].zones["porch"].dwell_s == 4


def test_no_password_is_copied() -> None:
    text = json.dumps({"mqtt": {"host": "h", "user": "u", "password": "planted"}, "cameras": {"a": camera()}})
    made = converted(text)
    assert "planted" not in made.text
    assert any(key == "mqtt.password" for key, _ in made.left_out)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- 1", "not a config of Frigate"),
        ("cameras: {}", "not a config of Frigate"),
        ("a: [", "not YAML"),
        ("cameras: {a: {ffmpeg: {inputs: []}}}", "a camera without an input"),
        ("cameras: {a: {ffmpeg: {inputs: 3}}}", "a camera without an input"),
        ("cameras: {a: 3}", "not a mapping"),
        (json.dumps({"cameras": {"a": camera(motion={"mask": "0,1,x,2"})}}), "not coordinates"),
        (json.dumps({"cameras": {"a": camera(motion={"mask": "0,1,1,1"})}}), "not the outline of an area"),
    ],
)
def test_what_is_no_config_is_told(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        converted(text)


def test_pixels_without_a_size_are_left_out() -> None:
    made = converted(json.dumps({"cameras": {"a": camera(motion={"mask": "0,0,100,0,100,100"})}}))
    assert any("is in pixels" in why for _, why in made.left_out)


def test_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgerun", "import-frigate", str(FOLDER / "two-cameras.yml")]
    out = tmp_path / "edge.toml"
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(out.read_text())["streams"]["garage"]["max_fps"] == 5
    assert "not in it: record: has no counterpart." in done.stderr
    again = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
    assert again.returncode == 2
    assert "there is such a file" in again.stderr
