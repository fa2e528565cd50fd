"""Standard output that is full, gone, missing or of another alphabet: the shell's redirections, on real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BAD = Path(__file__).parents[1] / "configs" / "bad"
DEMO = f"{sys.executable} -m edgerun demo --no-page --seconds 1"
FULL = "edgerun: standard output cannot be written: No space left on device."


def shell(line: str, **environment: str) -> tuple[int, str, list[str]]:
    """Exit code of the first command of the pipe, its output and, but for the log, what it said on stderr."""
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    said = [text for text in done.stderr.splitlines() if not (text[:2].isdigit() and text[2] == ":")]
    return done.returncode, done.stdout, [text for text in said if not text.startswith("INFO: Created TensorFlow Lite")]


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [DEMO, f"{DEMO} --quiet --json", f"{sys.executable} -m edgerun --help", f"{sys.executable} -m edgerun --version"],
    ids=["summary", "json", "help", "version"],
)
def test_a_full_disk_under_stdout_is_told_in_one_paragraph(words: str, unbuffered: str) -> None:
    assert shell(f"{words} > /dev/full", PYTHONUNBUFFERED=unbuffered) == (1, "", [FULL])


def test_a_run_without_stdout_goes_on_to_its_end(tmp_path: Path) -> None:
    lines = tmp_path / "r.jsonl"
    assert shell(f"{DEMO} --jsonl {lines} >&-") == (0, "", [])
    alone = shell(f"{DEMO} >&- 2> {tmp_path / 'log'}")
    assert alone == (0, "", [])
    assert "1 s have passed" in (tmp_path / "log").read_text()
    assert all(json.loads(line)["seq"] >= 0 for line in lines.read_text().splitlines()), "nothing else is written there"


def test_json_for_nobody_is_refused_before_anything_starts() -> None:
    said = "edgerun: --json: there is no standard output to write it to. Leave --json out, or redirect >FILE."
    assert shell(f"{DEMO} --json >&-") == (2, "", [said])


def test_an_error_does_not_go_to_stdout_where_there_is_no_stderr() -> None:
    assert shell(f"{sys.executable} -m edgerun run 2>&-") == (2, "", [])


def test_a_terminal_of_another_alphabet() -> None:
    code, out, said = shell(DEMO, PYTHONIOENCODING="ascii")
    assert (code, said) == (0, [])
    assert "age p50" in out
    assert " ? p95" in out


def test_json_is_utf_8_whatever_the_terminal(tmp_path: Path) -> None:
    config = tmp_path / "größe.toml"
    config.write_text("")
    words = [sys.executable, "-m", "edgerun", "check", "--config", str(config), "--json"]
    done = subprocess.run(words, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "größe.toml" in json.loads(done.stdout)["errors"][0]["message"]


@pytest.mark.parametrize("words", ["", "--jsonl - --quiet"], ids=["console", "jsonl"])
def test_a_reader_that_has_taken_what_it_wanted_is_no_failure(words: str) -> None:
    code, out, said = shell(f"{sys.executable} -m edgerun demo --no-page --seconds 30 {words} | head -2")
    assert (code, said) == (0, [])
    assert out.count("\n") == 2


def test_a_summary_that_nobody_reads_is_no_failure() -> None:
    code, out, said = shell(f"{DEMO} --quiet --json | head -0")
    assert (code, out, said) == (0, "", [])
