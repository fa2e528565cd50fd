"""What the benchmarks found, as lines for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgerun.bench.choice import Trial
from edgerun.bench.compare import Comparison
from edgerun.bench.engine import Report, Round
from edgerun.bench.profile import Profile
from edgerun.bench.samples import PERCENTS, Spread, spread
from edgerun.bench.sweep import Sweep
from edgerun.bench.tune import Tuning, describe

_OPS_SHOWN = 12


def report_lines(report: Report) -> Iterator[str]:
    """One report: medians over the rounds, with the smallest and largest round."""
    yield title(report)
    yield f"{'':<24}{'median':>10}   min … max of {len(report.rounds)} round{'s' * (len(report.rounds) != 1)}"
    for name in (f"p{percent}" for percent in PERCENTS):
        yield _row(f"latency {name}, ms", report.latency_ms[name], report.rounds, _latency(name))
    yield f"{'latency max, ms':<24}{report.latency_ms['max']:>10.2f}"
    yield _row("inferences/s", report.throughput_per_s, report.rounds, lambda r: r.throughput_per_s)
    yield _row("CPU per inference, ms", report.cpu_ms_per_inference, report.rounds, lambda r: r.cpu_ms)
    if report.energy_j_per_inference is not None:
        yield _row("energy per inference, J", report.energy_j_per_inference, report.rounds, lambda r: r.energy_j or 0.0)
        if report.idle_w is not None:
            yield f"energy is beyond the {report.idle_w:.2f} W at rest, from {report.energy_source}"
    for stage, value in report.stages_ms.items():
        yield _row(f"{stage} p50, ms", value, report.rounds, _stage(stage))
    costs = [f"loaded in {report.load_s:.2f} s"]
    if report.start_to_first_inference_s is not None:
        costs.append(f"first inference {report.start_to_first_inference_s:.2f} s after the process's start")
    if report.rss_mib is not None:
        costs.append(f"{report.rss_mib:.0f} MiB resident")
    yield ", ".join(costs)
    for name, value in report.result.items():
        unit = " ms" if name.endswith("_ms") else ""
        yield f"{report.scenario}: {name.removesuffix('_ms').replace('_', ' ')} {value:.2f}{unit}"
    yield from _unfit("", report.unfit)


def title(report: Report) -> str:
    """What was measured and how."""
    batch = f", batch {report.batch}" if report.batch > 1 else ""
    samples = f" of {report.samples_per_query} samples" if report.samples_per_query > 1 else ""
    what = "the engine's call" if report.stage == "invoke" else "preprocess + infer + decode"
    lines = (
        f"{report.model} {report.version}, {report.runtime} on {report.accelerator}, {_threads(report.threads)}{batch}"
    )
    for name, reason in report.fallbacks:
        lines += f"\nnot on {name}: {reason}"
    return f"{lines}\n{report.scenario}{samples}, {what}, input: {report.input}"


def _unfit(which: str, reasons: Sequence[str]) -> Iterator[str]:
    if reasons:
        yield f"UNFIT to be compared: {which}the machine was slowed down meanwhile ({', '.join(reasons)})"


def profile_lines(profile: Profile) -> Iterator[str]:
    """Ops by time, or the one line that says why there are none."""
    yield ""
    if profile.unavailable is not None:
        yield profile.unavailable
        return
    rows = [(one.op, str(one.nodes), f"{one.ms:.3f}", f"{one.share:.1%}") for one in profile.ops[:_OPS_SHOWN]]
    yield from table(("op", "nodes", "ms", "share"), rows)
    if len(profile.ops) > _OPS_SHOWN:
        yield f"and {len(profile.ops) - _OPS_SHOWN} more kinds of ops"


def sweep_lines(found: Sweep) -> Iterator[str]:
    """A row per combination; `*` marks the frontier."""
    heads = ("threads", "batch", "p50 ms", "p99 ms", "inferences/s", "min … max", "CPU ms", "")
    rows, refusals = [], []
    for one in found.points:
        if one.refused is not None:
            rows.append((str(one.threads), str(one.batch), "refused", "", "", "", "", ""))
            refusals.append(one.refused)
            continue
        spread_text = f"{_fixed(one.throughput_min_per_s, 1)} … {_fixed(one.throughput_max_per_s, 1)}"
        rows.append(
            (
                str(one.threads), str(one.batch), _fixed(one.p50_ms), _fixed(one.p99_ms),
                _fixed(one.throughput_per_s, 1), spread_text, _fixed(one.cpu_ms_per_inference),
                "*" if one.frontier else "",
            )
        )  # fmt: skip
    yield from table(heads, rows)
    yield "* nothing else here is both faster and more"
    for text in dict.fromkeys(refusals):
        yield f"refused: {text}"


def compare_lines(found: Comparison) -> Iterator[str]:
    """Side by side, B / A with the extremes of the pairs."""
    yield f"A: {title(found.a)}"
    yield f"B: {title(found.b)}"
    figures: dict[str, Callable[[Report], float | None]] = {
        "p50_ms": lambda r: r.latency_ms["p50"],
        "p90_ms": lambda r: r.latency_ms["p90"],
        "p99_ms": lambda r: r.latency_ms["p99"],
        "throughput_per_s": lambda r: r.throughput_per_s,
        "cpu_ms": lambda r: r.cpu_ms_per_inference,
        "energy_j": lambda r: r.energy_j_per_inference,
    }
    rows = []
    for name, figure in figures.items():
        if name in found.ratios:
            rows.append((name, _fixed(figure(found.a)), _fixed(figure(found.b)), *_ratio(found.ratios[name])))
    rows.append(("rss_mib", _fixed(found.a.rss_mib, 0), _fixed(found.b.rss_mib, 0), "", ""))
    rows.append(("load_s", _fixed(found.a.load_s), _fixed(found.b.load_s), "", ""))
    yield from table(("", "A", "B", "B / A", "min … max"), rows)
    yield from _unfit("A: ", found.a.unfit)
    yield from _unfit("B: ", found.b.unfit)
    if not found.paired:
        yield "two saved reports: their rounds did not alternate, so the ratios carry what the machine did meanwhile"


def tune_lines(found: Tuning) -> Iterator[str]:
    """Everything that was tried, the winner marked."""
    heads = ("model", "runtime, accelerator, threads, batch", "idle p50", "p99", "per s", "load p50", "p99", "per s")
    heads += ("CPU ms", *(("J",) if any(t.energy_j is not None for t in found.trials) else ()), "rounds", "")
    rows = []
    refusals: dict[str, list[str]] = {}
    for index, trial in enumerate(found.trials):
        if trial.refused is not None:
            refusals.setdefault(trial.refused, []).append(describe(trial.subject))
            continue
        rows.append(_tune_row(trial, found.winner == index, with_energy="J" in heads))
    yield from table(heads, rows)
    for reason, refused in refusals.items():
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        yield f"not usable: {refused[0]}{more}: {reason}"
    yield f"goal {found.goal}, judged by {found.measured_by}, idle and beside a busy neighbour alike (ms, inferences/s)"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows under their heads: the first column to the left, the others to the right where they hold numbers."""
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    for line in (heads, *rows):
        cells = [
            cell.ljust(width) if column == 0 or not _numeric(rows, column) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    return any(row[column][:1].isdigit() for row in rows)


def _tune_row(trial: Trial, winner: bool, with_energy: bool) -> tuple[str, ...]:
    return (
        trial.subject.model,
        describe(trial.subject),
        _fixed(trial.idle_p50_ms),
        _fixed(trial.idle_p99_ms),
        _fixed(trial.idle_per_s, 1),
        _fixed(trial.load_p50_ms),
        _fixed(trial.load_p99_ms),
        _fixed(trial.load_per_s, 1),
        _fixed(trial.cpu_ms),
        *((_fixed(trial.energy_j, 4),) if with_energy else ()),
        str(trial.rounds),
        "<- chosen" if winner else "",
    )


def _latency(name: str) -> Callable[[Round], float]:
    return lambda one: one.latency_ms[name]


def _stage(name: str) -> Callable[[Round], float]:
    return lambda one: one.stages_ms[name]


def _row(name: str, value: float, rounds: Sequence[Round], figure: Callable[[Round], float]) -> str:
    seen = spread([figure(one) for one in rounds])
    digits = 4 if value < 0.1 else 2
    return f"{name:<24}{value:>10.{digits}f}   {seen.min:.{digits}f} … {seen.max:.{digits}f}"


def _ratio(one: Spread) -> tuple[str, str]:
    return f"{one.median:.3f}", f"{one.min:.3f} … {one.max:.3f}"


def _fixed(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"
