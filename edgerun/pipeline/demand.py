"""Demand: the one thing that flows upstream, as pure rules.

The worker tells each stream's capture thread when its next turn is expected (`plan_turns`). A source that can hold its
newest frame undecoded decodes it just ahead of that turn (`decode_at`); any other decides when a frame comes whether to
decode it (`worth_retrieving`). `pick` says whose turn it is. docs/freshness.md shows what these rules achieve.
All times are ns on the monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

# Weights of a new sample in the mean and in the deviation: TCP's round-trip estimator (RFC 6298 §2, after
# V. Jacobson, "Congestion avoidance and control", SIGCOMM 1988).
_GAIN = 1 / 8
_GAIN_DEVIATION = 1 / 4

_GAPS_KEPT = 64  # two seconds at 30 fps hold the last pause of a bursty camera; with 32 it is forgotten too often
_SHORT_BESIDE = 4  # a decode of less than a quarter of the uncertainty is not begun ahead (docs/freshness.md)
_LOOK_AGAIN_NS = 1_000_000
_PATIENCE = 8  # how many times the slowest promised period a stream without min_fps waits at most, if there is overload


class Estimate:
    """A smoothed duration: its mean, forgetting by 1/8 a sample, and its mean deviation, forgetting by 1/4.

    Both are 0 until the first sample, which sets the deviation to half of itself (RFC 6298 §2.2).
    """

    __slots__ = ("deviation_ns", "value_ns")

    def __init__(self) -> None:
        self.value_ns = 0
        self.deviation_ns = 0

    def add(self, sample_ns: int) -> None:
        """Take in one sample; negative ones (a clock that stepped) are ignored."""
        if sample_ns < 0:
            return
        if not self.value_ns:
            self.value_ns, self.deviation_ns = sample_ns, sample_ns // 2
            return
        error_ns = sample_ns - self.value_ns
        self.deviation_ns = int(self.deviation_ns + _GAIN_DEVIATION * (abs(error_ns) - self.deviation_ns))
        self.value_ns = int(self.value_ns + _GAIN * error_ns)


class Gaps:
    """The last 64 times between two frames of a camera, as they came: what it states of its rate is not looked at."""

    __slots__ = ("_gaps_ns", "_previous_ns", "_sum_ns")

    def __init__(self) -> None:
        self._gaps_ns: deque[int] = deque()
        self._sum_ns = 0
        self._previous_ns: int | None = None

    def add(self, captured_ns: int) -> None:
        """A frame came. A stamp before the previous one's (a clock that stepped) starts a new series."""
        previous_ns, self._previous_ns = self._previous_ns, captured_ns
        if previous_ns is None or captured_ns < previous_ns:
            return
        self._gaps_ns.append(captured_ns - previous_ns)
        self._sum_ns += captured_ns - previous_ns
        if len(self._gaps_ns) > _GAPS_KEPT:
            self._sum_ns -= self._gaps_ns.popleft()

    def pause(self) -> None:
        """The time from the last frame to the next says nothing of the camera (it is opened anew)."""
        self._previous_ns = None

    @property
    def mean_ns(self) -> int:
        """The mean gap; 0 until two frames have come."""
        return self._sum_ns // len(self._gaps_ns) if self._gaps_ns else 0

    def lateness_ns(self, slack_ns: int) -> int | None:
        """By how much the next frame will miss a moment `slack_ns` after this one, on average; None: nobody knows yet.

        The mean of `max(0, gap - slack)` over the gaps kept: 0 when every one was shorter. Unlike a quantile it weighs
        how late a frame can be, so a pause of half a second counts although it is rare.
        """
        if not self._gaps_ns:
            return None
        return sum(gap - slack_ns for gap in self._gaps_ns if gap > slack_ns) // len(self._gaps_ns)

    def late_share(self, slack_ns: int) -> float | None:
        """Which share of the gaps kept was longer than `slack_ns`; None: nobody knows yet."""
        if not self._gaps_ns:
            return None
        return sum(gap > slack_ns for gap in self._gaps_ns) / len(self._gaps_ns)


