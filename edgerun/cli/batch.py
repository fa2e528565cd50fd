"""Recordings through a model, many at once: every frame of every file, none dropped, all accounted for.

Results are JSON lines, one file for each recording, in the folder given by -o. A run that was cut short goes on where
it stopped: what is done with the same model and settings is not done again."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.cli import flags, logs, output
from edgerun.cli.parser import add_common
from edgerun.cli.progress import progress
from edgerun.errors import ConfigError

if TYPE_CHECKING:
    from edgerun.batch.job import Job, Outcome

EXAMPLES = (
    "edgerun batch recordings/ --model ssd-mobilenet-v2-oid -o results",
    "edgerun batch 'day/*.mp4' --model detector.tflite -o results --workers 4 --json",
    "edgerun batch /shared/day --model /shared/detector -o /shared/results --cluster tcp://scheduler:8786",
)

_FLAGS = {
    "models.main.path": "--model",
    "models.main.threads": "--threads",
    "models.main.decoder": "--decoder",
    "models.main.labels": "--labels",
    "streams.main.threshold": "--threshold",
}
_FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("files", metavar="FILES", nargs="+", help="videos, WAV or CSV files, folders of them, globs")
    parser.add_argument("--model", metavar="M", required=True, help="a bundle, .tflite, .onnx or bundled model's name")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="where results go; made if need be")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (one for each core)")
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="threads of each worker's engine (1)")
    parser.add_argument("--threshold", metavar="T", type=float, help="lowest score reported (the bundle's, else 0.5)")
    parser.add_argument("--decoder", metavar="KIND", help="how the model's outputs are read, where it does not say")
    parser.add_argument("--labels", metavar="FILE", help="one label a line, instead of the model's own")
    parser.add_argument("--cluster", metavar="URL", help="a Dask scheduler; files lie there under the same names")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Do what is not done. Exit code 1 when a file failed. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    from edgerun.batch import plan
    from edgerun.models import load
    from edgerun.models.finding import model_path

    workers = args.workers if args.workers is not None else len(os.sched_getaffinity(0))
    if not 1 <= workers <= 1024:
        raise ConfigError("not a number of processes", where="--workers", expected="1 to 1024", got=workers)
    files = plan.find(args.files)
    model = flags.find_model(args.model) or model_path(args.model).resolve()
    out = Path(args.output).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("cannot be made", where=str(out), got=error.strerror or error) from error
    jobs = plan.jobs(files, out, _config(args, model), load(model).sha256)
    earlier = {job.source: outcome for job in jobs if (outcome := plan.done(job)) is not None}
    left = [job for job in jobs if job.source not in earlier]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is done stays done, the workers go
    began = time.monotonic()
    made = _do(args, left, workers)
    seconds = time.monotonic() - began
    outcomes = [earlier.get(job.source) or made[job.source] for job in jobs]
    return _tell(args, outcomes, len(earlier), seconds, out)


def _config(args: argparse.Namespace, model: Path) -> str:
    """The config of every job, but for its source. Raises `ConfigErrors` for flags that make none."""
    from edgerun.config import build
    from edgerun.setup import toml_text

    engine = {"path": str(model), "threads": args.threads, "decoder": args.decoder}
    engine["labels"] = str(Path(args.labels).resolve()) if args.labels is not None else None
    stream: dict[str, Any] = {"model": "main", "threshold": args.threshold}
    tables = {"models": {"main": engine}, "streams": {"main": stream}}
    raw = {room: {"main": {k: v for k, v in table["main"].items() if v is not None}} for room, table in tables.items()}
    tried = {**raw, "streams": {"main": {**raw["streams"]["main"], "source": "synthetic"}}}
    build(tried, flags.options_of, where=lambda place: flags.flag_of(_FLAGS, place) or place)
    return "\n".join(toml_text.table([room, "main"], table["main"]) for room, table in raw.items())


def _do(args: argparse.Namespace, jobs: list[Job], workers: int) -> dict[str, Outcome]:
    """The outcomes of `jobs` by their file."""
    from edgerun.batch import pool

    made: dict[str, Outcome] = {}
    if not jobs:
        return made
    began = time.monotonic()
    with _executor(args, min(workers, len(jobs))) as (executor, count), progress() as show:
        show(f"{len(jobs)} files, {count} workers")

        def tell(outcome: Outcome) -> None:
            made[outcome.source] = outcome
            frames = sum(one.account.get("published", 0) for one in made.values())
            left_s = (time.monotonic() - began) / len(made) * (len(jobs) - len(made))
            show(f"{len(made)} of {len(jobs)} files, {frames} frames, about {left_s:.0f} s left")

        pool.run(executor, count, jobs, tell)
    return made


@contextmanager
def _executor(args: argparse.Namespace, workers: int) -> Iterator[tuple[Executor, int]]:
    from edgerun.batch import pool

    if args.cluster is not None:
        with pool.cluster(args.cluster) as found:
            yield found
    else:
        with pool.here(workers) as executor:
            yield executor, workers


def _tell(args: argparse.Namespace, outcomes: list[Outcome], earlier: int, seconds: float, out: Path) -> int:
    """The account of all files; returns the exit code."""
    failed = [one for one in outcomes if not one.balanced]
    total = {fate: sum(one.account.get(fate, 0) for one in outcomes) for fate in ("grabbed", *_FATES)}
    if args.json:
        output.say_json(
            {
                "v": 1,
                "files": [msgspec.structs.asdict(one) for one in outcomes],
                "total": total,
                "done_before": earlier,
                "failed": len(failed),
                "seconds": round(seconds, 3),
                "output": str(out),
            }
        )
    else:
        for one in failed:
            why = one.error or f"not every frame gave a result: {one.account}"
            output.tell(f"edgerun: {why if why.startswith(one.source) else f'{one.source}: {why}'}.")
        before = f", {earlier} of them done before" if earlier else ""
        output.say(f"{len(outcomes)} files{before}, {len(failed)} failed; {total['grabbed']} frames grabbed =")
        output.say("  " + " + ".join(f"{total[fate]} {fate}" for fate in _FATES if total[fate] or fate == "published"))
        output.say(f"{seconds:.1f} s; results in {out}")
    return 1 if failed else 0
