"""The TFLite library that is installed: LiteRT, or tflite-runtime on boards and Edge TPU drivers that need it.

Both offer the same `Interpreter`. They are looked up by import, because distributions carry other names than modules.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgerun.errors import MissingError, ModelError

RuntimeName = Literal["litert", "tflite-runtime"]

_MODULES: dict[RuntimeName, tuple[str, str]] = {
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime"),
}
_INSTALL: dict[RuntimeName, str] = {
    "litert": 'pip install "ai-edge-litert>=2.1"',
    "tflite-runtime": 'pip install "edgerun[tflite-runtime]"',
}
_TRIAL_TIMEOUT_S = 120.0
_TRIAL = """
import sys, {module} as library
source = sys.argv[1]
model = dict(model_path=source) if source else dict(model_content=sys.stdin.buffer.read())
interpreter = library.Interpreter(**model)
interpreter.allocate_tensors()
for one in interpreter.get_input_details() if int(sys.argv[2]) > 1 else ():
    interpreter.resize_tensor_input(one["index"], (int(sys.argv[2]), *one["shape"][1:]))
interpreter.allocate_tensors()
interpreter.invoke()
"""


class TfliteRuntime(msgspec.Struct, frozen=True):
    """An imported library: `module` has `Interpreter`, `version` is its package's."""

    name: RuntimeName
    version: str
    module: Any


def find_runtime(wanted: Literal["auto", "litert", "tflite-runtime"] = "auto") -> TfliteRuntime:
    """The library asked for; `auto` takes LiteRT, else tflite-runtime.

    Raises `MissingError`, whose remedy is the pip command, when none can be used.
    """
    names: tuple[RuntimeName, ...] = ("litert", "tflite-runtime") if wanted == "auto" else (wanted,)
    refused = []
    for name in names:
        module, package = _MODULES[name]
        try:
            library = importlib.import_module(module)
        except ImportError as error:
            refused.append(f"{name}: {error}")
            continue
        reason = _numpy_refusal(name)
        if reason is None:
            return TfliteRuntime(name, _version(package), library)
        refused.append(f"{name}: {reason}")
    raise MissingError(
        "no TFLite runtime can be used" if wanted == "auto" else f"the TFLite runtime {wanted} cannot be used",
        expected=" or ".join(_MODULES[name][1] for name in names),
        got="; ".join(refused),
        remedy=_INSTALL[names[0]],
    )


def try_in_child(runtime: TfliteRuntime, model: bytes | Path, name: str, rows: int = 1) -> None:
    """Load and run `model` once, resized for that many rows, in a process of its own.

    tflite-runtime 2.14 does not verify a model and dies of SIGSEGV on many damaged ones, which would take the daemon
    with it; what it reports as an error once may be a crash the next time. Raises `ModelError` for either, and for a
    model that hangs.
    """
    script = _TRIAL.format(module=_MODULES[runtime.name][0])
    path, content = (str(model), b"") if isinstance(model, Path) else ("", model)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, path, str(rows)],
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        outcome = f"no answer in {_TRIAL_TIMEOUT_S:g} s"
    else:
        if done.returncode == 0:
            return
        if done.returncode < 0:
            outcome = f"a crash ({signal.Signals(-done.returncode).name})"
        else:
            outcome = done.stderr.decode("utf-8", "replace").strip().rpartition("Error: ")[2]
    raise ModelError(
        f"{runtime.name} cannot {'load the model' if rows == 1 else f'infer {rows} pictures at once'}",
        where=name,
        expected="a model that loads and runs",
        got=f"{' '.join(outcome.split())[:400]} when it was tried in a process of its own",
        remedy="the file is damaged or too new for this runtime: fetch it again, or use ai-edge-litert"
        if rows == 1
        else "leave batch at 1, or use ai-edge-litert",
    )


def _numpy_refusal(name: RuntimeName) -> str | None:
    """tflite-runtime 2.14 is built against numpy 1: with numpy 2 it imports, then raises SystemError when used."""
    if name != "tflite-runtime":
        return None
    have = version("numpy")
    if int(have.partition(".")[0]) < 2:
        return None
    return f"built for numpy 1, but numpy {have} is installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a distribution's own package or a vendored copy
        return "unknown"
