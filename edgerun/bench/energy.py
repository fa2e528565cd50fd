"""What a round of a benchmark used, and whether the machine was slowed down meanwhile.

Energy is the whole machine's (or its processor packages'), not one process's: what it draws while nothing is measured
is subtracted, and said. What can be read, and how, is device/energy.py's and device/evidence.py's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec

from edgerun.clock import SystemClock
from edgerun.device.energy import EnergyMeter
from edgerun.device.evidence import slowed_between
from edgerun.device.machine import Machine
from edgerun.device.sampler import Sampler
from edgerun.device.sensors import builtin_kinds
from edgerun.device.site import Site

_KINDS = (
    "ina", "jetpack4", "battery", "rapl",
    "cooling", "cpufreq", "throttle", "pi-voltage", "pi-firmware", "apex", "cgroup-cpu",
)  # fmt: skip
_SAMPLE_EVERY_S = 0.2
_IDLE_EVERY_S = 0.1
_NEVER_S = 1e9


class RoundFacts(msgspec.Struct, frozen=True):
    """Of one round: joules beyond idling, None where no source tells; `slowed`: what makes it unfit to be compared."""

    work_j: float | None
    slowed: tuple[str, ...]


class RoundWatch:
    """Looks at power and throttling at both ends of each round; where power has no counter, 5 times a second between.

    Its own cost is then about 1 ms a second, in a thread of its own. `machine` is what is looked at.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self._sampler = Sampler(Site(machine or Machine(), SystemClock()), builtin_kinds(_KINDS), look_every_s=_NEVER_S)
        self._meter = EnergyMeter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._slowed: dict[str, None] = {}
        self._values: Mapping[str, float] = {}
        self._look()

    @property
    def source(self) -> str | None:
        """Where energy figures come from; None: there are none."""
        return self._meter.source

    @property
    def idle_w(self) -> float | None:
        """What the machine draws while nothing is measured; None before `rest`."""
        return self._meter.idle_w

    def rest(self, seconds: float) -> None:
        """Measure the machine at rest, where it tells anything: to be called before there is a model."""
        if self.source is None:
            return
        spent_s = 0.0
        self._look()
        self._meter.take()
        while spent_s < seconds:
            self._stop.wait(_IDLE_EVERY_S)
            spent_s += _IDLE_EVERY_S
            self._look()
        rested = self._meter.take()
        if rested is not None:
            self._meter.idle_w = rested.power_w

    def begin(self) -> None:
        """A round begins."""
        self._look()
        self._meter.take()
        self._slowed = {}
        if self.source not in (None, "rapl"):
            self._stop.clear()
            self._thread = threading.Thread(target=self._keep_looking, name="bench:power", daemon=True)
            self._thread.start()

    def end(self) -> RoundFacts:
        """It has ended."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        self._look()
        spent = self._meter.take()
        return RoundFacts(spent.work_j if spent is not None else None, tuple(self._slowed))

    def close(self) -> None:
        """Let go of the sensors. Idempotent."""
        self._sampler.close()

    def _keep_looking(self) -> None:
        while not self._stop.wait(_SAMPLE_EVERY_S):
            self._look()

    def _look(self) -> None:
        with self._lock:
            sample = self._sampler.sample()
            self._meter.feed(sample.readings)
            before, self._values = self._values, sample.values()
            self._slowed |= dict.fromkeys(slowed_between(before, self._values))
