"""Real models and pictures for tests: pinned and checked by `tools/fetch-models`, fetched once."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "models"


@functools.cache
def model_file(name: str) -> Path:
    """The model, clip or picture that `tools/fetch-models` calls `name`; fails the test when it cannot be fetched."""
    path = CACHE / name
    if not path.exists():
        command = [sys.executable, str(ROOT / "tools" / "fetch-models"), name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"tools/fetch-models {name} ended with {done.returncode}: {done.stderr.strip()}")
    return path
