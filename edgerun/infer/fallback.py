"""An engine that survives its accelerators: when one is lost in mid-run the next takes over, and the lost one returns.

The same inference is repeated at once on the CPU where `cpu` is declared (opened then, not before: an idle CPU engine
would cost its weights and arena, 20 to 60 MiB for a detector, and opening one takes some 20 to 100 ms). Every other
accelerator is opened and proved by a thread in the background, the next in order at once and the lost one after a
back-off; what is better than what runs is taken over between two inferences.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol

import msgspec

from edgerun.clock import Clock
from edgerun.errors import ConfigError, DeviceError, EngineError, FrameError, MissingError, ModelError
from edgerun.infer.accelerators import Accelerator
from edgerun.infer.golden import Unproven
from edgerun.infer.host import EngineLost
from edgerun.infer.order import Entry
from edgerun.ports import Engine
from edgerun.types import EngineInfo, Tensor, TensorSpec

_log = logging.getLogger(__name__)

_TAKE_OVER_S = 2.0

Event = Literal["fell_back", "recovered", "lost"]
OnChange = Callable[[Event, EngineInfo, str], None]
"""What happened (`recovered`: something better runs than before; `lost`: nothing is left), what runs now, and why.

Called by the thread that infers: it must not block.
"""


class Opener(Protocol):
    """Opens one accelerator, proved. Raises `EdgerunError`; `abort` ends an opening that another thread is in."""

    def open(self, accelerator: Accelerator) -> Engine: ...

    def abort(self) -> None: ...


class Fallback:
    """Implements `ports.Engine` on the first of `order` that opens. One thread infers; one of its own opens again.

    `info.accelerator` is what ran the last inference, `info.fallbacks` why not the better ones. Raises `EngineError`
    with every refusal when none opens.
    """

    options: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(
        self, name: str, opener: Opener, order: Sequence[Accelerator], clock: Clock, on_change: OnChange | None = None
    ) -> None:
        self._name, self._opener, self._clock = name, opener, clock
        self._on_change = on_change
        self._entries = [Entry(accelerator) for accelerator in order]
        self._closing = threading.Event()
        self._turn = threading.Condition()
        self._ready: tuple[int, Engine] | None = None
        self._engine: Engine | None = None
        self._at = len(self._entries)
        self._discarded: list[Engine] = []
        self._thread: threading.Thread | None = None
        opened = self._start()
        self._engine = opened
        self.info: EngineInfo = msgspec.structs.replace(opened.info, fallbacks=self._reasons())
        self.inputs: tuple[TensorSpec, ...] = opened.inputs
        self.outputs: tuple[TensorSpec, ...] = opened.outputs
        if any(not entry.hopeless for entry in self._entries[: self._at]):
            self._wake()

    @property
    def degraded(self) -> bool:
        """Whether something else runs than the first of the order."""
        return self._at != 0

    @property
    def engine(self) -> Engine | None:
        """What runs now; None while everything is lost."""
        return self._engine

    @property
    def delegated(self) -> tuple[int, int] | None:
        """Ops that run on what is used now, of how many; None on the CPU and where the runtime does not tell."""
        found: tuple[int, int] | None = getattr(self._engine, "delegated", None)
        return found

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `ports.Engine`. When the accelerator is lost the same inputs are inferred on the next one.

        Raises `FrameError` (reason `engine`) while nothing of the order is left: the frame is lost, the model may come
        back. Raises `EngineError` when the inputs are at fault.
        """
        if self._closing.is_set():
            raise EngineError("the engine is closed", where=self._name)
        engine = self._engine if self._ready is None else self._adopt()
        if engine is None:
            raise self._nothing_left()
        try:
            return engine.infer(inputs)
        except EngineError as error:
            if self._entries[self._at].kind == "cpu":
                raise
            return self._again(inputs, error)

    def close(self) -> None:
        """End everything, also an opening under way. Idempotent."""
        with self._turn:
            self._closing.set()
            self._turn.notify_all()
        self._opener.abort()
        if self._thread is not None:
            self._thread.join(3.0)
        with self._turn:
            left, self._discarded = self._discarded, []
            if self._ready is not None:
                left.append(self._ready[1])
            self._ready = None
        if self._engine is not None:
            left.append(self._engine)
            self._engine = None
        for engine in left:
            engine.close()

    def _start(self) -> Engine:
        for at, entry in enumerate(self._entries):
            try:
                engine = self._opener.open(entry.accelerator)
            except (MissingError, ModelError) as error:
                if entry.kind == "cpu":
                    raise  # nothing that comes after the CPU runs what the CPU cannot
                self._refused(entry, error)
            except (DeviceError, ConfigError) as error:
                self._refused(entry, error)
            else:
                self._at = at
                entry.since_ns = self._clock.mono_ns()
                if at:
                    _log.warning("model %s: runs on %s, which is not the first of its order", self._name, entry.kind)
                return engine
        raise EngineError(
            "no accelerator of the declared order opens",
            where=self._name,
            expected=f"one of {', '.join(entry.kind for entry in self._entries)} to open",
            got="; ".join(f"{entry.kind}: {entry.reason}" for entry in self._entries),
            remedy='add "cpu" to the end of accelerators to run on the CPU when nothing else works'
            if all(entry.kind != "cpu" for entry in self._entries)
            else None,
        )

    def _refused(self, entry: Entry, error: Exception) -> None:
        entry.refuse(error, self._clock.mono_ns())
        entry.hopeless |= isinstance(error, Unproven)  # it has never been right
        _log.warning("model %s: accelerator %s refused: %s", self._name, entry.kind, error)

    def _again(self, inputs: Sequence[Tensor], error: EngineError) -> Sequence[Tensor]:
        """The accelerator failed with `error`: repeat the inference on what takes over."""
        at, lost = self._at, self._engine
        assert lost is not None
        if not isinstance(error, EngineLost) and not self._fits(inputs):
            raise error
        cpu = next((at for at, entry in enumerate(self._entries) if entry.kind == "cpu"), None)
        outputs = None
        if cpu is not None:
            outputs = self._on_cpu(cpu, inputs, error)
        self._discard(lost)
        if outputs is not None:
            self._lose(at, error)
            self.info = self._informed()
            self._tell("fell_back", f"{self._entries[at].kind} failed: {error}")
            self._wake()
            return outputs
        self._lose(at, error)
        return self._wait_for_next(inputs, at, error)

    def _on_cpu(self, at: int, inputs: Sequence[Tensor], error: EngineError) -> Sequence[Tensor] | None:
        """The answer of the CPU, which is used from now on; None when it does not open.

        Raises its `EngineError` when it cannot infer `inputs` either and the accelerator's process is still there: then
        nothing has changed.
        """
        try:
            engine = self._opener.open(self._entries[at].accelerator)
        except (DeviceError, ModelError) as refusal:
            self._refused(self._entries[at], refusal)
            return None
        try:
            outputs = engine.infer(inputs)
        except EngineError:
            if not isinstance(error, EngineLost):
                engine.close()
                raise
            self._use(at, engine)
            raise
        self._use(at, engine)
        return outputs

    def _wait_for_next(self, inputs: Sequence[Tensor], lost_at: int, error: EngineError) -> Sequence[Tensor]:
        """Without a CPU to stand in: let the background open what comes next, and give it a moment to do so.

        Longer than that no thread should stand still; frames that come meanwhile fail at once.
        """
        self._engine, self._at = None, len(self._entries)
        self.info = self._informed()
        self._tell("lost", f"{self._entries[lost_at].kind} failed: {error}")
        self._wake()
        with self._turn:
            self._turn.wait_for(lambda: self._ready is not None or self._closing.is_set(), _TAKE_OVER_S)
        next_one = self._adopt()
        if next_one is None:
            raise self._nothing_left() from error
        try:
            return next_one.infer(inputs)
        except EngineError as second:
            self._discard(next_one)
            self._lose(self._at, second)
            self._engine, self._at = None, len(self._entries)
            self.info = self._informed()
            self._wake()
            raise self._nothing_left() from second

    def _fits(self, inputs: Sequence[Tensor]) -> bool:
        """Whether `inputs` are what the model takes, so that a failure is not theirs."""
        if len(inputs) != len(self.inputs):
            return False
        for tensor, spec in zip(inputs, self.inputs, strict=True):
            sides = zip(tensor.shape[1:], spec.shape[1:], strict=False)
            if tensor.dtype.name != spec.dtype or tensor.ndim != len(spec.shape):
                return False
            if any(stated > 0 and real != stated for real, stated in sides):
                return False
        return True

    def _lose(self, at: int, error: EngineError) -> None:
        entry = self._entries[at]
        entry.lose(error, self._clock.mono_ns())
        _log.error("model %s: accelerator %s lost: %s", self._name, entry.kind, error)

    def _nothing_left(self) -> FrameError:
        return FrameError(
            "no accelerator is left to infer this frame",
            reason="engine",
            where=self._name,
            got="; ".join(f"{entry.kind}: {entry.reason}" for entry in self._entries if entry.reason),
            remedy='they are tried again; add "cpu" to accelerators to run on the CPU meanwhile',
        )

    def _adopt(self) -> Engine | None:
        """Take over what the background opened and proved; returns what runs now."""
        with self._turn:
            ready, self._ready = self._ready, None
        if ready is None:
            return self._engine
        at, engine = ready
        if self._engine is not None:
            self._discard(engine if at >= self._at else self._engine)
            if at >= self._at:
                return self._engine
        entry = self._entries[at]
        entry.reason = None
        self._use(at, engine)
        _log.warning("model %s: runs on %s, which opened and proved itself", self._name, entry.kind)
        self._tell("recovered", f"{entry.kind} opened and proved itself")
        self._wake()  # others of the order may still be better, and the one before is to be closed
        return engine

    def _use(self, at: int, engine: Engine) -> None:
        self._engine, self._at = engine, at
        self._entries[at].since_ns = self._clock.mono_ns()
        self.info = self._informed()

    def _informed(self) -> EngineInfo:
        if self._engine is None:
            return msgspec.structs.replace(self.info, fallbacks=self._reasons())
        return msgspec.structs.replace(self._engine.info, fallbacks=self._reasons())

    def _reasons(self) -> tuple[tuple[str, str], ...]:
        return tuple((entry.kind, entry.reason) for entry in self._entries[: self._at] if entry.reason is not None)

    def _tell(self, event: Event, reason: str) -> None:
        if self._on_change is not None:
            self._on_change(event, self.info, reason)

    def _discard(self, engine: Engine) -> None:
        """Have `engine` closed in the background: a process may take a moment to end."""
        with self._turn:
            self._discarded.append(engine)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._reopen, name=f"reopen:{self._name}", daemon=True)
            self._thread.start()
        with self._turn:
            self._turn.notify_all()

    def _reopen(self) -> None:
        """The background thread's body: close what was discarded, open what is better than what runs."""
        while not self._closing.is_set():
            with self._turn:
                left, self._discarded = self._discarded, []
            for engine in left:
                engine.close()
            due = self._due()
            if due is not None:
                self._try(due)
                continue
            with self._turn:
                if not self._discarded and not self._closing.is_set():
                    self._turn.wait(self._pause_s())

    def _better(self) -> list[int]:
        """What is worth opening: all that comes before what runs, or before what waits to be taken over."""
        best = self._at if self._ready is None else min(self._at, self._ready[0])
        return [at for at, entry in enumerate(self._entries[:best]) if not entry.hopeless]

    def _due(self) -> int | None:
        now_ns = self._clock.mono_ns()
        return next((at for at in self._better() if self._entries[at].next_ns <= now_ns), None)

    def _pause_s(self) -> float | None:
        waiting = [self._entries[at].next_ns for at in self._better()]
        return max(0.001, (min(waiting) - self._clock.mono_ns()) / 1e9) if waiting else None

    def _try(self, at: int) -> None:
        entry = self._entries[at]
        try:
            engine = self._opener.open(entry.accelerator)
        except (DeviceError, ConfigError, ModelError) as error:
            entry.refuse(error, self._clock.mono_ns())
            _log.log(
                logging.WARNING if entry.failures <= 2 else logging.DEBUG,
                "model %s: accelerator %s does not come back: %s", self._name, entry.kind, error,
            )  # fmt: skip
            return
        with self._turn:
            if not self._closing.is_set():
                before, self._ready = self._ready, (at, engine)
                if before is not None:
                    self._discarded.append(before[1])
                self._turn.notify_all()
                return
        engine.close()  # nobody will take it over, and `close` may have been and gone
