"""The thread "sensors": the device looks at itself, and its streams do less or more for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgerun.app.energy_file import EnergyFile
from edgerun.app.levels import AgeWatch, Levels, Orders, Work
from edgerun.app.measures import SlowedAges, measured, policy_of, unmeasured, windows_of
from edgerun.clock import Clock
from edgerun.config.governing import GovernedConfig, GovernorConfig, SensorsConfig
from edgerun.device import objective
from edgerun.device.energy import EnergyMeter, PowerModel, by_stream, power_picture, unknown_rail
from edgerun.device.evidence import thermal_picture, throttling
from edgerun.device.governor import State, mistakes, step
from edgerun.device.ladder import Rung, build_ladder, stricter
from edgerun.device.machine import Machine
from edgerun.device.quiet import is_open
from edgerun.device.sampler import Broken, Sample, Sampler
from edgerun.device.site import SensorOptions, Site
from edgerun.errors import ConfigError
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.notice import ThreadDied
from edgerun.pipeline.pipeline import Pipeline
from edgerun.spool.options import state_folder
from edgerun.types import Reading

BY_GOVERNOR, BY_QUIET = "governor", "quiet"
"""Who pauses a stream."""
_KEEP_EVERY_NS = 600_000_000_000
_TELL_EVERY_NS = 300_000_000_000
_FEWEST_RESULTS = 20
_POWER_GAIN = 0.3
_JOIN_S = 3.0
_LOOKS_TO_MEASURE = 5
"""After so many looks at the sensors, what was not measured is taken to be nowhere on this machine."""
_log = logging.getLogger(__name__)


class News(msgspec.Struct, frozen=True):
    """Something to log and to publish as an event: `governed`, `recovered`, `late`, `throttled`, `unthrottled`,
    `quiet`, `quiet_over`. `streams`: those whose state changes with it, with why; an empty reason is all well again.
    """

    kind: str
    text: str
    streams: Mapping[str, str] = {}


Tell = Callable[[News | ThreadDied], None]


def check_root(sensors: SensorsConfig) -> None:
    """Raises `ConfigError` where `sensors.root` is not there."""
    if not sensors.root.is_dir():
        expected = "a folder that holds sys and proc"
        raise ConfigError("no such folder", where="sensors.root", expected=expected, got=str(sensors.root))


def make_sampler(sensors: SensorsConfig, clock: Clock) -> Sampler:
    """What reads this machine's sensors, or those below `sensors.root`."""
    options = SensorOptions(folders=sensors.folders, vcgencmd=sensors.vcgencmd)
    return Sampler(Site(Machine(sensors.root), clock, options))


def make_meter(sensors: SensorsConfig, start_kwh: float = 0.0) -> EnergyMeter:
    """What counts the machine's energy, from `start_kwh` on."""
    model = None
    if sensors.power_model is not None:
        model = PowerModel(sensors.power_model.idle_w, sensors.power_model.busy_w)
    return EnergyMeter(rail=sensors.rail, model=model, idle_w=sensors.idle_w, start_kwh=start_kwh)


def open_governing(
    config: GovernedConfig, pipeline: Pipeline, clock: Clock, tell: Tell, keep: Callable[[], None] | None = None
) -> Governing:
    """What looks at this machine as the config says, and keeps what it counts in the state folder.

    `keep` keeps what others have, whenever that is done.
    """
    check_root(config.sensors)
    folder = state_folder()
    meter = make_meter(config.sensors, EnergyFile(folder).read())
    sampler = make_sampler(config.sensors, clock)
    return Governing(config, pipeline, sampler, meter, clock, tell, folder=folder, keep=keep)


class _Streams(msgspec.Struct, frozen=True):
    captures: Sequence[Capture]


def check_policy(config: GovernedConfig, captures: Sequence[Capture]) -> None:
    """Raises `ConfigError` for a policy that makes no sense with these streams."""
    governor = config.governor
    if governor is None:
        return
    aims = any(stream.target_age_ms is not None for stream in config.streams.values())
    ladder = build_ladder(Levels(config, _Streams(captures)).climbers(), governor.means)
    if wrong := mistakes(policy_of(governor, aims), ladder):
        raise ConfigError("; ".join(wrong), where="governor")


