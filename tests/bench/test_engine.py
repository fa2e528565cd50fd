"""Engine mode on real models: the shape of what it says, its children, comparisons, sweeps and profiles."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from edgerun.bench.child import SubjectProcess
from edgerun.bench.compare import compare_models, compare_reports, read_report
from edgerun.bench.engine import Plan, Report, Round, check_plan, measure, misses, summarise_rounds
from edgerun.bench.neighbour import busy_neighbour
from edgerun.bench.profile import profile, sum_up
from edgerun.bench.subject import PICTURES, OpenSubject, Subject, random_tensor, read_pictures
from edgerun.bench.sweep import sweep
from edgerun.bench.tune import tune
from edgerun.errors import ConfigError, EngineError, ModelError, SourceError
from edgerun.types import TensorSpec
from tests.infer.onnx_models import identity, quantised_convolution

BUNDLED = Subject("ssd-mobilenet-v2-oid")
SHORT = Plan(warmup=1, rounds=2, iterations=3, duration_s=None)


@pytest.fixture
def convolution(tmp_path: Path) -> Subject:
    """A small picture model."""
    path = tmp_path / "convolution.onnx"
    path.write_bytes(quantised_convolution())
    return Subject(str(path))


def one_round(ms: float, per_s: float = 10.0, *, gave_up: bool = False) -> Round:
    figures = {"p50": ms, "p90": ms, "p95": ms, "p99": ms, "max": ms}
    return Round(3, figures, per_s, cpu_ms=ms, gave_up=gave_up)


def test_a_report_of_the_bundled_model() -> None:
    report = measure(BUNDLED, SHORT)
    assert list(report.latency_ms) == ["p50", "p90", "p95", "p99", "max"]
    assert report.latency_ms["p50"] <= report.latency_ms["p99"] <= report.latency_ms["max"]
    assert [one.queries for one in report.rounds] == [3, 3]
    assert report.throughput_per_s > 0
    assert report.cpu_ms_per_inference > 0
    assert (report.model, report.input, report.accelerator) == ("ssd-mobilenet-v2-oid", "clip", "cpu")
    assert report.result == {"p90_latency_ms": report.latency_ms["p90"]}
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_all_stages() -> None:
    report = measure(msgspec.structs.replace(BUNDLED, stage="all"), SHORT)
    assert list(report.stages_ms) == ["preprocess", "infer", "decode"]
    assert sum(report.stages_ms.values()) <= report.latency_ms["max"] * 1.01


@pytest.mark.parametrize(
    ("plan", "result"),
    [
        (Plan(scenario="multi-stream"), "p99_latency_ms"),
        (Plan(scenario="offline"), "throughput_per_s"),
        (Plan(scenario="server", qps=500.0), "queries_per_s"),
    ],
)
def test_scenarios(convolution: Subject, plan: Plan, result: str) -> None:
    plan = msgspec.structs.replace(plan, warmup=1, rounds=1, iterations=4, duration_s=None)
    report = measure(convolution, plan)
    assert list(report.result) == [result]
    assert report.rounds[0].queries == 4
    assert report.samples_per_query == (8 if plan.scenario == "multi-stream" else 1)


def test_the_server_scenario_searches_a_rate_under_its_bound(convolution: Subject) -> None:
    plan = Plan(warmup=1, rounds=1, iterations=5, duration_s=None, scenario="server", bound_ms=10_000.0)
    assert measure(convolution, plan).result["queries_per_s"] > 0
    impossible = msgspec.structs.replace(plan, bound_ms=1e-6)
    report = measure(convolution, impossible)
    assert report.result == {"queries_per_s": 0.0}
    assert misses(report.latency_ms, report.rounds, 1e-6)
    with pytest.raises(ConfigError, match="latency bound"):
        check_plan(Plan(scenario="server"))


def test_medians_over_rounds_and_the_largest_maximum() -> None:
    figures = summarise_rounds([one_round(3), one_round(1), one_round(2)])
    assert figures.latency_ms == {"p50": 2, "p90": 2, "p95": 2, "p99": 2, "max": 3}
    assert figures.energy_j_per_inference is None


@pytest.mark.parametrize(("bound", "missed"), [(2.0, False), (1.999, True)])
def test_the_gate(bound: float, missed: bool) -> None:
    rounds = [one_round(1), one_round(2), one_round(30)]
    assert misses(summarise_rounds(rounds).latency_ms, rounds, bound) is missed
    assert misses({"p99": 1.0}, [one_round(1, gave_up=True)], bound)


def test_sources(tmp_path: Path) -> None:
    pictures, name = read_pictures(None)
    assert (len(pictures), name) == (PICTURES, "clip")
    assert len({picture.tobytes() for picture in pictures}) == PICTURES
    pictures, name = read_pictures("synthetic:160x120@1000")
    assert pictures[0].shape == (120, 160, 3)
    assert name == "synthetic:160x120@1000"
    with pytest.raises(ConfigError, match="not a source"):
        read_pictures("synthetic:0x0")
    with pytest.raises(ConfigError, match="no such file"):
        read_pictures(str(tmp_path / "none.mp4"))
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match="empty"):
        read_pictures(str(tmp_path / "empty.mp4"))


def test_random_tensors_fit_their_specs() -> None:
    random = np.random.default_rng(0)
    open_batch = random_tensor(TensorSpec("x", (-1, 4, -1), "float32"), 3, random)
    assert (open_batch.shape, open_batch.dtype) == ((3, 4, 1), np.float32)
    assert random_tensor(TensorSpec("x", (2, 64), "int8"), 1, random).min() < -64
    assert not random_tensor(TensorSpec("ids", (1, 8), "int64"), 1, random).any()
    assert random_tensor(TensorSpec("rate", (), "int64"), 4, random).shape == ()


def test_a_model_without_pictures_gets_random_tensors(tmp_path: Path) -> None:
    path = tmp_path / "series.onnx"
    path.write_bytes(identity(1, (1, 50, 3)))
    assert measure(Subject(str(path)), SHORT).input == "random tensors"
    with pytest.raises(ModelError, match="not a model for pictures"):
        OpenSubject(Subject(str(path), source="synthetic"))


def test_batches_go_without_preprocessing() -> None:
    with pytest.raises(ConfigError, match="batches are measured"):
        OpenSubject(msgspec.structs.replace(BUNDLED, stage="all", batch=2))


def test_a_child_reports_and_its_errors_come_through(convolution: Subject, tmp_path: Path) -> None:
    child = SubjectProcess(convolution, SHORT)
    try:
        rounds = [child.run_round(SHORT)]
        assert rounds[0].queries == 3
        report = child.report(rounds)
        assert report.start_to_first_inference_s is not None
    finally:
        child.close()
    with pytest.raises(ConfigError, match="no such model") as told:
        SubjectProcess(Subject(str(tmp_path / "none.onnx")), SHORT)
    assert told.value.remedy


def test_a_child_that_is_killed_is_an_error_that_says_how(convolution: Subject) -> None:
    before = {one.pid for one in psutil.Process().children()}
    child = SubjectProcess(convolution, SHORT)
    try:
        (pid,) = {one.pid for one in psutil.Process().children()} - before
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="died") as told:
            child.run_round(SHORT)
        assert "SIGKILL" in str(told.value)
    finally:
        child.close()


def test_the_neighbour_works_and_is_gone_afterwards() -> None:
    with busy_neighbour() as pid:
        neighbour = psutil.Process(pid)
        assert neighbour.is_running()
    assert not psutil.pid_exists(pid)


def test_a_comparison_alternates_and_compares_saved_reports(convolution: Subject, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(quantised_convolution())
    seen: list[str] = []
    found = compare_models(convolution, Subject(str(other)), SHORT, seen.append)
    assert [text.rpartition("/")[2].removesuffix(".onnx") for text in seen] == [
        "convolution", "other", "other", "convolution"
    ]  # fmt: skip
    assert {"p50_ms", "p99_ms", "throughput_per_s", "cpu_ms"} <= set(found.ratios)
    assert found.paired
    files = []
    for name, report in (("a", found.a), ("b", found.b)):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_bytes(b"a line before it\n" + msgspec.json.encode(report) + b"\n")
    again = compare_reports(*files)
    assert again.ratios == found.ratios
    assert not again.paired


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"v": 1}'])
def test_what_is_no_saved_report(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not a saved report"):
        read_report(path)


def test_a_sweep_says_which_batch_is_refused() -> None:
    found = sweep(BUNDLED, msgspec.structs.replace(SHORT, rounds=1), [1], [1, 2])
    able, refused = found.points
    assert able.frontier
    assert able.p50_ms
    assert refused.refused
    assert refused.throughput_per_s is None


def test_the_profile_of_onnx_runtime_and_the_missing_one_of_tflite(convolution: Subject) -> None:
    found = profile(convolution)
    assert found.unavailable is None
    assert found.ops
    assert sum(one.share for one in found.ops) == pytest.approx(1.0, abs=0.01)
    assert "no per-op profile" in (profile(BUNDLED).unavailable or "")


def test_a_trace_is_summed_by_op() -> None:
    def event(name: str, op: str, us: int, cat: str = "Node") -> dict[str, object]:
        return {"cat": cat, "name": f"{name}_kernel_time", "dur": us, "args": {"op_name": op}}

    events = [
        event("c1", "Conv", 3000),
        event("c2", "Conv", 3000),
        event("r", "Relu", 2000),
        event("s", "Run", 9, "Session"),
    ]
    conv, relu = sum_up(events, runs=2)
    assert (conv.op, conv.nodes, conv.ms, conv.share) == ("Conv", 2, 3.0, 0.75)
    assert (relu.op, relu.ms) == ("Relu", 1.0)


def test_tune_tries_everything_and_names_a_winner() -> None:
    found = tune(BUNDLED.model, "latency", budget_s=0.5, threads=[1, 2])
    able = [one for one in found.trials if one.refused is None]
    assert [one.subject.threads for one in able] == [1, 2]
    assert all(one.load_p99_ms and one.idle_p99_ms for one in able)
    assert found.winner is not None
    assert found.trials[found.winner].subject.engine == "tflite"
    assert all(one.subject.accelerators != ("cpu",) for one in found.trials if one.refused is not None)


def test_tune_beside_a_file_of_the_other_format(convolution: Subject) -> None:
    found = tune(BUNDLED.model, "energy", also=[convolution.model], budget_s=0.5, threads=[1], batches=[1])
    assert {one.subject.engine for one in found.trials if one.refused is None} == {"tflite", "onnx"}
    assert found.measured_by in ("CPU time", "energy counter")


def test_tune_of_what_does_not_open(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(quantised_convolution()[:200])
    with pytest.raises(ModelError, match="cannot be read"):
        tune(str(broken), "latency", budget_s=0.1, threads=[1])
