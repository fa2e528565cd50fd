"""Measure a model: latency percentiles, throughput, CPU, memory and, where the machine tells it, energy.

Engine mode (MODEL) runs the model alone; figures are medians over rounds, with the smallest and largest round.
Pipeline mode (MODEL --live, or --config FILE) runs edgerun on emulated live cameras in processes of their own and
reads every result's age from the picture itself. Exit code 3 when p99 is above --max-p99.

Scenarios are those of MLPerf Inference:
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.bench.scenario import DEFINITIONS
from edgerun.cli import flags, logs, numbers, output
from edgerun.cli.parser import add_common
from edgerun.cli.progress import progress
from edgerun.config import load
from edgerun.errors import ConfigError

if TYPE_CHECKING:
    from edgerun.bench.engine import Plan, Report
    from edgerun.bench.live import LiveReport
    from edgerun.bench.subject import Subject
    from edgerun.secret import Kind, Secret

__doc__ += "\n".join(
    textwrap.fill(f"{name}: {text}.", 100, initial_indent="  ", subsequent_indent="    ")
    for name, text in DEFINITIONS.items()
)

EXAMPLES = (
    "edgerun bench ssd-mobilenet-v2-oid",
    "edgerun bench detector.tflite --threads 2 --stage all --max-p99 40",
    "edgerun bench detector.tflite --scenario server --max-p99 50",
    "edgerun bench detector.onnx --sweep --threads 1,2,4 --batch 1,4,8 --plot frontier.png",
    "edgerun bench --compare detector.tflite detector.onnx",
    "edgerun bench detector.tflite --live --overload 1,3,10",
)

_GATE_MISSED = 3
_SWEEP_BATCHES = (1, 2, 4, 8)
_OVERLOADS = (1.0, 3.0, 10.0)
_SWEEP_OVERLOADS = (0.5, 1.0, 2.0, 3.0, 10.0)
_LIVE_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    what = parser.add_argument_group("what to measure")
    what.add_argument("model", metavar="MODEL", nargs="?", help="a bundle, .tflite, .onnx or bundled model's name")
    what.add_argument("--config", metavar="FILE", help="pipeline mode: this config's models, threads and streams")
    what.add_argument(
        "--compare", metavar=("A", "B"), nargs=2, help="two models in turn, or two reports saved with --json"
    )
    what.add_argument(
        "--sweep", action="store_true", help="threads × batch (with --live: camera rates), as a table and a PNG"
    )
    what.add_argument("--live", action="store_true", help="pipeline mode: edgerun on an emulated live camera")
    model = parser.add_argument_group("model")
    model.add_argument("--engine", choices=("tflite", "onnx"), help="by default what the file says")
    model.add_argument(
        "--runtime", choices=("auto", "litert", "tflite-runtime"), default="auto", help="of TFLite (auto)"
    )
    model.add_argument(
        "--accelerators", metavar="A,B", type=numbers.names, default=("cpu",), help="in this order (cpu)"
    )
    model.add_argument("--threads", metavar="N", type=numbers.counts, help="CPU threads (1); with --sweep a list")
    model.add_argument("--batch", metavar="N", type=numbers.counts, help="pictures a call (1); with --sweep a list")
    model.add_argument("--decoder", metavar="KIND", help="how outputs are read, where the model does not say")
    flags.add_model_key(model)
    model.add_argument(
        "--stage",
        choices=("invoke", "all"),
        default="invoke",
        help="the engine's call alone, or preprocess + infer + decode (invoke)",
    )
    model.add_argument("--source", metavar="S", help="pictures to infer (those of the bundled clip)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--scenario", choices=tuple(DEFINITIONS), default="single-stream", help="see above (single-stream)"
    )
    how.add_argument("--samples", metavar="N", type=numbers.count, help="pictures a query (1; multi-stream 8)")
    how.add_argument("--qps", metavar="Q", type=numbers.positive, help="server: measure this rate, search none")
    how.add_argument("--max-p99", metavar="MS", type=numbers.positive, help="exit code 3 when p99 is above this")
    how.add_argument("--warmup", metavar="N", type=numbers.count, default=10, help="calls before it counts (10)")
    how.add_argument("--rounds", metavar="N", type=numbers.count, default=5, help="rounds to take the median of (5)")
    how.add_argument("--iterations", metavar="N", type=numbers.count, help="queries of a round, instead of --duration")
    how.add_argument(
        "--duration", metavar="S", type=numbers.positive, help="seconds of a round (1; --live: of a run, 10)"
    )
    how.add_argument("--profile", action="store_true", help="time by op as well, where the runtime tells")
    live = parser.add_argument_group("pipeline mode")
    live.add_argument(
        "--overload", metavar="X,…", type=numbers.positives, help="camera rate / model rate, one run each (1,3,10)"
    )
    live.add_argument("--fps", metavar="F,…", type=numbers.positives, help="camera rates instead, one run each")
    live.add_argument("--size", metavar="WxH", type=numbers.size, default=(768, 576), help="of the camera (768x576)")
    live.add_argument("--streams", metavar="N", type=numbers.count, default=1, help="cameras that share the model (1)")
    picture = parser.add_argument_group("the picture of a sweep")
    picture.add_argument("--plot", metavar="FILE.png", help="where it goes (MODEL-frontier.png)")
    picture.add_argument("--no-plot", action="store_true", help="only the table")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    _check(args)
    if args.sweep and not args.no_plot:
        from edgerun.bench import plot

        plot.require()
    if args.compare:
        return _compare(args)
    if args.live or args.config:
        return _live(args)
    return _sweep(args) if args.sweep else _engine(args)


def _check(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for flags that do not go together."""
    modes = [name for name in ("model", "config", "compare") if getattr(args, name)]
    if len(modes) != 1:
        raise ConfigError(
            "nothing to measure" if not modes else "cannot be measured together",
            expected="MODEL, --config FILE or --compare A B",
            got=" and ".join("MODEL" if name == "model" else f"--{name}" for name in modes) or "none of them",
            remedy="see edgerun bench --help",
        )
    if not args.sweep:
        for name in ("threads", "batch"):
            if getattr(args, name) and len(getattr(args, name)) > 1:
                raise ConfigError(
                    f"several values of --{name} are for --sweep", where=f"--{name}", expected="one value"
                )
    if args.fps and args.overload:
        raise ConfigError("both say how fast the camera is", where="--fps", remedy="leave out --overload")
    if args.compare and (args.live or args.sweep):
        raise ConfigError("goes with neither --live nor --sweep", where="--compare")


