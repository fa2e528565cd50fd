"""The real engine and the drawn test picture, until a file in the service's runtime folder asks for a fault.

The folder goes with the service, and the fault with it: the next start is a healthy one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgerun.capture.synthetic import SyntheticSource
from edgerun.infer.host import HostedEngine
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import EngineContext, SourceContext
from edgerun.types import WHOLE, Grab, Image, Tensor, View

_FOREVER_S = 100_000
_FOLDER = Path(os.environ.get("RUNTIME_DIRECTORY", "/nowhere"))
_HOSTED = Path("/etc/edgerun/hosted")
"""While it is there engines run in processes of their own."""


def asked(fault: str) -> bool:
    return (_FOLDER / fault).exists()


class Engine:
    """`hang`: a driver that does not return; `hang-gil`: nor gives the interpreter's lock back; `leak`: memory."""

    options = TfliteEngine.options

    def __init__(self, options: Any, context: EngineContext) -> None:
        hosted = _HOSTED.exists()
        self._real = HostedEngine(TfliteEngine, options, context) if hosted else TfliteEngine(options, context)
        self._leaked: list[bytearray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if asked("hang"):
            ctypes.CDLL(None).sleep(_FOREVER_S)
        if asked("hang-gil"):
            ctypes.PyDLL(None).sleep(_FOREVER_S)
        if asked("leak"):
            self._leaked.append(bytearray(os.urandom(1 << 20) * 32))
        return self._real.infer(inputs)


class Source(SyntheticSource):
    """`stuck`: a decoder that does not return; `spin`: a driver that burns its core. The stream "silent" is silent."""

    def __init__(self, options: Any, context: SourceContext) -> None:
        super().__init__(options, context)
        self._silent, self._stop = context.stream == "silent", context.stop

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self._silent:
            self._stop.wait()
            return None
        while asked("spin"):
            pass
        return super().grab(until_ns)

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        if asked("stuck"):
            ctypes.CDLL(None).sleep(_FOREVER_S)
        return super().retrieve(out, view)
