"""Simulate a fleet at a real mosquitto on this machine, and tell what came of it as tables."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path

from tools.fleet_sim_parts import scenes
from tools.fleet_sim_parts.scenes import Row
from tools.fleet_sim_parts.site import Mosquitto

_SPARE_FILES = 200


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/fleet-sim",
        description=__doc__,
        epilog="Exit codes: 0 ran, 1 something did not come up, 4 no mosquitto.",
    )
    parser.add_argument(
        "scenes", nargs="*", metavar="SCENE", help="storm, spread, load, rollout; by default all", default=[]
    )
    parser.add_argument("--devices", type=int, default=2000, help="how many (2000)")
    parser.add_argument(
        "--processes", type=int, default=max(1, min(4, (os.cpu_count() or 2))), help="that they live in"
    )
    parser.add_argument("--outage", type=float, default=10.0, metavar="S", help="how long the broker is away (10)")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="how long load is measured (15)")
    parser.add_argument("--results", type=float, default=0.5, metavar="N", help="results a second of each device (0.5)")
    parser.add_argument("--telemetry", type=float, default=10.0, metavar="S", help="interval in the scene spread (10)")
    parser.add_argument("--bad", type=float, default=0.3, metavar="SHARE", help="devices that find version 3 bad (0.3)")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the tables there, too")
    args = parser.parse_args(argv)
    known = ("storm", "spread", "load", "rollout")
    if wrong := [one for one in args.scenes if one not in known]:
        parser.error(f"no such scene: {wrong[0]}; there are {', '.join(known)}")
    if args.devices < 1 or args.processes < 1:
        parser.error("--devices and --processes are 1 or more")
    args.scenes = args.scenes or list(known)
    return args


def main() -> int:
    args = parse()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.devices + _SPARE_FILES > hard:
        print(f"tools/fleet-sim: ulimit -n is {hard}: at most {hard - _SPARE_FILES} devices here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="fleet-sim-") as made:
        try:
            broker = Mosquitto(Path(made))
        except FileNotFoundError:
            print("tools/fleet-sim: mosquitto is not installed; apt-get install mosquitto", file=sys.stderr)
            return 4
        tables = []
        try:
            for scene in args.scenes:
                rows = _rows(scene, broker, args, Path(made))
                tables.append(f"### {scene}\n\n{table(rows)}\n")
                print(tables[-1], flush=True)
        except TimeoutError as error:
            print(f"tools/fleet-sim: {error}", file=sys.stderr)
            return 1
        finally:
            broker.close()
    if args.report is not None:
        head = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n\n"
        args.report.write_text(head + "\n".join(tables), encoding="utf-8")
    return 0


def _rows(scene: str, broker: Mosquitto, args: argparse.Namespace, folder: Path) -> list[Row]:
    devices, processes = args.devices, args.processes
    if scene == "storm":
        return [
            scenes.storm(broker, devices, processes, jitter=jitter, outage_s=args.outage) for jitter in (True, False)
        ]
    if scene == "spread":
        return [
            scenes.spread(broker, devices, processes, spread=one, telemetry_s=args.telemetry) for one in (True, False)
        ]
    if scene == "load":
        return [scenes.load(broker, devices, processes, results_per_s=args.results, seconds=args.seconds)]
    return [scenes.rollout(broker, devices, processes, folder, bad_share=share) for share in (args.bad, 0.0)]


def table(rows: list[Row]) -> str:
    """Rows as Markdown, one column a row of theirs: names are long, and rows are few."""
    names = list(rows[0])
    lines = ["| | " + " | ".join(str(row[names[0]]) for row in rows) + " |", "|---|" + "---|" * len(rows)]
    lines[0] = lines[0].replace("| |", f"| {names[0]} |", 1)
    return "\n".join(
        [*lines, *(f"| {name} | " + " | ".join(str(row[name]) for row in rows) + " |" for name in names[1:])]
    )


if __name__ == "__main__":
    sys.exit(main())