def _engine(args: argparse.Namespace) -> int:
    from edgerun.bench.engine import measure, misses
    from edgerun.cli import bench_text

    subject, plan = _subject(args, args.model), _plan(args)
    with progress() as show:
        report = measure(subject, plan, show)
        profile = None
        if args.profile:
            from edgerun.bench import profile as profiling

            show("profiling")
            profile = profiling.profile(subject)
    missed = args.max_p99 is not None and misses(report.latency_ms, report.rounds, args.max_p99)
    if args.json:
        extra: dict[str, Any] = {"profile": msgspec.to_builtins(profile)} if profile is not None else {}
        output.say_json({**_report_json(report), **extra, **_gate_json(args.max_p99, missed)})
    else:
        output.say("\n".join(bench_text.report_lines(report)))
        if profile is not None:
            output.say("\n".join(bench_text.profile_lines(profile)))
    return _gate(args.max_p99, report.latency_ms["p99"], missed)


def _sweep(args: argparse.Namespace) -> int:
    import os

    from edgerun.bench.sweep import sweep
    from edgerun.bench.tune import thread_counts
    from edgerun.cli import bench_text

    threads = args.threads or thread_counts(len(os.sched_getaffinity(0)))
    batches = args.batch or ((1,) if args.stage == "all" else _SWEEP_BATCHES)
    with progress() as show:
        found = sweep(_subject(args, args.model), _plan(args), threads, batches, show)
    picture = _picture(args, args.model)
    if picture is not None:
        from edgerun.bench.plot import draw_frontier

        draw_frontier(found.points, found.model, picture)
    measured = [point.p99_ms for point in found.points if point.p99_ms is not None]
    best = min(measured) if measured else 0.0
    missed = args.max_p99 is not None and best > args.max_p99
    if args.json:
        where = {"picture": str(picture)} if picture is not None else {}
        output.say_json({"v": 1, **msgspec.to_builtins(found), **where, **_gate_json(args.max_p99, missed)})
    else:
        output.say("\n".join(bench_text.sweep_lines(found)))
        if picture is not None:
            output.say(f"picture: {picture}")
    return _gate(args.max_p99, best, missed)


