"""The config: every mistake named at once, nothing else ever raised, and no password ever shown."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.cli.flags import options_of
from edgerun.cli.main import main
from edgerun.config import (
    PLANNED,
    Config,
    Secret,
    build,
    default_device_id,
    dump,
    load,
    parse_source,
    split_credentials,
)
from edgerun.config.source import check_url
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.validate import INVALID, Report, describe, join, quantity, read, show

CONFIGS = Path(__file__).parent / "configs"
BAD = sorted((CONFIGS / "bad").glob("*.toml"))
GOOD = sorted((CONFIGS / "good").glob("*.toml"))
BUNDLED = Path("bundled")


def find_model(name: str) -> Path | None:
    return BUNDLED / name if name == "ssd-mobilenet-v2-oid" else None


@pytest.fixture(autouse=True)
def bundled_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.BUNDLED", tmp_path)
    (tmp_path / "ssd-mobilenet-v2-oid").mkdir()


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


def test_paths_too_long_for_the_file_system_are_not_there(tmp_path: Path) -> None:
    raw = {
        "mqtt": {"url": "mqtts://h", "ca_file": "é" * 300},
        "models": {"m": {"path": "é" * 300, "labels": "./" * 3000}},
        "streams": {"s": {"source": "é" * 300, "model": "m"}},
    }
    with pytest.raises(ConfigErrors) as caught:
        build(raw, options_of, folder=tmp_path, find_model=find_model)
    places = {error.where for error in caught.value.errors}
    assert places == {"mqtt.ca_file", "models.m.path", "models.m.labels", "streams.s.source"}


def test_sources_on_disk_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "dock.mp4").touch()
    (tmp_path / "[1].jpg").touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").touch()

    def told(source: Any) -> str:
        raw = {
            "models": {"m": {"path": "ssd-mobilenet-v2-oid"}},
            "streams": {"s": {"source": source, "model": "m"}},
        }
        return outcome(lambda: build(raw, options_of, folder=tmp_path, find_model=find_model))[1]

    for there in ("dock.mp4", "[1].jpg", "deep", "deep/**/*.png", "*/er/?.png", str(tmp_path / "dock.mp4")):
        assert told(there) == ""
    assert told({"kind": "images", "path": "deep/**"}) == ""
    assert told("docks.mp4") == (
        f"streams.s.source: no such file; expected a video file; got {tmp_path}/docks.mp4. "
        'Did you mean "dock.mp4"?'
    )  # fmt: skip
    assert told("deep/*.png").startswith("streams.s.source: no such file; expected a folder, a picture, or a glob that")
    assert told({"kind": "images", "path": "deeq"}).endswith('/deeq. Did you mean "deep"?')
    assert told({"kind": "file", "path": "dock.mp4/x.mp4"}).startswith("streams.s.source.path: no such file")
    assert told({"kind": "file", "path": "x.mp4", "loop": True}).count("streams.s.source") == 2  # both at once
    assert 'For a folder of pictures use { kind = "images"' in told({"kind": "file", "path": "deep"})
    assert told({"kind": "file", "path": ""}).startswith("streams.s.source.path: a folder; expected a video file")
    assert told({"kind": "wav", "path": "deep"}).startswith("streams.s.source.path: a folder; expected a WAV file")
    mjpeg = told({"kind": "mjpeg", "url": "rtsp://me:hunter2@cam/1"})
    assert mjpeg.startswith("streams.s.source.url: not an HTTP URL; expected http://host/path; got 'rtsp://me:***@cam")
    assert told({"kind": "stream", "url": "/dev/video0"}).startswith("streams.s.source.url: not a URL; expected rtsp:")


def test_a_folder_is_no_file_of_labels(tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    raw = {
        "models": {"m": {"path": "ssd-mobilenet-v2-oid", "labels": "names"}},
        "streams": {"s": {"source": "synthetic", "model": "m"}},
    }
    told = outcome(lambda: build(raw, options_of, folder=tmp_path, find_model=find_model))[1]
    assert told == f"models.m.labels: not a file; expected a text file with one label a line; got {tmp_path}/names"


def test_a_source_of_the_command_line_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "nape.mp4").touch()
    monkeypatch.chdir(tmp_path)
    for source, says in (
        ("nope.mp4", '--source: no such file; expected a video file; got nope.mp4. Did you mean "nape.mp4"?'),
        ("rtsp://", "--source: no host in the URL; expected rtsp://host[:port]/path; got 'rtsp://'"),
        ("http://me:hunter2@/x", "--source: no host in the URL; expected http://host[:port]/path; got 'http://***@/x'"),
    ):
        assert main(["run", "--model", "model.onnx", "--source", source]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["rtsp://:554/x", "RTSPS:///x", "http://me:pw@:80", "https://?x", "rtmp://", "http://h:x/"]
)
def test_cameras_need_a_host(url: str) -> None:
    with pytest.raises(ConfigError, match="in the URL; expected"):
        check_url(url)


@pytest.mark.parametrize("url", ["rtsp://cam", "http://[::1]:80/v", "udp://@:1234", "srt://:9000?mode=listener", "cam"])
def test_who_listens_needs_none(url: str) -> None:
    check_url(url)


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


def outcome(make: Callable[[], Config]) -> tuple[Any, str]:
    """The config and no text, or None and what was wrong; any other error is raised."""
    try:
        return make(), ""
    except ConfigErrors as error:
        return None, str(error)


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


# -- sources as text


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("rtsp://cam/1", "stream", {"url": "rtsp://cam/1"}),
        ("RTSPS://cam/1", "stream", {"url": "RTSPS://cam/1"}),
        ("http://cam/v", "mjpeg", {"url": "http://cam/v"}),
        ("https://cam/v.jpg", "mjpeg", {"url": "https://cam/v.jpg"}),
        ("0", "camera", {"device": "/dev/video0"}),
        ("/dev/video2", "camera", {"device": "/dev/video2"}),
        ("/dev/v4l/by-id/usb-1", "camera", {"device": "/dev/v4l/by-id/usb-1"}),
        ("videotestsrc ! appsink", "camera", {"device": "videotestsrc ! appsink"}),
        ("synthetic", "synthetic", {}),
        ("synthetic:64x48", "synthetic", {"size": [64, 48]}),
        ("synthetic:640x480@29.97", "synthetic", {"size": [640, 480], "fps": 29.97}),
        ("a/b.MP4", "file", {"path": "here/a/b.MP4"}),
        ("/a/b.avi", "file", {"path": "/a/b.avi"}),
        ("b.jpeg", "images", {"path": "here/b.jpeg"}),
        ("b/**/*", "images", {"path": "here/b/**/*"}),
    ],
)
def test_source_text(text: str, kind: str, options: dict[str, Any]) -> None:
    assert parse_source(text, Path("here")) == (kind, options)


def test_a_folder_is_images_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "birds.mp4").mkdir()
    assert parse_source("birds.mp4", tmp_path) == ("images", {"path": str(tmp_path / "birds.mp4")})


@pytest.mark.parametrize(
    "text", ["", "cam", "ftp://x/y.mp4", "synthetic:", "synthetic:1x", "1234", "-1", "notes.txt", "é" * 300]
)
def test_what_is_not_a_source(text: str) -> None:
    with pytest.raises(ConfigError, match="synthetic"):
        parse_source(text)


# -- values


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("250ms", "ms", 250), ("250ms", "s", 0.25), ("30s", "s", 30), ("1.5 min", "s", 90), ("2h", "s", 7200),
        ("7d", "s", 604800), ("10us", "ms", 0.01), ("64MiB", "bytes", 64 << 20), ("1kB", "bytes", 1000),
        ("-1s", "s", -1), ("250", "ms", None), ("ms", "ms", None), ("64MiB", "s", None), ("3s", "bytes", None),
        ("1e3s", "s", None), ("٣s", "s", 3), ("", "s", None),
    ],
)  # fmt: skip
def test_quantities(text: str, unit: str, value: float | None) -> None:
    assert quantity(text, unit) == (None if value is None else pytest.approx(value, abs=1e-12))


@given(st.floats(1e-3, 1e6), st.sampled_from(["us", "ms", "s", "m", "h", "d"]))
def test_milliseconds_are_a_thousandth_of_seconds(number: float, unit: str) -> None:
    text = f"{number:.6f}{unit}"
    seconds, milliseconds = quantity(text, "s"), quantity(text, "ms")
    assert seconds is not None
    assert milliseconds is not None
    assert math.isclose(milliseconds, seconds * 1000, rel_tol=1e-9, abs_tol=1e-8)


class Outer(msgspec.Struct):
    class_name: str = msgspec.field(name="class", default="")
    pairs: tuple[Annotated[tuple[int, int], msgspec.Meta()], ...] = ()
    either: int | str | None = None
    sizes: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = {}
    max_bytes: int = 0

    def __post_init__(self) -> None:
        if self.either == "never":
            raise ValueError("either is never")


@pytest.mark.parametrize(
    ("raw", "path", "what"),
    [
        ({"class": 1}, "class", "wrong type"),
        ({"class_name": "x"}, "class_name", "unknown key"),
        ({"pairs": [[1, 2], [1]]}, "pairs[1]", "wrong length"),
        ({"pairs": [[1, True]]}, "pairs[0][1]", "wrong type"),
        ({"either": 1.5}, "either", "wrong value"),
        ({"either": "never"}, "", "either is never"),
        ({"sizes": {"a b": 0}}, 'sizes."a b"', "out of range"),
        ({"max_bytes": "0.3B"}, "max_bytes", "wrong type"),
        ({"max_bytes": 1 << 64}, "max_bytes", "out of range"),
        ([], "", "wrong type"),
    ],
)
def test_structs_of_any_plug_in(raw: Any, path: str, what: str) -> None:
    report = Report(lambda place: place)
    assert read(raw, Outer, "", report) is INVALID
    (error,) = report.errors
    assert (error.where, error.what) == (path, what)


def test_what_is_read_of_any_plug_in() -> None:
    report = Report(lambda place: place)
    raw = {"class": "c", "pairs": [[1, 2]], "either": 5, "sizes": {"a": 1}, "max_bytes": "64KiB"}
    assert read(raw, Outer, "", report) == Outer("c", ((1, 2),), 5, {"a": 1}, 65536)
    assert not report.errors
    assert describe(int | str) == "a whole number or text"


def test_shown_values_are_short_and_hold_no_password() -> None:
    assert show("rtsp://admin:pa/ss@w@cam/1") == "'rtsp://admin:***@cam/1'"
    assert show(1 << 20_000) == "a number of 20001 bits"
    assert len(show("x" * 500)) == 80
    assert (show({}), show([1]), show(None), show(True)) == ("an empty table", "a list of 1", "nothing", "true")
    assert show(()) == "an empty list"


# -- passwords


def test_a_secret_shows_nothing(tmp_path: Path) -> None:
    secret = Secret("plain", "hunter2")
    config = load(CONFIGS / "good" / "secrets.toml", options_of, find_model)
    assert config.mqtt is not None
    assert config.mqtt.password is not None
    assert config.mqtt.url == "mqtt://broker.example"
    assert config.mqtt.password.reveal() == "p@ss"
    for text in (repr(secret), str(secret), f"{secret:>20}", f"{[secret]}", repr(config)):
        assert "hunter2" not in text
        assert "p@ss" not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)


def test_where_a_secret_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mqtt").write_text("hunter2\n")
    (tmp_path / "mqtt").chmod(0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("MQTT_PASSWORD", "hunter2")
    for secret in (
        Secret("credential", "mqtt"),
        Secret("env", "MQTT_PASSWORD"),
        Secret("file", str(tmp_path / "mqtt")),
    ):
        assert secret.reveal() == "hunter2"
        assert secret.warnings() == []
        assert Secret(secret.kind, next(iter((secret.place or {}).values()))) == secret


def test_a_secret_that_is_not_there_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(bytes(70_000))
    for name in ("empty", "binary", "huge", "nowhere", "."):
        with pytest.raises(ConfigError, match=f"^mqtt.password: no password there; expected {tmp_path}"):
            Secret("file", str(tmp_path / name), "mqtt.password").reveal()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=r"no \$CREDENTIALS_DIRECTORY in the environment\. Add LoadCredential=a:"):
        Secret("credential", "a").reveal()
    monkeypatch.setenv("EMPTY_PASSWORD", "")
    for name in ("EMPTY_PASSWORD", "NO_SUCH_PASSWORD"):
        with pytest.raises(ConfigError, match=f"the environment variable {name}"):
            Secret("env", name).reveal()


def test_unwise_secrets_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2")
    path.chmod(0o644)
    secret = Secret("file", str(path))
    assert "every user" in secret.warnings()[0]
    assert secret.reveal() == "hunter2"
    assert "every user" in caplog.text
    assert "plain text" in Secret("plain", "hunter2").warnings()[0]
    assert "hunter2" not in caplog.text + str(Secret("plain", "hunter2").warnings())


def test_credentials_in_a_url() -> None:
    assert split_credentials("mqtt://u:p%3Aq@h:1") == ("mqtt://h:1", "u", "p:q")
    assert split_credentials("mqtt://u@h") == ("mqtt://h", "u", None)
    assert split_credentials("mqtt://h") == ("mqtt://h", None, None)


def test_the_default_device_id_is_a_usable_one() -> None:
    report = Report(lambda place: place)
    raw = {"device": {"id": default_device_id()}, "models": {}, "streams": {}}
    read(raw, Config, "", report)
    assert [error.where for error in report.errors] == ["models", "streams"]