class Governing:
    """Samples the sensors, counts energy, and holds the streams to what the governor, their objectives and the quiet
    hours allow.

    Made when the pipeline is there and not started. `tell` is called by the thread "sensors"; `groups` by any other.
    `folder`: where the energy counted is kept; None: nowhere. Raises `ConfigError` for a policy that makes no sense.
    """

    def __init__(
        self,
        config: GovernedConfig,
        pipeline: Pipeline,
        sampler: Sampler,
        meter: EnergyMeter,
        clock: Clock,
        tell: Tell,
        *,
        folder: Path | None = None,
        keep: Callable[[], None] | None = None,
    ) -> None:
        self._config, self._pipeline, self._sampler, self._clock, self._tell = config, pipeline, sampler, clock, tell
        self._sensors = config.sensors
        self._levels = Levels(config, pipeline)
        self._lock = threading.Lock()  # around the meter and what was done since telemetry last asked
        self._meter = meter
        self._file = EnergyFile(folder) if folder is not None else None
        self._keep_more = keep
        self._kept_ns = clock.mono_ns()
        self._power = make_meter(config.sensors)
        self._power_w: float | None = None
        self._busy_ns: int | None = None
        self._looked_ns = clock.mono_ns()
        self._done: dict[str, Work] = {}
        governor = config.governor
        self._targets = {name: s.target_age_ms for name, s in config.streams.items() if s.target_age_ms is not None}
        aims = governor is not None and bool(self._targets)
        self._policy = policy_of(governor if governor is not None else GovernorConfig(under_voltage=False), aims)
        self._ladder = build_ladder(self._levels.climbers(), governor.means if governor is not None else ())
        if governor is not None and (wrong := mistakes(self._policy, self._ladder)):
            raise ConfigError("; ".join(wrong), where="governor")
        self._state = State()
        self._told_level, self._told_ns = 0, clock.mono_ns()
        climbers = {one.name: one for one in self._levels.climbers()}
        self._own_ladders = {n: objective.rungs(climbers[n].variants, climbers[n].rated) for n in self._targets}
        self._own_states = dict.fromkeys(self._targets, State())
        self._ages = AgeWatch(tuple(self._targets))
        self._slowed_ages = SlowedAges()
        if self._targets:
            pipeline.publisher.add(self._ages)
        self._hopeless: frozenset[str] = frozenset()
        self._windows = windows_of(config.quiet)
        self._open: dict[str, bool] = dict.fromkeys(self._windows, False)
        self._throttled: tuple[str, ...] = ()
        self._rests = True
        self._looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The newest of every sensor."""
        return tuple(self._sampler.latest.values())

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The sensors that are there and cannot be read."""
        return tuple(self._sampler.broken)

    def inherit(self, before: Governing) -> None:
        """Go on where `before`, which is closed, stood: what it held back stays so, as far as both have it. To be
        called before `start`, which then measures nothing at rest.
        """
        self._rests = False
        self._keep_more = self._keep_more or before._keep_more
        before._pipeline.publisher.remove(before._ages)
        self._levels.inherit(before._levels)
        self._open = {name: before._open.get(name, False) for name in self._windows}
        self._throttled, self._power_w = before._throttled, before._power_w
        if self._config.governor == before._config.governor:
            self._looks = before._looks
            level = round(before._state.level * (len(self._ladder) - 1) / max(1, len(before._ladder) - 1))
            self._state = msgspec.structs.replace(before._state, level=level, doubtful=None)
            self._told_level = level if before._told_level else 0
        for name in self._targets.keys() & before._targets.keys():
            if self._own_ladders[name] == before._own_ladders[name]:
                self._own_states[name] = before._own_states[name]

    def let_go(self) -> None:
        """Hold nothing back any more; after `close`, where nobody follows."""
        self._pipeline.publisher.remove(self._ages)
        self._levels.give({})

    def start(self) -> None:
        """Look at the sensors from now on; before that, for as long as the config says, measure the device at rest.

        To be called before the pipeline is started.
        """
        rest_ns = self._clock.mono_ns() + (round(self._sensors.baseline_s * 1e9) if self._rests else 0)
        while self._clock.mono_ns() < rest_ns:
            sample = self._sampler.sample()
            with self._lock:
                self._meter.feed(sample.readings, busy=0.0)
            self._clock.wait(self._stop, self._sensors.interval_s)
        self._look_at_the_clock()
        self._order()
        self._thread.start()

    def close(self) -> None:
        """End the thread, and keep what was counted. Idempotent. A sensor that hangs is left behind."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        else:
            self._sampler.close()
        self._keep()

    def groups(self) -> dict[str, dict[str, Any]]:
        """`thermal`, `power` and `governor` of telemetry, without those of which nothing is known. The interval that
        `power` covers ends with the call.
        """
        with self._lock:
            spent = self._meter.take()
            done, self._done = self._done, {}
            power = power_picture(self._meter, spent, sum(work.inferences for work in done.values()))
        if spent is not None:
            shares = by_stream(
                spent,
                {name: work.engine_ns for name, work in done.items()},
                {name: work.inferences for name, work in done.items()},
            )
            each = {n: round(s.j_per_inference, 4) for n, s in shares.items() if s.j_per_inference is not None}
            if len(each) > 1:
                power["streams"] = {name: {"j_per_inference": joules} for name, joules in each.items()}
        groups = {"thermal": thermal_picture(self.readings), "power": power, "governor": self._picture()}
        return {name: group for name, group in groups.items() if group}

    def look(self, sample: Sample) -> None:
        """What follows from one sample. Called by the thread "sensors"."""
        now_ns, governor = self._clock.mono_ns(), self._config.governor
        busy, work = self._busy_since(now_ns), self._levels.work()
        with self._lock:
            self._meter.feed(sample.readings, busy=busy)
            for name, one in work.items():
                before = self._done.get(name, Work())
                self._done[name] = Work(before.engine_ns + one.engine_ns, before.inferences + one.inferences)
        self._power.feed(sample.readings)
        spent = self._power.take()
        if spent is None:
            self._power_w = self._power_w if self._power.source is not None else None
        else:
            before_w = spent.power_w if self._power_w is None else self._power_w
            self._power_w = before_w + _POWER_GAIN * (spent.power_w - before_w)
        values = {name: reading.value for name, reading in self._sampler.latest.items()}
        slowed = throttling(values).now
        self._tell_of_throttling(slowed)
        known = measured(values, self._power_w, self._slowed_ages.share(bool(slowed)))
        self._looks += 1
        if self._looks == _LOOKS_TO_MEASURE and governor is not None and (lacking := unmeasured(governor, known)):
            _log.warning(
                "governor: nothing on this machine measures what limits %s: that part does nothing. "
                "edgerun doctor shows what there is",
                ", ".join(lacking),
            )
        rail = self._sensors.rail
        if self._looks == _LOOKS_TO_MEASURE and rail is not None and (text := unknown_rail(rail, values)) is not None:
            _log.warning("%s", text)
        seen = {str(name): value for name, value in known.items()}
        self._state = step(self._policy, len(self._ladder), self._state, seen, now_ns)
        self._look_at_ages(now_ns)
        self._look_at_the_clock()
        self._order()
        self._tell_of_level(now_ns)
        if now_ns - self._kept_ns >= _KEEP_EVERY_NS:
            self._kept_ns = now_ns
            self._keep()

    def _run(self) -> None:
        try:
            self._sampler.run(self._stop, self._sensors.interval_s, self.look)
        except BaseException as error:  # noqa: BLE001  a thread's body: told, and the run ends with it
            self._tell(ThreadDied("sensors", error))

    def _keep(self) -> None:
        if self._file is not None:
            with self._lock:
                energy_kwh = self._meter.energy_kwh
            self._file.write(energy_kwh)
        if self._keep_more is not None:
            self._keep_more()

    def _busy_since(self, now_ns: int) -> float | None:
        """The share of the time since the last look in which engines worked; the busiest counts."""
        busy_ns = sum(worker.read_busy_ns() for worker in self._pipeline.workers)
        before_ns, self._busy_ns = self._busy_ns, busy_ns
        passed_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        return None if before_ns is None or passed_ns <= 0 else min(1.0, (busy_ns - before_ns) / passed_ns)

    def _look_at_ages(self, now_ns: int) -> None:
        """Step each stream's objective when enough of its results have come; a stream without results stays."""
        for name, target_ms in self._targets.items():
            seen = self._ages.take(name, _FEWEST_RESULTS)
            if seen is None:
                continue
            age_share, service_share = seen[0] / target_ms, seen[1] / target_ms
            self._slowed_ages.note(name, age_share, bool(self._throttled))
            before = self._own_states[name]
            after = objective.step_towards(self._own_ladders[name], before, age_share, service_share, now_ns)
            self._own_states[name] = after
            hopeless = min(age_share, service_share) >= 1.0 and after.level == before.level
            if hopeless and name not in self._hopeless:
                text = f"inference alone takes {seen[1]:.0f} ms, results are to be {target_ms:g} ms old at most"
                self._tell(News("late", f"{name}: {text}, and there is no smaller variant"))
            self._hopeless = self._hopeless | {name} if hopeless else self._hopeless - {name}
            if after.level != before.level:
                self._tell_of_objective(name, before.level, after, target_ms)

    def _look_at_the_clock(self) -> None:
        unix_s = self._clock.unix_s()
        for name, window in self._windows.items():
            now = is_open(window, unix_s)
            if now != self._open[name]:
                self._open[name] = now
                over = "have begun" if now else "are over"
                self._tell(News("quiet" if now else "quiet_over", f"the quiet hours {name} {over}"))

    def _order(self) -> None:
        """Put together what each stream is to do, and have it done."""
        level = self._ladder[min(self._state.level, len(self._ladder) - 1)]
        orders = {}
        for name in self._config.streams:
            rung = level.get(name, Rung())
            if name in self._own_states:
                rung = stricter(rung, self._own_ladders[name][self._own_states[name].level])
            paused = {BY_GOVERNOR: self._state.reason or "the governor paused it"} if rung.paused else {}
            max_fps: float | None = None
            for window in self._windows:
                quiet = self._config.quiet[window]
                if self._open[window] and (not quiet.streams or name in quiet.streams):
                    if quiet.max_fps is None:
                        paused[BY_QUIET] = f"the quiet hours {window}"
                    else:
                        max_fps = quiet.max_fps if max_fps is None else min(max_fps, quiet.max_fps)
            orders[name] = Orders(rung, max_fps, paused)
        self._levels.give(orders)

    def _tell_of_level(self, now_ns: int) -> None:
        """The first step down, the last step up, and, every few minutes, where it stands between them."""
        level, told = self._state.level, self._told_level
        bottom = level == len(self._ladder) - 1 != told
        if level == told or (told and level and not bottom and now_ns - self._told_ns < _TELL_EVERY_NS):
            return
        self._told_level, self._told_ns = level, now_ns
        if not level:
            self._tell(
                News("recovered", "all streams may do everything again", dict.fromkeys(self._config.streams, ""))
            )
            return
        reason = self._state.reason or "calm again"
        of = f"level {level} of {len(self._ladder) - 1}"
        rungs = self._ladder[level]
        held = {name: reason if rungs[name] != Rung() else "" for name in rungs}
        self._tell(News("governed", f"{reason}: {of}", held))

    def _tell_of_objective(self, name: str, before: int, after: State, target_ms: float) -> None:
        rung = self._own_ladders[name][after.level]
        held = f"{rung.fps_share:.0%} of its rate" + (f", variant {rung.variant}" if rung.variant else "")
        reason = f"results are to be at most {target_ms:g} ms old: {held}" if after.level else ""
        if after.level > before or not after.level:
            self._tell(News("governed" if after.level else "recovered", reason or f"{name} is in time", {name: reason}))

    def _tell_of_throttling(self, now: tuple[str, ...]) -> None:
        if bool(now) != bool(self._throttled):
            text = f"the machine is slowed down: {', '.join(now)}" if now else "the machine is not slowed down any more"
            self._tell(News("throttled" if now else "unthrottled", text))
        self._throttled = now

    def _picture(self) -> dict[str, Any]:
        """The `governor` group: what is held back now, and why; empty where nothing governs."""
        if self._config.governor is None and not self._targets and not self._windows:
            return {}
        out: dict[str, Any] = {}
        if self._config.governor is not None:
            out |= {"level": self._state.level, "levels": len(self._ladder) - 1}
            if self._state.level and self._state.reason:
                out["reason"] = self._state.reason
        if quiet := [name for name, now in self._open.items() if now]:
            out["quiet"] = quiet
        if streams := {name: shown for name in self._config.streams if (shown := self._levels.shown(name))}:
            out["streams"] = streams
        return out
