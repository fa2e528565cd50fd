"""The wheel is the same bytes whoever builds it, and holds what it should and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def copied(folder: Path) -> Path:
    """What a checkout has that goes into the wheel, with other times and permissions."""
    for name in ("edgerun", "models", "systemd", "docs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def wheel(folder: Path, out: Path, umask: int) -> Path:
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    out.mkdir()
    before = os.umask(umask)
    try:
        subprocess.run([sys.executable, "-c", build, str(out)], cwd=folder, check=True, capture_output=True)
    finally:
        os.umask(before)
    (made,) = out.glob("*.whl")
    return made


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = wheel(copied(tmp_path / "a"), tmp_path / "one", 0o022)
    copy = copied(tmp_path / "b")
    for path in copy.rglob("*.py"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    second = wheel(copy, tmp_path / "two", 0o077)
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    assert first.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(first).namelist()
    parts = ("_bundled/ssd-mobilenet-v2-oid/manifest.json", "_systemd/edgerun.service", "_docs/config.md")
    for part in (*parts, "web/static/", "daemon.py"):
        assert any(name.startswith(f"edgerun/{part}") for name in names), part
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
