"""docs/plugins.md: its example is installed as a distribution of its own and used as edgerun uses any decoder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgerun import registry
from tests.real_models import ROOT

GUIDE = ROOT / "docs" / "plugins.md"

USE = """
import json, sys
import msgspec
import numpy as np
from edgerun import registry
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Placement, TensorSpec

made = registry.resolve("decoder", "density")
def context(*shape):
    return DecoderContext((), (TensorSpec("density", shape, "float32"),))
decoder = made(msgspec.convert({"scale": 100}, made.options), context(1, 4, 6, 1))
answer = decoder.decode([np.full((1, 4, 6, 1), 50, np.float32)], Placement())
told = {"kinds": registry.kinds("decoder"), "values": msgspec.to_builtins(answer.values)}
for key, call in {
    "model": lambda: made(made.options(), context(1, 1000)),
    "frame": lambda: decoder.decode([np.full((1, 4, 6, 1), np.nan, np.float32)], Placement()),
    "options": lambda: msgspec.convert({"skale": 1}, made.options),
}.items():
    try:
        call()
    except (ModelError, FrameError, msgspec.ValidationError) as error:
        told[key] = str(error)
json.dump(told, sys.stdout)
"""


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages with the guide's: what an installer makes of its pyproject.toml."""
    project = tomllib.loads(block("toml"))
    (module,) = project["tool"]["setuptools"]["py-modules"]
    (tmp_path / f"{module}.py").write_text(block("python"), encoding="utf-8")
    name, version = project["project"]["name"].replace("-", "_"), project["project"]["version"]
    info = tmp_path / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [f"{key} = {value}" for key, value in project["project"]["entry-points"]["edgerun"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[edgerun]", *lines, ""]), encoding="utf-8")
    return tmp_path


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_example_of_the_guide_decodes(site: Path) -> None:
    done = run(site, "-c", USE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kinds"][-1] == "density"
    assert told["values"] == [{"name": "count", "value": 12.0, "unit": "people"}]
    assert told["model"] == "decoder density: no density map; expected one output 1×H×W×1; got [(1, 1000)]"
    assert told["frame"] == "decoder density: densities are not numbers"
    assert "skale" in told["options"]


def test_the_example_is_as_short_as_it_says() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 30


def test_a_name_of_our_own_cannot_be_taken_over(site: Path) -> None:
    (info,) = site.glob("*.dist-info")
    (info / "entry_points.txt").write_text("[edgerun]\ndecoder.yolo = edgerun_density:DensityDecoder\n")
    code = (
        "from edgerun.registry import kinds, resolve; print(resolve('decoder', 'yolo').__module__, *kinds('decoder'))"
    )
    done = run(site, "-c", code)
    assert done.returncode == 0, done.stderr
    module, *kinds = done.stdout.split()
    assert module == "edgerun.decode.yolo"
    assert kinds.count("yolo") == 1


def test_a_plug_in_that_cannot_be_imported_says_so(site: Path) -> None:
    (site / "edgerun_density.py").write_text("import no_such_library\n", encoding="utf-8")
    done = run(site, "-c", "from edgerun.registry import resolve; resolve('decoder', 'density')")
    assert "the decoder plug-in 'density' cannot be imported" in done.stderr
    assert "no_such_library" in done.stderr


def test_the_guide_lists_every_decoder() -> None:
    table = re.findall(r"^\| `([a-z0-9-]+)` \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(table) == sorted(registry.BUILTIN["decoder"])
