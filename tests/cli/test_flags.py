"""Flags → a config and run options, exit codes, log lines and the summary, without a running daemon."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgerun.cli import check, flags, summary
from edgerun.cli.main import exit_code, make_parser
from edgerun.config import Config, Secret, dump
from edgerun.errors import (
    BrokerError,
    ConfigError,
    ConfigErrors,
    EdgerunError,
    EngineError,
    MissingError,
    ModelError,
    SourceError,
    StageError,
)

GOOD = Path(__file__).parents[1] / "configs" / "good"


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.tflite"
    path.touch()
    return str(path)


def parsed(*words: str) -> argparse.Namespace:
    return make_parser("run").parse_args(["run", *words])


def config_of(*words: str) -> Config:
    return flags.read_config(parsed(*words))


def test_one_model_and_one_source_are_main(model: str) -> None:
    config = config_of("--model", model, "--source", "synthetic")
    assert list(config.models) == list(config.streams) == ["main"]
    assert config.mqtt is None


def test_one_model_takes_several_sources(model: str) -> None:
    config = config_of("--model", model, "--source", "synthetic", "--source", "0")
    assert {name: stream.model for name, stream in config.streams.items()} == {"s1": "main", "s2": "main"}


def test_models_and_sources_pair_up(model: str, tmp_path: Path) -> None:
    other = tmp_path / "o.onnx"
    other.touch()
    config = config_of("--model", model, "--source", "synthetic", "--model", str(other), "--source", "0")
    assert {name: stream.model for name, stream in config.streams.items()} == {"s1": "m1", "s2": "m2"}
    assert config.models["m2"].path == other


def test_every_flag_reaches_its_key(model: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.touch()
    clip = tmp_path / "clip.mp4"
    clip.touch()
    config = config_of(
        "--model", model, "--source", str(clip), "--engine", "onnx", "--accelerators", "edgetpu, cpu",
        "--threads", "3", "--top-k", "2", "--labels", str(labels), "--decoder", "yolo",
        "--threshold", "0.25", "--max-age-ms", "250ms", "--max-fps", "7.5", "--loop", "--as-fast",
    )  # fmt: skip
    raw = dump(config)
    assert raw["models"]["main"] == {
        "path": model, "engine": "onnx", "runtime": "auto", "accelerators": ["edgetpu", "cpu"], "threads": 3,
        "decoder": "yolo", "labels": str(labels), "top_k": 2, "cache": 0, "swap": "auto", "variants": [],
    }  # fmt: skip
    assert raw["streams"]["main"] == {
        "source": {"kind": "file", "path": str(clip)}, "model": "main", "max_age_ms": 250.0, "max_fps": 7.5,
        "may_pause": True,
        "labels": [], "threshold": 0.25, "loop": True, "as_fast": True, "track": False, "weight": 1.0, "zones": {},
    }  # fmt: skip


def test_the_broker_of_the_flags(model: str) -> None:
    config = config_of("--model", model, "--source", "0", "--broker", "mqtt://me:hunter2@h:1")
    assert config.mqtt is not None
    assert (config.mqtt.url, config.mqtt.username) == ("mqtt://h:1", "me")
    assert config.mqtt.password == Secret("plain", "hunter2")
    assert "hunter2" not in repr(config)


def test_flags_beside_a_file(tmp_path: Path, model: str) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        '[mqtt]\nurl = "mqtts://a"\nusername = "u"\npassword = { env = "P" }\n[models.d]\npath = "m.tflite"\n'
        '[streams.x]\nsource = 0\nmodel = "d"\n[streams.y]\nsource = 1\nmodel = "d"\nmax_fps = 9\n'
    )
    config = config_of("--config", str(path), "--threads", "1", "--max-fps", "2", "--broker", "mqtt://b")
    assert config.models["d"].threads == 1
    assert [stream.max_fps for stream in config.streams.values()] == [2, 2]
    assert config.mqtt is not None
    assert (config.mqtt.url, config.mqtt.username) == ("mqtt://b", "u")
    config = config_of("--config", str(path), "--broker", "mqtt://v:w@b")
    assert config.mqtt is not None
    assert (config.mqtt.username, config.mqtt.password) == ("v", Secret("plain", "w"))
    with pytest.raises(ConfigErrors, match=r"^--threads: out of range"):
        config_of("--config", str(path), "--threads", "0")


def test_run_options() -> None:
    options = flags.read_options(
        parsed("--seconds", "2m", "--frames", "10", "--jsonl", "-", "--save", "a/b.mp4", "--quiet", "--json", "--loop")
    )
    assert (options.seconds, options.frames, options.jsonl, options.save) == (120, 10, "-", Path("a/b.mp4"))
    assert (options.console, options.json, options.loop, options.as_fast) == (False, True, True, False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (ConfigErrors([ConfigError("x")]), 2),
        (ModelError("x"), 1),
        (MissingError("x"), 4),
        (EngineError("x"), 4),
        (SourceError("x", final=True), 2),
        (SourceError("x"), 1),
        (BrokerError("x"), 1),
        (StageError("x"), 1),
    ],
)
def test_exit_codes(error: EdgerunError, code: int) -> None:
    assert exit_code(error) == code


def test_the_worst_of_several_errors_decides() -> None:
    errors: list[EdgerunError] = [MissingError("x"), ModelError("x"), ConfigError("x")]
    assert [check.worst_code(errors[:n]) for n in range(4)] == [0, 4, 1, 2]


def check_said(capsys: pytest.CaptureFixture[str], model: str, *words: str) -> tuple[str, str]:
    config = config_of("--model", model, "--source", "rtsp://me:hunter2@cam/1", "--broker", "mqtt://u:hunter3@h")
    args = make_parser("check").parse_args(["check", "--config", "edge.toml", *words])
    assert check.report(args, config, []) == 0
    out, err = capsys.readouterr()
    assert "hunter" not in out + err
    return out, err


def test_check_says_what_was_understood(capsys: pytest.CaptureFixture[str], model: str) -> None:
    out, err = check_said(capsys, model)
    assert out.splitlines()[1].startswith("ok  mqtt mqtt://h as u, topics edgerun/")
    assert f"ok  model main: {model}, cpu, " in out
    assert "stream rtsp://me:***@cam/1 → main, at most 1000 ms old" in out
    assert err.startswith("warning: --broker: the password stands in the config in plain text")


def test_check_says_it_to_a_program(capsys: pytest.CaptureFixture[str], model: str) -> None:
    answer = json.loads(check_said(capsys, model, "--json")[0])
    assert answer["ok"] is True
    assert answer["config"]["streams"]["main"]["source"]["url"] == "rtsp://me:***@cam/1"
    assert len(answer["warnings"]) == 1


LOG = """
import logging
from edgerun.cli import logs
logs.set_up(verbose=True)
log = logging.getLogger("edgerun.x")
log.error("two\\nlines"); log.warning("w"); log.info("i"); log.debug("d")
logging.getLogger("other").info("not ours")
"""


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run([sys.executable, "-c", LOG], stderr=stream, env=environment, check=True, timeout=60)
    assert path.read_text() == "<3>two\n<3>lines\n<4>w\n<6>i\n<7>d\n"


@pytest.mark.parametrize("journal", ["", "1:2", "nonsense", "1:2:3"])
def test_a_terminal_gets_times_and_levels(journal: str) -> None:
    environment = {**os.environ, "JOURNAL_STREAM": journal}
    done = subprocess.run([sys.executable, "-c", LOG], capture_output=True, text=True, env=environment, timeout=60)
    assert [line.split(" ", 1)[1] for line in done.stderr.splitlines() if line[:1].isdigit()] == [
        "ERROR two", "WARNING w", "INFO i", "DEBUG d",
    ]  # fmt: skip


SUMMARY: dict[str, Any] = {
    "seconds": 10.0,
    "streams": {
        "main": {
            "grabbed": 300, "published": 118, "skipped": 180, "superseded": 1, "expired": 0, "gated": 0, "limited": 0,
            "failed": 1, "in_flight": 0, "fps": 11.8, "age_ms": {"p50": 61.0, "p95": 74.2, "p99": 88.9, "max": 91.0},
            "latency_ms": {"wait": {"p50": 1.0}, "infer": {"p50": 24.8, "p99": 31.0}}, "failed_reasons": {"decode": 1},
        },
        "s2": {"grabbed": 7, "published": 7},
    },
    "engines": {"main": {"model": "m", "runtime": "litert 2.3.0", "accelerator": "cpu", "threads": 1}},
    "rss_mib": 148.2, "cpu_s": 9.1, "start_to_first_result_s": 0.62,
}  # fmt: skip


def test_the_summary_adds_up_on_the_page() -> None:
    text = "\n".join(summary.lines(SUMMARY))
    assert text == (
        "\n"
        "stream  grabbed = published + skipped + superseded +  failed\n"
        "main        300 =       118 +     180 +          1 +       1\n"
        "s2            7 =         7 +       0 +          0 +       0\n"
        "main: 11.8 results/s, age p50 61.0 · p95 74.2 · p99 88.9 · max 91.0 ms, infer p50 24.8 · p99 31.0 ms, "
        "failed by decode 1\n"
        "engine main: m, litert 2.3.0 on cpu, 1 thread\n"
        "10.0 s, first result after 0.62 s, 148 MiB resident, 9.1 s of CPU (0.91 cores)"
    )


def test_a_short_run_claims_no_share_of_cores() -> None:
    assert list(summary.lines({"seconds": 4.9, "cpu_s": 0.3})) == ["", "4.9 s, 0.3 s of CPU"]
    assert list(summary.lines({"seconds": 5.0, "cpu_s": 1.0})) == ["", "5.0 s, 1.0 s of CPU (0.20 cores)"]


@pytest.mark.parametrize(
    ("mqtt", "line"),
    [
        ({"acked": 118, "waiting": 0, "dropped": {"stopped": 55}}, "mqtt: 118 acknowledged, 55 lost (stopped 55)"),
        (
            {"acked": 0, "waiting": 3, "dropped": {"full": 2, "stopped": 1, "size": 0}},
            "mqtt: 0 acknowledged, 3 waiting, 3 lost (full 2, stopped 1)",
        ),
        (
            {"acked": 0, "waiting": 100, "dropped": {"unsaid": 13}},
            "mqtt: 0 acknowledged, 100 waiting, 13 states not said",
        ),
        ({"acked": 7, "waiting": 0, "dropped": {}}, "mqtt: 7 acknowledged"),
    ],
)
def test_what_the_broker_took(mqtt: dict[str, Any], line: str) -> None:
    assert list(summary.lines({"mqtt": mqtt})) == ["", line]


def test_a_summary_that_knows_little() -> None:
    assert list(summary.lines({"streams": {"main": {"grabbed": 0}}})) == [
        "", "stream  grabbed = published", "main          0 =         0",
    ]  # fmt: skip
    assert list(summary.lines({})) == [""]


def test_where_the_summary_goes(capsys: pytest.CaptureFixture[str]) -> None:
    summary.show(SUMMARY, flags.read_options(parsed("--json")))
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert "grabbed" in err
    summary.show(SUMMARY, flags.read_options(parsed("--jsonl", "-")))
    out, err = capsys.readouterr()
    assert (out, "grabbed" in err) == ("", True)
    summary.show(SUMMARY, flags.read_options(parsed("--quiet")))
    assert capsys.readouterr() == ("", "")
    summary.show(SUMMARY, flags.read_options(parsed()))
    assert "grabbed" in capsys.readouterr().out
