"""Quantities, plug-ins' options and passwords of a config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.cli.flags import options_of
from edgerun.config import Config, Secret, default_device_id, load, split_credentials
from edgerun.errors import ConfigError
from edgerun.validate import INVALID, Report, describe, quantity, read, show
from tests import config_parts
from tests.config_parts import CONFIGS, find_model

bundled_models = config_parts.bundled_models


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
