"""Cameras, a model and the ways to join them, on a clock of its own: no threads, no waiting, the same at every run.

The processor is shared in equal parts among the jobs that run (decoding, inference), each on one core at most. What
`edgerun.pipeline.demand` decides is decided here by the very same functions.

**The bound.** A server that takes the newest frame whenever it is free and never waits with a frame at hand makes
results of the age, when they are ready,

    age = R + D + S

where S is its service time, D the time to decode the frame it took and R that frame's age when its decoding began (the
residual). Nobody can have R < 0, so D + S bounds the age when the camera is slower than the model, and it is reached
there: each frame is taken when it comes. A camera faster than the model is looked at, as good as at random, once per
turn, and the time since the last arrival at a random moment is, by renewal theory, `E[gap²] / 2 E[gap]` on average
(D. R. Cox, "Renewal Theory", 1962, ch. 5), so half an interval for a periodic camera: `newest_first_bound`.
For a camera that pauses the moments are not random (a server that has used the newest frame waits for the pause to
end); there the bound is the run of a clairvoyant server over the same arrivals and the same service times, which begins
to decode exactly D before its turn: `ideal`. R. D. Yates et al., "Age of Information: an introduction and survey"
(IEEE JSAC 39(5), 2021), show why the newest frame is the right one to take.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from edgerun.pipeline.demand import (
    Estimate,
    Gaps,
    decode_at,
    due_in_ns,
    min_period_ns,
    pick,
    plan_turns,
    worth_retrieving,
)

MS = 1_000_000
S = 1_000 * MS


# -- cameras: when frames arrive, ns --------------------------------------------------------------------------------


def periodic(interval_ns: int, frames: int) -> list[int]:
    """A camera that keeps time."""
    return [i * interval_ns for i in range(frames)]


def jittery(interval_ns: int, frames: int, seed: int, share: float = 0.25) -> list[int]:
    """Each frame is late or early by a normally distributed share of the interval; they stay in order."""
    rng = random.Random(seed)
    return sorted(max(0, round(i * interval_ns + rng.gauss(0, share) * interval_ns)) for i in range(frames))


def uneven(interval_ns: int, frames: int, seed: int) -> list[int]:
    """Gaps uniform in 0.2 to 1.8 intervals, each independent of the last."""
    rng = random.Random(seed)
    return list(itertools.accumulate(round(rng.uniform(0.2, 1.8) * interval_ns) for _ in range(frames)))


def bursty(interval_ns: int, frames: int, seed: int) -> list[int]:
    """What RTSP cameras on Wi-Fi do: every second or two nothing for 400-500 ms, then all that was due within 20 ms."""
    rng = random.Random(seed)
    arrivals: list[int] = []
    stall_at = 0
    stall_until = 0
    for i in range(frames):
        at = i * interval_ns
        if at >= stall_at:
            stall_until = at + rng.randint(400, 500) * MS
            stall_at = at + rng.randint(1000, 2000) * MS
        arrivals.append(max(at, stall_until + rng.randint(0, 20) * MS) if at < stall_until else at)
    return sorted(arrivals)


def pausing(interval_ns: int, frames: int) -> list[int]:
    """Two seconds of frames, then three of nothing, over and over."""
    per_run = max(1, 2 * S // interval_ns)
    return [i * interval_ns + i // per_run * 3 * S for i in range(frames)]


def hundred_at_once(interval_ns: int, frames: int) -> list[int]:
    """A steady camera with a network hiccup: every 300 frames a hundred within 10 ms."""
    arrivals = []
    for i in range(frames):
        place = i % 300
        at = i * interval_ns
        arrivals.append(at if place < 200 else (i - place + 300) * interval_ns - (300 - place) * MS // 10)
    return arrivals


# -- what is simulated ----------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """One camera and what its frames cost: service and decode time (means, ns), the noise of the first (lognormal)."""

    arrivals: Sequence[int]
    service_ns: int
    decode_ns: int = 0
    noise: float = 0.2
    weight: float = 1.0
    min_fps: float = 0.0
    hangs_from: int | None = None
    """From this frame on decoding never ends."""
    stamped: Callable[[int], int] = lambda arrival_ns: arrival_ns
    """What the capture thread reads on its clock when the frame comes."""


@dataclass
class Outcome:
    """What became of one stream: ages of its results when ready (ns), when they were, how many frames were decoded."""

    ages_ns: list[int] = field(default_factory=list)
    ready_at_ns: list[int] = field(default_factory=list)
    decodes: int = 0
    deepest: int = 0

    @property
    def results(self) -> int:
        return len(self.ages_ns)

    @property
    def mean_ns(self) -> float:
        return sum(self.ages_ns) / len(self.ages_ns)

    def percentile_ns(self, percent: float) -> int:
        ages = sorted(self.ages_ns)
        return ages[min(len(ages) - 1, math.ceil(len(ages) * percent / 100) - 1)]

    @property
    def longest_silence_ns(self) -> int:
        return max((b - a for a, b in itertools.pairwise(self.ready_at_ns)), default=0)


def newest_first_bound(arrivals: Sequence[int], service_ns: int, decode_ns: int) -> float:
    """Mean age by the formula in this module's docstring, for cameras without pauses, ns."""
    gaps = [b - a for a, b in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    residual = sum(gap * gap for gap in gaps) / len(gaps) / (2 * mean) if service_ns > mean else 0.0
    return residual + decode_ns + service_ns


def ideal(stream: Stream, *, cores: int = 2, seed: int = 1) -> Outcome:
    """The clairvoyant server of the docstring on a stream of its own; on one core it decodes between inferences."""
    ahead_ns = stream.decode_ns if cores > 1 else 0
    draw = _services(stream, seed)
    done = Outcome()
    free_ns, next_frame = 0, 0
    arrivals = stream.arrivals
    while next_frame < len(arrivals):
        begins_ns = max(free_ns - ahead_ns, arrivals[next_frame])
        newest = next_frame
        while newest + 1 < len(arrivals) and arrivals[newest + 1] <= begins_ns:
            newest += 1
        free_ns = begins_ns + stream.decode_ns + draw()
        done.ages_ns.append(free_ns - arrivals[newest])
        done.ready_at_ns.append(free_ns)
        done.decodes += 1
        next_frame = newest + 1
    return done


def _services(stream: Stream, seed: int) -> Callable[[], int]:
    """Service times: lognormal about their mean."""
    rng = random.Random(seed)
    mu = -stream.noise * stream.noise / 2
    return lambda: round(stream.service_ns * rng.lognormvariate(mu, stream.noise))


# -- the machine ----------------------------------------------------------------------------------------------------


class Machine:
    """The clock, what is due when, and the cores with the jobs on them."""

    def __init__(self, cores: int) -> None:
        self.now_ns = 0
        self._cores = cores
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._jobs: dict[int, tuple[float, Callable[[], None]]] = {}

    def at(self, when_ns: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(when_ns, self.now_ns), next(self._order), act))

    def work(self, duration_ns: int, done: Callable[[], None]) -> None:
        """A job of `duration_ns` of one core's time; `done` is called when it is finished."""
        self._jobs[next(self._order)] = (float(duration_ns), done)

    def run(self) -> None:
        while self._due or self._jobs:
            speed = min(1.0, self._cores / len(self._jobs)) if self._jobs else 1.0
            key = min(self._jobs, key=lambda k: (self._jobs[k][0], k)) if self._jobs else -1
            ends_ns = self.now_ns + math.ceil(self._jobs[key][0] / speed) if self._jobs else math.inf
            if self._due and self._due[0][0] <= ends_ns:
                when_ns, _, act = heapq.heappop(self._due)
                self._advance(when_ns, speed)
                act()
            else:
                self._advance(int(ends_ns), speed)
                self._jobs.pop(key)[1]()

    def _advance(self, when_ns: int, speed: float) -> None:
        spent = (when_ns - self.now_ns) * speed
        if spent:
            self._jobs = {k: (max(0.0, left - spent), done) for k, (left, done) in self._jobs.items()}
        self.now_ns = when_ns


