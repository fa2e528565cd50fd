"""The command line as a user meets it: real processes, their exit codes and what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from edgerun import __version__
from edgerun.cli.main import COMMANDS, make_parser

ROOT = Path(__file__).parents[2]
BAD = ROOT / "tests" / "configs" / "bad"


def edgerun(*args: object, **how: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "edgerun", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **how)  # type: ignore[call-overload, no-any-return]


def refused(*args: object) -> str:
    """What the command says on standard error, in one paragraph, ending with 2."""
    done = edgerun(*args)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_version() -> None:
    assert edgerun("--version").stdout == f"edgerun {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_of_the_command(command: str) -> None:
    done = edgerun(command, "--help")
    assert done.returncode == 0
    assert f"  edgerun {command}" in done.stdout.partition("examples:")[2]
    assert command in edgerun("--help").stdout


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "edgerun", *words], capture_output=True, text=True, timeout=60
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"numpy", "cv2", "paho", "onnxruntime", "ai_edge_litert", "tflite_runtime"}


def test_no_command_shows_the_help_and_is_an_error() -> None:
    assert "usage: edgerun" in refused()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["rnu"],
            f"edgerun: unknown command; expected one of {', '.join(COMMANDS)}; got 'rnu'. Did you mean \"run\"?",
        ),
        (["run", "--modle", "x"], "edgerun: unknown flag; got '--modle'. Did you mean \"--model\"?"),
        (["run", "--mod", "x"], "edgerun: unknown flag; got '--mod'. Did you mean \"--model\"?"),
        (["run", "x.tflite"], "edgerun: unexpected argument; got 'x.tflite'. See edgerun run --help."),
        (["--debgu"], "edgerun: unknown flag; got '--debgu'. See edgerun --help."),
        (["check"], "edgerun: the following arguments are required: --config. See edgerun check --help."),
        (["run", "--model"], "edgerun: argument --model: expected one argument. See edgerun run --help."),
        (
            ["run"],
            "edgerun: nothing to run; expected --config, or --model with --source. edgerun demo shows it on a bundled "
            "clip; edgerun run --model ssd-mobilenet-v2-oid --source /dev/video0 needs no file; edgerun init writes a "
            "config for edgerun run --config edgerun.toml.",
        ),
        (["run", "--model", "a"], "edgerun: nothing to run; expected --source. See edgerun run --help."),
        (
            ["run", *["--model", "a"] * 2, *["--source", "0"] * 3],
            "edgerun: --model: models and sources do not pair up; expected one --model for all sources, or one for "
            "each; got 2 models and 3 sources.",
        ),
        (
            ["run", "--config", "a.toml", "--source", "0"],
            "edgerun: --source: cannot be given together with --config. Write it into the file, or leave --config out.",
        ),
        (
            ["check", "--config", "nowhere.toml"],
            "edgerun: nowhere.toml: cannot be read; expected a TOML file; got No such file or directory.",
        ),
    ],
)
def test_usage_errors(words: list[str], said: str) -> None:
    assert refused(*words) == said + "\n"


def test_a_pattern_that_the_shell_took(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"p{number}.jpg").touch()
    files = sorted(tmp_path.iterdir())
    hint = f"Quote a pattern, or the shell takes it: --source '{tmp_path}/*.jpg'."
    got = f"edgerun: unexpected argument; got '{files[1]}'. "
    assert refused("run", "--model", "m", "--source", *files) == f"{got}{hint}\n"
    assert refused("run", f"--source={files[0]}", *files[1:], "--quiet") == f"{got}{hint}\n"
    assert refused("run", "--source", files[0], "--model", "m", files[1]) == f"{got}See edgerun run --help.\n"


def test_flags_are_checked_like_the_file_and_all_at_once(tmp_path: Path) -> None:
    model = tmp_path / "m.tflite"
    model.touch()
    said = refused(
        "run", "--model", model, "--source", "nonsense", "--threads", "two", "--max-age-ms", "0", "--max-fps", "nan",
        "--threshold", "2", "--broker", "http://u:hunter2@h", "--seconds", "-1", "--frames", "0.5", "--top-k", "0",
        "--decoder", "yolov8", "--engine", "torch", "--accelerators", ",", "--labels", tmp_path / "no.txt",
    )  # fmt: skip
    flags = [line.split(": ")[1] for line in said.splitlines()]
    assert sorted(flags) == sorted(
        ["--source", "--threads", "--max-age-ms", "--max-fps", "--threshold", "--broker", "--seconds", "--frames",
         "--top-k", "--decoder", "--engine", "--accelerators", "--labels"]
    )  # fmt: skip
    assert "hunter2" not in said


@pytest.mark.parametrize("name", ["same-camera", "password-twice", "empty"])
def test_check_shows_every_mistake(name: str) -> None:
    done = edgerun("check", "--config", f"{name}.toml", cwd=BAD, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    for line in (BAD / f"{name}.message").read_text(encoding="utf-8").splitlines():
        assert f"edgerun: {line}" in done.stderr
    assert done.stdout == ""


def test_check_for_a_program() -> None:
    done = edgerun("check", "--config", BAD / "model-unknown.toml", "--json")
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    (error,) = [e for e in answer["errors"] if "model" in e["what"]]
    assert error["got"] == "'detektor'"
    assert error["remedy"] == 'did you mean "detector"?'


def test_a_traceback_only_with_debug() -> None:
    assert "Traceback" not in refused("check", "--config", "nowhere.toml")
    done = edgerun("run", "--source", "0", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("edgerun: nothing to run; expected --model. See edgerun run --help.\n")


WEB = """
[models.m]
path = "ssd-mobilenet-v2-oid"
[streams.s]
source = "synthetic"
model = "m"
[web]
token = { file = "token" }
[metrics]
[security]
state_key = { file = "key" }
"""


def test_check_refuses_what_run_would(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(WEB)
    missing = edgerun("check", "--config", config)
    assert missing.returncode == 0
    assert "warning: " in missing.stderr
    assert "web.token.file: no password there" in missing.stderr
    assert "security.state_key.file: no password there" in missing.stderr
    (tmp_path / "token").write_text("short\n")
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(0o644)
    wrong = edgerun("check", "--config", config)
    assert wrong.returncode == 2
    assert "a token that could be guessed" in wrong.stderr
    assert "not a sealing key" in wrong.stderr
    assert f"{tmp_path / 'key'} can be read by every user" in wrong.stderr


@pytest.mark.parametrize(("library", "extra"), [("prometheus_client", "metrics"), ("cryptography", "security")])
def test_check_and_run_name_the_extra_that_is_missing(tmp_path: Path, library: str, extra: str) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(WEB.replace("[metrics]", "[metrics]\nport = 0").replace("[web]", '[web]\nlisten = "127.0.0.1:0"'))
    (tmp_path / "token").write_text("t" * 43)
    (tmp_path / "key").write_text("5" * 64)
    for command in ("check", "run"):
        program = f"import sys; sys.modules[{library!r}] = None; from edgerun.__main__ import main; sys.exit(main())"
        words = [sys.executable, "-c", program, command, "--config", str(config)]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, env={**os.environ, "STATE_DIRECTORY": str(tmp_path)}
        )
        assert done.returncode == 4, done.stderr
        assert f"pip install 'edgerun[{extra}]'" in done.stderr


def test_ctrl_c_while_modules_are_imported_is_130() -> None:
    program = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "edgerun.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_module("edgerun", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_outside_a_run_is_130(tmp_path: Path) -> None:
    pipe = tmp_path / "edge.toml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgerun", "check", "--config", str(pipe)], stderr=subprocess.PIPE, text=True
    )
    try:
        with pipe.open("w"):  # opens when edgerun reads: from here on it waits for the config
            said = None
            while said is None:  # one that comes between Python's last look and the read itself interrupts nothing
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=20)[1]
    finally:
        process.kill()
        process.communicate()
    assert said == ""
    assert process.returncode == 130


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "edgerun", "check", "--config", str(BAD / "empty.toml"), "--json"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, ""), "as with a reader"


def test_the_reference_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gen-docs"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_and_flag_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    flags = {option for action in make_parser("run").command("run")._actions for option in action.option_strings}
    assert len(flags) > 20
    for flag in flags - {"-h", "--help"}:
        assert f"`{flag}" in page, flag
    assert all(f"## edgerun {command}\n" in page for command in COMMANDS)
