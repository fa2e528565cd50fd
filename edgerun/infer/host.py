"""An engine in a child process of its own, so that a driver that hangs or aborts costs that process, not the daemon.

The child is started afresh (a fork would copy the daemon's locks as they happen to be), given its model in a memfd and
told what to do by datagrams on a socket pair. Tensors lie in two memfds mapped by both: one copy in, one out. Measured
on x86-64 that costs some 40 µs for a 300×300×3 input back to back, and on a busy machine some 300 µs at 30 a second,
because by then everything is cold in both processes. To spin before waiting made that 700: the parent then holds the
CPU on which the kernel wakes the child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import IO, Any, ClassVar

import msgspec
import numpy as np

from edgerun.decoding import unpacker
from edgerun.errors import EngineError
from edgerun.infer.hop import MOST_BYTES, Arena, Job, Opened, Place, Reply, Request, model_memfd
from edgerun.meter import Histogram
from edgerun.ports import EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec

_log = logging.getLogger(__name__)

_LOGGED_LINES = 200
_LINE_BYTES = 400
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f]")
_STACKS = "Fatal Python error"  # faulthandler's; the driver's own last words come before
_REAP_S = 5.0
_ASKED_EVERY = 32  # inferences between two looks at the p99
_ENOUGH = 8  # for a first look: as many as a proof makes


class EngineLost(EngineError):
    """The process that ran the engine crashed, or hung and was killed: open another one."""


class Limits(msgspec.Struct, frozen=True):
    """How long a child may take, seconds: to open, and (as `hang_s`) to infer.

    Without a `hang_s`: `factor` × the p99 of its own inferences, between `least_s` and `most_s`; `most_s` until there
    are enough of them. Either way the very first inference may take as long as opening: drivers compile then.
    """

    open_s: float = 60.0
    hang_s: float | None = None
    factor: float = 20.0
    least_s: float = 1.0
    most_s: float = 10.0


class HangWatch:
    """How long an inference may take before it is a hang, learned from those before."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._times = Histogram()
        self._unasked = 0
        self.limit_s = limits.open_s

    def record(self, seconds: float) -> None:
        """One inference that was answered."""
        if self._limits.hang_s is not None:
            self.limit_s = self._limits.hang_s
            return
        self._times.record(seconds * 1000)
        self._unasked += 1
        if self._times.count == 1:
            self.limit_s = self._limits.most_s
        if self._unasked >= _ASKED_EVERY or self._times.count == _ENOUGH:
            self._unasked = 0
            p99_s = (self._times.percentile(99) or 0.0) / 1000
            self.limit_s = min(max(self._limits.factor * p99_s, self._limits.least_s), self._limits.most_s)