def decode_at(
    now_ns: int,
    wanted_at_ns: int,
    decode_ns: int,
    uncertain_ns: int,
    *,
    spare_core: bool,
    in_slot: bool = False,
) -> int:
    """When to decode the frame that a source holds: not before, because a newer one may come, and hardly later.

    `wanted_at_ns` is when the worker's next turn is expected (0: it waits already), `uncertain_ns` how far off that
    usually is (a mean deviation), `decode_ns` how long decoding takes. With a `spare_core` it is done just before the
    turn begins. On a single core that would take the time from the inference, and where decoding is short beside the
    uncertainty a guess costs more age than waiting costs time: then the worker, which wakes the capture thread when it
    has nothing to do, is waited for, and the moment returned is there only in case it is much later than usual.
    `in_slot`: a decoded frame waits already, so this one need not be; the moment returned is when to look again.
    """
    if in_slot:
        return max(now_ns, wanted_at_ns) + max(decode_ns, _LOOK_AGAIN_NS)
    if wanted_at_ns <= now_ns:
        return now_ns
    if spare_core and decode_ns * _SHORT_BESIDE > uncertain_ns:
        return max(now_ns, wanted_at_ns - decode_ns - uncertain_ns // 2)
    return wanted_at_ns + 2 * uncertain_ns


def due_in_ns(decode: Estimate) -> int:
    """Within what time of its beginning a decode is trusted to end, ns; 0 while nothing is known of it.

    So long its lane counts as having a frame in hand. After that the worker plans without it: a source that hangs must
    not delay the others. Mean and 4 deviations, as TCP waits for an answer (RFC 6298 §2.3).
    """
    return decode.value_ns + 4 * decode.deviation_ns


def overlap_start(infer_end_ns: int, prepare_ns: int, margin_ns: int) -> int:
    """When to start preparing the next frame while an accelerator works: as late as still hides it.

    `infer_end_ns` is when the inference under way is expected to end, `prepare_ns` how long preparing takes.
    """
    return infer_end_ns - prepare_ns - margin_ns


def worth_retrieving(
    now_ns: int, captured_ns: int, wanted_at_ns: int, decode_ns: int, gaps: Gaps, in_slot_ns: int | None = None
) -> bool:
    """Whether to decode a frame that cannot be held, though a later one may still come in time for the turn.

    Decoding it in vain costs `decode_ns`. Leaving it out costs, should its successor come too late, the time that the
    worker stands idle for it; or, when a decoded frame waits already (`in_slot_ns`: when that was captured), the age
    that its result has more. The frame is left out only when the second, on average over the camera's last gaps, is
    less than half the first.
    """
    if wanted_at_ns <= now_ns + decode_ns:
        return True
    came_ns = min(now_ns, max(captured_ns, now_ns - decode_ns))  # a stamp may lie; a backlog is one decode old
    slack_ns = wanted_at_ns - decode_ns - came_ns
    if in_slot_ns is None:
        loss_ns: float | None = gaps.lateness_ns(slack_ns)
    else:
        share = gaps.late_share(slack_ns)
        newer_ns = captured_ns - in_slot_ns
        loss_ns = None if share is None else share * (newer_ns if newer_ns >= 0 else gaps.mean_ns)
    return loss_ns is None or 2 * loss_ns > decode_ns


def plan_turns(
    now_ns: int,
    current: int | None,
    services_ns: Sequence[int],
    in_hand: Sequence[bool],
    weights: Sequence[float] | None = None,
    served_ns: Sequence[int] | None = None,
    min_periods_ns: Sequence[int] | None = None,
) -> list[int]:
    """When each lane's next turn starts if the lanes `in_hand` (a frame waits for the worker or is held undecoded) go
    in the order in which `pick` would take them.

    `services_ns[i]` is lane i's service time, `current` the lane being served from `now_ns` on (None: nobody is).
    `served_ns` is when each was last served, the `head_start` of their weights taken off. Returns absolute ns per lane;
    0 where the worker would take a frame at once. A lane without a frame is told the turn it would get if one came in
    time. Without `served_ns` all others go before the lane being served.
    """
    weights = weights or [1.0] * len(services_ns)
    served = list(served_ns) if served_ns is not None else [0] * len(services_ns)
    periods_ns = _promised(min_periods_ns, len(services_ns))
    at_ns = now_ns
    ahead = head_start(weights)
    if current is not None:
        served[current] = now_ns - int(ahead * services_ns[current])
        at_ns += services_ns[current]
    turns = [-1] * len(services_ns)
    ready = [i for i, there in enumerate(in_hand) if there]
    for _ in range(4 * len(ready)):  # a heavy lane may go several times before a light one
        claims = [_claim(i, weights, served, at_ns, periods_ns) for i in range(len(turns))]
        chosen = max(ready, key=claims.__getitem__)
        for i, turn_ns in enumerate(turns):
            if turn_ns < 0 and (i == chosen or (not in_hand[i] and claims[i] > claims[chosen])):
                turns[i] = at_ns
        if min(turns) >= 0:
            break
        served[chosen] = at_ns - int(ahead * services_ns[chosen])
        at_ns += max(1, services_ns[chosen])
    idle_ns = now_ns if current is None else -1
    return [0 if (turn := at_ns if t < 0 else t) == idle_ns else turn for t in turns]


def pick(
    waiting: Sequence[int],
    weights: Sequence[float],
    served_ns: Sequence[int],
    now_ns: int,
    min_periods_ns: Sequence[int] | None = None,
) -> int:
    """Whose turn it is among the `waiting` lanes; ties go to the first.

    A lane not served for longer than its `min_periods_ns` (0: none promised) goes first, the one that has waited the
    most periods before the others. Else it is the largest `weight × age since it was last served`, which gives
    always-waiting lanes rates in proportion to their weights and serves each within a bounded number of turns. So that
    promises that cannot all be kept starve nobody, a lane without one counts as promised 8 times the longest period.
    """
    if len(waiting) == 1:
        return waiting[0]
    periods_ns = _promised(min_periods_ns, len(weights))
    return max(waiting, key=lambda i: _claim(i, weights, served_ns, now_ns, periods_ns))


def _claim(
    lane: int, weights: Sequence[float], served_ns: Sequence[int], now_ns: int, periods_ns: Sequence[int] | None
) -> tuple[float, float]:
    """A lane's claim to the next turn: the larger goes first. How many periods it is overdue, then its weighted age."""
    age_ns = now_ns - served_ns[lane]
    overdue = age_ns / periods_ns[lane] if periods_ns is not None and age_ns > periods_ns[lane] else 0.0
    return overdue, weights[lane] * age_ns


def _promised(min_periods_ns: Sequence[int] | None, lanes: int) -> Sequence[int] | None:
    """After how long each lane is overdue; None when no lane was promised anything."""
    longest_ns = max(min_periods_ns, default=0) if min_periods_ns is not None else 0
    if min_periods_ns is None or not longest_ns:
        return None
    return [min_periods_ns[i] or _PATIENCE * longest_ns for i in range(lanes)]


def min_period_ns(min_fps: float, longest_turn_ns: int) -> int:
    """How long a lane may go unserved so that its `min_fps` is kept, for `pick`; 0 when `min_fps` is 0.

    A lane that has become overdue still waits for the turn under way and may be one of several: 1.5 turns are taken off
    the period, with `longest_turn_ns` the longest service of any lane, but never more than half of it. In simulation
    that keeps promises that take up to half of the engine (to a tenth at worst); beyond, each gets its share.
    """
    if min_fps <= 0:
        return 0
    period_ns = round(1e9 / min_fps)
    return max(period_ns - longest_turn_ns * 3 // 2, period_ns // 2)


def head_start(weights: Sequence[float]) -> float:
    """By how many service times a lane's age runs ahead after its turn, so that turns are shared as the weights say.

    A lane of weight w is to go w times for each turn of a lane of weight 1, whose claim is then age w (in service
    times) against w × (1 + h) after turn w, and w + 1 against the same after one more: with h = 1 / (2 (w - 1)) either
    comparison is half a service time clear, so no jitter decides it. With h = 0 the first would be a tie.
    """
    ratio = max(weights, default=1.0) / min(weights, default=1.0)
    return min(0.5, 0.5 / (ratio - 1)) if ratio > 1 else 0.0


class RateCap:
    """An fps cap that keeps the stated mean rate whatever the camera's.

    Credit grows with time and a frame costs one period of it. Credit above 1.5 periods is forgotten, so that a pause
    is not followed by a burst.
    """

    def __init__(self, max_fps: float) -> None:
        self._period_ns = round(1e9 / max_fps)
        self._credit_ns = self._period_ns
        self._last_ns: int | None = None

    def admits(self, captured_ns: int) -> bool:
        """Whether the frame captured at `captured_ns` may go on; takes its credit if so."""
        if self._last_ns is not None:
            grown = self._credit_ns + max(0, captured_ns - self._last_ns)
            self._credit_ns = min(grown, self._period_ns * 3 // 2)
        self._last_ns = captured_ns
        if self._credit_ns < self._period_ns:
            return False
        self._credit_ns -= self._period_ns
        return True
