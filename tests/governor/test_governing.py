"""The thread "sensors" with a real pipeline and a board's tree whose files change."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.app.energy_file import EnergyFile
from edgerun.app.governing import Governing, News, make_meter, make_sampler
from edgerun.app.measures import SlowedAges
from edgerun.clock import FakeClock, SystemClock
from edgerun.config.governing import FallingConfig, GovernorConfig, QuietConfig, RisingConfig, SensorsConfig
from edgerun.device.ladder import Climber, build_ladder
from edgerun.device.sampler import Sample
from edgerun.pipeline.notice import StreamNotice
from edgerun.pipeline.pipeline import Pipeline
from edgerun.types import Reading
from tests.mosquitto import wait_until
from tests.pipeline.parts import CountingSource, ListSink, build

HOT = GovernorConfig(temp_c=RisingConfig(70.0, 80.0, 90.0), up_s=1.0, settle_s=1.0)


class Stream(msgspec.Struct):
    weight: float = 1.0
    gate: object | None = None
    target_age_ms: float | None = None
    least_fps: float | None = None
    may_pause: bool = True


class Settings(msgspec.Struct):
    streams: dict[str, Stream]
    governor: GovernorConfig | None = None
    sensors: SensorsConfig = SensorsConfig()
    quiet: dict[str, QuietConfig] = {}


class Rig:
    """A pipeline, a board below a folder, and a governor that looks when told to, on a clock that goes when told to."""

    def __init__(
        self, folder: Path, settings: Settings, names: tuple[str, ...] = ("dock",), age_s: float = 0.0
    ) -> None:
        self.root = folder / "board"
        self.clock = FakeClock()
        self.sink = ListSink()
        self.news: list[Any] = []
        zone = self.root / "sys/class/thermal/thermal_zone0"
        zone.mkdir(parents=True)
        (zone / "type").write_text("cpu-thermal\n")
        self._temp = zone / "temp"
        self.set_temp(50.0)
        sensors = msgspec.structs.replace(settings.sensors, root=self.root, interval_s=1.0)
        self.settings = msgspec.structs.replace(settings, sensors=sensors)
        sources = {
            name: lambda stop: CountingSource(SystemClock(), stop, interval_s=0.004, age_s=age_s) for name in names
        }
        self.pipeline: Pipeline = build(sources, sinks=[self.sink], model="m")
        self.sampler = make_sampler(self.settings.sensors, self.clock)
        self.governing = Governing(
            self.settings,
            self.pipeline,
            self.sampler,
            make_meter(self.settings.sensors),
            self.clock,
            self.news.append,
            folder=folder / "state",
        )
        self.pipeline.start()

    def set_temp(self, temp_c: float | None) -> None:
        if temp_c is None:
            self._temp.unlink()
        else:
            self._temp.write_text(f"{round(temp_c * 1000)}\n")

    def look(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.governing.look(self.sampler.sample())

    def kinds(self) -> list[str]:
        return [one.kind for one in self.news]

    def until(self, true: Callable[[], object]) -> None:
        wait_until(true, 60)

    def notice(self, state: str) -> StreamNotice:
        while True:
            found = self.pipeline.notices.get(timeout=60)  # type: ignore[attr-defined]
            if isinstance(found, StreamNotice) and found.state == state:
                return found


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(settings: Settings, **how: Any) -> Rig:
        made.append(Rig(tmp_path, settings, **how))
        return made[-1]

    yield make
    for one in made:
        one.governing.close()
        assert one.pipeline.stop(60) == []
        for lane in one.pipeline.lanes:
            assert lane.meter.account.in_flight == 0


def test_heat_takes_frames_away_and_calm_gives_them_back(rig: Callable[..., Rig]) -> None:
    made = rig(Settings({"dock": Stream()}, HOT))
    (lane,) = made.pipeline.lanes
    made.until(lambda: lane.demand.interval_ns and lane.meter.account.view().fates["published"] > 20)
    made.look(3)
    assert made.governing.groups()["governor"] == {"level": 0, "levels": len(build_ladder([Climber("dock")])) - 1}
    made.set_temp(82.0)
    made.look(3)
    assert made.kinds() == ["governed"]
    assert "82.0 °C" in made.news[0].text
    assert made.news[0].streams == {"dock": "the processor is at 82.0 °C, which is hot"}
    group = made.governing.groups()["governor"]
    assert group["level"] == 3
    assert lane.slowed_to_fps == pytest.approx(group["streams"]["dock"]["max_fps"], rel=0.01)
    limited = lane.meter.account.view().fates["limited"]
    made.until(lambda: lane.meter.account.view().fates["limited"] > limited + 5)
    made.set_temp(50.0)
    made.look(60)
    assert made.kinds() == ["governed", "recovered"]
    assert lane.slowed_to_fps is None
    assert made.news[-1].streams == {"dock": ""}


def test_at_stop_everything_is_paused_and_comes_back(rig: Callable[..., Rig]) -> None:
    made = rig(Settings({"dock": Stream(), "yard": Stream(may_pause=False)}, HOT), names=("dock", "yard"))
    made.notice("running")
    made.set_temp(95.0)
    made.look()
    reasons = {made.notice("paused").reason, made.notice("paused").reason}
    assert reasons == {"the processor is at 95.0 °C: everything has to stop"}
    made.set_temp(40.0)
    made.look(200)
    made.notice("running")
    made.notice("running")
    assert made.kinds() == ["governed", "recovered"]


def test_who_may_not_be_paused_goes_on_until_everything_stops(rig: Callable[..., Rig]) -> None:
    streams = {"dock": Stream(), "yard": Stream(may_pause=False), "door": Stream(weight=5.0)}
    made = rig(Settings(streams, HOT), names=tuple(streams))
    made.set_temp(82.0)
    made.look(200)
    assert made.notice("paused").stream == "dock"
    shown = made.governing.groups()["governor"]["streams"]
    assert "paused" not in shown["yard"]
    assert "paused" not in shown["door"]


def test_a_rate_never_falls_below_the_least(rig: Callable[..., Rig]) -> None:
    made = rig(Settings({"dock": Stream(least_fps=60.0)}, HOT))
    (lane,) = made.pipeline.lanes
    made.until(lambda: lane.meter.account.view().fates["published"] > 20)
    made.look()
    made.set_temp(82.0)
    made.look(60)
    assert lane.slowed_to_fps == 60.0


def test_a_sensor_that_vanishes_or_lies_holds_what_is_and_stops_nothing(rig: Callable[..., Rig]) -> None:
    made = rig(Settings({"dock": Stream()}, HOT))
    made.set_temp(82.0)
    made.look(3)
    level = made.governing.groups()["governor"]["level"]
    made.set_temp(None)
    made.look(90)
    assert made.governing.groups()["governor"]["level"] == level
    for nonsense in ("", "warm", "-2147483648", "2147483648", "9" * 400):
        made._temp.write_text(nonsense)
        made.look(2)
    assert made.governing.groups()["governor"]["level"] == level
    made.set_temp(40.0)
    made.look(90)
    assert made.governing.groups()["governor"]["level"] == 0


def test_quiet_hours_pause_and_a_clock_that_jumps_a_year_leaves_nothing_behind(rig: Callable[..., Rig]) -> None:
    quiet = {
        "night": QuietConfig(begins="0 22 * * *", lasts=8 * 3600.0, timezone="UTC"),
        "lunch": QuietConfig(begins="0 12 * * *", lasts=3600.0, max_fps=2.0, timezone="UTC"),
    }
    made = rig(Settings({"dock": Stream()}, quiet=quiet))
    (lane,) = made.pipeline.lanes
    made.notice("running")

    def set_hour(hour: float, days: int = 0) -> None:
        made.clock._unix_s = (made.clock._unix_s // 86400 + days) * 86400 + hour * 3600

    set_hour(10)
    made.look()
    assert made.kinds() == []
    set_hour(12)
    made.look()
    assert lane.slowed_to_fps == 2.0
    assert made.governing.groups()["governor"] == {"quiet": ["lunch"], "streams": {"dock": {"max_fps": 2.0}}}
    set_hour(23, days=365)
    made.look()
    assert made.notice("paused").reason == "the quiet hours night"
    assert lane.slowed_to_fps is None
    set_hour(23, days=-366)
    made.look()
    set_hour(6)
    made.look()
    made.notice("running")
    assert made.kinds() == ["quiet", "quiet", "quiet_over", "quiet_over"]
    assert not lane.slowed_to_fps


def test_who_paused_a_stream_must_let_it_go(rig: Callable[..., Rig]) -> None:
    made = rig(Settings({"dock": Stream()}, HOT))
    made.notice("running")
    made.pipeline.captures[0].pause("paused by a command")
    made.notice("paused")
    made.set_temp(95.0)
    made.look()
    made.set_temp(40.0)
    made.look(200)
    assert made.kinds() == ["governed", "recovered"]
    assert not made.pipeline.captures[0]._going.is_set()
    made.pipeline.captures[0].resume()
    made.notice("running")


def test_results_that_get_too_old_make_the_stream_slower(rig: Callable[..., Rig]) -> None:
    """The camera's frames come older than the target: the rate goes to its lowest and stays there."""
    made = rig(Settings({"dock": Stream(target_age_ms=40.0)}), age_s=0.05)
    looks = 0
    while looks < 4 or len(made.news) < 2:  # where the machine is busy a step may help by chance
        seen, looks = len(made.sink.got), looks + 1
        made.until(lambda: len(made.sink.got) > seen + 25)  # noqa: B023
        made.look(12)
    assert made.kinds() == ["governed"] * len(made.news)
    assert 2 <= len(made.news) <= 4
    assert "at most 40 ms old" in made.news[0].text
    assert made.pipeline.lanes[0].slowed_to_fps is not None


