"""How much energy the machine used, from the best source it has, and what of it one inference cost.

Sources, best first: `rail` (an INA monitor on the supply), `pmic` (the rails of a Pi 5, a lower bound), `battery`
(while it discharges), `rapl` (the processor packages only), and, where the operator gave a power model, `estimated`.
Power is integrated by the trapezoidal rule over monotonic time, counters are differences across their wraps. No source,
no figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgerun.device.site import name_parts
from edgerun.types import Reading
from edgerun.validate import show

Source = Literal["rail", "pmic", "battery", "rapl", "estimated"]
Baseline = Literal["stated", "measured"]

SUPPLY_RAILS = ("POM_5V_IN", "VDD_IN")
"""The rail of the whole module on Jetsons (Jetson Linux Developer Guide): the others are counted in it."""


def unknown_rail(rail: str, names: Iterable[str]) -> str | None:
    """What to say when none of the readings called `names` is the power of `rail`; None when one is."""
    split = [name_parts(name) for name in names]
    known = sorted(place for kind, place, quantity in split if (kind, quantity) == ("rail", "power_w"))
    if rail in known:
        return None
    there = ", ".join(known) if known else "none that is measured"
    return f"sensors.rail: there is no rail {show(rail)} on this machine, so its energy is not counted; it has {there}"


_BEST_FIRST: tuple[Source, ...] = ("rail", "pmic", "battery", "rapl", "estimated")
_PLATFORM = "psys"
_LEAST_COVERED = 0.9
_IDLE_BELOW = 0.02
_IDLE_LEAST_S = 5.0
_IDLE_MOST_S = 600.0
_ZERO_W = 0.05
"""A current just below zero is the monitor's offset; more than this is a battery being charged: no consumption."""
_J_PER_KWH = 3.6e6


class PowerModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the machine draws with its processors idle and with all of them busy; between them it is a line."""

    idle_w: Annotated[float, Meta(ge=0)]
    busy_w: Annotated[float, Meta(ge=0)]

    def power_w(self, busy_share: float) -> float:
        return self.idle_w + (self.busy_w - self.idle_w) * busy_share


class Spent(msgspec.Struct, frozen=True):
    """Energy of one interval: `total_j` of the whole source over `seconds`, `idle_w` what it draws doing nothing.

    `baseline` says where `idle_w` is from; None: it is not known, and nothing is subtracted.
    """

    total_j: float
    seconds: float
    source: Source
    idle_w: float | None = None
    baseline: Baseline | None = None

    @property
    def power_w(self) -> float:
        return self.total_j / self.seconds

    @property
    def work_j(self) -> float:
        """What was used beyond idling, never below 0; all of it where no baseline is known."""
        return self.total_j if self.idle_w is None else max(0.0, self.total_j - self.idle_w * self.seconds)


class StreamEnergy(msgspec.Struct, frozen=True):
    """One stream's part; `j_per_inference` is None where it had none."""

    work_j: float
    j_per_inference: float | None


class _Point(msgspec.Struct, frozen=True):
    at_ns: int
    power_w: float | None = None
    counters: Mapping[str, tuple[float, float | None]] | None = None
    """Joules and where it wraps, of each counter."""


