"""A secret in every place of a config that may hold one: however the config is shown, it is not shown."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.app.auditing import config_hash
from edgerun.capture.command import CommandSource
from edgerun.cli.flags import find_model, options_of
from edgerun.cli.main import main
from edgerun.clock import SystemClock
from edgerun.config import Config, build, dump
from edgerun.control.desired import read_desired
from edgerun.errors import ConfigErrors, SourceError
from edgerun.ports import SourceContext
from edgerun.secret import reveal
from tests.test_end_to_end import DETECTOR

PLANTED = "pl4nted-s3cret"

SOURCES: dict[str, Any] = {
    "rtsp": f"rtsp://viewer:{PLANTED}@cam/stream",
    "rtsp, an at inside": f"rtsp://viewer:a@{PLANTED}@cam/stream",
    "rtsp, blank inside": f"rtsp://viewer:a {PLANTED}@cam/stream",
    "rtsp, a token for a user": f"rtsp://{PLANTED}@cam/stream",
    "rtsp in the query": f"rtsp://cam/stream?channel=1&user=admin&password={PLANTED}&subtype=0",
    "http": f"http://viewer:{PLANTED}@cam/video",
    "http in the query": f"http://cam/video.cgi?usr=admin&pwd={PLANTED}",
    "https with a token": f"https://cam/video?access_token={PLANTED}#main",
    "rtsp table": {"kind": "stream", "url": f"rtsp://viewer:{PLANTED}@cam/stream"},
    "rtmp table": {"kind": "stream", "url": f"rtmp://cam/bcs/main.bcs?user=admin&password={PLANTED}"},
    "srt table": {"kind": "stream", "url": f"srt://cam:9000?passphrase={PLANTED}"},
    "mjpeg table": {"kind": "mjpeg", "url": f"http://viewer:{PLANTED}@cam/video"},
    "gstreamer": f"rtspsrc location=rtsp://cam/1 user-id=viewer user-pw={PLANTED} ! decodebin ! videoconvert",
    "gstreamer, quoted": f'rtspsrc location=rtsp://cam/1 user-pw="a {PLANTED}" ! decodebin ! videoconvert',
    "gstreamer, in the address": f"rtspsrc location=rtsp://viewer:{PLANTED}@cam/1 ! decodebin ! videoconvert",
    "gstreamer, a header": f'souphttpsrc extra-headers="h,Authorization=\\"Bearer {PLANTED}\\"" ! jpegdec',
    "gstreamer table": {"kind": "camera", "device": f"souphttpsrc location=http://cam user-pw={PLANTED} ! jpegdec"},
}

COMMANDS = {
    "a flag's value": ["sensor-read", "--password", PLANTED],
    "in one argument": ["sensor-read", f"--token={PLANTED}"],
    "curl's user": ["curl", "-N", "-u", f"viewer:{PLANTED}", "http://sensor/data"],
    "a header": ["curl", "-H", f"Authorization: Bearer {PLANTED}", "http://sensor/data"],
    "nothing tells": ["mosquitto_sub", f"-P{PLANTED}", PLANTED],
}
"""Of the source `exec`, whose windows a model of pictures cannot read: the config is whole without opening it."""


def tables(source: Any) -> dict[str, Any]:
    return {
        "device": {"id": "dock"},
        "mqtt": {"url": f"mqtt://edgerun:{PLANTED}@broker"},
        "metrics": {"token": PLANTED},
        "web": {"token": PLANTED},
        "security": {"model_key": PLANTED, "state_key": PLANTED},
        "models": {"m": {"path": str(DETECTOR), "key": PLANTED}},
        "streams": {"s": {"model": "m", "source": source}},
    }


def made(source: Any) -> Config:
    return build(tables(source), options_of, find_model=find_model)


def planted_sources() -> dict[str, Any]:
    commands = {
        name: {"kind": "exec", "command": command, "window_samples": 16, "rate_hz": 16}
        for name, command in COMMANDS.items()
    }
    return SOURCES | commands


@pytest.mark.parametrize("source", planted_sources().values(), ids=planted_sources().keys())
def test_no_way_to_show_a_config_shows_a_secret(source: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = made(source)
    options = config.streams["s"].source.options
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("edgerun").warning("%s, %r, %s", config, options, [getattr(options, "url", "")])
    shown = {
        "repr": repr(config),
        "str": str(config),
        "a log line": caplog.text,
        "repr of the source": repr(options) + f"{options}",
        "the dump": repr(dump(config)),
        "the dump, encoded": msgspec.json.encode(dump(config), enc_hook=repr).decode(),
        "encoded": msgspec.json.encode(config, enc_hook=repr).decode(),
        "in a formatted line": "".join(f"{value} {value!r} {value!s:>60}" for value in fields(options)),
        "its hash": config_hash(config),
    }
    assert [place for place, text in shown.items() if PLANTED in text] == []
    with pytest.raises(TypeError):
        msgspec.json.encode(config)


def fields(options: msgspec.Struct) -> list[Any]:
    return [getattr(options, name) for name in options.__struct_fields__]


@pytest.mark.parametrize("source", planted_sources().values(), ids=planted_sources().keys())
def test_a_source_gets_what_was_written(source: Any) -> None:
    options = made(source).streams["s"].source.options
    given = [getattr(options, key) for key in ("url", "device", "command") if hasattr(options, key)]
    wanted = (
        source
        if isinstance(source, str)
        else next(source[key] for key in ("url", "device", "command") if key in source)
    )
    told = [reveal(one) for one in given[0]] if isinstance(given[0], tuple) else reveal(given[0])
    assert told == wanted
    assert type(told[0] if isinstance(told, list) else told) is str
    again = build(dump(made(source)), options_of, find_model=find_model)
    assert again == made(source)
    assert again.streams["s"].source.options != made("synthetic").streams["s"].source.options


WRONG: dict[str, dict[str, Any]] = {
    "a command in one line": {
        "kind": "exec",
        "command": f"curl -u viewer:{PLANTED} http://sensor",
        "window_samples": 16,
    },
    "a flag in one line": {"kind": "exec", "command": f"read --password {PLANTED}", "window_samples": 16},
    "a file that is an address": {"kind": "file", "path": f"rtsp://viewer:{PLANTED}@cam/1.mp4"},
    "pictures that are an address": {"kind": "images", "path": f"http://viewer:{PLANTED}@cam/1.jpg"},
    "sound that is an address": {"kind": "wav", "path": f"http://viewer:{PLANTED}@cam/1.wav"},
    "an address without a host": {"kind": "stream", "url": f"rtsp://viewer:{PLANTED}@/1"},
    "an address with a wrong port": {"kind": "mjpeg", "url": f"http://viewer:{PLANTED}@cam:port/1"},
    "two streams of a pipeline": {"kind": "camera", "device": 7, "fourcc": PLANTED[:2]},
    "no such kind": {"kind": f"rtsp://viewer:{PLANTED}@cam"},
    "text that is no source": {"kind": "camera", "device": [f"rtspsrc user-pw={PLANTED} ! fakesink"]},
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_without_it(source: dict[str, Any]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        made(source)
    assert PLANTED not in str(caught.value)


def test_other_places_of_a_config_are_refused_without_telling_it() -> None:
    for change in (
        {"models": {"m": {"path": f"https://viewer:{PLANTED}@host/m.zip"}}},
        {"models": {"m": {"path": str(DETECTOR), "labels": f"https://viewer:{PLANTED}@host/l.txt"}}},
        {"mqtt": {"url": f"mqtt://edgerun:{PLANTED}@broker:port"}},
        {"mqtt": {"url": "mqtt://broker", "more_urls": [f"mqtt://edgerun:{PLANTED}@broker:port"]}},
        {"mqtt": {"url": "mqtt://broker", "password": {"text": PLANTED}}},
        {"security": {"model_key": [PLANTED]}},
        {"metrics": {"listen": f"http://viewer:{PLANTED}@host"}},
    ):
        with pytest.raises(ConfigErrors) as caught:
            build(tables("synthetic") | change, options_of, find_model=find_model)
        assert PLANTED not in str(caught.value)


def test_addresses_of_other_brokers_have_no_passwords_and_a_refusal_does_not_show_one() -> None:
    mqtt = {"url": f"mqtt://edgerun:{PLANTED}@broker", "more_urls": [f"mqtt://edgerun:{PLANTED}@other"]}
    with pytest.raises(ConfigErrors, match="with a user of its own") as caught:
        build(tables("synthetic") | {"mqtt": mqtt}, options_of, find_model=find_model)
    assert PLANTED not in str(caught.value)
    mqtt["more_urls"] = ["mqtt://other"]
    config = build(tables("synthetic") | {"mqtt": mqtt}, options_of, find_model=find_model)
    assert PLANTED not in repr(config) + repr(dump(config)) + repr(config.mqtt)


def toml(value: Any) -> str:
    return (
        json.dumps(value)
        if not isinstance(value, dict)
        else ("{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }")
    )


def test_check_and_doctor_show_none_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = "".join(
        f'[streams.s{number}]\nmodel = "m"\nsource = {toml(source)}\n'
        for number, source in enumerate(planted_sources().values())
    )
    file = tmp_path / "edge.toml"
    file.write_text(
        f'[mqtt]\nurl = "mqtt://edgerun:{PLANTED}@127.0.0.1:1"\n[metrics]\ntoken = "{PLANTED}"\n'
        f'[security]\nmodel_key = "{PLANTED}"\n[models.m]\npath = "{DETECTOR}"\nkey = "{PLANTED}"\n{written}'
    )
    for args in (
        ("check", "--config", str(file)),
        ("check", "--config", str(file), "--json", "--debug", "-v"),
        ("doctor", "--config", str(file), "--json"),
        ("run", "--config", str(file), "--seconds", "1", "--debug", "-v"),
    ):
        main(list(args))
        said = capfd.readouterr()
        assert said.out + said.err
        if args[0] == "check" and "--json" in args:
            streams = json.loads(said.out)["config"]["streams"].values()
            assert len(streams) == len(planted_sources())
            assert all("***" in json.dumps(stream["source"]) for stream in streams)
        assert [line for line in (said.out + said.err).splitlines() if PLANTED in line] == [], args


@pytest.mark.parametrize("arguments", [command[1:] for command in COMMANDS.values()], ids=COMMANDS.keys())
def test_a_command_that_complains_of_its_arguments_does_not_tell_them(arguments: list[str]) -> None:
    complaining = "import sys; print('usage: not', *sys.argv[1:], file=sys.stderr); sys.exit(3)"
    command = [sys.executable, "-c", complaining, "/dev/sensor0", *arguments]
    options = CommandSource.options(window_samples=4, command=tuple(command))
    context = SourceContext("s", SystemClock(), threading.Event())
    with (
        contextlib.closing(CommandSource(options, context)) as source,
        pytest.raises(SourceError, match="the command ended") as caught,
    ):
        source.grab()
    assert PLANTED not in str(caught.value)
    assert "exit code 3" in str(caught.value)
    assert "/dev/sensor0" in str(caught.value)


def test_none_of_them_may_be_wished_for_from_afar() -> None:
    for source in SOURCES.values():
        wish = {"v": 1, "version": 1, "config": {"streams": {"s": {"source": source}}}}
        with pytest.raises(ConfigErrors, match="a password") as caught:
            read_desired(msgspec.json.encode(wish))
        assert PLANTED not in str(caught.value)
