"""Measure edgerun beside the ways people do the same by hand: same camera, same clip, same model, one run, alternating.

Writes docs/benchmarks/NAME.json and NAME.md. Loads are multiples of the bare loop's rate, measured first in this run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environments
import measure
from plan import BARE, BY_NAME, LEFT_OUT, SUBJECTS, Subject
from report import FORMAT, render

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = ROOT / "models" / "ssd-mobilenet-v2-oid"
LIBRARIES = ("ai-edge-litert", "numpy", "opencv-python-headless", "msgspec")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench-peers", description=__doc__)
    parser.add_argument("--seconds", type=float, help="measured of each run (2; 1 with --quick)")
    parser.add_argument("--rounds", type=int, help="how often everything is repeated (5; 2 with --quick)")
    parser.add_argument("--only", type=_names, help="subjects: " + ",".join(BY_NAME))
    parser.add_argument("--overloads", type=_numbers, help="times the bare loop's rate (0.25,1,3,10; quick 0.25,1,3)")
    parser.add_argument("--free-rounds", type=int, help="rounds at 3× without pinning (3; none with --quick)")
    parser.add_argument("--quick", action="store_true", help="a first look, under 3 minutes")
    parser.add_argument("--name", help="of the files written; by default the date")
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the table of a saved run to stdout")
    args = parser.parse_args(argv)
    args.seconds = args.seconds or (1.0 if args.quick else 2.0)
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.overloads = args.overloads or ((0.25, 1.0, 3.0) if args.quick else (0.25, 1.0, 3.0, 10.0))
    if args.free_rounds is None:
        args.free_rounds = 0 if args.quick else min(3, args.rounds)
    return args


def main() -> int:
    args = parse()
    if args.render:
        print(render(json.loads(args.render.read_text())), end="")
        return 0
    began = time.monotonic()
    bench = Bench(args)
    run = bench.run()
    run["settings"]["took_s"] = round(time.monotonic() - began)
    args.into.mkdir(parents=True, exist_ok=True)
    name = args.name or datetime.date.today().isoformat()
    (args.into / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n")
    text = render(run)
    (args.into / f"{name}.md").write_text(text)
    print(text)
    return 0


class Bench:
    """One whole run: environments, bare loop, then round after round."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cache = ROOT / ".cache" / "peers"
        self.cache.mkdir(parents=True, exist_ok=True)
        cpus = sorted(os.sched_getaffinity(0))
        self.camera_cpus, self.subject_cpus = {cpus[0]}, {cpus[min(1, len(cpus) - 1)]}
        self.cpus = len(cpus)
        self.missing: dict[str, str] = {}
        self.pythons: dict[str, Path] = {}
        wanted = [BY_NAME[name] for name in args.only] if args.only else SUBJECTS
        self.subjects = [subject for subject in wanted if self._available(subject)]
        self.runs: list[dict[str, Any]] = []
        self.bare: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        rate = statistics.median(self._bare("one", 0) for _ in range(3))
        tell(f"bare loop: {rate:.1f} results/s")
        for number in range(self.args.rounds):
            self._round(number, "one", self.args.overloads, rate)
            if number < self.args.free_rounds:
                self._round(number, "free", (3.0,), rate)
        return {
            "format": FORMAT,
            "when": datetime.date.today().isoformat(),
            "machine": machine(self.cpus),
            "versions": versions(),
            "model": "ssd-mobilenet-v2-oid 2, mixed precision",
            "settings": {
                "seconds": self.args.seconds,
                "rounds": self.args.rounds,
                "free_rounds": self.args.free_rounds,
                "overloads": list(self.args.overloads),
                "rate": round(rate, 2),
                "same_cpu": self.camera_cpus == self.subject_cpus,
            },
            "missing": self.missing | ({} if self.args.only else LEFT_OUT),
            "bare": self.bare,
            "runs": self.runs,
        }

    def _round(self, number: int, placement: str, loads: tuple[float, ...], rate: float) -> None:
        self._bare(placement, number)
        for load in loads:
            turned = number % len(self.subjects)
            order = self.subjects[turned:] + self.subjects[:turned]
            with measure.camera(rate * load, self.camera_cpus if placement == "one" else None) as url:
                for subject in order:
                    self._measure(number, placement, load, subject, url)

    def _measure(self, number: int, placement: str, load: float, subject: Subject, url: str) -> None:
        row: dict[str, Any] = {"round": number, "placement": placement, "load": load, "subject": subject.name}
        try:
            command = [*self._command(subject), "--url", url]
            row |= measure.subject(command, self.args.seconds, self._cpus(placement))
            ages = row["ages_ms"]
            tell(
                f"round {number + 1} {placement} {load:g}× {subject.name}: {row['results'] / row['seconds']:.1f}/s, "
                f"{row['results'] / row['cpu_s']:.1f}/CPU-s, age p50 {ages['p50']:.1f} p99 {ages['p99']:.1f} ms"
            )
        except measure.Failed as failed:
            row["failed"] = str(failed)
            tell(f"round {number + 1} {placement} {load:g}× {subject.name}: {failed}")
        self.runs.append(row)

    def _bare(self, placement: str, number: int) -> float:
        command = [sys.executable, str(HERE / BARE), "--model", str(MODEL / "model.tflite")]
        said = measure.bare_loop(command, min(1.5, self.args.seconds), self._cpus(placement))
        self.bare.append({"round": number, "placement": placement, **said})
        return said["results"] / said["seconds"]

    def _cpus(self, placement: str) -> set[int] | None:
        return self.subject_cpus if placement == "one" else None

    def _command(self, subject: Subject) -> list[str]:
        model: Path = MODEL / "model.tflite"
        if subject.name == "edgerun":
            model = MODEL
        elif subject.environment == "mediapipe":
            model = environments.mediapipe_model(self.cache)
        words = [self.pythons[subject.environment], HERE / subject.script, "--model", model, *subject.flags]
        return [*map(str, words), "--labels", str(MODEL / "labels.txt")]

    def _available(self, subject: Subject) -> bool:
        try:
            self.pythons[subject.environment] = environments.make(subject.environment, self.cache, MODEL)
        except environments.Unavailable as why:
            self.missing[subject.title] = str(why)
            tell(f"without {subject.title}: {why}")
            return False
        return True


def machine(cpus: int) -> str:
    """No more than a reader needs to judge the figures."""
    word = {1: "one", 2: "two", 4: "four"}.get(cpus, str(cpus))
    return f"{word} {platform.machine().replace('_', '-')} core{'s' if cpus != 1 else ''}, shared"


def versions() -> dict[str, str]:
    told = {name: version(name) for name in LIBRARIES}
    return {"Python": platform.python_version(), "edgerun": version("edgerun"), **told}


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in BY_NAME:
            raise argparse.ArgumentTypeError(f"there is no {name!r}; there is {', '.join(BY_NAME)}")
    return names


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(map(float, text.split(",")))
    if not all(0 < number <= 1000 for number in numbers):
        raise argparse.ArgumentTypeError("expected numbers above 0, as 0.25,1,3")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