def _compare(args: argparse.Namespace) -> int:
    from edgerun.bench.compare import compare_models, compare_reports
    from edgerun.cli import bench_text

    first, second = args.compare
    saved = [name.endswith(".json") for name in args.compare]
    if saved[0] != saved[1]:
        raise ConfigError(
            "a model cannot be compared with a saved report",
            where="--compare",
            expected="two models, or two reports (.json)",
            got=f"{first} and {second}",
        )
    if saved[0]:
        found = compare_reports(Path(first), Path(second))
    else:
        with progress() as show:
            found = compare_models(_subject(args, first), _subject(args, second), _plan(args), show)
    worst = max(found.a.latency_ms["p99"], found.b.latency_ms["p99"])
    missed = args.max_p99 is not None and worst > args.max_p99
    if args.json:
        output.say_json({"v": 1, **msgspec.to_builtins(found), **_gate_json(args.max_p99, missed)})
    else:
        output.say("\n".join(bench_text.compare_lines(found)))
    return _gate(args.max_p99, worst, missed)


def _live(args: argparse.Namespace) -> int:
    from edgerun.bench import live

    jobs = _live_jobs(args)
    reports: list[LiveReport] = []
    overloads = args.overload or (_SWEEP_OVERLOADS if args.sweep else _OVERLOADS)
    how = {"overloads": overloads, "fps": args.fps or (), "size": args.size, "seconds": args.duration or _LIVE_SECONDS}
    with progress() as show:
        for model, job in jobs:
            reports += live.run_live(model, progress=show, **how, **job)
    worst = max((one.age_ms["p99"] for one in reports if one.age_ms), default=0.0)
    missed = args.max_p99 is not None and worst > args.max_p99
    picture = _picture(args, args.model or args.config) if args.sweep else None
    if picture is not None:
        from edgerun.bench.plot import draw_ages

        rows = [(one.fps * one.streams, one.age_ms["p50"], one.age_ms["p99"]) for one in reports if one.age_ms]
        draw_ages(rows, args.model or args.config, picture)
    if args.json:
        output.say_json({"v": 1, "live": msgspec.to_builtins(reports), **_gate_json(args.max_p99, missed)})
    else:
        output.say(live.table(reports))
    return _gate(args.max_p99, worst, missed)


def _live_jobs(args: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """(model, how it is run) of each pipeline run: of the flags, or of every model that the config's streams use."""
    from edgerun.models.finding import model_path

    if args.config is None:
        threads = args.threads[0] if args.threads else 1
        model_path(args.model)  # what is not there is told before any process is started
        return [(args.model, {"threads": threads, "streams": args.streams, "key": _key(flags.model_key(args))})]
    config = load(Path(args.config), flags.options_of, flags.find_model)
    jobs = []
    for name, model in config.models.items():
        streams = [stream for stream in config.streams.values() if name in stream.models]
        if streams:
            age_ms = min(stream.max_age_ms for stream in streams)
            how: dict[str, Any] = {"threads": model.threads, "streams": len(streams), "max_age_ms": age_ms}
            key = flags.model_key(args) or model.key or config.security.model_key
            jobs.append((str(model.path), {**how, "key": _key(key)}))
    return jobs


def _subject(args: argparse.Namespace, model: str) -> Subject:
    from edgerun.bench.subject import Subject

    return Subject(
        model,
        engine=args.engine,
        runtime=args.runtime,
        accelerators=args.accelerators,
        threads=args.threads[0] if args.threads else 1,
        batch=args.batch[0] if args.batch else 1,
        stage=args.stage,
        source=args.source,
        decoder=args.decoder,
        key=_key(flags.model_key(args)),
    )


def _key(secret: Secret | None) -> tuple[Kind, str] | None:
    """As a `Subject` has it."""
    return None if secret is None else secret.handed()


def _plan(args: argparse.Namespace) -> Plan:
    from edgerun.bench.engine import Plan, check_plan

    duration_s = args.duration if args.duration or args.iterations else 1.0
    plan = Plan(
        warmup=args.warmup,
        rounds=args.rounds,
        iterations=args.iterations,
        duration_s=duration_s,
        scenario=args.scenario,
        samples=args.samples,
        qps=args.qps,
        bound_ms=args.max_p99,
    )
    if not args.sweep:
        check_plan(plan)
    return plan


def _picture(args: argparse.Namespace, name: str) -> Path | None:
    if args.no_plot:
        return None
    return Path(args.plot) if args.plot else Path(f"{Path(name).stem}-frontier.png")


def _report_json(report: Report) -> dict[str, Any]:
    return {"v": 1, **msgspec.to_builtins(report)}


def _gate_json(max_p99_ms: float | None, missed: bool) -> dict[str, Any]:
    return {} if max_p99_ms is None else {"gate": {"max_p99_ms": max_p99_ms, "missed": missed}}


def _gate(max_p99_ms: float | None, p99_ms: float, missed: bool) -> int:
    if not missed:
        return 0
    output.tell(f"edgerun: p99 is {p99_ms:.2f} ms, above --max-p99 {max_p99_ms:g} ms.")
    return _GATE_MISSED
