"""A model in the shadow of another: it looks at a share of the same frames in idle time, and is only compared."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import msgspec
import numpy as np

from edgerun.app.opening import LoadedModel, open_decoder
from edgerun.clock import Clock
from edgerun.config import Config
from edgerun.errors import Closed, EdgerunError, EngineError, FrameError
from edgerun.meter import Histogram
from edgerun.models.agreement import disagreement
from edgerun.models.rollout import FEWEST, Comparison
from edgerun.ports import Decoder
from edgerun.slot import Slot
from edgerun.telemetry.distribution import Tally, compare
from edgerun.types import Answer, Image, Publication

_log = logging.getLogger(__name__)

T = TypeVar("T")

_NICE = 19
_PHASE = 50
"""Live results between two changes of looking and not looking: what one costs the other shows in their ages."""
_AGE_RATIO = 1.1
_JUDGED = 4 * _PHASE
_LEAST_SHARE = 0.01
_WAIT_IDLE_S = 1.0
_LOOK_S = 0.002
_MOST_ERRORS = 3


class Sample(msgspec.Struct, frozen=True):
    """One frame as the live model saw it, and what it said."""

    stream: str
    image: Image
    answer: Answer
    infer_ms: float


class Quiet:
    """Has things done by a thread of the lowest priority, one at a time."""

    def __init__(self, name: str) -> None:
        self._asked: Slot[Callable[[], object]] = Slot(1)
        self._done: Slot[tuple[object, BaseException | None]] = Slot(1)
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def have(self, do: Callable[[], T]) -> T:
        """What `do` returns; raises what it raises."""
        self._asked.put(do)
        found = self._done.take()
        assert found is not None, "it was waited for"
        result, error = found
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """Do nothing more."""
        self._asked.close()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        with suppress(Closed):
            while (do := self._asked.take()) is not None:
                try:
                    self._done.put((do(), None))
                except BaseException as error:  # noqa: BLE001  a thread's body: raised again by who asked
                    self._done.put((None, error))


class Shadow:
    """A sink that has the candidate look at some of what it is given. Whoever adds it to the publisher removes it.

    Construction only begins: the candidate is opened, and infers, on a thread of the lowest priority, which the threads
    of its runtime inherit. Preparing and decoding are done by the thread "shadow" at the usual one: what holds the
    interpreter must not be what never gets a turn. `idle` says whether no engine has anything to do. `open_it` opens
    the candidate.
    """

    wants_picture = True
    broken = False

    def __init__(
        self,
        name: str,
        config: Config,
        live: LoadedModel,
        open_it: Callable[[], LoadedModel],
        idle: Callable[[], bool],
        share: float,
        clock: Clock,
    ) -> None:
        self._name, self._config, self._live, self._open_it = name, config, live, open_it
        self._idle, self._clock = idle, clock
        self._share = min(1.0, 2.0 * share)  # half of the time it does not look
        self._streams = {
            key: stream
            for key, stream in config.streams.items()
            if name in stream.models and not (stream.gate is not None and stream.gate.crop)
        }
        self._waiting: Slot[Sample] = Slot(1)
        self._stopping = threading.Event()
        self._credit, self._count = 0.0, 0
        self._ages = (Histogram(), Histogram())
        """Of live results while it did not look, and while it did."""
        self._frames = self._seen = self._failures = self._uncompared = 0
        self._apart = 0.0
        self._ms = (Histogram(), Histogram())
        self._tallies = (Tally(), Tally())
        self._lock = threading.Lock()
        self.error: EdgerunError | None = None
        """Why it looks no more."""
        self.impossible = ""
        """Why there is nothing to compare."""
        self.opened = False
        self._quiet = Quiet("shadow-infer")
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def comparison(self) -> Comparison:
        """What came of it so far. By any thread."""
        with self._lock:
            scores = {}
            if min(tally.count for tally in self._tallies) >= FEWEST:
                scores = compare(self._tallies[1], self._tallies[0].reference())
                scores.pop("labels")
            before, after = (tuple(one.percentiles((50, 95))) for one in self._ms)
            return Comparison(
                frames=self._frames,
                seen=self._seen,
                disagreement=self._apart / self._seen if self._seen else 0.0,
                failures=self._failures,
                before_ms=(before[0], before[1]) if before else None,
                after_ms=(after[0], after[1]) if after else None,
                scores=scores,
                age_ratio=self._age_ratio(),
            )

    def publish(self, publication: Publication) -> None:
        """See `Sink`. A copy of the picture is taken where the frame's turn has come and nothing waits."""
        result = publication.result
        bundle = self._live.bundle
        if result.crop is not None or result.reused is not None or result.stamp.stream not in self._streams:
            return
        if (result.model.name, result.model.version) != (bundle.name, bundle.version):
            return
        if not self.opened:
            return
        looks = (self._count // _PHASE) % 2 == 1
        self._count += 1
        self._ages[looks].record(publication.age_ms)
        if self._count % _PHASE == 0:
            self._spare()
        if not looks or result.lease is None or len(self._waiting):
            return
        self._credit = min(1.0, self._credit + self._share)
        if self._credit >= 1.0:
            self._credit -= 1.0
            infer_ms = result.latency_ns.get("infer", 0) / 1e6
            with suppress(Closed):  # it was taken away from the publisher while it was given this one
                self._waiting.put(Sample(result.stamp.stream, np.array(result.lease.image), result.answer, infer_ms))

    def flush(self, timeout_s: float) -> None:
        """See `Sink`."""

    def close(self) -> None:
        """Look no more; the candidate is closed by its thread. Idempotent."""
        self._stopping.set()
        self._waiting.close()

    def join(self, timeout_s: float) -> bool:
        """Whether its thread has ended within `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _age_ratio(self) -> float | None:
        if min(one.count for one in self._ages) < _JUDGED:
            return None
        without, looking = (one.percentile(99) for one in self._ages)
        return looking / without if looking and without else None

    def _spare(self) -> None:
        """Look less often where that makes live results older."""
        ratio = self._age_ratio()
        if ratio is not None and ratio > _AGE_RATIO and self._share > _LEAST_SHARE:
            self._share = max(_LEAST_SHARE, self._share / 2)
            _log.info("shadow of %s: live results are %.2f times as old; it looks half as often", self._name, ratio)
            for one in self._ages:
                one.take()

    def _run(self) -> None:
        candidate: LoadedModel | None = None
        try:
            candidate = self._quiet.have(self._open_it)
            decoders = self._decoders(candidate)
            self.opened = True
            if not self.impossible:
                self._look_at_all(candidate, decoders)
        except Closed:
            pass
        except EdgerunError as error:
            self.error = error
        except BaseException as error:  # noqa: BLE001  a thread's body: nothing live depends on it, and it is told
            self.error = EngineError(f"it cannot be tried: {type(error).__name__}: {error}", where=self._name)
            _log.exception("shadow of %s", self._name)
        finally:
            if candidate is not None:
                candidate.engine.close()
            self._quiet.close()

    def _decoders(self, candidate: LoadedModel) -> Mapping[str, Decoder]:
        if candidate.ordered or self._live.ordered:
            self.impossible = "a model that remembers, or listens, cannot look at single frames"
        elif not self._streams:
            self.impossible = "no stream gives it frames that could be compared"
        if self.impossible:
            return {}
        return {key: open_decoder(self._name, candidate, stream) for key, stream in self._streams.items()}

    def _look_at_all(self, candidate: LoadedModel, decoders: Mapping[str, Decoder]) -> None:
        errors = 0
        while not self._stopping.is_set():
            sample = self._waiting.take()
            if sample is None or not self._wait_idle():
                continue
            try:
                self._look(sample, candidate, decoders[sample.stream])
                errors = 0
            except FrameError:
                with self._lock:
                    self._failures += 1
            except EngineError:
                errors += 1
                with self._lock:
                    self._failures += 1
                if errors >= _MOST_ERRORS:
                    raise

    def _wait_idle(self) -> bool:
        deadline_ns = self._clock.mono_ns() + round(_WAIT_IDLE_S * 1e9)
        while not self._idle():
            if self._clock.mono_ns() > deadline_ns or self._stopping.wait(_LOOK_S):
                return False
        return True

    def _look(self, sample: Sample, candidate: LoadedModel, decoder: Decoder) -> None:
        region = self._streams[sample.stream].region
        tensor, placement = candidate.preprocess.prepare(sample.image, region)
        began_ns = self._clock.mono_ns()
        outputs, ended_ns = self._quiet.have(lambda: (candidate.engine.infer((tensor,)), self._clock.mono_ns()))
        infer_ms = (ended_ns - began_ns) / 1e6
        inputs = (tensor,) if decoder.wants_inputs else ()
        answer = decoder.decode((*outputs, *inputs), placement)
        found = disagreement(sample.answer, answer, self._thresholds(sample.stream, candidate))
        with self._lock:
            if found is None:
                self._uncompared += 1
                if self._uncompared >= FEWEST and not self._frames:
                    self.impossible = "answers of this kind are not compared"
                return
            apart, seen = found
            self._frames += 1
            if seen:
                self._seen += 1
                self._apart += apart
            for histogram, value in zip(self._ms, (sample.infer_ms, infer_ms), strict=True):
                histogram.record(value)
            for tally, one in zip(self._tallies, (sample.answer, answer), strict=True):
                for label, score in _observations(one):
                    tally.add(label, score)

    def _thresholds(self, stream: str, candidate: LoadedModel) -> tuple[float, float]:
        own = self._config.streams[stream].threshold
        before, after = (
            own if own is not None else model.bundle.threshold if model.bundle.threshold is not None else 0.5
            for model in (self._live, candidate)
        )
        return before, after


def _observations(answer: Answer) -> list[tuple[str, float]]:
    if answer.detections is not None:
        return [(one.label, one.score) for one in answer.detections]
    return [(one.label, one.score) for one in (answer.classes or ())[:1]]
