"""How a run begins and ends: signals, limits, faults, and threads that a driver does not give back."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun import registry
from edgerun.config import Config, ModelConfig, RunOptions, SourceConfig, StreamConfig
from edgerun.daemon import serve
from edgerun.errors import EngineError, SourceError, StageError
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import SourceContext
from edgerun.types import Grab, Image, Tensor
from tests import emulators, mosquitto, schemas
from tests.mosquitto import wait_until

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "models" / "clips" / "street.mp4"
DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid"
QUIET = {"console": False}


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing to choose."""


class SilentSource:
    """A camera that gives nothing until it is told to stop."""

    options = NoOptions
    lossless = False
    opened = threading.Event()
    at_opening: Any = staticmethod(lambda: None)

    def __init__(self, options: NoOptions, context: SourceContext) -> None:
        self._stop = context.stop
        self.opened.set()
        self.at_opening()

    def grab(self) -> Grab | None:
        self._stop.wait(60)
        return None

    def retrieve(self, out: Image | None) -> Image:
        raise AssertionError("nothing was grabbed")

    def close(self) -> None:
        """Nothing is held."""


class SignalledEngine(TfliteEngine):
    """A model during whose loading SIGTERM comes."""

    def __init__(self, *args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        super().__init__(*args)


class BrokenEngine(TfliteEngine):
    """A model that loads and does not run."""

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        raise EngineError("the model failed to run", where="detector")


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILTIN["source"], "silent", f"{__name__}:SilentSource")
    monkeypatch.setattr(SilentSource, "opened", threading.Event())


def config(kind: str = "silent", **options: Any) -> Config:
    source = SourceConfig(kind, registry.resolve("source", kind).options(**options))
    return Config(
        models={"detector": ModelConfig(path=DETECTOR)}, streams={"dock": StreamConfig(source=source, model="detector")}
    )


def test_a_signal_while_the_models_load_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILTIN["engine"], "tflite", f"{__name__}:SignalledEngine")
    summary = serve(config(), RunOptions(**QUIET))
    assert not SilentSource.opened.is_set()
    schemas.validate("summary", json.loads(msgspec.json.encode(summary)))
    assert summary["streams"]["dock"]["grabbed"] == 0


def test_a_signal_before_the_first_frame_is_an_ordinary_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilentSource, "at_opening", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    summary = serve(config(), RunOptions(seconds=60, **QUIET))
    assert summary["seconds"] < 60
    assert summary["streams"]["dock"]["grabbed"] == 0


def test_not_one_frame_in_the_time_given_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"dock: not one frame came in 0\.2 s; got silence"):
        serve(config(), RunOptions(seconds=0.2, **QUIET))


def test_the_signal_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    serve(config("synthetic", frames=3), RunOptions(as_fast=True, **QUIET))
    assert [signal.getsignal(number) for number in numbers] == before


def test_at_the_end_of_the_data_every_thread_has_ended() -> None:
    before = set(threading.enumerate())
    summary = serve(config("synthetic", frames=20), RunOptions(as_fast=True, **QUIET))
    assert set(threading.enumerate()) == before
    assert summary["streams"]["dock"]["published"] == 20


def test_an_engine_that_fails_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILTIN["engine"], "tflite", f"{__name__}:BrokenEngine")
    with pytest.raises(StageError) as caught:
        serve(config("synthetic"), RunOptions(**QUIET))
    assert str(caught.value) == "worker:detector died: detector: the model failed to run"


def test_a_signal_cuts_the_wait_for_an_absent_broker_at_the_end_of_the_data(tmp_path: Path) -> None:
    """Where the disk cannot keep what is left: its folder would lie below a file."""
    (tmp_path / "file").touch()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "edgerun", "run", "--model", DETECTOR, "--source", CLIP, "--frames", "3", "--as-fast",
            "--broker", "mqtt://127.0.0.1:1", "--quiet", "--json",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path / "file" / "state")},
    )  # fmt: skip
    assert process.stderr is not None
    assert any("waiting up to" in line for line in process.stderr), "it did not wait"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["streams"]["main"]["published"] == 3


