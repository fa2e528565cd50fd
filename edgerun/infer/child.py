"""The child process in which `HostedEngine` runs an engine: `python -m edgerun.infer.child FD…`.

It dies with its parent, however deep a driver hangs: the parent holds the other end of the pipe `lifeline`, and the
kernel is asked to send SIGKILL when that end is closed (fcntl(2), F_SETSIG and O_ASYNC). PR_SET_PDEATHSIG would not do:
it fires when the *thread* that started the child ends (prctl(2)), and engines are also opened by passing threads.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.decoding import unpacker
from edgerun.errors import EdgerunError
from edgerun.infer.hop import MOST_BYTES, Arena, Fault, Job, Opened, Place, Reply, Request
from edgerun.ports import Engine, EngineContext
from edgerun.types import Tensor

_F_SETSIG = 10  # Linux's fcntl.h; the module fcntl does not name it


def die_with(lifeline: int) -> None:
    """SIGKILL for this process when the last writer of the pipe `lifeline` closes it; at once if it has already."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)


def open_engine(job: Job, model: int) -> Engine:
    """The engine of `job`. Raises what its constructor raises."""
    module, _, name = job.plug_in.partition(":")
    __import__(module)
    plug_in: Any = sys.modules[module]
    for part in name.split("."):
        plug_in = getattr(plug_in, part)
    content: bytes | Path = Path(job.model) if job.model is not None else _read(model)
    os.close(model)
    context = EngineContext(
        content,
        job.name,
        accelerator=job.accelerator,
        accelerator_options=msgspec.msgpack.decode(job.accelerator_options),
        threads=job.threads,
        batch=job.batch,
    )
    engine: Engine = plug_in(unpacker(plug_in.options)(job.options), context)
    return engine


class Served:
    """The child's side of the hop: takes inputs from one arena, leaves outputs in the other."""

    def __init__(self, engine: Engine, inputs: Arena, outputs: Arena) -> None:
        self._engine = engine
        self._in, self._out = inputs, outputs
        self._given: list[Tensor] = []
        self._left: list[Tensor] = []
        self._kinds: list[tuple[tuple[int, ...], str]] = []

    def answer(self, request: Request) -> Reply:
        """Infer once. Only an `EdgerunError` is an answer; anything else ends the child, its traceback in the log."""
        if request.places is not None:
            self._given = self._in.views(request.places)
        try:
            outputs = self._engine.infer(self._given)
        except EdgerunError as error:
            return Reply(request.seq, Fault.of(error), None)
        return Reply(request.seq, None, self._leave(outputs))

    def _leave(self, outputs: Sequence[Tensor]) -> tuple[Place, ...] | None:
        kinds = [(tensor.shape, tensor.dtype.name) for tensor in outputs]
        places = None
        if kinds != self._kinds:
            places = self._out.place(kinds)
            self._left, self._kinds = self._out.views(places), kinds
        for shared, tensor in zip(self._left, outputs, strict=True):
            np.copyto(shared, tensor)
        return places


def _read(model: int) -> bytes:
    with open(model, "rb", closefd=False) as file:
        file.seek(0)  # the parent's own offset, after its writing, came along with the descriptor
        return file.read()


def main(arguments: Sequence[str]) -> int:
    """The child's life: open, then answer until the socket is closed."""
    control, lifeline, model, inputs, outputs = map(int, arguments)
    die_with(lifeline)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # the daemon drains first; its end is the child's
    faulthandler.enable()
    link = socket.socket(fileno=control)
    job = unpacker(Job)(link.recv(MOST_BYTES))
    encode = msgspec.msgpack.Encoder().encode
    try:
        engine = open_engine(job, model)
    except EdgerunError as error:
        link.send(encode(Opened(Fault.of(error))))
        return 0
    served = Served(engine, Arena(inputs), Arena(outputs))
    delegated = getattr(engine, "delegated", None)
    link.send(encode(Opened(None, engine.info, engine.inputs, engine.outputs, delegated)))
    decode = unpacker(Request)
    while message := link.recv(MOST_BYTES):
        link.send(encode(served.answer(decode(message))))
    engine.close()
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main(sys.argv[1:])
    except BaseException:  # noqa: BLE001  a process's body: told in the log, and with the exit code
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a driver's own threads and destructors must not keep it
