"""`edgerun watch` as a person and a script use it: a real broker, a real run, a real terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.cli import watch
from tests import mosquitto, terminal

ROOT = Path(__file__).parent.parent.parent
CLIP = ROOT / "models" / "clips" / "street.mp4"
DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid"
EVIL = "\x1b[2J\x1b]0;owned\x07\x1b[31mred"

needs_rich = pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="rich is not installed here")


PROGRAM = (
    "import sys; from edgerun.cli import main; "
    "main.COMMANDS.setdefault('watch', ('edgerun.cli.watch', 'live view')); sys.exit(main.main())"
)


def command(*args: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "watch", *map(str, args)]


def once(*args: object, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=timeout_s, check=False)


def publish(broker: mosquitto.Broker, topic: str, message: Any) -> None:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    client = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-r", "-s"]
    subprocess.run([*client, "-t", topic], input=payload, check=True)


@contextlib.contextmanager
def running(broker: mosquitto.Broker, folder: Path, interval: str = "1s") -> Iterator[subprocess.Popen[str]]:
    """A real device, dock-7, with one stream of the clip."""
    config = folder / "edgerun.toml"
    config.write_text(
        f'device.id = "dock-7"\nmqtt = {{ url = "{broker.url}", telemetry_interval = "{interval}" }}\n'
        f'[models.detector]\npath = "{DETECTOR}"\n'
        f'[streams.dock]\nsource = "{CLIP}"\nloop = true\nmodel = "detector"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "edgerun", "run", "--config", config, "--quiet"], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_once_tells_a_script_of_a_real_run(tmp_path: Path) -> None:
    with mosquitto.broker() as broker, running(broker, tmp_path), mosquitto.subscriber(broker, "edgerun/#") as seen:
        seen.wait(lambda ms: ms[-1].topic.endswith("telemetry") and b"age_ms" in ms[-1].payload, 60)
        done = once("--broker", broker.url, "--once", "--json")
        shown = once("--broker", broker.url, "--once", "--device", "dock-7")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["refused"] == 0
    device = told["devices"]["dock-7"]
    assert device["status"] == "online"
    assert device["rss_mib"] > 20
    (stream,) = device["streams"].values()
    assert stream["state"] == "running"
    assert stream["fps"] > 0
    assert stream["age_ms"]["p99"] >= stream["age_ms"]["p50"] > 0
    assert set(stream["dropped"]) == {"skipped", "superseded", "expired", "gated", "limited", "failed"}
    assert "dock-7  online" in shown.stdout
    assert "dock             running" in shown.stdout


def test_it_is_no_device_itself_and_publishes_nothing() -> None:
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "#") as seen:
        publish(broker, "edgerun/a/status", b"offline")
        done = once("--broker", broker.url, "--once", "--json")
        assert json.loads(done.stdout)["devices"] == {"a": {"status": "offline", "streams": {}}}
        publish(broker, "last", b"x")
        assert [m.topic for m in seen.wait(lambda ms: ms[-1].topic == "last")] == ["edgerun/a/status", "last"]


def test_once_waits_no_longer_than_it_was_told() -> None:
    with mosquitto.broker() as broker:
        publish(broker, "edgerun/silent/status", b"online")
        done = once("--broker", broker.url, "--once", "--json", "--wait", 5)
    assert done.returncode == 0
    assert "silent" in json.loads(done.stdout)["devices"]


def test_only_the_device_and_the_prefix_asked_for() -> None:
    with mosquitto.broker() as broker:
        for topic in ("edgerun/a/status", "edgerun/b/status", "site/7/c/status"):
            publish(broker, topic, b"offline")
        one = once("--broker", broker.url, "--once", "--json", "--device", "b")
        other = once("--broker", broker.url, "--once", "--json", "--prefix", "site/7")
        none = once("--broker", broker.url, "--once", "--json", "--device", "nosuch")
    assert list(json.loads(one.stdout)["devices"]) == ["b"]
    assert list(json.loads(other.stdout)["devices"]) == ["c"]
    assert (none.returncode, json.loads(none.stdout)["devices"]) == (1, {})
    assert "nothing is known of this device" in none.stderr


def test_old_brokers_and_passwords_work_too() -> None:
    with mosquitto.broker_with_password("watcher", "s3cret") as broker:
        publish_as = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-u", "watcher"]
        subprocess.run([*publish_as, "-P", "s3cret", "-r", "-t", "edgerun/a/status", "-m", "offline"], check=True)
        url = broker.url.replace("://", "://watcher:{}@")
        good = once("--broker", url.format("s3cret"), "--once", "--json")
        bad = once("--broker", url.format("wr0ng"), "--once", "--json")
    assert list(json.loads(good.stdout)["devices"]) == ["a"]
    assert bad.returncode == 1
    assert "user name" in bad.stderr.lower() or "password" in bad.stderr.lower() or "authori" in bad.stderr.lower()
    assert "wr0ng" not in bad.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--broker", "mqtt://127.0.0.1:1", "--once"], 1, "cannot be reached"),
        (["--broker", "localhost"], 2, "did you mean mqtt://localhost"),
        (["--broker", "mqtt://me:s3cret@host:0"], 2, "no usable host"),
        (["--broker", "mqtt://localhost", "--json"], 2, "Add --once"),
        (["--broker", "mqtt://localhost"], 2, "no terminal"),
        (["--broker", "mqtt://localhost", "--once", "--device", "a/b"], 2, "not a device's id"),
        (["--broker", "mqtt://localhost", "--once", "--wait", "nan"], 2, "--wait"),
        (["--broker", "mqtt://localhost", "--once", "--prefix", "a/#"], 2, "cannot begin a topic"),
        (["--once"], 2, "--broker"),
    ],
)
def test_mistakes_are_told_in_a_paragraph(args: list[str], code: int, words: str) -> None:
    done = once(*args)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


@needs_rich
def test_in_a_terminal_a_person_sees_the_run_and_q_quits(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(mosquitto.broker())
        stack.enter_context(running(broker, tmp_path))
        with terminal.tmux(shlex.join(command("--broker", broker.url)), tmp_path) as screen:
            text = screen.wait(lambda t: "dock-7  online" in t and "running" in t and "/" in t.split("running")[-1])
            assert "1 of 1 device online" in text
            assert len(text.splitlines()) <= 24
            publish(broker, "edgerun/evil/state/x", {"state": "stalled", "reason": EVIL})
            publish(broker, "edgerun/\u202eevil/status", b"online")
            publish(broker, "edgerun/dock-7/event", {"kind": "stalled", "text": EVIL, "ts": 1e12})
            publish(broker, "edgerun/dock-7/telemetry", b"\x1b[2J not json")
            text = screen.wait(lambda t: "2 of 3 devices" in t and "1 messages refused" in t and "events" in t)
            assert "�[2J�]0;owned��[31mred" in text
            screen.press("q")
            text = screen.wait(lambda t: "exit 0" in t)
            assert "dock-7" not in text, "the terminal is not as it was"


@needs_rich
def test_rates_are_live_though_telemetry_is_seldom(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(mosquitto.broker())
        stack.enter_context(running(broker, tmp_path, interval="1h"))
        with terminal.tmux(shlex.join(command("--broker", broker.url)), tmp_path) as screen:
            text = screen.wait(lambda t: re.search(r"dock +running +[1-9]\d*\.\d", t))
            assert "MiB" not in text, "no telemetry has come"
            screen.press("q")
            screen.wait(lambda t: "exit 0" in t)


@needs_rich
def test_a_broker_that_goes_away_is_said_and_ctrl_c_quits(tmp_path: Path) -> None:
    with mosquitto.broker() as broker:
        publish(broker, "edgerun/a/status", b"offline")
        with terminal.tmux(shlex.join(command("--broker", broker.url)), tmp_path, 60, 12) as screen:
            screen.wait(lambda t: "0 of 1 device" in t)
            broker.kill()
            screen.wait(lambda t: "BROKER AWAY" in t)
            screen.resize(80, 20)
            screen.wait(lambda t: "dropped by fate" in t and len(t.splitlines()) == 20)
            broker.restart()
            screen.wait(lambda t: "BROKER AWAY" not in t and "0 of 1 device" in t)
            screen.press("C-c")
            screen.wait(lambda t: "exit 0" in t)


def test_the_keys_are_in_the_help() -> None:
    assert "q quits" in (watch.__doc__ or "")


def test_without_rich_it_says_what_to_install(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import sys; sys.modules['rich.live'] = None; " + PROGRAM, "watch"]
    with terminal.tmux(shlex.join([*words, "--broker", "mqtt://localhost"]), tmp_path, 180) as screen:
        text = screen.wait(lambda t: "exit 4" in t)
    assert "pip install 'edgerun[watch]'" in text