def test_where_no_rate_can_help_none_is_lowered_and_it_is_told_once(rig: Callable[..., Rig]) -> None:
    made = rig(Settings({"dock": Stream(target_age_ms=0.001)}))
    for _ in range(3):
        seen = len(made.sink.got)
        made.until(lambda: len(made.sink.got) > seen + 25)  # noqa: B023
        made.look(12)
    assert made.kinds() == ["late"]
    assert "inference alone takes" in made.news[0].text
    assert made.pipeline.lanes[0].slowed_to_fps is None


def test_results_that_the_kernel_makes_old_take_the_whole_device_down(rig: Callable[..., Rig]) -> None:
    """While the machine is slowed down; ages that are missed at full clock, too, are the stream's own affair."""
    made = rig(
        Settings({"dock": Stream(target_age_ms=40.0), "yard": Stream()}, HOT), names=("dock", "yard"), age_s=0.05
    )
    cooling = made.root / "sys/class/thermal/cooling_device0"
    cooling.mkdir()
    (cooling / "type").write_text("cpufreq-cpu0\n")
    (cooling / "max_state").write_text("5\n")

    def level(state: int, looks: int) -> int:
        (cooling / "cur_state").write_text(f"{state}\n")
        for _ in range(looks):
            seen = len(made.sink.got)
            made.until(lambda: sum(p.result.stamp.stream == "dock" for p in made.sink.got[seen:]) > 25)  # noqa: B023
            made.look(2)
        return made.governing.groups()["governor"]["level"]  # type: ignore[no-any-return]

    assert level(3, 4) >= 4
    assert "of the age they may have, which is too old" in made.governing.groups()["governor"]["reason"]
    assert {"throttled", "governed"} <= set(made.kinds())
    assert level(0, 2) < made.governing.groups()["governor"]["levels"]
    made.look(60)
    assert level(3, 4) == 0


