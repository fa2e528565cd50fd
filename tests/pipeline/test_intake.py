"""What becomes of frames on their way in: held back, gated, answered from memory, cut to what moves."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from edgerun.clock import FakeClock
from edgerun.pipeline.cache import ResultCache
from edgerun.pipeline.gating import GatePlan, crop_around
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.types import WHOLE, Answer, Box, Classification, Frame, Grab, Image, Motion, Stamp, View
from edgerun.wake import Wake
from tests.pipeline.parts import NumberDecoder

MS = 1_000_000
YES = Answer(classes=(Classification("yes", 1, 1.0),))


class PictureSource:
    """Hands out the same picture and remembers what was asked of it."""

    options: Any = None

    def __init__(self, clock: FakeClock, *, holds: bool = True, lossless: bool = False, decode_ms: float = 0.0) -> None:
        self.holds, self.lossless = holds, lossless
        self.frame_size = (64, 48)
        self.views: list[View] = []
        self._clock, self._decode_s = clock, decode_ms / 1000

    def grab(self, until_ns: int | None = None) -> Grab | None:
        raise AssertionError("the intake grabs nothing itself")

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        self.views.append(view)
        self._clock.advance(self._decode_s)
        grey = view.grey and self.holds
        return np.full((6, 8) if grey else (48, 64, 3), 200, np.uint8)

    def close(self) -> None:
        pass

    @property
    def decoded(self) -> int:
        return sum(not view.grey for view in self.views)


class Verdicts:
    """A gate that says what it is told."""

    def __init__(self, *moving: bool, box: Box | None = None) -> None:
        self._left = list(moving)
        self._box = box
        self.seen: list[Image] = []

    def look(self, grey: Image, captured_ns: int) -> Motion:
        self.seen.append(grey.copy())
        return Motion(0.1, self._left.pop(0), self._box)


class RunningClock(FakeClock):
    """Time passes whenever somebody looks."""

    def mono_ns(self) -> int:
        self.advance(1e-6)
        return super().mono_ns()


class Scene:
    """One stream's intake and lanes, driven step by step."""

    def __init__(self, *, lanes: int = 1, cache: ResultCache | None = None, plan: Any = None, **more: Any) -> None:
        self.clock = RunningClock() if more.pop("running", False) else FakeClock()
        source = {key: more.pop(key) for key in ("holds", "lossless", "decode_ms") if key in more}
        self.source = PictureSource(self.clock, **source)
        plan = plan or {}
        self.lanes = [
            Lane(LanePlan(stream="a", decoder=NumberDecoder(), **plan), threading.Condition(), cache)
            for _ in range(lanes)
        ]
        self.intake = Intake(self.lanes, self.clock, **more)
        self.intake.begin(self.source)
        self._seq = 0

    @property
    def fates(self) -> dict[str, int]:
        return {fate: n for fate, n in self.lanes[0].meter.account.view().fates.items() if n}

    def frame(self, key: bytes | None = None) -> None:
        """A frame comes in, 10 ms after whatever was before."""
        self.clock.advance(0.01)
        now_ns = self.clock.mono_ns()
        self.intake.take(Grab(now_ns, None, key), Stamp("a", self._seq, now_ns, 0.0))
        self._seq += 1

    def busy_for(self, ms: float, lane: int = 0) -> None:
        self.lanes[lane].demand.tell(self.clock.mono_ns() + round(ms * MS), 0)

    def taken(self, lane: int = 0) -> Frame | None:
        """What the worker finds in the Slot."""
        frame = self.lanes[lane].slot.take(0)
        if frame is not None:
            frame.lease.release()
        return frame


@pytest.mark.parametrize("running", [False, True])
def test_a_waiting_worker_gets_the_frame_at_once(running: bool) -> None:
    scene = Scene(running=running)
    scene.frame()
    assert scene.taken().stamp.seq == 0
    assert scene.intake.hold_until_ns() is None


