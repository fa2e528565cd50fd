"""Real models and pictures for tests: pinned, checked by SHA-256, fetched once."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "models"

_PICTURES_PACKAGE = "scikit-image==0.25.2"
_PICTURES = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}


@functools.cache
def model_file(name: str) -> Path:
    """The model that `tools/fetch-models` calls `name`; fails the test when it cannot be fetched."""
    path = CACHE / name
    if not path.exists():
        _run([sys.executable, str(ROOT / "tools" / "fetch-models"), name], ROOT)
    return path


@functools.cache
def picture_file(name: str) -> Path:
    """A photograph of scikit-image's collection: chelsea (a cat), coffee, rocket, astronaut."""
    path = CACHE / name
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            _run([*command, _PICTURES_PACKAGE], Path(folder))
            (wheel,) = Path(folder).glob("*.whl")
            CACHE.mkdir(parents=True, exist_ok=True)
            path.write_bytes(zipfile.ZipFile(wheel).read(f"skimage/data/{name}"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == _PICTURES[name], f"{path} is not the pinned picture"
    return path


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