class HostedEngine:
    """`engine_class(options, context)` in a child process.

    `engine_class` is found there by its module and name. Raises what its constructor raises, and `EngineLost` when the
    child dies or says nothing for `limits.open_s`. What the child writes to stderr and stdout is logged, line by line.
    `started` is given the engine as soon as there is a child, so that another thread can `abort` the opening.
    """

    options: ClassVar[type[msgspec.Struct]] = msgspec.Struct
    info: EngineInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    delegated: tuple[int, int] | None
    """Ops of the model that the accelerator runs, and all of them, where the engine can tell."""

    def __init__(
        self,
        engine_class: Any,
        options: msgspec.Struct,
        context: EngineContext,
        limits: Limits | None = None,
        started: Callable[[HostedEngine], None] | None = None,
    ) -> None:
        self._title = f"{context.name} on {context.accelerator}"
        limits = limits or Limits()
        self._watch = HangWatch(limits)
        self._seq = 0
        self._kinds: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self._given: list[Tensor] = []
        self._left: list[Tensor] = []
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = unpacker(Reply)
        self._in, self._out = Arena.create("edgerun-inputs"), Arena.create("edgerun-outputs")
        self._link, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with there:
                self._child = Child(self._title, there, context.model, self._in.fd, self._out.fd)
        except OSError as error:
            self._let_go()
            raise EngineError("the engine's process cannot be started", where=self._title, got=error) from error
        if started is not None:
            started(self)
        job = Job(
            plug_in=f"{engine_class.__module__}:{engine_class.__qualname__}",
            options=msgspec.Raw(self._encode(options)),
            model=str(context.model.absolute()) if isinstance(context.model, Path) else None,
            name=context.name,
            accelerator=context.accelerator,
            accelerator_options=msgspec.Raw(self._encode(context.accelerator_options)),
            threads=context.threads,
            batch=context.batch,
        )
        opened = self._ask(self._encode(job), limits.open_s, unpacker(Opened), "opening")
        if opened.fault is not None:
            self.close()
            raise opened.fault.error()
        assert opened.info is not None, "a child that names no fault says what it opened"
        self.info, self.inputs, self.outputs = opened.info, opened.inputs, opened.outputs
        self.delegated = opened.delegated

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    @property
    def hang_s(self) -> float:
        """How long the next inference may take before the child is killed."""
        return self._watch.limit_s

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `ports.Engine`. The outputs are arrays on the shared memory, overwritten by the next call.

        Raises `EngineLost` when the child crashed (noticed at once) or hung for `hang_s` and was killed; the engine is
        closed then. Raises `EngineError` as the engine in the child does.
        """
        if self._link.fileno() < 0:
            raise EngineError("the engine is closed", where=self._title)
        began = perf_counter()
        places = self._put(inputs)
        self._seq += 1
        reply = self._ask(self._encode(Request(self._seq, places)), self._watch.limit_s, self._read, "inferring")
        if reply.fault is not None:
            raise reply.fault.error()
        self._watch.record(perf_counter() - began)
        if reply.places is not None:
            try:
                self._left = self._out.views(reply.places)
            except (ValueError, TypeError) as error:
                raise self._lost(f"an answer that makes no sense: {error}") from error
        return self._left

    def abort(self) -> None:
        """Kill the child: whoever waits for it gets `EngineLost`. For any thread."""
        self._child.abort()

    def close(self) -> None:
        """End the child: it is asked to, and killed when it is still there after a moment. Idempotent."""
        if self._link.fileno() >= 0:
            self._let_go()
            self._child.end()

    def _put(self, inputs: Sequence[Tensor]) -> tuple[Place, ...] | None:
        """The inputs into shared memory; their places where those are not as they were."""
        kinds = [(tensor.shape, tensor.dtype) for tensor in inputs]
        places = None
        if kinds != self._kinds:
            try:
                places = self._in.place([(shape, dtype.name) for shape, dtype in kinds])
                self._given, self._kinds = self._in.views(places), kinds
            except (ValueError, TypeError) as error:  # of objects, say
                raise EngineError("the model failed to run", where=self._title, got=error) from error
        for shared, tensor in zip(self._given, inputs, strict=True):
            np.copyto(shared, tensor)
        return places

    def _read(self, message: bytes) -> Reply | None:
        """The reply to the request made last; None for one to a request before it, which nobody waits for."""
        reply = self._decode(message)
        if reply.seq > self._seq:
            raise msgspec.ValidationError(f"an answer to request {reply.seq}, but only {self._seq} were made")
        return reply if reply.seq == self._seq else None

    def _ask(self, message: bytes, limit_s: float, read: Any, doing: str) -> Any:
        """Send `message` and wait for what `read` takes for its answer. Raises `EngineLost`."""
        until = perf_counter() + limit_s
        self._link.settimeout(limit_s)
        try:
            self._link.send(message)
            while got := self._link.recv(MOST_BYTES):
                answer = read(got)
                if answer is not None:
                    return answer
                self._link.settimeout(max(0.001, until - perf_counter()))
        except TimeoutError as error:
            raise self._lost(f"no answer for {limit_s:.3g} s while {doing}") from error
        except (ConnectionError, BrokenPipeError) as error:
            raise self._lost(None, doing) from error
        except msgspec.DecodeError as error:
            raise self._lost(f"an answer that makes no sense: {error}") from error
        raise self._lost(None, doing)

    def _lost(self, why: str | None, doing: str = "inferring") -> EngineLost:
        """The error for a child that is lost, which is killed first; without a `why` it has died by itself."""
        self._let_go()
        if why is None:
            why = f"its process ended while {doing}: {self._child.ended()}"
        else:
            self._child.kill()
        said = self._child.last_line
        return EngineLost(
            "the accelerator's process is lost", where=self._title, got=why + (f" ({said})" if said else "")
        )

    def _let_go(self) -> None:
        self._link.close()
        self._in.close()
        self._out.close()
        self._given, self._left, self._kinds = [], [], []


class Child:
    """The process itself: started, listened to, killed and reaped."""

    def __init__(self, title: str, link: socket.socket, model: bytes | Path, inputs: int, outputs: int) -> None:
        self._title = title
        self._last: deque[str] = deque(maxlen=1)
        lifeline, self._life = os.pipe()
        content = model_memfd(model if isinstance(model, bytes) else b"")
        passed = (link.fileno(), lifeline, content, inputs, outputs)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgerun.infer.child", *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon, which drains first
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        except OSError:
            os.close(self._life)
            raise
        finally:
            os.close(lifeline)
            os.close(content)
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stdout,), name=f"says:{title}", daemon=True
        )
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_line(self) -> str:
        """The last it wrote, or nothing."""
        self._listener.join(1.0)  # its pipe ends with it, unless something of its own holds that open
        return self._last[0] if self._last else ""

    def ended(self) -> str:
        """How it ended; it is killed if its socket ended before it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def abort(self) -> None:
        """SIGKILL alone. For any thread."""
        self._process.kill()

    def kill(self) -> None:
        """SIGKILL, and reap it. Idempotent."""
        self._process.kill()
        try:
            self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:  # stuck inside the kernel: nothing can end it until the driver returns
            _log.error("%s: process %d does not die: its driver holds it in the kernel", self._title, self.pid)
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def end(self) -> None:
        """Wait a moment for it to end by itself (its socket is closed), then kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()
        self._listener.join(1.0)

    def _listen(self, pipe: IO[bytes]) -> None:
        """The listener's body: what the child writes goes to the log, as much as is reasonable."""
        with pipe:
            lines, stacks = 0, False
            while line := pipe.readline(_LINE_BYTES):
                text = _UNPRINTABLE.sub("", line.decode("utf-8", "replace")).strip()
                if not text:
                    continue
                stacks |= text.startswith(_STACKS)
                if not stacks:
                    self._last.append(text)
                lines += 1
                if lines <= _LOGGED_LINES:
                    _log.info("%s says: %s", self._title, text)
                elif lines == _LOGGED_LINES + 1:
                    _log.warning("%s says more than %d lines: the others are not logged", self._title, _LOGGED_LINES)
