"""Engines that misbehave, for processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from time import perf_counter_ns
from typing import ClassVar

import msgspec
import numpy as np

from edgerun.errors import MissingError, ModelError
from edgerun.ports import EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at_open: str = ""
    chatter: int = 0


class _Lingering:
    """Takes its time to be destroyed, as drivers do."""

    def __del__(self) -> None:
        threading.Event().wait(5.0)


_kept: list[_Lingering] = []


class UnrulyEngine:
    """Adds 1 to its input; does as the input's first value says: 101 hang, 102 crash, 103 raise, 104 exit, 105 big,
    106 raise with something left that lingers when it is destroyed.
    """

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, options: Options, context: EngineContext) -> None:
        if options.at_open == "hang":
            threading.Event().wait()
        if options.at_open == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if options.at_open == "model":
            raise ModelError("a bad model", where=context.name, expected=1, got=[2], remedy="make another")
        if options.at_open == "missing":
            raise MissingError("no library")
        for number in range(options.chatter):
            print("line", number, file=sys.stderr)
        self.model = context.model
        self.info = EngineInfo("unruly 1", context.accelerator, context.threads)
        self.inputs = (TensorSpec("x", (-1,), "int32"),)
        self.outputs = (TensorSpec("y", (-1,), "int32"), TensorSpec("size", (), "int64"))

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        first = int(inputs[0][0])
        if first == 101:
            print("hanging", file=sys.stderr, flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
            threading.Event().wait()
        if first == 102:
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if first == 106:
            _kept.append(_Lingering())
        if first in (103, 106):
            raise RuntimeError("a bug")
        if first == 104:
            os._exit(3)
        size = 3_000_000 if first == 105 else 1
        return [np.repeat(inputs[0] + 1, size), np.array(len(self.model), np.int64)]  # type: ignore[arg-type]

    def close(self) -> None:
        pass


class StampedEngine:
    """Reads a picture and answers when it was asked and when it was done, monotonic ns: the hop is around that."""

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, options: Options, context: EngineContext) -> None:
        self.info = EngineInfo("stamped 1", context.accelerator, context.threads)
        self.inputs = (TensorSpec("x", (1, 300, 300, 3), "uint8"),)
        self.outputs = (TensorSpec("asked_done_ns", (2,), "int64"),)

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        asked_ns = perf_counter_ns()
        inputs[0].max()
        return [np.array([asked_ns, perf_counter_ns()], np.int64)]

    def close(self) -> None:
        pass