def test_the_ages_that_count_are_those_that_heat_makes() -> None:
    ages = SlowedAges()
    assert ages.share(slowed=True) is None
    ages.note("dock", 0.9, slowed=False)
    assert ages.share(slowed=False) == 0.8
    assert ages.share(slowed=True) == 0.9
    for _ in range(20):
        ages.note("dock", 1.1, slowed=True)
    assert ages.share(slowed=True) == pytest.approx(1.1, abs=0.01)
    assert ages.share(slowed=False) == 0.8
    ages.note("yard", 1.5, slowed=False)
    assert ages.share(slowed=True) == pytest.approx(1.1, abs=0.01)
    ages.note("dock", 1.2, slowed=False)
    assert ages.share(slowed=True) == 0.8, "both are too old at full clock"
    for _ in range(20):
        ages.note("dock", 0.5, slowed=False)
    ages.note("dock", 0.6, slowed=True)
    assert ages.share(slowed=True) == pytest.approx(0.53, abs=0.01)


def test_the_real_thread_ends_and_a_fault_in_it_is_told(tmp_path: Path) -> None:
    settings = Settings({"dock": Stream()}, HOT, SensorsConfig(root=tmp_path, interval_s=0.1))
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    pipeline = build({"dock": lambda stop: CountingSource(SystemClock(), stop, frames=1)})

    class Bug(RuntimeError):
        pass

    class BrokenSampler:
        latest: dict[str, Reading] = {}  # noqa: RUF012

        def run(self, stop: threading.Event, interval_s: float, tell: Callable[[Sample], None]) -> None:
            raise Bug

        def close(self) -> None:
            pass

    def governing(sampler: Any) -> Governing:
        return Governing(settings, pipeline, sampler, make_meter(settings.sensors), SystemClock(), told.put)

    broken = governing(BrokenSampler())
    broken.start()
    death = told.get(timeout=60)
    assert (death.thread, type(death.error)) == ("sensors", Bug)
    broken.close()
    well = governing(make_sampler(settings.sensors, SystemClock()))
    well.start()
    well.close()
    well.close()
    assert not well._thread.is_alive()
    never_started = governing(make_sampler(settings.sensors, SystemClock()))
    never_started.close()