class Lane:
    """One stream's hand-off to the worker: at most `capacity` decoded frames, by their arrival times."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream = stream
        self.slot: deque[int] = deque()
        self.draw = _services(stream, seed)
        self.wanted_at_ns = 0
        self.uncertain_ns = 0
        self.holding = False
        self.due_ns = 0
        """Until when a frame being decoded counts as in hand."""
        self.wake: Callable[[], None] = lambda: None
        self.outcome = Outcome()


class Server:
    """The worker: takes a frame of the lane whose turn it is, and tells the others when theirs will be."""

    def __init__(self, machine: Machine, lanes: Sequence[Lane], takes_oldest: bool) -> None:
        self._machine = machine
        self._lanes = lanes
        self._busy = False
        self._takes_oldest = takes_oldest
        self._served_ns = [0] * len(lanes)
        self._weights = [lane.stream.weight for lane in lanes]
        self._service = [Estimate() for _ in lanes]

    def offer(self) -> None:
        """A frame was put into a slot."""
        if not self._busy:
            self._next()

    def _periods_ns(self) -> list[int]:
        longest_ns = max(estimate.value_ns for estimate in self._service)
        return [min_period_ns(lane.stream.min_fps, longest_ns) for lane in self._lanes]

    def _next(self) -> None:
        waiting = [i for i, lane in enumerate(self._lanes) if lane.slot]
        if not waiting:
            return
        now_ns = self._machine.now_ns
        index = pick(waiting, self._weights, self._served_ns, now_ns, self._periods_ns())
        lane = self._lanes[index]
        arrival_ns = lane.slot.popleft() if self._takes_oldest else lane.slot.pop()
        self._served_ns[index] = now_ns
        self._busy = True
        self._tell(index)
        self._machine.work(lane.draw(), lambda: self._done(index, arrival_ns, now_ns))

    def _done(self, index: int, arrival_ns: int, began_ns: int) -> None:
        now_ns = self._machine.now_ns
        outcome = self._lanes[index].outcome
        outcome.ages_ns.append(now_ns - arrival_ns)
        outcome.ready_at_ns.append(now_ns)
        self._service[index].add(now_ns - began_ns)
        self._busy = False
        self._next()
        if not self._busy:
            self._tell(None)

    def _tell(self, current: int | None) -> None:
        now_ns = self._machine.now_ns
        in_hand = [bool(lane.slot) or lane.holding or lane.due_ns > now_ns for lane in self._lanes]
        turns = plan_turns(
            now_ns,
            current,
            [estimate.value_ns for estimate in self._service],
            in_hand,
            self._weights,
            self._served_ns,
            self._periods_ns(),
        )
        for i, (lane, turn_ns) in enumerate(zip(self._lanes, turns, strict=True)):
            lane.wanted_at_ns = turn_ns
            lane.uncertain_ns = self._service[i if current is None else current].deviation_ns
            if not turn_ns and lane.holding:
                lane.wake()


# -- the policies: what a capture thread does ------------------------------------------------------------------------


class Holding:
    """Ours where frames can be held undecoded: keep the newest, decode it at the time `decode_at` says."""

    takes_oldest = False

    def __init__(self, machine: Machine, lane: Lane, server: Server, cores: int) -> None:
        self._machine, self._lane, self._server = machine, lane, server
        self._spare_core = cores > 1
        self._held: tuple[int, int] | None = None
        self._decoding = False
        self._decode = Estimate()
        self._timer = 0
        lane.wake = self._look

    def arrive(self, index: int, arrival_ns: int) -> None:
        self._held = index, arrival_ns
        self._lane.holding = not self._decoding
        self._look()

    def _look(self) -> None:
        """Decode, or set the alarm for when to."""
        if self._held is None or self._decoding:
            return
        now_ns = self._machine.now_ns
        lane = self._lane
        when_ns = decode_at(
            now_ns,
            lane.wanted_at_ns,
            self._decode.value_ns,
            lane.uncertain_ns,
            spare_core=self._spare_core,
            in_slot=bool(lane.slot),
        )
        self._timer += 1
        if when_ns > now_ns:
            timer = self._timer
            self._machine.at(when_ns, lambda: self._look() if timer == self._timer else None)
            return
        (index, arrival_ns), self._held = self._held, None
        self._decoding, lane.holding = True, False
        lane.due_ns = now_ns + due_in_ns(self._decode)
        lane.outcome.decodes += 1
        if lane.stream.hangs_from is not None and index >= lane.stream.hangs_from:
            return
        self._machine.work(lane.stream.decode_ns, lambda: self._decoded(arrival_ns, now_ns))

    def _decoded(self, arrival_ns: int, began_ns: int) -> None:
        self._decode.add(self._machine.now_ns - began_ns)
        self._decoding = False
        self._lane.due_ns = 0
        self._lane.slot.clear()
        self._lane.slot.append(arrival_ns)
        self._lane.holding = self._held is not None
        self._server.offer()
        self._look()


class LatestSlot:
    """A reader thread that decodes every frame, and a slot whose newest frame wins."""

    takes_oldest = False

    def __init__(self, machine: Machine, lane: Lane, server: Server, cores: int) -> None:
        self._machine, self._lane, self._server = machine, lane, server
        self._socket: deque[tuple[int, int]] = deque()
        self._decoding = False
        self._decode = Estimate()

    def arrive(self, index: int, arrival_ns: int) -> None:
        self._socket.append((index, arrival_ns))
        if not self._decoding:
            self._read()

    def _read(self) -> None:
        while self._socket:
            index, arrival_ns = self._socket.popleft()
            if not self._wants(arrival_ns):
                continue
            self._decoding = True
            lane, began_ns = self._lane, self._machine.now_ns
            lane.outcome.decodes += 1
            if lane.stream.hangs_from is not None and index >= lane.stream.hangs_from:
                return
            self._machine.work(lane.stream.decode_ns, partial(self._decoded, arrival_ns, began_ns))
            return

    def _wants(self, arrival_ns: int) -> bool:
        return True

    def _put(self, arrival_ns: int) -> None:
        self._lane.slot.clear()
        self._lane.slot.append(arrival_ns)

    def _decoded(self, arrival_ns: int, began_ns: int) -> None:
        self._decode.add(self._machine.now_ns - began_ns)
        self._decoding = False
        self._put(arrival_ns)
        self._lane.outcome.deepest = max(self._lane.outcome.deepest, len(self._lane.slot))
        self._server.offer()
        if not self._decoding:
            self._read()


class NotHolding(LatestSlot):
    """Ours where frames cannot be held: decode a frame when it comes unless the next will surely be there in time."""

    def __init__(self, machine: Machine, lane: Lane, server: Server, cores: int) -> None:
        super().__init__(machine, lane, server, cores)
        self._gaps = Gaps()
        self._stamps: dict[int, int] = {}

    def _wants(self, arrival_ns: int) -> bool:
        stamp_ns = self._lane.stream.stamped(arrival_ns)
        self._gaps.add(stamp_ns)
        self._stamps[arrival_ns] = stamp_ns
        wanted_ns = self._lane.wanted_at_ns
        in_slot_ns = self._stamps[self._lane.slot[0]] if self._lane.slot else None
        return worth_retrieving(
            self._machine.now_ns, stamp_ns, wanted_ns, self._decode.value_ns, self._gaps, in_slot_ns
        )


def queue(size: int, drops_oldest: bool) -> type[LatestSlot]:
    """A reader thread that decodes every frame into a queue of `size` (0: without bound) which drops when full."""

    class Queue(LatestSlot):
        takes_oldest = True

        def _put(self, arrival_ns: int) -> None:
            slot = self._lane.slot
            if size and len(slot) >= size:
                if not drops_oldest:
                    return
                slot.popleft()
            slot.append(arrival_ns)

    return Queue


Policy = type[Holding] | type[LatestSlot]

POLICIES: dict[str, Policy] = {
    "edgerun, held": Holding,
    "edgerun, not held": NotHolding,
    "latest slot": LatestSlot,
    "queue of 4, drops oldest": queue(4, True),
    "queue of 4, drops newest": queue(4, False),
    "unbounded queue": queue(0, False),
}


def simulate(streams: Sequence[Stream], policy: Policy, *, cores: int = 2, seed: int = 1) -> list[Outcome]:
    """Run the streams through one engine until every frame has met its fate; one outcome per stream."""
    machine = Machine(cores)
    lanes = [Lane(stream, seed + i) for i, stream in enumerate(streams)]
    server = Server(machine, lanes, policy.takes_oldest)
    for lane in lanes:
        capture = policy(machine, lane, server, cores)
        for i, arrival_ns in enumerate(lane.stream.arrivals):
            machine.at(arrival_ns, partial(capture.arrive, i, arrival_ns))
    machine.run()
    return [lane.outcome for lane in lanes]


# -- the grid of tests, figure and table ------------------------------------------------------------------------------

INTERVAL_NS = 33 * MS
DECODE_NS = 4 * MS
RATIOS = (0.3, 0.6, 1.0, 1.5, 3.0, 10.0)
"""Service time in camera intervals."""


def cameras(frames: int) -> dict[str, list[int]]:
    """Those of the grid, by name."""
    return {
        "periodic": periodic(INTERVAL_NS, frames),
        "jittery": jittery(INTERVAL_NS, frames, seed=1),
        "uneven": uneven(INTERVAL_NS, frames, seed=1),
        "bursty": bursty(INTERVAL_NS, frames, seed=1),
    }
