"""Changes of a run that goes on, one after the other, each prepared and carried out on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from edgerun.app.exchanging import Changed, Exchange, Unchanged
from edgerun.app.joining import Surroundings
from edgerun.app.preparing import Parts, Preparing
from edgerun.app.renewing import Renewing
from edgerun.clock import Clock
from edgerun.config import Config
from edgerun.errors import Closed, ConfigErrors, EdgerunError, StageError
from edgerun.pipeline.notice import Asked, NoticeBoard, ThreadDied

_log = logging.getLogger(__name__)

_LOOK_S = 0.05


class Outcome(msgspec.Struct, frozen=True):
    """What became of a change. With `errors` nothing has changed. `seconds` it took, from its beginning."""

    changed: Changed = Changed()
    errors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def error(self) -> str:
        """All of them, a line each; empty where there is none."""
        return "\n".join(self.errors)

    def told(self) -> dict[str, Any]:
        """What was done, for the answer to a command: keys without anything are left out."""
        found = {key: value for key, value in msgspec.to_builtins(self.changed).items() if value}
        return {"changed": found, "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (
                ("added", self.changed.added),
                ("removed", self.changed.removed),
                ("begun anew", self.changed.renewed),
                ("changed", self.changed.changed),
                ("set", self.changed.settings),
            )
            if names
        ]
        for name, one in self.changed.swapped.items():
            parts.append(f"model {name} from version {one.before} to {one.after}, not served for {one.gap_ms:.2f} ms")
        if self.changed.governed and not parts:
            parts.append("what governs the device")
        return "; ".join(parts) or "nothing to change"


Make = Callable[[Config], Config]
"""The config that is wanted, from the one that runs. Raises `EdgerunError`."""
Done = Callable[[Outcome], None]


class _Request(msgspec.Struct):
    make: Make
    done: Done
    replaced: Sequence[str] = ()


class Reloading:
    """Takes changes from the main thread, carries them out, and tells the main thread what became of them.

    The thread "reload" is there while there is something to do. Whatever is wrong with a change is found before
    anything of it is done. `note` is told of each by the main thread, as an event: `reloaded`, `reload_refused`.
    """

    def __init__(
        self,
        parts: Parts,
        preparing: Preparing,
        exchange: Exchange,
        renewing: Renewing,
        surroundings: Callable[[Config, bool, bool], Surroundings],
        notices: NoticeBoard,
        clock: Clock,
        note: Callable[[str, str], None] = lambda kind, text: None,
    ) -> None:
        self._parts, self._preparing, self._exchange, self._renewing = parts, preparing, exchange, renewing
        self._surroundings, self._notices, self._clock, self._note = surroundings, notices, clock, note
        self._lock = threading.Lock()
        self._queue: deque[_Request] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def config(self) -> Config:
        """The one that runs."""
        return self._parts.config

    @property
    def busy(self) -> bool:
        """Whether a change is under way or waits."""
        with self._lock:
            return self._thread is not None

    def ask(self, make: Make, done: Done, replaced: Sequence[str] = ()) -> None:
        """Have the config that `make` gives run; it is called by the thread "reload", when those before it are done.
        `replaced`: models to be opened anew although nothing of their config differs. `done` is called by the main
        thread.
        """
        with self._lock:
            self._queue.append(_Request(make, done, replaced))
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """The run ends: begin nothing more, and wait for nobody. Idempotent."""
        self._stopping.set()

    def close(self, timeout_s: float) -> None:
        """After the pipeline has stopped: end the thread, and close what a change that was cut short has left open."""
        self.stop()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        if thread is None or not thread.is_alive():
            self._exchange.close()

    def _run(self) -> None:
        try:
            while (request := self._next()) is not None:
                outcome = self._do(request)
                self._notices.put(Asked(partial(self._finish, request, outcome)))
        except BaseException as error:  # noqa: BLE001  a thread's body: told, and the run ends with it
            self._notices.put(ThreadDied("reload", error))
            with self._lock:
                self._thread = None

    def _next(self) -> _Request | None:
        with self._lock:
            if self._queue and not self._stopping.is_set():
                return self._queue.popleft()
            self._thread = None
            return None

    def _do(self, request: _Request) -> Outcome:
        began_ns = self._clock.mono_ns()
        try:
            wanted = request.make(self._parts.config)
            keep = self._renewing.pictures(wanted)
            shared = self._surroundings(wanted, *keep)
            prepared = self._preparing.prepare(wanted, shared, request.replaced)
        except EdgerunError as error:
            self._renewing.cancel()
            return Outcome(errors=_texts(error), seconds=self._since_s(began_ns))
        try:
            changed = self._exchange.apply(prepared, self._on_main, self._renewing.gone, self._renewing.govern)
            self._on_main(partial(self._renewing.done, changed))
        except Unchanged as error:
            self._renewing.cancel()
            return Outcome(errors=_texts(error.error), seconds=self._since_s(began_ns))
        except Closed:
            return Outcome(errors=("the run ends",), seconds=self._since_s(began_ns))
        except EdgerunError as error:
            raise StageError(f"a change of the config could not be carried out: {error}") from error
        return Outcome(changed, seconds=self._since_s(began_ns))

    def _finish(self, request: _Request, outcome: Outcome) -> None:
        for error in outcome.errors:
            _log.error("not changed: %s", error)
        if outcome.errors:
            self._note("reload_refused", outcome.error)
        else:
            _log.info("reloaded in %.2f s: %s", outcome.seconds, outcome)
            self._note("reloaded", str(outcome))
        request.done(outcome)

    def _on_main(self, do: Callable[[], None]) -> None:
        """Have it done by the main thread. Raises what it raises, `Closed` when the run ends first."""
        finished = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                do()
            except BaseException as error:  # noqa: BLE001  raised again by the thread that asked for it
                raised.append(error)
            finished.set()

        self._notices.put(Asked(run))
        while not finished.wait(_LOOK_S):
            if self._stopping.is_set():
                raise Closed("the run is at its end")
        if raised:
            raise raised[0]

    def _since_s(self, began_ns: int) -> float:
        return (self._clock.mono_ns() - began_ns) / 1e9


def _texts(error: EdgerunError) -> tuple[str, ...]:
    """As `edgerun check` says them."""
    return tuple(map(str, error.errors)) if isinstance(error, ConfigErrors) else (str(error),)
