"""A device in a sealed box, its kernel that slows it down when hot, and the governor in a closed loop: no threads, no
waiting, the same at every run.

**Heat.** Two nodes: the die with its board, and the box. With P the power, all of it heat,

    C₁ dT/dt = P − (T − B) / R₁        C₂ dB/dt = (T − B) / R₁ − (B − ambient) / R₂

T the temperature of the die, which is what the sensor shows (in steps), B that of the box. Solved by Euler's method in
steps far below R₁ C₁.

**Work.** One model infers as fast as it is let to: at most `1 / service` a second, fewer when the kernel has lowered
the clock. Each inference costs a fixed energy at full clock, less where the voltage comes down with the clock (dynamic
power goes with f · V²). Idling costs `idle_w`. The age of a result is a camera interval and the service time; its
percentiles are those of service times that vary by 20 % (lognormal), the 99th over all results of the run.

**The best fixed rate known in hindsight.** Every hundredth of the full rate is run through the whole case, with the
kernel at work. Two are picked among those whose ages keep their bound: the one with the most inferences that never got
hotter than the governor's `hot`, and the one with the most that only stays below the hard trip.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.app.measures import SlowedAges, measured, policy_of
from edgerun.config.governing import GovernorConfig, RisingConfig
from edgerun.device.governor import State, step
from edgerun.device.ladder import Climber, build_ladder

STEP_S = 2.0
_CLOCKS = 500
HOURS = 6.0
CAMERA_S = 1 / 30
NOISE = 0.2
P95_OF_SERVICE, P99_OF_SERVICE = (math.exp(z * NOISE - NOISE * NOISE / 2) for z in (1.645, 2.326))
"""Of a lognormal service time about its mean."""
AGE_ROOM = 1.25
"""How much older than at full clock results may be."""

Array = NDArray[np.float64]


class Kernel(msgspec.Struct, frozen=True):
    """How a board slows itself down, from `acts_c` on, to `lowest_clock` (a share of the full one).

    Over `range_c` it is a line from full to lowest. Without a range it goes as the kernel's step_wise governor does:
    one of `states` slower at each poll at or above `acts_c`, one faster at each poll below it by more than `margin_c`.
    `v_low`: the voltage at the lowest clock, as a share of that at full clock; between them it is a line.
    """

    name: str
    acts_c: float
    hard_trip_c: float
    lowest_clock: float
    range_c: float = 0.0
    margin_c: float = 0.0
    states: int = 1
    v_low: float = 1.0

    @property
    def one_state(self) -> float:
        return (1.0 - self.lowest_clock) / self.states

    def clock(self, temp_c: float, before: float) -> float:
        """The clock at a temperature, coming from the clock before."""
        if self.range_c > 0:
            return 1.0 - (1.0 - self.lowest_clock) * min(1.0, max(0.0, (temp_c - self.acts_c) / self.range_c))
        if temp_c >= self.acts_c:
            return max(self.lowest_clock, before - self.one_state)
        return min(1.0, before + self.one_state) if temp_c < self.acts_c - self.margin_c else before

    def energy(self, clock: float) -> float:
        """Energy of one inference, as a share of that at full clock."""
        volts = 1.0 - (1.0 - self.v_low) * (1.0 - clock) / (1.0 - self.lowest_clock)
        return volts * volts


class Board(msgspec.Struct, frozen=True):
    """A device: its kernel, what it draws idle and with its model at full rate, its model's service time; the
    governor's temperatures (warm, hot, stop).
    """

    name: str
    kernel: Kernel
    idle_w: float
    busy_w: float
    service_s: float
    temp_c: tuple[float, float, float]
    die_k_per_w: float
    die_j_per_k: float
    boxes_k_per_w: tuple[float, float, float]
    sensor_c: float = 0.487

    @property
    def full_fps(self) -> float:
        return 1.0 / self.service_s

    @property
    def age_bound_ms(self) -> float:
        """What the operator asks for: a quarter above the 99th percentile at full clock."""
        return AGE_ROOM * age_ms(self.service_s)

    @property
    def target_age_ms(self) -> float:
        """The same of the 95th: the stream's `target_age_ms`."""
        return AGE_ROOM * age_ms(self.service_s, of_service=P95_OF_SERVICE)

    @property
    def inference_j(self) -> float:
        return (self.busy_w - self.idle_w) * self.service_s


