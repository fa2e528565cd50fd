"""Engines opened in a process of their own: a driver that hangs or aborts costs this process and nothing else.

One question as JSON on standard input, one answer as JSON on standard output; whatever a runtime prints goes to
standard error. A process for each question, because `mdwe` cannot be undone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgerun.config import ModelConfig
from edgerun.decoding import decode
from edgerun.doctor.convolution import convolution
from edgerun.errors import ConfigError, EdgerunError, EngineError, MissingError
from edgerun.secret import Kind, Secret

_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
"""Linux 6.3 and newer, include/uapi/linux/prctl.h: what systemd's MemoryDenyWriteExecute= asks for there."""
_ROUNDS = 5


class Question(msgspec.Struct, frozen=True):
    """What to try: a model of a config, a convolution in ONNX Runtime, or (with `path`) each accelerator there is.

    `mdwe`: without memory that can be both written and executed. `known`: accelerators that need not be tried.
    `key`: where the key of a sealed model is (`Secret.handed`).
    """

    what: Literal["model", "onnx", "accelerators"]
    mdwe: bool = False
    path: str = ""
    engine: Literal["tflite", "onnx"] | None = None
    runtime: Literal["auto", "litert", "tflite-runtime"] = "auto"
    accelerators: tuple[Any, ...] = ("cpu",)
    threads: int = 1
    decoder: str | None = None
    known: tuple[str, ...] = ()
    key: tuple[Kind, str] | None = None


class Trial(msgspec.Struct, frozen=True):
    """How one accelerator did. `refused`: the board shows no sign of it; `problem`: it was tried and failed, `missing`
    for want of its software, `remedy` what to do then.

    `agreed` is the share of values that agree with the CPU's, `delegated` how many ops run on it, of how many.
    """

    engine: str
    name: str
    refused: str | None = None
    problem: str | None = None
    agreed: float | None = None
    infer_ms: float = 0.0
    cpu_ms: float | None = None
    delegated: tuple[int, int] | None = None
    missing: bool = False
    remedy: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What runs: `infer_ms` is the median of a few inferences on zeros, after one to warm up.

    `delegated`: how many ops run on the accelerator, of how many. `problem` and its `remedy` say why nothing does;
    `unable`: this kernel does not know MDWE.
    """

    runtime: str = ""
    accelerator: str = ""
    threads: int = 0
    fallbacks: tuple[tuple[str, str], ...] = ()
    infer_ms: float = 0.0
    delegated: tuple[int, int] | None = None
    providers: tuple[str, ...] = ()
    problem: str | None = None
    remedy: str | None = None
    unable: bool = False
    trials: tuple[Trial, ...] = ()


def ask(question: Question, limit_s: float) -> Answer:
    """Try it in a child. A child that crashes, or is killed after `limit_s`, is an answer too."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgerun.doctor.child"],
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"no answer within {limit_s:g} s")
    except OSError as error:
        return Answer(problem=f"no process can be started to try it: {error}")
    if done.returncode < 0:
        return Answer(problem=f"its process died of {signal.Signals(-done.returncode).name}")
    try:
        return decode(done.stdout, Answer)
    except msgspec.DecodeError:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Answer(problem=f"its process ended with {done.returncode}: {last[:300]}")


def deny_write_execute() -> bool:
    """No memory of this process can become executable from now on; False where the kernel does not know how.

    Raises `EngineError` when it refuses for another reason.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_MDWE, ctypes.c_ulong(_PR_MDWE_REFUSE_EXEC_GAIN), 0, 0, 0) == 0:
        return True
    code = ctypes.get_errno()
    if code == 22:  # EINVAL: an unknown request
        return False
    raise EngineError("PR_SET_MDWE failed", got=os.strerror(code))


def _answer(question: Question) -> Answer:
    try:
        if question.mdwe and not deny_write_execute():
            return Answer(unable=True)
        if question.what == "accelerators":
            return Answer(trials=tuple(_trials(question)))
        return _model(question) if question.what == "model" else _onnx()
    except EdgerunError as error:
        got = f": {error.got}" if error.got is not None else ""
        return Answer(problem=f"{error.what}{got}", remedy=error.remedy)


def _model(question: Question) -> Answer:
    from edgerun.app.opening import open_model
    from edgerun.ports import Engine

    config = ModelConfig(
        Path(question.path),
        engine=question.engine,
        runtime=question.runtime,
        accelerators=question.accelerators,
        threads=question.threads,
        decoder=question.decoder,
        key=None if question.key is None else Secret(*question.key, "model_key"),
    )
    engine: Engine = open_model(config).engine
    infer_ms = _timed(engine)
    info = engine.info
    delegated: tuple[int, int] | None = getattr(engine, "delegated", None)
    answer = Answer(info.runtime, info.accelerator, info.threads, info.fallbacks, infer_ms, delegated)
    engine.close()
    return answer


def _onnx() -> Answer:
    """A small convolution through our own engine: it shows that the library loads and computes."""
    import onnxruntime

    from edgerun.infer import open_engine
    from edgerun.ports import EngineContext
    from edgerun.registry import resolve

    engine_class = resolve("engine", "onnx")
    context = EngineContext(convolution(), "a small convolution")
    engine = open_engine(engine_class, engine_class.options(), context, ("cpu",))
    infer_ms = _timed(engine)
    providers = tuple(onnxruntime.get_available_providers())
    answer = Answer(engine.info.runtime, engine.info.accelerator, infer_ms=infer_ms, providers=providers)
    engine.close()
    return answer


def _trials(question: Question) -> Iterator[Trial]:
    """Every accelerator of both engines, except those that need options; each in a process of the engine's own."""
    from edgerun.models import load
    from edgerun.registry import kinds

    models = {"tflite": load(Path(question.path)).model, "onnx": convolution()}
    for kind in kinds("accelerator"):
        engine, _, name = kind.partition("-")
        if engine in models and name not in question.known:
            try:
                yield _trial(engine, name, models[engine])
            except ConfigError:  # "external" cannot be tried without the path of its library
                continue


def _trial(engine: str, name: str, model: bytes | Path) -> Trial:
    from edgerun.infer.accelerators import Accelerator, plug_in
    from edgerun.infer.board import Board
    from edgerun.infer.opening import ModelOpener
    from edgerun.ports import EngineContext
    from edgerun.registry import resolve

    board, accelerator = Board(), Accelerator(name)
    refused = plug_in(engine, accelerator, board).refusal()
    if refused is not None:
        return Trial(engine, name, refused=refused)
    engine_class = resolve("engine", engine)
    opener = ModelOpener(engine_class, engine_class.options(), EngineContext(model, "the trial"), None, board)
    try:
        opener.open(accelerator).close()
    except EdgerunError as error:
        got = f": {error.got}" if error.got is not None else ""
        missing = isinstance(error, MissingError)
        return Trial(engine, name, problem=f"{error.what}{got}", missing=missing, remedy=error.remedy)
    proof = opener.proofs[name]
    return Trial(engine, name, None, None, proof.agreed, proof.accelerator_ms, proof.cpu_ms, proof.delegated)


def _timed(engine: object) -> float:
    import numpy as np

    inputs = [np.zeros([max(1, size) for size in spec.shape], spec.dtype) for spec in engine.inputs]  # type: ignore[attr-defined]
    took = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        engine.infer(inputs)  # type: ignore[attr-defined]
        took.append((time.perf_counter() - began) * 1000)
    return round(sorted(took[1:])[_ROUNDS // 2], 3)


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a runtime prints is no answer
    channel.write(msgspec.json.encode(_answer(decode(sys.stdin.buffer.read(), Question))))
    channel.flush()
