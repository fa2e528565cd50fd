"""Small parts that behave like sources and engines, steered by the test instead of by time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from edgerun.clock import Clock, SystemClock
from edgerun.errors import FrameError, SourceError
from edgerun.pipeline.cache import ResultCache
from edgerun.pipeline.capture import Capture, OpenSource
from edgerun.pipeline.ending import Delivery, Ending
from edgerun.pipeline.gating import GatePlan
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard
from edgerun.pipeline.overlap import OverlappedWorker
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.turns import Batching, Turns
from edgerun.pipeline.worker import Worker
from edgerun.ports import Engine, Sink
from edgerun.slot import Outbox
from edgerun.types import (
    WHOLE,
    Answer,
    Box,
    Classification,
    EngineInfo,
    Grab,
    Image,
    ModelInfo,
    Placement,
    Publication,
    Tensor,
    TensorSpec,
    View,
)


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing to choose."""


class CountingSource:
    """Gives frames that carry their own number, as fast as they are taken.

    `script` maps a frame number to what happens there: "corrupt", "empty", "lost" (once), "dead", "big", "bug", or a
    callable.
    """

    options: ClassVar[type[msgspec.Struct]] = NoOptions
    holds = False

    def __init__(
        self,
        clock: Clock,
        stop: threading.Event,
        *,
        frames: int | None = None,
        lossless: bool = False,
        interval_s: float = 0.0,
        age_s: float = 0.0,
        script: dict[int, Any] | None = None,
        start: list[int] | None = None,
    ) -> None:
        self.lossless = lossless
        self._clock, self._stop, self._frames = clock, stop, frames
        self._interval_s, self._age_s = interval_s, age_s
        self._script = script if script is not None else {}
        self._next = start if start is not None else [0]
        self._held = -1
        self.frame_size = (0, 0)
        self.closed = False

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self._interval_s and self._clock.wait(self._stop, self._interval_s):
            return None
        number = self._next[0]
        if self._stop.is_set() or (self._frames is not None and number >= self._frames):
            return None
        act = self._script.get(number)
        if act == "lost":
            del self._script[number]
            raise SourceError("the camera is gone")
        if act == "dead":
            raise SourceError("the file is gone", final=True)
        if callable(act):
            act()
        self._held = number
        self._next[0] += 1
        return Grab(self._clock.mono_ns() - round(self._age_s * 1e9), str(number))

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        act = self._script.get(self._held)
        if act == "corrupt":
            raise FrameError("not a JPEG", reason="decode")
        if act == "bug":
            raise ZeroDivisionError("boom")
        size = 0 if act == "empty" else 16 if act == "big" else 8
        if out is None or out.shape != (size, size, 3):
            out = np.zeros((size, size, 3), np.uint8)
        self.frame_size = (size, size)
        if out.size:
            out.view(np.uint8).reshape(-1)[:4] = np.frombuffer(self._held.to_bytes(4, "big"), np.uint8)
        return out

    def close(self) -> None:
        self.closed = True


class NumberPreprocess:
    """Reads the frame's number off its first four bytes."""

    def __init__(self, rows: int = 1) -> None:
        self._tensor = np.zeros((rows, 4), np.uint8)
        self.resets = 0

    def prepare(self, image: Image, region: Box | None = None, row: int = 0) -> tuple[Tensor, Placement]:
        self._tensor[row] = image.reshape(-1)[:4]
        return self._tensor[row : row + 1], Placement()

    def batch(self, rows: int, first: int = 0) -> Tensor:
        return self._tensor[first : first + rows]

    def reset(self) -> None:
        self.resets += 1


class EchoEngine:
    """Answers with its input; `before` runs first, on the worker's thread."""

    options: ClassVar[type[msgspec.Struct]] = NoOptions
    info = EngineInfo("echo 1", "cpu", 1)
    inputs = (TensorSpec("in", (4,), "uint8"),)
    outputs = (TensorSpec("out", (4,), "uint8"),)

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self._before = before

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for row in inputs[0]:
            self._before(int.from_bytes(row.tobytes(), "big"))
        return inputs

    def close(self) -> None:
        pass


class NumberDecoder:
    """The number as the class of a classification."""

    options: ClassVar[type[msgspec.Struct]] = NoOptions
    labels = ()
    wants_inputs = False

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        number = int.from_bytes(outputs[0].tobytes(), "big")
        return Answer(classes=(Classification(str(number), number, 1.0),))


class ListSink:
    """Keeps what it is given; `before` runs first, on the publish thread."""

    wants_picture = False
    broken = False

    def __init__(self, before: Callable[[Publication], None] = lambda publication: None) -> None:
        self.got: list[Publication] = []
        self._before = before

    def publish(self, publication: Publication) -> None:
        self._before(publication)
        self.got.append(publication)

    def flush(self, timeout_s: float) -> None:
        pass

    def close(self) -> None:
        pass


def _opener(open_source: Callable[[threading.Event], Any]) -> OpenSource:
    return lambda stop, wake: open_source(stop)


def build(
    sources: dict[str, Callable[[threading.Event], Any]],
    *,
    gates: Mapping[str, GatePlan] | None = None,
    batching: Batching | None = None,
    cache: ResultCache | None = None,
    overlapped: bool = False,
    engine: Engine | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock | None = None,
    outbox_size: int = 64,
    keep_pictures: bool = False,
    stood_still: Callable[[int], bool] = lambda since_ns: False,
    forget: Callable[[], None] = lambda: None,
    **plan: Any,
) -> Pipeline:
    """One engine shared by all `sources`, with `plan` for every lane."""
    clock = clock or SystemClock()
    ready = threading.Condition()
    notices: NoticeBoard = NoticeBoard()
    outbox: Outbox[Delivery] = Outbox(outbox_size)
    captures = []
    for name, open_source in sources.items():
        lane = Lane(LanePlan(stream=name, decoder=NumberDecoder(), **plan), ready, cache)
        intake = Intake([lane], clock, gate=(gates or {}).get(name), keep_pictures=keep_pictures)
        captures.append(Capture(name, _opener(open_source), intake, clock, notices, stood_still=stood_still))
    lanes = [lane for capture in captures for lane in capture.lanes]
    batching = batching or Batching()
    turns = Turns(lanes, ready, clock, batching)
    ending = Ending(ModelInfo("echo", "1", "cpu"), outbox, clock, keep_pictures=keep_pictures)
    kind = OverlappedWorker if overlapped else Worker
    worker = kind("echo", engine or EchoEngine(), NumberPreprocess(2 * batching.most), turns, ending, clock, forget)
    publisher = Publisher(outbox, sinks, clock, "0123abcd")
    pipeline = Pipeline(captures, [worker], publisher, outbox, clock, notices)
    pipeline.notices = notices  # type: ignore[attr-defined]
    return pipeline