def test_the_end_of_the_data_does_not_wait_for_an_absent_broker_where_the_disk_keeps_what_is_left(
    tmp_path: Path,
) -> None:
    process = _start(
        "run", "--model", DETECTOR, "--source", CLIP, "--frames", 3, "--as-fast", "--broker", "mqtt://127.0.0.1:1",
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "waiting up to" not in err
    assert "lost" not in err
    assert re.search(r"\d+ messages wait there for the next start", err), err
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/+/detections/main") as seen:
        process = _start(
            "run", "--model", DETECTOR, "--source", CLIP, "--frames", 1, "--as-fast", "--broker", broker.url
        )
        messages = seen.wait(lambda messages: sum(b"replayed" in one.payload for one in messages) == 3, 60)
        process.communicate(timeout=60)
    assert sorted(json.loads(one.payload)["seq"] for one in messages if b"replayed" in one.payload) == [0, 1, 2]


def test_a_reader_that_never_reads_is_an_error_that_names_the_thread_it_holds() -> None:
    """Results of a source without a deadline wait for it; what the thread holds is not closed under its hands."""
    out, blocked = os.pipe()
    fcntl.fcntl(blocked, fcntl.F_SETPIPE_SZ, 4096)  # full after a few results, also where the machine is busy
    with os.fdopen(out), os.fdopen(blocked, "wb") as pipe:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "edgerun", "run", "--model", DETECTOR, "--source", "synthetic:160x120",
                "--as-fast", "--jsonl", "-", "--quiet", "--seconds", "6",
            ],
            stdout=pipe, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("publish did not end within") == 1
    assert "fault of edgerun" not in err


def test_a_driver_that_comes_back_while_the_interpreter_ends_does_not_abort_the_process(tmp_path: Path) -> None:
    """FFmpeg waits 6 s for the next frame when the run ends; taking the interpreter down would take 6 s more."""
    slow_end = (
        "import sys, time\n"
        "class Slow:\n"
        "    def __del__(self): self.sleep(6)\n"
        "Slow.sleep = staticmethod(time.sleep)\n"
        "sys.modules['slow'] = Slow()\n"
        "from edgerun.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with emulators.start("rtsp", "--fps", 30, "--silent-after", 60) as camera:
        file = tmp_path / "edgerun.toml"
        file.write_text(
            f"""
            [models.detector]
            path = "{DETECTOR}"
            [streams.gate]
            source = {{ kind = "stream", url = "{camera.url}", read_timeout_s = 6 }}
            model = "detector"
            [streams.dock]
            source = "synthetic"
            model = "detector"
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", slow_end, "run", "--config", file, "--seconds", "4", "--quiet", "--json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "capture:gate: still held by a driver" in done.stderr
    streams = json.loads(done.stdout.splitlines()[-1])["streams"]
    assert streams["dock"]["published"] > 0
    assert [stream["in_flight"] for stream in streams.values()] == [0, 0]


def test_two_signals_at_once_are_one_wish() -> None:
    """`timeout` signals its child and then the group: the run must still end with its summary."""
    process = _start("run", "--model", DETECTOR, "--source", CLIP, "--loop", "--quiet", "--jsonl", "-", "--json")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    schemas.validate("summary", json.loads(out.splitlines()[-1]))


def test_closing_the_terminal_ends_the_run(tmp_path: Path) -> None:
    lines = tmp_path / "r.jsonl"
    master, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgerun", "run", "--model", DETECTOR, "--source", CLIP, "--loop", "--jsonl", lines],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(terminal)
        wait_until(lambda: lines.exists() and lines.stat().st_size > 0, timeout_s=60, what="a result")
        os.close(master)
        process.wait(timeout=60)  # with whatever code: its summary has nowhere to go
    finally:
        process.kill()
        process.wait()


def test_sighup_without_a_terminal_ends_nothing_and_says_that_there_is_nothing_to_read_again() -> None:
    process = _start("run", "--model", DETECTOR, "--source", CLIP, "--loop", "--quiet", "--jsonl", "-")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert any("no config file that could be read again" in line for line in process.stderr)
    assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_results_that_are_all_too_old_are_told() -> None:
    process = _start("run", "--model", DETECTOR, "--source", CLIP, "--frames", 5, "--max-age-ms", 0.1, "--quiet")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sum("max_age_ms is 0.1" in line for line in err.splitlines()) == 1, err


def _start(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgerun", *map(str, args)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