PI_CLOCK = Kernel("Raspberry Pi 3, clock only", 80.0, 85.0, 0.5, range_c=5.0)
PI_VOLTAGE = Kernel("Raspberry Pi 4, clock and voltage", 80.0, 85.0, 1 / 3, range_c=5.0, v_low=0.85)
ORIN = Kernel("Jetson Orin Nano, steps", 95.0, 104.5, 0.3, margin_c=2.0, states=12, v_low=0.75)

_PI: dict[str, Any] = {
    "idle_w": 2.7,
    "busy_w": 6.4,
    "service_s": 0.1,
    "temp_c": (76.0, 81.5, 84.0),
    "die_k_per_w": 4.0,
    "die_j_per_k": 20.0,
    "boxes_k_per_w": (4.0, 7.0, 10.0),
}
BOARDS = (
    Board("pi", PI_CLOCK, **_PI),
    Board("pi4", PI_VOLTAGE, **_PI),
    Board("orin", ORIN, 5.0, 15.0, 0.03, (96.0, 99.0, 102.0), 1.2, 80.0, (2.0, 3.5, 5.0), 0.5),
)
CAPACITIES_J_PER_K = (150.0, 600.0)


class Ambient(msgspec.Struct, frozen=True):
    """`mean_c` throughout, or swinging about it by `swing_c` from its coolest at the start to its hottest and back."""

    name: str
    mean_c: float
    swing_c: float = 0.0

    def at(self, seconds: float) -> float:
        return self.mean_c - self.swing_c * math.cos(2 * math.pi * seconds / (HOURS * 3600))


AMBIENTS = (Ambient("25 °C", 25.0), Ambient("40 °C", 40.0), Ambient("30 ± 10 °C", 30.0, 10.0))


class Case(msgspec.Struct, frozen=True):
    """One board in one box in one place."""

    board: Board
    box_k_per_w: float
    box_j_per_k: float
    ambient: Ambient

    @property
    def steps(self) -> int:
        return round(HOURS * 3600 / STEP_S)


def cases() -> list[Case]:
    """The whole grid."""
    return [
        Case(board, k_per_w, j_per_k, ambient)
        for board in BOARDS
        for k_per_w in board.boxes_k_per_w
        for j_per_k in CAPACITIES_J_PER_K
        for ambient in AMBIENTS
    ]


class Outcome(msgspec.Struct):
    """What became of a run."""

    inferences: float
    highest_c: float
    p99_age_ms: float
    moves: int = 0
    temps_c: list[float] = []
    rates: list[float] = []


class Box:
    """The two nodes."""

    def __init__(self, case: Case) -> None:
        board = case.board
        self.ambient = case.ambient
        self._r1, self._r2 = board.die_k_per_w, case.box_k_per_w
        self._a1, self._a2 = STEP_S / board.die_j_per_k, STEP_S / case.box_j_per_k
        self.die_c = self.box_c = case.ambient.at(0.0)

    def step(self, power_w: float, ambient_c: float) -> float:
        flow_w = (self.die_c - self.box_c) / self._r1
        self.die_c += (power_w - flow_w) * self._a1
        self.box_c += (flow_w - (self.box_c - ambient_c) / self._r2) * self._a2
        return self.die_c