def test_energy_is_counted_by_stream_and_kept(rig: Callable[..., Rig], tmp_path: Path) -> None:
    settings = Settings({"dock": Stream(), "yard": Stream()}, sensors=SensorsConfig(idle_w=2.0))
    made = rig(settings, names=("dock", "yard"))
    hwmon = made.root / "sys/class/hwmon/hwmon0"
    hwmon.mkdir(parents=True)
    (hwmon / "name").write_text("ina226\n")
    (hwmon / "in1_input").write_text("5000\n")
    (hwmon / "curr1_input").write_text("1000\n")
    (hwmon / "power1_input").write_text("5000000\n")
    made.clock.advance(61.0)
    made.until(lambda: len(made.sink.got) > 20)
    made.look(3)
    made.governing.groups()
    seen = len(made.sink.got)
    made.until(lambda: len({p.result.stamp.stream for p in made.sink.got[seen:]}) == 2)
    made.look(10)
    power = made.governing.groups()["power"]
    assert power["power_w"] == pytest.approx(5.0)
    assert power["source"] == "rail"
    assert power["j_per_inference"] > 0
    assert set(power["streams"]) == {"dock", "yard"}
    made.governing.close()
    assert EnergyFile(tmp_path / "state").read() == pytest.approx(5.0 * 12 / 3.6e6, rel=0.2)


def test_news_are_values() -> None:
    assert News("governed", "hot") == News("governed", "hot", {})


def test_limits_that_nothing_measures_are_told_once(rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    governor = msgspec.structs.replace(HOT, power_w=5.0, battery=FallingConfig(0.3, 0.15))
    rig(Settings({"dock": Stream()}, governor)).look(20)
    (said,) = [one.getMessage() for one in caplog.records if "measures" in one.getMessage()]
    assert "what limits power_w, battery:" in said
