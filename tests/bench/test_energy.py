"""What a round used and what slowed it down, on board trees whose files change while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.bench.energy import RoundWatch
from edgerun.bench.engine import Plan, Report, Round, Session
from edgerun.bench.subject import Subject
from edgerun.cli.bench_text import report_lines
from tests.boards import tree
from tests.infer.onnx_models import quantised_convolution

RAPL = "sys/class/powercap/intel-rapl:0"
RANGE_UJ = 262_143_328_850


def machine(text: str, folder: Path) -> tree.BoardMachine:
    return tree.BoardMachine(tree.parse(text), folder)


def rapl(energy_uj: int) -> str:
    return (
        f"== {RAPL}/name = package-0\n== {RAPL}/energy_uj = {energy_uj}\n== {RAPL}/max_energy_range_uj = {RANGE_UJ}\n"
    )


def test_a_board_without_a_source_has_no_figure(tmp_path: Path) -> None:
    watch = RoundWatch(machine("== proc/uptime = 1 1\n", tmp_path))
    watch.rest(5.0)
    watch.begin()
    facts = watch.end()
    watch.close()
    assert watch.source is None
    assert watch.idle_w is None
    assert facts.work_j is None
    assert facts.slowed == ()


def test_a_round_is_what_the_counter_says_across_its_wrap(tmp_path: Path) -> None:
    watch = RoundWatch(machine(rapl(RANGE_UJ - 1_500_000), tmp_path))
    watch.begin()
    (tmp_path / RAPL / "energy_uj").write_text("1250000\n")
    facts = watch.end()
    watch.close()
    assert watch.source == "rapl"
    assert facts.work_j == pytest.approx(2.75, abs=1e-4)


def test_what_the_machine_draws_at_rest_is_not_the_rounds(tmp_path: Path) -> None:
    rail = "sys/class/hwmon/hwmon1"
    text = f"== {rail}/name = ina219\n== {rail}/in1_input = 5000\n== {rail}/curr1_input = 600\n"
    watch = RoundWatch(machine(text, tmp_path))
    watch.rest(0.3)
    assert watch.idle_w == pytest.approx(3.0)
    watch.begin()
    idle = watch.end()
    (tmp_path / rail / "curr1_input").write_text("1600\n")
    watch.begin()
    busy = watch.end()
    watch.close()
    assert watch.source == "rail"
    assert idle.work_j == pytest.approx(0.0, abs=1e-9)
    assert busy.work_j is not None
    assert busy.work_j > 0.0


@pytest.mark.parametrize(
    ("file", "before", "after", "reason"),
    [
        ("sys/class/thermal/cooling_device0/cur_state", "0", "2", "cooling cpufreq-cpu0"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "2400000", "1500000", "policy0 capped to 1500 MHz"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "7", "9", "thermal events of cpu0"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "0", "20002", "freq_capped"),
    ],
)
def test_a_round_that_was_slowed_down_is_unfit(file: str, before: str, after: str, reason: str, tmp_path: Path) -> None:
    text = (
        "== sys/class/thermal/cooling_device0/type = cpufreq-cpu0\n"
        "== sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq = 2400000\n"
        f"== {file} = {before}\n"
    )
    watch = RoundWatch(machine(text, tmp_path))
    watch.begin()
    assert watch.end().slowed == ()
    watch.begin()
    (tmp_path / file).write_text(after + "\n")
    assert watch.end().slowed == (reason,)
    watch.close()


def test_a_bench_of_a_model_counts_its_energy_and_is_unfit_where_the_machine_throttled(tmp_path: Path) -> None:
    """The counter goes on by 1 J with each inference; in the second of two rounds the Raspberry Pi throttles."""
    flags = "sys/devices/platform/soc/soc:firmware/get_throttled"
    model, root = tmp_path / "convolution.onnx", tmp_path / "board"
    model.write_bytes(quantised_convolution())
    root.mkdir()
    board = machine(rapl(1_000_000) + f"== {flags} = 0\n", root)
    plan = Plan(warmup=1, rounds=2, iterations=3, duration_s=None)
    session = Session(Subject(str(model)), plan, board)
    look = session._open.run
    counted = [1_000_000]

    def used(batch: int) -> object:
        counted[0] += 1_000_000
        (root / RAPL / "energy_uj").write_text(f"{counted[0]}\n")
        return look(batch)

    session._open.run = used  # type: ignore[method-assign,assignment]
    rounds = [session.run_round()]
    (root / flags).write_text("4\n")
    rounds.append(session.run_round())
    report = session.report(rounds)
    session.close()
    assert [one.energy_j for one in rounds] == [pytest.approx(1.0)] * 2
    assert [one.slowed for one in rounds] == [[], ["throttled"]]
    assert (report.energy_source, report.unfit) == ("rapl", ["throttled"])
    text = "\n".join(report_lines(report))
    assert "UNFIT to be compared" in text
    assert "rapl" in text


def test_a_report_says_what_its_energy_is_beyond_and_whether_it_is_unfit() -> None:
    latency_ms = dict.fromkeys(("p50", "p90", "p95", "p99", "max"), 20.0)
    one = Round(50, latency_ms, 50.0, 19.0, energy_j=0.07, slowed=["throttled"])
    report = Report(
        "detector", "1", "litert", "cpu", 1, 1, "invoke", "single-stream", "clip", latency_ms, 50.0, 19.0, 0.1, [one],
        energy_j_per_inference=0.07, energy_source="rail", idle_w=2.61, unfit=["throttled"],
    )  # fmt: skip
    text = "\n".join(report_lines(report))
    assert "energy is beyond the 2.61 W at rest, from rail" in text
    assert "UNFIT to be compared: the machine was slowed down meanwhile (throttled)" in text