class EnergyMeter:
    """Fed with the readings of one sample after the other; used by one thread.

    `rail` names the supply's rail where the board does not; `idle_w` states the baseline, else it is measured while
    the engines rest. A stretch of more than `max_gap_s` without a reading is not guessed at. `start_kwh` is what was
    counted before this process.
    """

    def __init__(
        self,
        *,
        rail: str | None = None,
        model: PowerModel | None = None,
        idle_w: float | None = None,
        max_gap_s: float = 120.0,
        start_kwh: float = 0.0,
    ) -> None:
        self._rail, self._model, self._stated_idle_w = rail, model, idle_w
        self._max_gap_ns = round(max_gap_s * 1e9)
        self._all_j = start_kwh * _J_PER_KWH
        self._chosen: tuple[Source, frozenset[str]] | None = None
        self._last: _Point | None = None
        self._began_ns: int | None = None
        self._fed_ns = 0
        self._interval_j = self._covered_s = 0.0
        self._broken = False
        self._idle_j = self._idle_s = 0.0

    @property
    def source(self) -> Source | None:
        """What the figures are from; None: there is nothing."""
        return None if self._chosen is None else self._chosen[0]

    @property
    def energy_kwh(self) -> float | None:
        """Everything so far; None without a source."""
        return None if self._chosen is None else self._all_j / _J_PER_KWH

    @property
    def idle_w(self) -> float | None:
        """The baseline: as stated, else as measured over at least 5 s of rest."""
        if self._stated_idle_w is not None:
            return self._stated_idle_w
        return self._idle_j / self._idle_s if self._idle_s >= _IDLE_LEAST_S else None

    @idle_w.setter
    def idle_w(self, watts: float) -> None:
        self._stated_idle_w = watts

    def feed(self, readings: Iterable[Reading], *, busy: float | None = None) -> None:
        """The readings of one sample. `busy`: the share of the time since the last one in which engines worked."""
        fresh = {one.name: one for one in readings}
        if not fresh:
            return
        self._fed_ns = max(one.at_ns for one in fresh.values())
        if self._began_ns is None:
            self._began_ns = self._fed_ns
        self._choose(fresh)
        point = None if self._chosen is None else self._point(fresh, *self._chosen)
        if point is None:
            return
        before, self._last = self._last, point
        if before is not None and 0 < point.at_ns - before.at_ns <= self._max_gap_ns:
            used_j = _between(before, point, mean=self.source == "estimated")
            if used_j is not None:
                self._add(used_j, (point.at_ns - before.at_ns) / 1e9, busy)

    def take(self) -> Spent | None:
        """The energy since the last call; None where less than nine tenths of that time could be measured."""
        seconds = 0.0 if self._began_ns is None else (self._fed_ns - self._began_ns) / 1e9
        used_j, covered_s, broken = self._interval_j, self._covered_s, self._broken
        self._interval_j = self._covered_s = 0.0
        self._broken = False
        self._began_ns = None if self._began_ns is None else self._fed_ns
        source = self.source
        if source is None or broken or covered_s <= 0.0 or covered_s < _LEAST_COVERED * seconds:
            return None
        idle_w = self.idle_w
        baseline: Baseline | None = None
        if idle_w is not None:
            baseline = "stated" if self._stated_idle_w is not None else "measured"
        return Spent(used_j, covered_s, source, idle_w, baseline)

    def _add(self, used_j: float, seconds: float, busy: float | None) -> None:
        self._interval_j += used_j
        self._all_j += used_j
        self._covered_s += seconds
        if busy is not None and busy <= _IDLE_BELOW:
            if self._idle_s > _IDLE_MOST_S:  # what is old counts less and less
                self._idle_j, self._idle_s = self._idle_j / 2, self._idle_s / 2
            self._idle_j += used_j
            self._idle_s += seconds

    def _choose(self, fresh: Mapping[str, Reading]) -> None:
        """The best source that is there; one that is away for a moment is waited for."""
        there = self._sources(fresh)
        if not there or there[0] == self._chosen:
            return
        best = there[0]
        if self._chosen is not None and self._last is not None:
            better = _BEST_FIRST.index(best[0]) < _BEST_FIRST.index(self._chosen[0])
            more = best[0] == self._chosen[0] and best[1] > self._chosen[1]
            if not (better or more) and self._fed_ns - self._last.at_ns <= self._max_gap_ns:
                return
            self._broken = True
        self._chosen, self._last = best, None
        self._idle_j = self._idle_s = 0.0

    def _sources(self, fresh: Mapping[str, Reading]) -> list[tuple[Source, frozenset[str]]]:
        """Each with the names of its readings, best first."""
        places: dict[Source, set[str]] = {source: set() for source in _BEST_FIRST}
        for name in fresh:
            kind, place, quantity = name_parts(name)
            if quantity == "power_w" and (kind == "rail" or kind == "pmic"):
                places["rail" if kind == "rail" else "pmic"].add(name)
            elif quantity == "power_w" and kind == "battery":
                discharging = fresh.get(f"battery/{place}/discharging")
                if discharging is not None and discharging.value:
                    places["battery"].add(name)
            elif quantity == "energy_j" and kind == "rapl" and place.partition("#")[0] != _PLATFORM:
                places["rapl"].add(name)
            elif name == "system/cpu/busy_share" and self._model is not None:
                places["estimated"].add(name)
        places["rail"] = self._supply(places["rail"])
        return [(source, frozenset(names)) for source, names in places.items() if names]

    def _supply(self, rails: set[str]) -> set[str]:
        """The one rail that feeds the rest, else all of them."""
        for place in (self._rail,) if self._rail is not None else SUPPLY_RAILS:
            name = f"rail/{place}/power_w"
            if name in rails:
                return {name}
        return set() if self._rail is not None else rails

    def _point(self, fresh: Mapping[str, Reading], source: Source, names: frozenset[str]) -> _Point | None:
        """None where one of them has no value now."""
        if not names <= fresh.keys():
            return None
        at_ns = max(fresh[name].at_ns for name in names)
        if source == "rapl":
            ranges = {name: fresh.get(name.replace("/energy_j", "/range_j")) for name in names}
            return _Point(
                at_ns, counters={name: (fresh[name].value, r.value if r else None) for name, r in ranges.items()}
            )
        power_w = sum(fresh[name].value for name in sorted(names))
        if source == "estimated" and self._model is not None:
            power_w = self._model.power_w(power_w)
        return _Point(at_ns, power_w=max(0.0, power_w)) if power_w >= -_ZERO_W else None


