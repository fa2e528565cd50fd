"""Home Assistant's own schemas and template engine, in a virtual environment of their own: made once, then kept.

Of Home Assistant only what the MQTT integration's schemas and templates import is unpacked, and only the packages that
this needs are installed, in the versions that Home Assistant names.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
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
_CORE = "2024.3.3"
"""The last version for Python 3.11. It does not know device-based discovery: to it are added the files of the MQTT
integration of one that does, which hold the schemas and run on 3.11 as they are."""
_MQTT = "2025.1.4"
_MQTT_FILES = (
    "abbreviations",
    "const",
    "schemas",
    "config",
    "sensor",
    "binary_sensor",
    "switch",
    "button",
    "image",
    "event",
    "update",
)
_CORE_PARTS = (
    r"homeassistant/([^/]+\.(py|json)|(auth|backports|generated|helpers|util)/.*|components/__init__\.py|components/"
    r"(mqtt|sensor|binary_sensor|switch|button|image|event|update|http|network|persistent_notification|websocket_api)"
    r"/[^/]*)"
)
_PACKAGES = (
    "aiohttp",
    "aiohttp-fast-url-dispatcher",
    "aiohttp-zlib-ng",
    "async-interrupt",
    "atomicwrites-homeassistant",
    "attrs",
    "awesomeversion",
    "bcrypt",
    "certifi",
    "ciso8601",
    "cryptography",
    "httpx",
    "ifaddr",
    "jinja2",
    "lru-dict",
    "orjson",
    "packaging",
    "pyjwt",
    "python-slugify",
    "pyyaml",
    "typing-extensions",
    "ulid-transform",
    "voluptuous",
    "voluptuous-serialize",
    "yarl",
)
_LIMIT_S = 90


def says(payload: bytes, renders: list[tuple[str, str]] | None = None, updates: tuple[str, ...] = ()) -> dict[str, Any]:
    """What Home Assistant has against a discovery message (`problems`), how it reads its `components`, and each
    (template, message) of `renders` as it renders it (`rendered`).
    """
    reason = _lacks()
    if reason is not None:
        pytest.skip(reason)
    asked = json.dumps({"payload": payload.decode(), "renders": renders or [], "updates": updates})
    done = subprocess.run(
        [FOLDER / "bin" / "python", _SCRIPT, FOLDER / "newer"], input=asked, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@functools.cache
def _lacks() -> str | None:
    """Why there is no Home Assistant here; made where it is not there yet, by one process at a time."""
    if sys.version_info >= (3, 12):
        return f"Home Assistant {_CORE} runs on Python 3.11 only"
    mark = FOLDER / ".homeassistant"
    wanted = f"{_CORE} {_MQTT} {_PACKAGES} {sys.version}"
    lock = os.open(_ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.is_file() or mark.read_text() != wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            _make()
            mark.write_text(wanted)
    except subprocess.TimeoutExpired:
        return f"Home Assistant could not be installed within {_LIMIT_S} s"
    except subprocess.CalledProcessError as error:
        return f"Home Assistant cannot be installed here: {error.stderr.strip()[-300:]}"
    finally:
        os.close(lock)
    return None


def _make() -> None:
    subprocess.run([sys.executable, "-m", "venv", FOLDER], capture_output=True, text=True, check=True)
    (site,) = FOLDER.glob("lib/python*/site-packages")
    needs = _unpack(_CORE, site)
    names = {_plain(re.split(r"[<>=!~ (;]", need, maxsplit=1)[0]): need for need in needs}
    _pip("install", "--no-compile", *(names.get(name, name) for name in _PACKAGES))
    newer = FOLDER / "newer"
    newer.mkdir()
    _unpack(_MQTT, newer)


def _unpack(version: str, into: Path) -> list[str]:
    """What is used of that version, below `into`; returns what it requires."""
    _pip(
        "download", "--no-deps", "--only-binary", ":all:", "--python-version", "3.13", "--dest", str(FOLDER),
        f"homeassistant=={version}",
    )  # fmt: skip
    (wheel,) = FOLDER.glob("homeassistant-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        if version == _MQTT:
            for name in _MQTT_FILES:
                (into / f"{name}.py").write_bytes(archive.read(f"homeassistant/components/mqtt/{name}.py"))
        else:
            archive.extractall(into, [name for name in archive.namelist() if re.fullmatch(_CORE_PARTS, name)])
        about = archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    wheel.unlink()
    return re.findall(r"^Requires-Dist: ([^;\n]+)", about, re.MULTILINE)


def _plain(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(*args: str) -> None:
    subprocess.run(
        [FOLDER / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *args],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=True,
    )
