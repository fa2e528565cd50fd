"""The exposition: what promtool thinks of it, that nothing is counted twice, and the names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgerun.clock import FakeClock
from edgerun.errors import DeviceError, MissingError
from edgerun.meter import FATES, StreamMeter
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.naming import metric_of
from edgerun.telemetry.payload import InstalledModel
from edgerun.telemetry.prometheus import Exporter, Scraped, write_textfile
from edgerun.telemetry.reporter import EngineReport
from edgerun.telemetry.states import StateKeeper
from edgerun.types import EngineInfo, Reading
from tests.boards import tree
from tests.telemetry.test_payload import fill
from tests.telemetry.test_readings import readings_of

EDGETPU = EngineInfo("litert 2.3.0", "cpu", 2, fallbacks=(("edgetpu", "no device"),))


class Site:
    """Two streams on one engine, as a scrape sees them."""

    def __init__(self, readings: list[Reading] | None = None) -> None:
        pytest.importorskip("prometheus_client", reason="the extra edgerun[metrics] is not installed")
        self.clock = FakeClock()
        self.ledger = Ledger(self.clock)
        self.meters = {name: StreamMeter() for name in ("dock", "gate/detector")}
        for name, meter in self.meters.items():
            self.ledger.add(name, meter)
        states = StateKeeper({"dock": "cpu", "gate": "cpu"}, self.clock)
        states.set_state("dock", "running", "")
        states.set_fault("gate", "dark", True)
        self.cache: dict[str, int] | None = {"hits": 3, "misses": 4, "entries": 2, "bytes": 800}
        engine = EngineReport(
            InstalledModel("ssd", "2", "ab" * 32), lambda: EDGETPU, lambda: 7_000_000_000, lambda: self.cache
        )
        groups = {
            "power": {"energy_kwh": 0.5, "source": "rail"},
            "spool": {"messages": 3, "bytes": 100, "dropped": 1},
            "thermal": {"throttled": True},
        }
        self.exporter = Exporter(
            Scraped(
                self.ledger,
                states,
                {"main": engine},
                lambda: {"rss_mib": 100.0, "cpu_s": 3.5},
                lambda: readings or [],
                lambda: groups,
            )
        )

    def samples(self) -> dict[str, float]:
        lines = self.exporter.exposition().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def promtool(exposition: bytes) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition, capture_output=True, timeout=60, check=False
    )
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("board", tree.BOARDS)
def test_promtool_finds_nothing_to_complain_about(board: str, tmp_path: Path) -> None:
    site = Site(readings_of(board, tmp_path)[0])
    for meter in site.meters.values():
        fill(meter, dict.fromkeys(FATES, 3), age_ms=61.0, in_flight=1)
    exposition = site.exporter.exposition()
    assert b"edgerun_result_age_seconds_bucket" in exposition
    assert promtool(exposition) == ""


def test_promtool_would_have_found_a_bad_name() -> None:
    assert "base unit" in promtool(
        b"# HELP edgerun_age_milliseconds x\n# TYPE edgerun_age_milliseconds gauge\nedgerun_age_milliseconds 1\n"
    )


def test_it_can_be_made_of_nothing() -> None:
    pytest.importorskip("prometheus_client", reason="the extra edgerun[metrics] is not installed")
    exporter = Exporter(Scraped(Ledger(FakeClock()), StateKeeper({}), {}))
    assert promtool(exporter.exposition()) == ""
    assert b"process_resident" not in exporter.exposition()


def test_telemetry_takes_nothing_away_and_scraping_adds_nothing() -> None:
    site = Site()
    for turn in range(1, 4):
        fill(site.meters["dock"], {"published": 10, "skipped": 4, "failed": 2}, age_ms=3.0)
        if turn % 2:
            site.ledger.interval()
        for _ in range(2):
            samples = site.samples()
            assert samples['edgerun_frames_total{fate="published",stream="dock"}'] == 10 * turn
            assert samples['edgerun_frames_grabbed_total{stream="dock"}'] == 16 * turn
            assert samples['edgerun_frames_failed_total{reason="engine",stream="dock"}'] == 2 * turn
            assert samples['edgerun_result_age_seconds_count{stream="dock"}'] == 10 * turn
            assert samples['edgerun_result_age_seconds_sum{stream="dock"}'] == pytest.approx(0.03 * turn)
            assert samples['edgerun_result_age_seconds_bucket{le="0.002048",stream="dock"}'] == 0
            assert samples['edgerun_result_age_seconds_bucket{le="0.004096",stream="dock"}'] == 10 * turn
            assert samples['edgerun_stage_duration_seconds_count{stage="infer",stream="dock"}'] == 10 * turn


def test_what_is_told() -> None:
    samples = Site([Reading("thermal/cpu-thermal/temp_c", 61.5, 1)]).samples()
    assert samples['edgerun_stream_state{state="running",stream="dock"}'] == 1
    assert samples['edgerun_stream_state{state="stalled",stream="dock"}'] == 0
    assert samples['edgerun_input_fault{fault="dark",stream="gate"}'] == 1
    assert samples['edgerun_engine_busy_seconds_total{engine="main"}'] == 7
    assert samples['edgerun_engine_degraded{engine="main"}'] == 1
    assert samples['edgerun_cache_lookups_total{engine="main",found="hits"}'] == 3
    assert samples["edgerun_process_resident_memory_bytes"] == 100 * 2**20
    assert samples["edgerun_process_cpu_seconds_total"] == 3.5
    assert samples['edgerun_energy_joules_total{source="rail"}'] == pytest.approx(1.8e6)
    assert samples["edgerun_spool_dropped_total"] == 1
    assert samples["edgerun_throttled"] == 1
    assert samples['edgerun_thermal_temp_celsius{place="cpu-thermal"}'] == 61.5
    engine = next(name for name in samples if name.startswith("edgerun_engine_info"))
    assert 'accelerator="cpu"' in engine
    assert 'runtime="litert 2.3.0"' in engine


@pytest.mark.parametrize(
    ("reading", "name", "value", "counts"),
    [
        (Reading("thermal/cpu/temp_c", 50.0, 1), "edgerun_thermal_temp_celsius", 50.0, False),
        (Reading("rail/VDD_IN/power_w", 5.8, 1), "edgerun_rail_power_watts", 5.8, False),
        (Reading("rapl/package-0/energy_j", 9.0, 1), "edgerun_rapl_energy_joules", 9.0, True),
        (Reading("battery/BAT0/energy_wh", 2.0, 1), "edgerun_battery_energy_joules", 7200.0, False),
        (Reading("battery/BAT0/charge_share", 0.8, 1), "edgerun_battery_charge_ratio", 0.8, False),
        (Reading("pressure/cpu/some_total_s", 4.0, 1), "edgerun_pressure_some_seconds", 4.0, True),
        (Reading("pressure/cpu/some_10s_share", 0.1, 1), "edgerun_pressure_some_10s_ratio", 0.1, False),
        (Reading("cgroup/memory/oom_kills", 1.0, 1), "edgerun_cgroup_oom_kills", 1.0, True),
        (Reading("pi/firmware/throttled", 1.0, 1), "edgerun_pi_throttled", 1.0, False),
        (Reading("disk//free_bytes", 1.0, 1), "edgerun_disk_free_bytes", 1.0, False),
    ],
)
def test_names(reading: Reading, name: str, value: float, counts: bool) -> None:
    metric = metric_of(reading)
    assert metric is not None
    assert (metric.name, metric.value, metric.counts) == (name, value, counts)
    assert metric_of(Reading("rss_mib", 100.0, 1)) is None


def test_without_the_library_the_remedy_is_the_command() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from edgerun.telemetry.prometheus import Exporter\n"
        "Exporter(None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'edgerun[metrics]'" in done.stderr
    assert MissingError.__name__ in done.stderr


def test_the_library_is_not_imported_before_it_is_wanted() -> None:
    code = (
        "import sys, edgerun.telemetry.prometheus, edgerun.telemetry.http; sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_textfile_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    path, bodies, stop = tmp_path / "edgerun.prom", [b"a 1\n" * 2000, b"b 2\n" * 2000], threading.Event()
    write_textfile(path, bodies[0])
    wrong: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            if (body := path.read_bytes()) not in bodies:
                wrong.append(body)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(300):
        write_textfile(path, bodies[turn % 2])
    stop.set()
    reader.join()
    assert wrong == []
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["edgerun.prom"]


def test_a_textfile_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=re.escape("cannot be written there")):
        write_textfile(tmp_path / "gone" / "edgerun.prom", b"")
