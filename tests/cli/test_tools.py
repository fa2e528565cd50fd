"""The two scripts that a newcomer starts with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
SAID = "tools/venv: there is no python9 here. Install Python 3.11 or newer, or set PYTHON to it.\n"


def run(*words: object) -> tuple[int, str]:
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHON": "python9"}
    )
    return done.returncode, done.stderr


def test_a_python_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    assert run(TOOLS / "venv", tmp_path / "venv", ".") == (4, SAID)


def test_the_demo_starts_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "demo").symlink_to(TOOLS / "demo")
    (tmp_path / "again").symlink_to(tmp_path / "demo")
    assert run(tmp_path / "again") == (4, SAID)
