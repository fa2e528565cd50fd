"""PyTorch models in: what a user may name, what comes out of it, and what is refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the convert-torch extra is not installed")
onnx = pytest.importorskip("onnx", reason="the convert-torch extra is not installed")
pytest.importorskip("onnxscript", reason="the convert-torch extra is not installed")

from edgerun.convert.torch.importing import TOLERANCE, _difference, read  # noqa: E402
from edgerun.convert.torch.loading import Options, load  # noqa: E402
from edgerun.errors import ConfigError, ModelError  # noqa: E402
from edgerun.infer.onnx import OnnxEngine  # noqa: E402
from edgerun.infer.onnx import Options as EngineOptions  # noqa: E402
from edgerun.ports import EngineContext  # noqa: E402

NETS = "tests.convert.torch_nets"
pytestmark = pytest.mark.timeout(300)  # the first export of a process compiles for a while


def test_a_factory_becomes_one_file_that_the_engine_runs_and_the_same_bytes_again(tmp_path: Path) -> None:
    first = read(f"{NETS}:joined", tmp_path / "first")
    again = read(f"{NETS}:joined", tmp_path / "again")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert "outputs differ by at most" in first.notes[-1]
    assert {"torch", "onnx"} <= set(first.tools)
    assert str(Path.cwd()).encode() not in first.path.read_bytes(), "no paths of the exporting machine"
    engine = OnnxEngine(EngineOptions(), EngineContext(first.path.read_bytes(), "joined"))
    try:
        assert [(spec.name, spec.shape) for spec in engine.inputs] == [("image", (1, 3, 16, 16))]
        assert [(spec.name, spec.shape) for spec in engine.outputs] == [("map", (1, 6, 8, 8)), ("values", (1, 4))]
    finally:
        engine.close()


def test_a_file_names_its_factory_and_the_shape_comes_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\n\nclass Deep:\n    build = torch.nn.Linear(3, 2)\n")
    loaded = load(f"{file}:Deep.build", Options(shapes=((1, 3),), names=("features",)))
    assert [tuple(tensor.shape) for tensor in loaded.inputs] == [(1, 3)]
    assert loaded.names == ("features",)


def test_a_saved_program_is_read_without_its_source(tmp_path: Path) -> None:
    made = load(f"{NETS}:joined", Options())
    file = tmp_path / "joined.pt2"
    torch.export.save(torch.export.export(made.module, made.inputs), file)
    network = read(file, tmp_path)
    reference = load(f"{NETS}:joined", Options())
    with torch.no_grad():
        outputs = list(reference.module(*reference.inputs).values())
    assert _difference(reference, network.path, outputs) < TOLERANCE
    with pytest.raises(ConfigError, match="keeps the shapes it was exported with"):
        load(file, Options(shapes=((1, 3, 32, 32),)))


def test_another_models_file_is_found_out(tmp_path: Path) -> None:
    loaded = load(f"{NETS}:joined", Options(seed=1))
    network = read(f"{NETS}:joined", tmp_path, Options(seed=2))
    with torch.no_grad():
        outputs = list(loaded.module(*loaded.inputs).values())
    assert _difference(loaded, network.path, outputs) > TOLERANCE
    assert _difference(loaded, network.path, [one * float("nan") for one in outputs]) > TOLERANCE


@pytest.mark.parametrize(("given", "wanted"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_do_not_spin_unless_told_to(given: str | None, wanted: str) -> None:
    """Read by OpenMP when it is loaded: a process of its own."""
    rest = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    code = "import os; from edgerun.convert.torch.extra import torch_; torch_(); print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**rest, **({"OMP_WAIT_POLICY": given} if given else {})},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == wanted


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (f"{NETS}:fashoin", ModelError, 'Did you mean "fashion"'),
        (f"{NETS}:broken", ModelError, "RuntimeError: the weights are elsewhere"),
        (f"{NETS}:number", ModelError, "expected a torch.nn.Module"),
        (f"{NETS}:fashion", ConfigError, "shape of the model's input is not known"),
        ("no_such_module_at_all:build", ModelError, "cannot be imported"),
        ("weights.pth", ModelError, "pickled module"),
        ("gone.pt2", ModelError, "no such file"),
        ("nothing", ConfigError, "names no PyTorch model"),
    ],
)
def test_what_is_refused_and_why(source: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        load(source, Options())


def test_bytes_that_are_no_program_and_a_shape_that_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "noise.pt2"
    file.write_bytes(b"noise" * 100)
    with pytest.raises(ModelError, match="not a program that this PyTorch can load"):
        load(file, Options())
    with pytest.raises(ModelError, match="does not run on an input of this shape"):
        read(f"{NETS}:joined", tmp_path, Options(shapes=((1, 4, 16, 16),)))