def test_for_a_busy_worker_only_the_newest_frame_is_decoded_just_before_its_turn() -> None:
    scene = Scene(decode_ms=3.0)
    scene.frame()  # tells how long decoding takes
    scene.taken()
    scene.busy_for(50)
    turn_ns = scene.clock.mono_ns() + 50 * MS
    for _ in range(4):
        scene.frame()
        assert scene.taken() is None
    assert scene.intake.hold_until_ns() == turn_ns - 3 * MS
    scene.clock.advance((scene.intake.hold_until_ns() - scene.clock.mono_ns()) / 1e9)
    scene.intake.use_held()
    assert scene.taken().stamp.seq == 4
    assert scene.source.decoded == 2
    assert scene.fates == {"skipped": 3}


def test_a_worker_that_is_early_is_not_kept_waiting() -> None:
    scene = Scene()
    wake = scene.lanes[0].demand.wake = Wake()
    scene.busy_for(50)
    scene.frame()
    assert scene.taken() is None
    scene.lanes[0].demand.tell(0, 0)
    assert not wake.wait(0), "nobody waits yet"
    scene.intake.hold_until_ns()
    scene.lanes[0].demand.tell(0, 0)
    assert wake.wait(0)
    scene.intake.awake()
    scene.intake.use_held()
    assert scene.taken().stamp.seq == 0
    wake.close()


def test_a_renewal_amid_a_renewal_is_not_lost() -> None:
    """A reload behind a reload: the first is just being followed when the second comes."""
    scene = Scene(keep_pictures=True, plan={"enough": (8, 6)})
    scene.frame()
    assert scene.source.views[-1] == View((8, 6))
    view_for = scene.intake._view_for

    def overtaken(lanes: Any) -> View:
        made = view_for(lanes)
        scene.intake._view_for = view_for  # type: ignore[method-assign]
        scene.intake.renew(keep_pictures=True, keep_whole=True)
        return made

    scene.intake._view_for = overtaken  # type: ignore[method-assign]
    scene.intake.renew(keep_pictures=True, keep_whole=False)
    scene.taken()
    for _ in range(2):
        scene.frame()
        scene.taken()
    assert scene.source.views[-1] == WHOLE


def test_on_a_single_core_decoding_waits_for_the_worker() -> None:
    scene = Scene(decode_ms=3.0, spare_core=False)
    scene.busy_for(50)
    scene.frame()
    assert scene.intake.hold_until_ns() >= scene.clock.mono_ns() + 40 * MS


def test_two_models_share_one_decoding() -> None:
    scene = Scene(lanes=2)
    scene.busy_for(20, lane=0)
    scene.busy_for(500, lane=1)
    scene.frame()
    scene.clock.advance(0.03)
    scene.intake.use_held()
    assert scene.taken(0).stamp.seq == scene.taken(1).stamp.seq == 0
    assert scene.source.decoded == 1


def test_the_last_frame_of_all_is_used_and_one_of_a_lost_source_is_not() -> None:
    scene = Scene()
    scene.busy_for(1000)
    scene.frame()
    scene.intake.finish()
    assert scene.taken().stamp.seq == 0
    scene.frame()
    scene.intake.end()
    assert scene.taken() is None
    assert scene.fates == {"skipped": 1}


def test_a_model_that_needs_no_large_picture_says_so() -> None:
    scene = Scene(plan={"enough": (30, 20)})
    scene.frame()
    assert scene.source.views == [View(enough=(30, 20))]
    whole = Scene(plan={"enough": (30, 20)}, keep_whole=True)
    whole.frame()
    assert whole.source.views == [WHOLE]