def by_stream(spent: Spent, engine_ns: Mapping[str, int], inferences: Mapping[str, int]) -> dict[str, StreamEnergy]:
    """The work's energy, shared out by the time each stream had the engines, both of the interval of `spent`.

    Where no engine worked at all there is nothing to share out: no figures.
    """
    busy_ns = sum(engine_ns.values())
    if busy_ns <= 0:
        return {}
    out = {}
    for stream, own_ns in engine_ns.items():
        work_j, count = spent.work_j * own_ns / busy_ns, inferences.get(stream, 0)
        out[stream] = StreamEnergy(work_j, work_j / count if count else None)
    return out


def power_picture(meter: EnergyMeter, spent: Spent | None, inferences: int) -> dict[str, Any]:
    """The `power` group of telemetry for the interval that `meter.take()` gave; empty without a source.

    `j_per_inference` is beyond idling where `idle_w` is there; `estimated` is there, and true, only where it is.
    """
    if meter.source is None or meter.energy_kwh is None:
        return {}
    out: dict[str, Any] = {"energy_kwh": round(meter.energy_kwh, 6), "source": meter.source}
    if meter.source == "estimated":
        out["estimated"] = True
    if spent is not None:
        out["power_w"] = round(spent.power_w, 3)
        if spent.idle_w is not None:
            out |= {"idle_w": round(spent.idle_w, 3), "baseline": spent.baseline}
        if inferences > 0:
            out["j_per_inference"] = round(spent.work_j / inferences, 4)
    return out


def _between(before: _Point, after: _Point, *, mean: bool) -> float | None:
    """Joules from one point to the next; None where a counter ran back and does not say where it wraps.

    `mean`: the later power is that of the whole time between, not of a moment.
    """
    seconds = (after.at_ns - before.at_ns) / 1e9
    if before.power_w is not None and after.power_w is not None:
        return (after.power_w if mean else (before.power_w + after.power_w) / 2) * seconds
    used_j = 0.0
    for name, (now_j, range_j) in (after.counters or {}).items():
        step = now_j - (before.counters or {})[name][0]
        if step < 0:
            if range_j is None or step + range_j < 0:
                return None
            step += range_j
        used_j += step
    return used_j
