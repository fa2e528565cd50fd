"""A TensorFlow Lite delegate that can be made sick, and a model of which it takes an op."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerun.types import Tensor
from tests.real_models import model_file


class Sick(msgspec.Struct):
    """`declare(mode, …)` gives the table of an accelerator that is sick in that way until `heal()`."""

    library: Path
    flag: Path

    def declare(self, mode: str, *, after: int = 0, delay_ms: int = 0, spared: int = 0) -> dict[str, Any]:
        self.flag.touch()
        settings = {"mode": mode, "while": str(self.flag), "after": after, "delay_ms": delay_ms, "spared": spared}
        return {"kind": "external", "library": str(self.library), "settings": settings}

    def heal(self) -> None:
        self.flag.unlink()


@pytest.fixture(scope="session")
def delegate_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the test's delegate with")
    library = tmp_path_factory.mktemp("delegate") / "libtestdelegate.so"
    source = Path(__file__).with_name("delegate.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return library


@pytest.fixture
def sick(delegate_library: Path, tmp_path: Path) -> Sick:
    return Sick(delegate_library, tmp_path / "sick")


@pytest.fixture
def classifier() -> bytes:
    """int8 32×32 → 10 classes; one of its 16 ops is a FULLY_CONNECTED."""
    return model_file("image_classification.tflite").read_bytes()


@pytest.fixture
def picture() -> list[Tensor]:
    return [np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3), np.int8)]


@pytest.fixture(autouse=True)
def proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tests keep their proofs."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """`closing(engine)` has it closed at the end."""
    opened: list[Any] = []

    def keep(engine: Any) -> Any:
        opened.append(engine)
        return engine

    yield keep
    for engine in opened:
        engine.close()
