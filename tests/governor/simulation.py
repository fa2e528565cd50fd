"""A device in a sealed box, its kernel that slows it down when hot, and the governor in a closed loop: no threads, no
waiting, the same at every run.

**Heat.** Two nodes: the die with its board, and the box. With P the power, all of it heat,

    C₁ dT/dt = P − (T − B) / R₁        C₂ dB/dt = (T − B) / R₁ − (B − ambient) / R₂

T the temperature of the die, which is what the sensor shows (in steps), B that of the box. Solved by Euler's method in
steps far below R₁ C₁.

**Work.** One model infers as fast as it is let to: at most `1 / service` a second, fewer when the kernel has lowered the
clock. Each inference costs a fixed energy at full clock, less where the voltage comes down with the clock (dynamic
power goes with f · V²). Idling costs `idle_w`. The age of a result is half a camera interval and the service time; its
99th percentile that of service times that vary by 20 % (lognormal), over all results of the run.

**The best fixed rate.** Below the temperature where the kernel acts, T depends linearly on the rate. So the highest fixed
rate that keeps T at or below the governor's `hot` for the whole run, known in hindsight, follows exactly from two runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.device.governor import Policy, State, rising_band, step
from edgerun.device.ladder import Climber, build_ladder

STEP_S = 2.0
HOURS = 6.0
CAMERA_S = 1 / 30
NOISE = 0.2
P99_OF_SERVICE = math.exp(2.326 * NOISE - NOISE * NOISE / 2)
"""Of a lognormal service time about its mean."""

Array = NDArray[np.float64]


class Kernel(msgspec.Struct, frozen=True):
    """How a board slows itself down: the clock, as a share of the full one, at a temperature, coming from a clock.

    `v_low`: the voltage at `lowest_clock`, as a share of that at full clock; between them it is a line.
    """

    name: str
    acts_c: float
    hard_trip_c: float
    lowest_clock: float
    clock: Callable[[float, float], float]
    v_low: float = 1.0

    def energy(self, clock: float) -> float:
        """Energy of one inference, as a share of that at full clock."""
        lowered = (1.0 - clock) / (1.0 - self.lowest_clock)
        volts = 1.0 - (1.0 - self.v_low) * lowered
        return volts * volts


def _raspberry(lowest: float) -> Callable[[float, float], float]:
    """Linear from full clock at 80 °C to the lowest at 85 °C."""
    return lambda temp_c, clock: 1.0 - (1.0 - lowest) * min(1.0, max(0.0, (temp_c - 80.0) / 5.0))


def _step_wise(passive_c: float, margin_c: float, lowest: float, states: int) -> Callable[[float, float], float]:
    """The kernel's step_wise governor: a state down each poll above the trip, a state up each poll below its margin."""
    one = (1.0 - lowest) / states

    def clock(temp_c: float, before: float) -> float:
        if temp_c >= passive_c:
            return max(lowest, before - one)
        return min(1.0, before + one) if temp_c < passive_c - margin_c else before

    return clock


class Board(msgspec.Struct, frozen=True):
    """A device: its kernel, what it draws idle and with its model at full rate, its model's service time; the governor's
    temperatures (warm, hot, stop).
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
    def inference_j(self) -> float:
        return (self.busy_w - self.idle_w) * self.service_s


PI_CLOCK = Kernel("Raspberry Pi, clock only", 80.0, 85.0, 0.5, _raspberry(0.5))
PI_VOLTAGE = Kernel("Raspberry Pi 4, clock and voltage", 80.0, 85.0, 1 / 3, _raspberry(1 / 3), v_low=0.85)
ORIN = Kernel("Jetson Orin Nano, step_wise", 95.0, 104.5, 0.3, _step_wise(95.0, 2.0, 0.3, 12), v_low=0.75)

_PI: dict[str, Any] = {
    "idle_w": 2.7,
    "busy_w": 6.4,
    "service_s": 0.1,
    "temp_c": (72.0, 79.0, 84.0),
    "die_k_per_w": 4.0,
    "die_j_per_k": 20.0,
    "boxes_k_per_w": (4.0, 7.0, 10.0),
}
BOARDS = (
    Board("pi", PI_CLOCK, **_PI),
    Board("pi4", PI_VOLTAGE, **_PI),
    Board("orin", ORIN, 5.0, 15.0, 0.03, (85.0, 93.0, 99.0), 1.2, 80.0, (2.0, 3.5, 5.0), 0.5),
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
    """The governor as the daemon runs it: one stream, rates only, a look every other second."""

    def __init__(self, board: Board) -> None:
        warm, hot, stop = board.temp_c
        self._policy = Policy((rising_band("temp_c", warm, hot, stop, 3.0),))
        self._ladder = build_ladder([Climber("door")])
        self._state = State()
        self._sensor_c = board.sensor_c
        self.moves = 0

    def share(self, seconds: float, temp_c: float) -> float:
        shown_c = round(temp_c / self._sensor_c) * self._sensor_c
        before = self._state.level
        self._state = step(self._policy, len(self._ladder), self._state, {"temp_c": shown_c}, round(seconds * 1e9))
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
            share = governed.share(seconds, box.die_c)
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


def best_fixed(case: Case) -> tuple[float, float]:
    """The highest share of the full rate, at most 1, that never gets hotter than `hot`; and the inferences it gives.

    0 where even that of nothing does.
    """
    board = case.board
    hot_c = board.temp_c[1]
    idle = _temps(case, board.idle_w)
    warmer = _temps(case, board.busy_w) - idle
    share = min(1.0, float(np.min((hot_c - idle) / np.maximum(warmer, 1e-9))))
    share = max(0.0, share)
    return share, share * board.full_fps * case.steps * STEP_S


def _temps(case: Case, power_w: float) -> Array:
    box = Box(case)
    return np.array([box.step(power_w, case.ambient.at(at * STEP_S)) for at in range(case.steps)])


def _p99_age_ms(by_clock: dict[float, float], service_s: float) -> float:
    """Of the slowest clock that at least a hundredth of the results had to do with."""
    left = sum(by_clock.values()) * 0.01
    for clock in sorted(by_clock):
        left -= by_clock[clock]
        if left <= 0:
            return age_bound_ms(service_s, clock)
    return 0.0


def age_bound_ms(service_s: float, clock: float = 1.0) -> float:
    """The 99th percentile of ages at one clock."""
    return 1000.0 * (CAMERA_S + service_s / clock * P99_OF_SERVICE)