class Governed:
    """The governor as the daemon runs it: one stream with a target, rates only, a look every other second."""

    def __init__(self, board: Board) -> None:
        self._policy = policy_of(GovernorConfig(temp_c=RisingConfig(*board.temp_c), under_voltage=False), targets=True)
        self._service_s, self._target_ms = board.service_s, board.target_age_ms
        self._ladder = build_ladder([Climber("door")])
        self._state = State()
        self._ages = SlowedAges()
        self._sensor_c = board.sensor_c
        self.moves = 0

    def share(self, seconds: float, temp_c: float, clock: float) -> float:
        shown_c = round(temp_c / self._sensor_c) * self._sensor_c
        slowed = clock < 1.0
        known = measured({"thermal/cpu-thermal/temp_c": shown_c}, None, self._ages.share(slowed))
        self._ages.note("door", age_ms(self._service_s, clock, P95_OF_SERVICE) / self._target_ms, slowed)
        seen = {str(name): value for name, value in known.items()}
        before = self._state.level
        self._state = step(self._policy, len(self._ladder), self._state, seen, round(seconds * 1e9))
        self.moves += self._state.level != before
        rung = self._ladder[self._state.level]["door"]
        return 0.0 if rung.paused else rung.fps_share


def run(case: Case, governed: Governed | None, share: float = 1.0, keep: bool = False) -> Outcome:
    """A run with the kernel at work, and the governor where there is one; else `share` of the full rate throughout."""
    board, kernel, box = case.board, case.board.kernel, Box(case)
    clock, full_fps, inference_j, service_s = 1.0, board.full_fps, board.inference_j, board.service_s
    done, highest_c = 0.0, box.die_c
    by_clock: dict[float, float] = {}
    outcome = Outcome(0.0, 0.0, 0.0)
    for at in range(case.steps):
        seconds = at * STEP_S
        clock = kernel.clock(box.die_c, clock)
        if governed is not None:
            share = governed.share(seconds, box.die_c, clock)
        fps = min(share, clock) * full_fps
        done += fps * STEP_S
        key = round(clock, 3)
        by_clock[key] = by_clock.get(key, 0.0) + fps
        temp_c = box.step(
            board.idle_w + fps * inference_j * (kernel.energy(clock) if clock < 1.0 else 1.0), case.ambient.at(seconds)
        )
        highest_c = max(highest_c, temp_c)
        if keep:
            outcome.temps_c.append(temp_c)
            outcome.rates.append(fps)
    outcome.inferences, outcome.highest_c = done, highest_c
    outcome.p99_age_ms = _p99_age_ms(by_clock, service_s)
    outcome.moves = governed.moves if governed is not None else 0
    return outcome


class Fixed(msgspec.Struct, frozen=True):
    """What every fixed rate would have come to, by its share of the full one in hundredths, 1 … 100."""

    inferences: Array
    highest_c: Array
    p99_age_ms: Array

    def best(self, most_c: float, most_age_ms: float = math.inf) -> float:
        """The most inferences of those that never got hotter than that, with ages within that; 0 where none did."""
        good = (self.highest_c <= most_c) & (self.p99_age_ms <= most_age_ms)
        return float(np.max(self.inferences, where=good, initial=0.0))


