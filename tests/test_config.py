"""The config: every mistake named at once, nothing else ever raised, and no password ever shown."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.cli.flags import options_of
from edgerun.config import PLANNED, Secret, build, dump, load
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.validate import join
from tests import config_parts
from tests.config_parts import CONFIGS, find_model, outcome

bundled_models = config_parts.bundled_models

BAD = sorted((CONFIGS / "bad").glob("*.toml"))
GOOD = sorted((CONFIGS / "good").glob("*.toml"))


def mistakes(path: Path) -> tuple[ConfigError, ...]:
    with pytest.raises(ConfigErrors) as caught:
        load(path, options_of, find_model)
    return caught.value.errors


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_each_mistake_has_its_message(
    path: Path, golden: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    errors = mistakes(Path(path.name))
    text = "\n".join(map(str, errors)) + "\n"
    assert "hunter2" not in text
    assert all("\n" not in str(error) for error in errors)
    assert all(path.name in str(error) for error in errors)
    golden(path.with_suffix(".message"), text)


def test_there_is_a_file_for_each_message() -> None:
    assert len(BAD) >= 30
    assert {path.stem for path in BAD} == {path.stem for path in (CONFIGS / "bad").glob("*.message")}


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_config_survives_dump_and_build(path: Path) -> None:
    config = load(path, options_of, find_model)
    again = build(dump(config), options_of, find_model=find_model)
    assert again == config
    assert dump(again) == dump(config)


def test_the_contract_is_understood() -> None:
    config = load(CONFIGS / "good" / "contract.toml", options_of, find_model)
    assert config.device.id == "dock-7"
    assert config.mqtt is not None
    assert config.mqtt.password == Secret("credential", "mqtt-password")
    assert config.models["detector"].path.name == "ssd-mobilenet-v2-oid"
    dock, gate = config.streams["dock"], config.streams["gate"]
    assert (dock.source.kind, dock.max_age_ms, dock.max_fps, dock.labels) == ("stream", 250, 15, ("person", "car"))
    assert gate.source.kind == "camera"
    assert getattr(gate.source.options, "size") == (640, 480)  # noqa: B009  the options' type is the plug-in's


def test_units_and_relative_paths() -> None:
    units = load(CONFIGS / "good" / "units.toml", options_of, find_model)
    assert units.mqtt is not None
    assert (units.mqtt.keepalive_s, units.mqtt.telemetry_interval) == (60, 300)
    assert units.streams["dock"].max_age_ms == 250
    assert dump(units)["streams"]["dock"]["source"]["open_timeout_s"] == 2.5
    everything = load(CONFIGS / "good" / "everything.toml", options_of, find_model)
    assert everything.models["classifier"].labels == CONFIGS / "good" / "labels.txt"
    assert dump(everything)["streams"]["dock"]["source"]["path"] == str(CONFIGS / "good" / "clip.mp4")
    assert dump(everything)["mqtt"]["password"] == {"file": str(CONFIGS / "good" / "password.txt")}


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        '[device]\nid = ""\n[models.a]\npath = "ssd-mobilenet-v2-oid"\nthreads = 0\n'
        '[streams.s]\nsource = 0\nmodel = "b"\nmax_fps = 0\nstall_s = 1\n[streams.t]\nsource = 0\nmodel = "a"\n'
    )
    places = [str(error.where).removeprefix(str(path)) for error in mistakes(path)]
    assert places == [
        ":2: device.id", ":5: models.a.threads", ":8: streams.s.model", ":9: streams.s.max_fps",
        ":10: streams.s.stall_s", ":12: streams.t.source",
    ]  # fmt: skip


def test_what_is_not_a_toml_file(tmp_path: Path) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 100_000)
    digits = tmp_path / "digits.toml"
    digits.write_text("a = 1" + "0" * 5000)
    locked = tmp_path / "nothing-there.toml"
    for path in (deep, digits, locked, tmp_path):
        (error,) = mistakes(path)
        assert str(path) in str(error)


def test_flags_take_the_place_of_keys() -> None:
    overrides = {"streams.*.max_fps": ("--max-fps", 3), "mqtt.url": ("--broker", "ws://other")}
    config = load(CONFIGS / "good" / "contract.toml", options_of, find_model, overrides)
    assert {stream.max_fps for stream in config.streams.values()} == {3}
    assert config.mqtt is not None
    assert config.mqtt.url == "ws://other"
    with pytest.raises(ConfigErrors, match=r"^--max-fps: out of range") as caught:
        load(CONFIGS / "good" / "minimal.toml", options_of, find_model, {"streams.*.max_fps": ("--max-fps", 0)})
    assert len(caught.value.errors) == 1


# -- where a key stands


_names = st.one_of(
    st.text(max_size=8), st.sampled_from(['"', "'", "\\", 'a"b', "a]b", "[0]", "a.b", "#", " ", "\u2028"])
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_names, key=_names, inline=st.booleans())
def test_a_mistake_in_a_quoted_table_has_its_line(name: str, key: str, inline: bool, tmp_path: Path) -> None:
    def quoted(text: str) -> str:
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'

    path = tmp_path / "edge.toml"
    table = (
        f"{{ {quoted('X' + key)} = 1 }}" if inline else f"1\n[streams.{quoted('x' + name)}]\n{quoted('X' + key)} = 1"
    )
    path.write_text(f'[models.m]\npath = "ssd-mobilenet-v2-oid"\n[streams.a]\nsource = {table}\n', encoding="utf-8")
    where = [str(error.where) for error in mistakes(path) if error.what == "unknown key"]
    assert where == [] if inline else [f"{path}:6: " + join(join("streams", "x" + name), "X" + key)]


def test_a_mistake_in_an_inline_table_ends_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    for name in ('"', 'a"b', "a\\\\", '\\"', "]"):
        path.write_text(f"models = {{ {json.dumps(name)} = {{ path = 1 }} }}\n")
        assert all(str(error.where).startswith(str(path)) for error in mistakes(path))


def test_every_planned_key_is_refused() -> None:
    for pattern in PLANNED:
        room, *rest = pattern.replace("*", "detector" if pattern.startswith("models") else "dock").split(".")
        raw = tomllib.loads((CONFIGS / "good" / "contract.toml").read_text(encoding="utf-8"))
        table = raw
        for key in [room, *rest][:-1]:
            table = table[key]
        table[[room, *rest][-1]] = True
        with pytest.raises(ConfigErrors, match=r"planned, not in this version\. Remove it"):
            build(raw, options_of, find_model=find_model)


# -- any mutation of a good config raises ConfigError or nothing

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(), st.text(max_size=12),
    st.sampled_from(["", "\0", "..", "/", "~", "~root/x", "-1s", "9e999s", "1e400", "mqtt://", "mqtt://[", "ws://h:x",
                     "rtsp://", "synthetic:0x0@0", "http://[::1", "*", "99", "é" * 300, 1 << 5000,
                     "mqtt://a:b@c@d:1", "./" * 3000]),
)  # fmt: skip
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def _places(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()] if not path else []
    for key, value in table.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += _places(value, (*path, key))
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=_values)
def test_a_mutated_config_is_refused_with_nothing_but_config_errors(data: st.DataObject, value: Any) -> None:
    raw = tomllib.loads(data.draw(st.sampled_from(GOOD)).read_text(encoding="utf-8"))
    place = data.draw(st.sampled_from(_places(raw)))
    table = raw
    for key in place[:-1]:
        table = table[key]
    how = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if how == "add" and isinstance(table, dict):
        table[data.draw(st.one_of(st.text(max_size=8), st.sampled_from(["password", "ca_file", "labels", "seed"])))] = (
            value
        )
    elif place and how == "remove":
        del table[place[-1]]
    elif place:
        table[place[-1]] = value
    config, told = outcome(lambda: build(raw, options_of, folder=CONFIGS / "good", find_model=find_model))
    assert told or build(dump(config), options_of, find_model=find_model) == config
    assert "p%40ss" not in told


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_with_nothing_but_config_errors(data: st.DataObject, tmp_path: Path) -> None:
    text = bytearray(data.draw(st.sampled_from(GOOD)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "edge.toml"
    path.write_bytes(text)
    config, told = outcome(lambda: load(path, options_of, find_model))
    assert (config is None) == bool(told)
