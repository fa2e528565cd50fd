"""`edgerun bench` and `edgerun tune` as functions of their flags: what they print, their exit codes, their refusals."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from edgerun.cli import bench, numbers, tune
from edgerun.cli.parser import Parser
from edgerun.errors import ConfigError, MissingError

BUNDLED = "ssd-mobilenet-v2-oid"
SHORT = ("--rounds", "2", "--iterations", "3", "--warmup", "1")
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def call(command: ModuleType, *words: object) -> int:
    parser = Parser(prog="edgerun x")
    command.add_arguments(parser)
    code: int = command.run(parser.parse_args([str(word) for word in words]))
    return code


def test_a_table_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bench, BUNDLED, *SHORT, "--profile") == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{BUNDLED} 2, litert")
    for figure in ("latency p50, ms", "latency p99, ms", "inferences/s", "CPU per inference, ms", "MiB resident"):
        assert figure in said.out
    assert "no per-op profile" in said.out
    assert "energy" not in said.out or Path("/sys/class/powercap").exists()


def test_json_and_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bench, BUNDLED, *SHORT, "--json", "--max-p99", "0.0001") == 3
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["v"] == 1
    assert report["gate"] == {"max_p99_ms": 0.0001, "missed": True}
    assert len(report["rounds"]) == 2
    assert "above --max-p99" in said.err
    assert call(bench, BUNDLED, *SHORT, "--max-p99", "1e9") == 0


def test_compare_two_saved_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(bench, BUNDLED, *SHORT, "--json")
    saved = tmp_path / "report.json"
    saved.write_text(capsys.readouterr().out)
    assert call(bench, "--compare", saved, saved) == 0
    said = capsys.readouterr().out
    assert "1.000" in said
    assert "did not alternate" in said
    with pytest.raises(ConfigError, match="saved report"):
        call(bench, "--compare", saved, BUNDLED)


def test_sweep_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bench, BUNDLED, *SHORT, "--sweep", "--no-plot", "--threads", "1,2", "--batch", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["threads", "batch"]
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "1"], ["2", "1"]]


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="the extra edgerun[plot] is not installed")
def test_sweep_as_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "frontier.png"
    call(bench, BUNDLED, *SHORT, "--sweep", "--plot", path, "--threads", "1", "--batch", "1,2")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="cannot be written"):
        call(bench, BUNDLED, *SHORT, "--sweep", "--plot", tmp_path / "no" / "x.png", "--threads", "1", "--batch", "1")


@pytest.mark.skipif(HAS_MATPLOTLIB, reason="the extra edgerun[plot] is installed")
def test_a_sweep_without_matplotlib_says_what_to_install_before_it_measures() -> None:
    with pytest.raises(MissingError) as told:
        call(bench, BUNDLED, "--sweep", "--duration", "3600")
    assert "edgerun[plot]" in str(told.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to measure"),
        ([BUNDLED, "--config", "x.toml"], "cannot be measured together"),
        ([BUNDLED, "--threads", "1,2"], "--sweep"),
        ([BUNDLED, "--live", "--fps", "5", "--overload", "1"], "how fast the camera is"),
        (["--compare", "a", "b", "--live"], "neither --live nor --sweep"),
        ([BUNDLED, "--scenario", "server"], "latency bound"),
        ([BUNDLED, "--max-p99", "0"], "expected a number above 0, got '0'"),
        ([BUNDLED, "--threads", "0"], "expected a whole number from 1, got '0'"),
        ([BUNDLED, "--duration", "nan"], "expected a number above 0, got 'nan'"),
        ([BUNDLED, "--size", "640"], "WIDTHxHEIGHT"),
    ],
)
def test_refusals(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as told:
        call(bench, *words)
    assert said in str(told.value)


def test_lists_of_numbers_keep_their_order_and_drop_repeats() -> None:
    assert numbers.counts("4, 1,4,2") == (4, 1, 2)
    assert numbers.positives("0.5,10,0.5") == (0.5, 10.0)
    assert numbers.size("640x480") == (640, 480)
    assert numbers.names("edgetpu, cpu") == ("edgetpu", "cpu")


def test_tune_writes_config_lines_and_tells_what_it_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tune, BUNDLED, "--budget", "0.5", "--threads", "1") == 0
    said = capsys.readouterr()
    (table,) = tomllib.loads(said.out)["models"].values()
    assert table["threads"] == 1
    assert table["accelerators"] == ["cpu"]
    assert "<- chosen" in said.err


def test_tune_for_a_program_and_a_bound_that_nothing_meets(capsys: pytest.CaptureFixture[str]) -> None:
    words = (BUNDLED, "--budget", "0.5", "--threads", "1", "--max-p99", "0.0001", "--json")
    assert call(tune, *words) == 3
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["v"] == 1
    assert answer["winner"] is None
    assert answer["config"] is None
    assert "stays under --max-p99" in said.err


@pytest.mark.parametrize(
    ("model", "name"), [("a/b/My Model.tflite", "my-model"), ("---.onnx", "main"), ("ssd-v2", "ssd-v2")]
)
def test_table_names(model: str, name: str) -> None:
    assert tune.table_name(model) == name


def test_pipeline_mode_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'[models.d]\npath = "{BUNDLED}"\nthreads = 1\n'
        '[streams.a]\nsource = "synthetic"\nmodel = "d"\nmax_age_ms = 5000\n'
        '[streams.b]\nsource = "synthetic"\nmodel = "d"\nmax_age_ms = 5000\n'
    )
    assert call(bench, "--config", config, "--fps", "5", "--duration", "1", "--json", "--max-p99", "1e9") == 0
    answer = json.loads(capsys.readouterr().out)
    (report,) = answer["live"]
    assert (report["streams"], report["threads"], report["fps"]) == (2, 1, 5.0)
    assert all(one["in_flight"] == 0 for one in report["account"].values())
    assert answer["gate"]["missed"] is False
