"""Engines that really open: every model of the job on its accelerators, then the accelerators that could be used."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgerun.config import ModelConfig
from edgerun.doctor.child import Answer, Question, Trial, ask
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow
from edgerun.doctor.needs import DEFAULT_MODEL
from edgerun.models import find_bundled

_LIMIT_S = 60.0
_TRIALS_LIMIT_S = 480.0  # a GPU's shaders are compiled at the first inference
_SLOWER = 1.1
_HARDWARE = ("edgetpu", "gpu", "vx", "hexagon", "cuda", "tensorrt", "webgpu")
"""Accelerators that are tried only where their device is seen: then failing is a fault, not an absence."""
_NOT_HERE = "where the board should have it, install what its reason names: `edgerun doctor --verbose` shows each"
_WX_REMEDY = "leave MemoryDenyWriteExecute= out of the unit (no drop-in 30-strict-wx.conf)"


def look(patient: Patient) -> Iterator[Line]:
    """Opens each model in a child process and runs it a few times; under `wx` those that open once more."""
    models = {name: _question(model) for name, model in patient.needs.models.items()}
    works: dict[str, Question] = {}
    for name, question in models.items():
        answer = ask(question, _LIMIT_S)
        if answer.problem is None:
            works[name] = question
        yield _model_line(f"model {name}", patient.needs.models[name], answer)
    yield from _accelerator_lines(patient)
    answer = ask(Question("onnx"), _LIMIT_S)
    if answer.problem is None:
        works["ONNX Runtime"] = Question("onnx")
    yield _onnx_line(answer)
    for name, question in works.items() if patient.wx else ():
        strict = msgspec.structs.replace(question, mdwe=True)
        yield _wx_line(f"{name} under write-xor-execute", ask(strict, _LIMIT_S))


def _question(model: ModelConfig) -> Question:
    return Question(
        "model",
        False,
        str(model.path),
        model.format,
        model.runtime,
        model.accelerators,
        model.threads,
        model.decoder,
        key=None if model.key is None else model.key.handed(),
    )


def _model_line(what: str, model: ModelConfig, answer: Answer) -> Line:
    if answer.problem is not None:
        remedy = answer.remedy or "see which part of it fails: `edgerun bench " + str(model.path) + " --debug`"
        return red(what, answer.problem, remedy, needed=True)
    value = _runs(answer)
    if answer.fallbacks:
        name, reason = answer.fallbacks[0]
        others = f" (and {len(answer.fallbacks) - 1} more)" if len(answer.fallbacks) > 1 else ""
        remedy = f"make {name} work, see the lines on accelerators, or take it out of accelerators in the config"
        return yellow(what, f"{value}, because {name} was refused{others}: {reason}", remedy, needed=True)
    return green(what, value, needed=True)


def _accelerator_lines(patient: Patient) -> Iterator[Line]:
    """What opens and proves itself, what is seen and does not, and what is not here."""
    bundled = find_bundled(DEFAULT_MODEL)
    if bundled is None:
        return
    known = tuple(sorted(patient.needs.accelerators))
    answer = ask(Question("accelerators", path=str(bundled), known=known), _TRIALS_LIMIT_S)
    if answer.problem is not None:
        yield yellow(
            "accelerators", answer.problem, answer.remedy or "see which it is: `edgerun doctor --json --debug`"
        )
        return
    for trial in answer.trials:
        yield _trial_line(trial)


def _trial_line(trial: Trial) -> Line:
    what = f"accelerator {trial.name} ({trial.engine})"
    if trial.refused is not None:
        return absent(what, trial.refused, _NOT_HERE)
    if trial.problem is None:
        return _opened(what, trial)
    if trial.name in _HARDWARE:
        remedy = "if the daemon holds it, `sudo systemctl stop edgerun` first; else see accelerators and software"
        if trial.missing and trial.remedy is not None:
            remedy = trial.remedy
        return yellow(what, f"its device is there, and it does not open: {trial.problem}", remedy)
    if trial.missing:
        return absent(what, trial.problem, _NOT_HERE)
    return yellow(what, f"it is installed, and does not open: {trial.problem}", trial.remedy or _NOT_HERE)


def _opened(what: str, trial: Trial) -> Line:
    told = [f"opens, {trial.infer_ms:.1f} ms an inference"]
    if trial.agreed is not None:
        told.append(f"{trial.agreed:.1%} of its values agree with the CPU's")
    if trial.delegated is not None:
        told.append("{} of {} ops run on it".format(*trial.delegated))
    # The convolution that ONNX Runtime is tried with is too small to tell who is faster.
    if trial.engine == "tflite" and trial.cpu_ms is not None and trial.infer_ms > _SLOWER * trial.cpu_ms:
        remedy = "leave it out of accelerators for this model, or measure yours: `edgerun tune MODEL`"
        return yellow(what, f"{', '.join(told)}: slower than the CPU ({trial.cpu_ms:.1f} ms)", remedy)
    if trial.delegated is not None and trial.delegated[0] == 0:
        remedy = "give it a model made for it: artifacts in manifest.json, such as model_edgetpu.tflite"
        return yellow(what, ", ".join(told), remedy)
    return green(what, ", ".join(told))


def _onnx_line(answer: Answer) -> Line:
    if answer.problem is not None:
        remedy = answer.remedy or 'pip install --force-reinstall "onnxruntime>=1.20"'
        if "No module named 'onnxruntime'" in answer.problem:
            return absent("ONNX Runtime", "not installed", 'for .onnx models: pip install "onnxruntime>=1.20"')
        return red("ONNX Runtime", answer.problem, remedy)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in answer.providers)
    return green("ONNX Runtime", f"{answer.runtime} computes; providers: {providers}")


def _wx_line(what: str, answer: Answer) -> Line:
    if answer.unable:
        return absent(what, "this kernel cannot try it (Linux 6.3 or newer can)", "`uname -r` shows yours")
    if answer.problem is not None:
        return yellow(what, f"does not survive: {answer.problem}", _WX_REMEDY)
    return green(what, f"survives: {_runs(answer)}")


def _runs(answer: Answer) -> str:
    threads = f", {answer.threads} thread{'s' * (answer.threads > 1)}" if answer.threads else ""
    share = ", {} of {} ops run on it".format(*answer.delegated) if answer.delegated is not None else ""
    return f"{answer.runtime} on {answer.accelerator}{threads}, {answer.infer_ms:.1f} ms an inference{share}"
