"""Home Assistant's own schemas and template engine, in a virtual environment of their own: made once, then kept."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parent.parent.parent
FOLDER = _ROOT / ".venv-homeassistant"
_SCRIPT = Path(__file__).parent / "home_assistant_says.py"
_KNOWS_DEVICES = "2025.1.4"
_INSTALLED = "2024.3.3" if sys.version_info < (3, 12) else _KNOWS_DEVICES
"""The last version that runs on Python 3.11 does not know device-based discovery: to it are added the files of the MQTT
integration of one that does, which hold the schemas and run on 3.11 as they are."""
_FILES = "abbreviations const schemas config sensor binary_sensor switch button image event update".split()
_LIMIT_S = 100


def says(payload: bytes, renders: list[tuple[str, str]] | None = None, updates: tuple[str, ...] = ()) -> dict[str, Any]:
    """What Home Assistant has against a discovery message (`problems`), how it reads its `components`, and each
    (template, message) of `renders` as it renders it (`rendered`).
    """
    folder = _venv()
    asked = json.dumps({"payload": payload.decode(), "renders": renders or [], "updates": updates})
    done = subprocess.run(
        [folder / "bin" / "python", _SCRIPT, folder / "newer"], input=asked, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _venv() -> Path:
    """Where it is; made where it is not, by one process at a time."""
    mark = FOLDER / ".homeassistant"
    wanted = f"{_INSTALLED} {_KNOWS_DEVICES} {sys.version}"
    lock = os.open(_ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.is_file() or mark.read_text() != wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            _make()
            mark.write_text(wanted)
    finally:
        os.close(lock)
    return FOLDER


def _make() -> None:
    made = subprocess.run([sys.executable, "-m", "venv", FOLDER], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no virtual environment can be made here: {made.stderr.strip()}")
    _pip("install", f"homeassistant=={_INSTALLED}")
    newer = FOLDER / "newer"
    newer.mkdir()
    if _INSTALLED == _KNOWS_DEVICES:
        return
    _pip(
        "download", "--no-deps", "--only-binary", ":all:", "--python-version", "3.13", "--dest", str(newer),
        f"homeassistant=={_KNOWS_DEVICES}",
    )  # fmt: skip
    (wheel,) = newer.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in _FILES:
            (newer / f"{name}.py").write_bytes(archive.read(f"homeassistant/components/mqtt/{name}.py"))
    wheel.unlink()


def _pip(*args: str) -> None:
    try:
        done = subprocess.run(
            [FOLDER / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *args],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"Home Assistant could not be installed within {_LIMIT_S} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1][:300]
        pytest.skip(f"Home Assistant cannot be installed here: {last}")
