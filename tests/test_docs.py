"""Documents that are generated, or that name what is in the code, are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgerun.cli.main import COMMANDS
from edgerun.registry import BUILTIN, resolve

ROOT = Path(__file__).parent.parent


def test_generated_references_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gen-docs"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_percent_sign_is_one_in_the_reference() -> None:
    assert "%%" not in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_reference(command: str) -> None:
    assert f"edgerun {command}" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("room_kind", [f"{room}.{kind}" for room in BUILTIN for kind in BUILTIN[room]])
def test_every_registered_plugin_is_there_and_imports_without_its_heavy_library(room_kind: str) -> None:
    room, _, kind = room_kind.partition(".")
    code = (
        "import sys; from edgerun.registry import resolve; "
        f"assert resolve({room!r}, {kind!r}).options; "
        "heavy = {'cv2', 'ai_edge_litert', 'tflite_runtime', 'onnxruntime', 'paho'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert resolve(room, kind).__doc__


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_readme_names_the_two_commands_and_they_can_be_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for tool in ("demo", "test"):
        assert f"tools/{tool} " in readme
        assert (ROOT / "tools" / tool).stat().st_mode & 0o111
