"""Find the best way to run a model on this machine: runtime, accelerator, threads and batch.

Everything is measured idle and beside a busy neighbour, since threads that help on an idle machine can hurt on a busy
one. What was tried goes to standard error as a table, the winner to standard output as lines of a config. Exit code 3
when nothing stays under --max-p99."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import msgspec

from edgerun.cli import flags, logs, numbers, output
from edgerun.cli.parser import add_common
from edgerun.cli.progress import progress

EXAMPLES = (
    "edgerun tune ssd-mobilenet-v2-oid --goal latency",
    "edgerun tune detector.tflite --also detector.onnx --goal throughput --max-p99 50 >> edgerun.toml",
    "edgerun tune detector.onnx --goal energy --budget 300 --json",
)

_GATE_MISSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("model", metavar="MODEL", help="a bundle, .tflite, .onnx or bundled model's name")
    parser.add_argument(
        "--goal",
        choices=("latency", "throughput", "energy"),
        default="latency",
        help="p50 of one call; inferences a second; joules an inference, or CPU time where no counter can be read "
        "(latency)",
    )
    parser.add_argument("--max-p99", metavar="MS", type=numbers.positive, help="nothing slower than this may win")
    parser.add_argument(
        "--also",
        metavar="FILE",
        action="append",
        default=[],
        help="the same model in the other format; may be repeated",
    )
    parser.add_argument("--budget", metavar="S", type=numbers.positive, default=60.0, help="seconds of measuring (60)")
    parser.add_argument("--threads", metavar="N,…", type=numbers.counts, help="thread counts to try (1 to all cores)")
    parser.add_argument(
        "--batch", metavar="N,…", type=numbers.counts, help="batches to try (1; for throughput and energy 1,2,4,8)"
    )
    flags.add_model_key(parser)
    parser.add_argument("--name", metavar="NAME", help="the table's name in the config lines (the model's)")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Tune; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    from edgerun.bench.tune import config_lines, tune
    from edgerun.cli.bench_text import tune_lines

    with progress() as show:
        found = tune(
            args.model,
            args.goal,
            also=args.also,
            max_p99_ms=args.max_p99,
            budget_s=args.budget,
            threads=args.threads,
            batches=args.batch,
            key=key.handed() if (key := flags.model_key(args)) is not None else None,
            progress=show,
        )
    winner = found.trials[found.winner].subject if found.winner is not None else None
    lines = config_lines(winner, args.name or table_name(winner.model)) if winner is not None else None
    output.tell("\n".join(tune_lines(found)))
    if args.json:
        told = msgspec.to_builtins(found)
        for trial in told["trials"]:
            del trial["subject"]["key"]
        output.say_json({"v": 1, **told, "config": lines})
    elif lines is not None:
        output.say(lines)
    if lines is None:
        output.tell(f"edgerun: no way to run {args.model} stays under --max-p99 {args.max_p99:g} ms here.")
        return _GATE_MISSED
    return 0


def table_name(model: str) -> str:
    """The model's name made to fit a `[models.NAME]` table: a-z, 0-9 and -."""
    return re.sub(r"[^a-z0-9-]+", "-", Path(model).stem.lower()).strip("-")[:63] or "main"