@pytest.mark.parametrize("holds", [True, False])
def test_a_still_scene_gets_no_results(holds: bool) -> None:
    gate = Verdicts(True, False, False, True)
    scene = Scene(gate=GatePlan(gate), holds=holds)
    taken = []
    for _ in range(4):
        scene.frame()
        taken.append(scene.taken())
    assert [frame is not None for frame in taken] == [True, False, False, True]
    assert scene.fates == {"gated": 2}
    assert scene.source.decoded == (2 if holds else 4), "a source that holds decodes a small grey view first"
    assert gate.seen[0].ndim == (2 if holds else 3)


def test_a_still_scene_reuses_its_last_answer_for_a_while() -> None:
    scene = Scene(gate=GatePlan(Verdicts(True, False, False, False), still_ns=25 * MS))
    lane = scene.lanes[0]
    scene.frame()
    first = scene.taken()
    lane.last = (first.stamp.captured_ns, YES)
    scene.frame()
    assert scene.taken() is None, "the first result is not out yet: order comes before rate"
    lane.meter.account.end("published")
    scene.frame()
    reused = scene.taken()
    assert reused.reuse.why == "still"
    assert reused.reuse.answer is YES
    assert reused.size == (64, 48)
    lane.meter.account.end("published")
    scene.frame()
    assert scene.taken().reuse is None, "25 ms are over: the model looks for itself"
    assert scene.fates == {"gated": 1, "published": 2}
    assert scene.source.decoded == 2


def test_a_payload_that_comes_again_is_answered_without_decoding() -> None:
    cache = ResultCache(100_000)
    scene = Scene(cache=cache, lossless=True, holds=False)
    scene.frame(b"one")
    assert scene.taken().reuse is None
    cache.put("a", b"one", YES, (640, 480))
    scene.frame(b"one")
    again = scene.taken()
    assert again.reuse.why == "cache"
    assert again.size == (640, 480)
    assert scene.source.decoded == 1
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = ResultCache(2000)
    for n in range(50):
        cache.put("a", bytes([n]), YES, (1, 1))
        cache.get("a", b"\0")
    stats = cache.stats()
    assert stats.bytes <= 2000
    assert cache.get("a", b"\0") is not None
    assert cache.get("a", b"\1") is None
    assert cache.get("b", b"\0") is None, "another stream has another threshold"
    ResultCache(10).put("a", b"x", YES, (1, 1))


def test_nobody_sees_what_is_masked() -> None:
    def blackout(image: Image) -> None:
        image[:3] = 0

    gate = Verdicts(True)
    scene = Scene(gate=GatePlan(gate, blackout=blackout))
    scene.frame()
    assert not gate.seen[0][:3].any()
    assert gate.seen[0][3:].all()
    assert not scene.taken().lease.image[:3].any()


def test_only_the_part_that_moves_is_looked_at() -> None:
    scene = Scene(gate=GatePlan(Verdicts(True, box=(0.5, 0.5, 0.9, 0.9)), crop=True))
    scene.frame()
    assert scene.taken().region == (0.5, 0.5, 0.9375, 0.9375)


@pytest.mark.parametrize(
    ("moving", "within", "expected"),
    [
        (None, None, None),
        (None, (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.5)),
        ((0.5, 0.5, 0.51, 0.51), None, (0.375, 0.375, 0.6875, 0.6875)),
        ((0.0, 0.0, 0.01, 0.01), None, (0.0, 0.0, 0.25, 0.25)),
        ((0.99, 0.99, 1.0, 1.0), None, (0.75, 0.75, 1.0, 1.0)),
        ((0.0, 0.0, 1.0, 1.0), (0.2, 0.2, 0.8, 0.8), (0.2, 0.2, 0.8, 0.8)),
        ((0.9, 0.9, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.5)),
        ((0.3, 0.3, 0.4, 0.4), (0.3, 0.3, 0.4, 0.4), (0.3, 0.3, 0.4, 0.4)),
    ],
)
def test_the_crop_around_what_moves(moving: Box | None, within: Box | None, expected: Box | None) -> None:
    found = crop_around(moving, within)
    assert found == (None if expected is None else pytest.approx(expected))
