"""Engines in a process of their own: what opens, what crashes, what hangs, and what memory without W+X does."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgerun.config import ModelConfig
from edgerun.device.machine import Machine
from edgerun.doctor import Needs, engines
from edgerun.doctor.child import Question, ask
from edgerun.doctor.convolution import convolution
from edgerun.doctor.examine import Patient
from edgerun.models import find_bundled

BUNDLED = find_bundled("ssd-mobilenet-v2-oid")


def kernel() -> tuple[int, int]:
    major, minor, *_ = platform.release().split(".")
    return int(major), int(minor)


def test_the_bundled_detector_runs() -> None:
    answer = ask(Question("model", path=str(BUNDLED)), 60)
    assert answer.problem is None
    assert answer.accelerator == "cpu"
    assert answer.infer_ms > 0


def test_the_convolution_is_a_valid_onnx_model() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnx.checker.check_model(onnx.load_from_string(convolution()))


def test_onnx_runtime_runs_and_names_its_providers() -> None:
    answer = ask(Question("onnx"), 60)
    assert answer.problem is None
    assert "CPUExecutionProvider" in answer.providers


def test_engines_without_writable_executable_memory() -> None:
    answer = ask(Question("model", path=str(BUNDLED), mdwe=True), 60)
    assert answer.unable == (kernel() < (6, 3))
    assert answer.unable or answer.problem or answer.infer_ms > 0


@pytest.mark.skipif(kernel() < (6, 3), reason="PR_SET_MDWE came with Linux 6.3")
def test_write_execute_is_really_denied() -> None:
    code = (
        "import mmap; from edgerun.doctor.child import deny_write_execute; "
        "flags = dict(prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); "
        "mmap.mmap(-1, 4096, **flags); assert deny_write_execute(); mmap.mmap(-1, 4096, **flags)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


@pytest.mark.skipif(kernel() < (6, 3), reason="PR_SET_MDWE came with Linux 6.3")
def test_a_library_that_wants_writable_executable_memory_does_not_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package in the place of ONNX Runtime that takes such memory when it is imported, as JIT compilers do."""
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text("import mmap\nmmap.mmap(-1, 4096, prot=7)\nraise SystemError('got it')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "got it" in (ask(Question("onnx"), 60).problem or "")
    assert "PermissionError" in (ask(Question("onnx", mdwe=True), 60).problem or "")


def test_a_model_that_cannot_be_read_is_an_answer(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"not a model")
    answer = ask(Question("model", path=str(broken)), 60)
    assert answer.problem


def test_a_child_that_takes_too_long_is_killed() -> None:
    assert ask(Question("model", path=str(BUNDLED)), 0.01).problem == "no answer within 0.01 s"


def test_accelerators_that_are_not_here_say_why() -> None:
    answer = ask(Question("accelerators", path=str(BUNDLED), known=("gpu",)), 120)
    assert answer.problem is None
    names = {(trial.engine, trial.name) for trial in answer.trials}
    assert {("tflite", "edgetpu"), ("onnx", "cuda")} <= names
    assert not {name for _, name in names} & {"gpu", "external"}
    for trial in answer.trials:
        assert trial.refused or trial.problem or trial.infer_ms > 0


def test_a_model_on_an_accelerator_that_is_not_there(tmp_path: Path) -> None:
    model = ModelConfig(Path(str(BUNDLED)), accelerators=("edgetpu", "cpu"))
    lines = list(engines.look(Patient(Machine(tmp_path, {}), Needs({"main": model}))))
    assert lines[0].status == "yellow"
    assert "because edgetpu was refused" in lines[0].value
    model = ModelConfig(Path(str(BUNDLED)), accelerators=("edgetpu",))
    lines = list(engines.look(Patient(Machine(tmp_path, {}), Needs({"main": model}))))
    assert (lines[0].status, lines[0].needed) == ("red", True)
