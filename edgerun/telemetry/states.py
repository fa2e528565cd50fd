"""The state of every stream as its retained message tells it: kept by results and notices, told on change."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

import msgspec

from edgerun.clock import Clock, SystemClock
from edgerun.telemetry.hourly import LastHour
from edgerun.telemetry.payload import State
from edgerun.types import Publication

_SEEING: tuple[State, ...] = ("running", "degraded")
_NOT_YET = "no frame has come yet"


class StreamState(msgspec.Struct, frozen=True):
    """What a subscriber who joins now should know of a stream.

    `counts` is objects per label in the last result; None where nothing is counted (a classification).
    """

    state: State = "stalled"
    reason: str = _NOT_YET
    accelerator: str = "cpu"
    counts: Mapping[str, int] | None = None


class StateKeeper:
    """A sink that remembers each stream's last counts, and the place where notices change its state. Thread-safe.

    The publish thread calls `publish`, the main thread `set_state` and `take_changed`.
    """

    wants_picture = False
    broken = False

    def __init__(self, accelerators: Mapping[str, str], clock: Clock | None = None) -> None:
        self._clock = clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._stalls = {name: LastHour(clock) for name in accelerators}
        self._reconnects = {name: LastHour(clock) for name in accelerators}
        self._faults: dict[str, tuple[str, ...]] = dict.fromkeys(accelerators, ())
        self._now = {name: StreamState(accelerator=accelerator) for name, accelerator in accelerators.items()}
        self._changed: set[str] = set()
        self._held: dict[str, str] = {}

    def publish(self, publication: Publication) -> None:
        """Take the counts of one result; not of those still on their way when the stream stalled or ended."""
        result = publication.result
        if result.crop is not None:  # what a second model saw in a part of the frame
            return
        found = result.answer.detections
        counts = dict(Counter(detection.label for detection in found)) if found is not None else None
        with self._lock:
            if result.stamp.stream not in self._now:  # it was removed while this was on its way
                return
            seen = {"counts": counts} if self._now[result.stamp.stream].state in _SEEING else {}
            self._update(result.stamp.stream, accelerator=result.model.accelerator.partition(":")[0], **seen)

    def set_state(self, stream: str, state: State, reason: str, accelerator: str | None = None) -> None:
        """Take a notice of the pipeline; a stream that does not run sees nothing, so its counts go.

        `accelerator`: what its model runs on from now on, where that has changed.
        """
        known: dict[str, object] = {} if accelerator is None else {"accelerator": accelerator}
        if state not in _SEEING:
            known["counts"] = None
        with self._lock:
            before = self._now[stream]
            if state == "stalled":
                self._stalls[stream].add()
            elif state == "running" and before.state == "stalled" and before.reason != _NOT_YET:
                self._reconnects[stream].add()
            held = self._held.get(stream, "")
            if state == "running" and held:  # frames come again, and it still does less than it could
                state, reason = "degraded", held
            self._update(stream, state=state, reason=reason, **known)

    def add(self, stream: str, accelerator: str) -> None:
        """One more stream, or one that begins anew: no frame has come yet."""
        with self._lock:
            self._stalls.setdefault(stream, LastHour(self._clock))
            self._reconnects.setdefault(stream, LastHour(self._clock))
            self._faults[stream] = ()
            self._now[stream] = StreamState(accelerator=accelerator)
            self._changed.add(stream)

    def remove(self, stream: str) -> None:
        """Forget a stream that is no longer there."""
        with self._lock:
            for known in (self._stalls, self._reconnects, self._faults, self._now, self._held):
                known.pop(stream, None)
            self._changed.discard(stream)

    def interruptions(self, stream: str) -> dict[str, int]:
        """How often the stream stalled in the last hour, and how often came again: `stalls_1h`, `reconnects_1h`."""
        with self._lock:
            return {"stalls_1h": self._stalls[stream].count, "reconnects_1h": self._reconnects[stream].count}

    def set_engine(self, stream: str, why_degraded: str, accelerator: str | None) -> None:
        """What the stream's models run on has changed; a stream that is paused, stalled or at its end stays so."""
        with self._lock:
            before = self._now[stream]
            known: dict[str, object] = {} if accelerator is None else {"accelerator": accelerator}
            if before.state in _SEEING:
                known["reason"] = why_degraded or self._held.get(stream, "")
                known["state"] = "degraded" if known["reason"] else "running"
            self._update(stream, **known)

    def set_held(self, stream: str, why: str) -> None:
        """The stream does less than it could, and why; nothing: it does what it can."""
        with self._lock:
            before, self._held[stream] = self._held.get(stream, ""), why
            now = self._now[stream]
            if why and now.state in _SEEING:
                self._update(stream, state="degraded", reason=why)
            elif not why and now.state == "degraded" and now.reason == before:
                self._update(stream, state="running", reason="")

    def set_fault(self, stream: str, fault: str, present: bool) -> None:
        """Something is wrong with what the camera or sensor sees (`frozen`, `dark` …), or is no longer."""
        with self._lock:
            others = tuple([one for one in self._faults[stream] if one != fault])
            self._faults[stream] = (*others, fault) if present else others

    def faults(self, stream: str) -> tuple[str, ...]:
        """What is wrong with the stream's input now."""
        return self._faults[stream]

    def end_all(self, reason: str) -> None:
        """The run is over: every stream that has not ended by itself, with a reason of its own, ends for this one."""
        for stream, now in self.all().items():
            if now.state != "ended":
                self.set_state(stream, "ended", reason)

    def take_changed(self) -> dict[str, StreamState]:
        """The streams whose state is not what was taken last, with their state now."""
        with self._lock:
            changed = {name: self._now[name] for name in sorted(self._changed)}
            self._changed.clear()
            return changed

    def why_not_ready(self) -> str | None:
        """Which streams give no results though they should; None where all do."""
        silent = [name for name, now in self.all().items() if now.state in ("stalled", "ended")]
        return f"no results from {', '.join(silent)}" if silent else None

    def all(self) -> dict[str, StreamState]:
        """Every stream's state, for the birth messages after a connection was made."""
        with self._lock:
            return dict(self._now)

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way here."""

    def close(self) -> None:
        """Nothing is held."""

    def _update(self, stream: str, **values: object) -> None:
        """Call it with the lock held."""
        before = self._now[stream]
        after = msgspec.structs.replace(before, **values)
        if after != before:
            self._now[stream] = after
            self._changed.add(stream)
