"""What the tests of the config share: a bundled model that is there, and what came of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgerun.config import Config
from edgerun.errors import ConfigErrors

CONFIGS = Path(__file__).parent / "configs"
BUNDLED = Path("bundled")


def find_model(name: str) -> Path | None:
    return BUNDLED / name if name == "ssd-mobilenet-v2-oid" else None


@pytest.fixture(autouse=True)
def bundled_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.BUNDLED", tmp_path)
    (tmp_path / "ssd-mobilenet-v2-oid").mkdir()


def outcome(make: Callable[[], Config]) -> tuple[Any, str]:
    """The config and no text, or None and what was wrong; any other error is raised."""
    try:
        return make(), ""
    except ConfigErrors as error:
        return None, str(error)
