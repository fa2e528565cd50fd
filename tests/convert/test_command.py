"""`edgerun convert` as it is typed: exit codes, what is written where, and ending it by a signal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgerun.cli.convert import EXAMPLES, add_arguments, make_job, summary
from edgerun.cli.parser import Parser
from edgerun.convert.parts import Measured, Network, Outcome, Quality, Step
from edgerun.errors import ConfigError
from edgerun.models import load
from tests.convert.nets import CLASSES, colour_net, write_pictures

_DRIVER = """
import sys
from edgerun.cli import main
main.COMMANDS.setdefault("convert", ("edgerun.cli.convert", ""))
sys.exit(main.main())
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    colour_net(folder / "net.onnx")
    colour_net(folder / "fragile.onnx", outlier=3000.0)
    write_pictures(folder / "frames", 40, 1)
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    return folder


def words(ground: Path, *more: object, net: str = "net") -> list[str]:
    plain = ["convert", ground / f"{net}.onnx", "--calibrate", ground / "frames", "--mean", 0, "--std", 255]
    return [*map(str, [*plain, "--labels", ground / "labels.txt", "--no-measure", *more])]


def convert(*line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _DRIVER, *line]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_done(ground: Path, tmp_path: Path) -> None:
    done = convert(*words(ground, "-o", tmp_path / "made"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "made")
    assert "\x1b" not in done.stderr, "no bar where nobody looks"
    assert "gate         top1_agreement: at least 99.0% of the original's: met" in done.stderr
    assert json.loads((tmp_path / "made" / "manifest.json").read_text())["source"]["recipe"].startswith(
        "edgerun convert "
    )
    assert load(tmp_path / "made").labels == CLASSES


def test_a_gate_missed_ends_with_3_and_says_what_to_do(ground: Path, tmp_path: Path) -> None:
    line = words(ground, "-o", tmp_path / "made", "--precision", "int8", "--json", net="fragile")
    done = convert(*line)
    assert done.returncode == 3, done.stderr
    assert not (tmp_path / "made").exists()
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["passed"] is False
    assert told["report"] == str(tmp_path / "made-report" / "report.html")
    assert any("--precision mixed" in one for one in told["advice"])
    assert "MISSED, no bundle was written" in done.stderr
    assert "The classes that lose most" in done.stderr


def test_a_mistake_ends_with_2_in_one_paragraph(ground: Path, tmp_path: Path) -> None:
    done = convert(*words(ground, "-o", tmp_path / "made", "--evaluate", ground / "frames"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "overlaps the calibration set" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_leaves_nothing(ground: Path, tmp_path: Path, number: int, code: int) -> None:
    """At the moment that the bar, on a real terminal, says that layers are being chosen."""
    line = words(ground, "-o", tmp_path / "made", net="fragile")
    lead, follow = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, *line], stdout=subprocess.DEVNULL, stderr=follow, stdin=follow
    )
    os.close(follow)
    shown = b""
    try:
        while b"judging" not in shown:
            shown += os.read(lead, 4096)
        assert list(tmp_path.iterdir()), "the work has its folder by now"
        child.send_signal(number)
        assert child.wait(60) == code
    finally:
        child.kill()
        child.wait()
        os.close(lead)
    assert b"[" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_preview_is_a_picture_and_no_bundle(ground: Path, tmp_path: Path) -> None:
    done = convert(*words(ground, "-o", tmp_path / "made", "--preview", tmp_path / "seen.png"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "seen.png")
    assert "Nothing looks wrong." in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["seen.png"]


def parsed(*line: str) -> Any:
    parser = Parser()
    add_arguments(parser)
    return parser.parse_args([*line])


def test_every_flag_reaches_the_job(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    line = (
        "net.onnx -o out --format tflite --precision mixed --calibrate a --calibrate b[0:4] --evaluate c --mean 1,2,3 "
        "--std 4 --color BGR --fit crop --size 320x240 --decoder yolo --threshold 0.3 --min-quality 0.97 --max-drop "
        "0.02 --prune 0.5 --distil --time-budget 3 --seed 7 --target gpu --calibration mse --name n --version 9 "
        "--license MIT --on pi --no-measure --force --shape audio=1,16000 --shape a=b=2,1 "
        f"--labels {tmp_path / 'labels.txt'}"
    )
    job = make_job(parsed(*line.split()))
    said = job.said
    assert (job.source, job.output, job.format, job.precision) == ("net.onnx", Path("out"), "tflite", "mixed")
    assert (job.calibrate, job.evaluate) == (("a", "b[0:4]"), ("c",))
    assert (said.mean, said.std, said.color, said.fit, said.size) == ((1, 2, 3), (4,), "BGR", "crop", (320, 240))
    assert (said.labels, said.decoder, said.threshold) == (("a", "b"), "yolo", 0.3)
    assert (job.gate.min_quality, job.gate.max_drop, job.prune, job.distil) == (0.97, 0.02, 0.5, True)
    assert (job.time_budget_min, job.seed, job.target, job.calibration) == (3.0, 7, "gpu", "mse")
    assert (job.name, job.version, job.licence, job.on) == ("n", "9", "MIT", "pi")
    assert job.shapes == {"audio": (1, 16000), "a=b": (2, 1)}
    assert job.force
    assert not job.measure


def test_what_is_left_out(tmp_path: Path) -> None:
    job = make_job(parsed("models/net.onnx", "--calibrate", "a"))
    assert (job.output, job.precision, job.gate.min_quality) == (Path("net-int8"), None, 0.99)
    assert make_job(parsed("zoo.nets:build", "--precision", "fp16")).output == Path("build-fp16")


@pytest.mark.parametrize(
    "flag", ["--mean=x", "--std=", "--prune=1", "--prune=0", "--min-quality=1.1", "--max-drop=-1", "--threshold=2",
             "--size=3", "--shape=1,3", "--shape=a=1,x", "--shape=a=0", "--format=keras", "--time-budget=0"],
)  # fmt: skip
def test_values_that_make_no_sense(flag: str) -> None:
    with pytest.raises(ConfigError, match=flag.split("=")[0]):
        parsed("net.onnx", flag)


def test_the_examples_are_lines_that_can_be_typed() -> None:
    for example in EXAMPLES:
        _, command, *line = example.split()
        assert command == "convert"
        parsed(*line)


def test_the_summary_tells_time_quality_and_gate() -> None:
    quality = Quality("recall", 0.97, 1.0, 0.97, 75, {"extra": 0.01})
    measured = Measured("result", "a board", 1, 1.5, 3.0, 5_000_000, 80.0)
    outcome = Outcome(
        "net.onnx", "net", "detect", "onnx", "int8", False, "recall: at least 99.0%", Network(Path("x"), "onnx"),
        quality, None, (measured,), (), (Step("import", "As it is.", 0.1),), {}, ("Try more.",),
    )  # fmt: skip
    text = "\n".join(summary(outcome))
    for part in ("As it is.", "p50 1.50 ms", "80 MiB", "97.00% kept on 75 samples", "MISSED", "Try more."):
        assert part in text