def fixed_rates(all_cases: Sequence[Case]) -> list[Fixed]:
    """Every fixed rate in every case, with the kernel at work; the last is the kernel alone.

    All at once: the same steps as in `run`, on arrays of cases × rates.
    """

    def column(value: Callable[[Case], float]) -> Array:
        return np.array([[value(case)] for case in all_cases])

    shares = np.arange(1, 101) / 100.0
    full_fps, lowest = column(lambda c: c.board.full_fps), column(lambda c: c.board.kernel.lowest_clock)
    idle_w, inference_j = column(lambda c: c.board.idle_w), column(lambda c: c.board.inference_j)
    fall = column(lambda c: 1.0 - c.board.kernel.v_low) / (1.0 - lowest)
    acts_c, range_c = column(lambda c: c.board.kernel.acts_c), column(lambda c: c.board.kernel.range_c)
    margin_c, one = column(lambda c: c.board.kernel.margin_c), column(lambda c: c.board.kernel.one_state)
    stepped = range_c <= 0
    r1, r2 = column(lambda c: c.board.die_k_per_w), column(lambda c: c.box_k_per_w)
    a1, a2 = STEP_S / column(lambda c: c.board.die_j_per_k), STEP_S / column(lambda c: c.box_j_per_k)
    mean_c, swing_c = column(lambda c: c.ambient.mean_c), column(lambda c: c.ambient.swing_c)
    die_c = np.repeat(mean_c - swing_c, 100, axis=1)
    box_c, clock, done, highest_c = die_c.copy(), np.ones_like(die_c), np.zeros_like(die_c), die_c.copy()
    by_clock = np.zeros((*die_c.shape, _CLOCKS + 1))
    at = np.indices(die_c.shape)
    for number in range(all_cases[0].steps):
        turned = math.cos(2 * math.pi * number * STEP_S / (HOURS * 3600))
        linear = 1.0 - (1.0 - lowest) * np.clip((die_c - acts_c) / np.where(stepped, 1.0, range_c), 0.0, 1.0)
        slower = np.maximum(lowest, clock - one)
        faster = np.where(die_c < acts_c - margin_c, np.minimum(1.0, clock + one), clock)
        clock = np.where(stepped, np.where(die_c >= acts_c, slower, faster), linear)
        fps = np.minimum(shares, clock) * full_fps
        done += fps * STEP_S
        by_clock[at[0], at[1], np.rint(clock * _CLOCKS).astype(np.intp)] += fps
        power_w = idle_w + fps * inference_j * (1.0 - fall * (1.0 - clock)) ** 2
        flow_w = (die_c - box_c) / r1
        die_c = die_c + (power_w - flow_w) * a1
        box_c = box_c + (flow_w - (box_c - (mean_c - swing_c * turned)) / r2) * a2
        np.maximum(highest_c, die_c, out=highest_c)
    slow = np.cumsum(by_clock, axis=2) >= 0.01 * by_clock.sum(axis=2, keepdims=True)
    p99_clock = np.argmax(slow, axis=2) / _CLOCKS
    ages = [age_ms(case.board.service_s, 1.0) for case in all_cases]
    service_ms = 1000.0 * P99_OF_SERVICE * column(lambda c: c.board.service_s)
    p99_age_ms = np.array(ages)[:, None] - service_ms + service_ms / p99_clock
    return [Fixed(done[i], highest_c[i], p99_age_ms[i]) for i in range(len(all_cases))]


def _p99_age_ms(by_clock: dict[float, float], service_s: float) -> float:
    """Of the slowest clock that at least a hundredth of the results had to do with."""
    left = sum(by_clock.values()) * 0.01
    for clock in sorted(by_clock):
        left -= by_clock[clock]
        if left <= 0:
            return age_ms(service_s, clock)
    return 0.0


def age_ms(service_s: float, clock: float = 1.0, of_service: float = P99_OF_SERVICE) -> float:
    """A percentile of ages at one clock, the 99th if not another."""
    return 1000.0 * (CAMERA_S + service_s / clock * of_service)


class Result(msgspec.Struct, frozen=True):
    """One case: with the governor, with the kernel alone, and what was best in hindsight (inferences)."""

    case: Case
    governed: Outcome
    kernel: Outcome
    best_below_hot: float
    best_in_bounds: float


@functools.cache
def results() -> tuple[Result, ...]:
    """Every case of the grid; some ten seconds."""
    found = []
    for case, fixed in zip(cases(), fixed_rates(cases()), strict=True):
        board = case.board
        alone = Outcome(float(fixed.inferences[-1]), float(fixed.highest_c[-1]), float(fixed.p99_age_ms[-1]))
        below_trip_c = math.nextafter(board.kernel.hard_trip_c, 0.0)
        found.append(
            Result(
                case,
                run(case, Governed(board)),
                alone,
                fixed.best(board.temp_c[1], board.age_bound_ms),
                fixed.best(below_trip_c, board.age_bound_ms),
            )
        )
    return tuple(found)
