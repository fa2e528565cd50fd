"""What this device has, what is wrong with it, and what to do about it.

Each line is green, yellow, red or absent; whatever is not green comes with a remedy. What the job needs is read from
--config; without one it is what `edgerun demo` needs.

Exit code 0: all that is needed works; 4: something is missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgerun.cli import broker_flags, flags, logs, output
from edgerun.cli.parser import add_common

if TYPE_CHECKING:
    from edgerun.doctor import Examination, Line

EXAMPLES = (
    "edgerun doctor",
    "edgerun doctor --config /etc/edgerun/edgerun.toml --wx",
    "edgerun doctor --broker mqtts://broker.example --json | jq '.checks[] | select(.status == \"red\")'",
)

_MISSING = 4
_MARKS = {"green": "ok", "yellow": "!", "red": "X", "absent": "-"}
_COLOURS = {"green": "\033[32m", "yellow": "\033[33m", "red": "\033[31m", "absent": "\033[2m"}
_PLAIN = "\033[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("--config", metavar="FILE", help="what the job needs; by default what edgerun demo needs")
    parser.add_argument("--broker", metavar="URL", help="try this broker, in place of the config's")
    parser.add_argument(
        "--wx",
        action="store_true",
        help="also run the engines without writable, executable memory, as in a strict unit",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Examine; returns the exit code. Raises `ConfigErrors` for a config that cannot be read."""
    logs.set_up(verbose=args.verbose, quiet=True)
    from edgerun.config import load
    from edgerun.device.machine import Machine
    from edgerun.doctor import examine, needs_of
    from edgerun.doctor.checks import CHECKS
    from edgerun.doctor.examine import Patient

    if args.broker is not None:
        broker_flags.check_url(args.broker)
    config = load(Path(args.config), flags.options_of, flags.find_model) if args.config is not None else None
    patient = Patient(Machine(), needs_of(config, args.broker), args.wx)
    if args.json:
        found = examine(patient, CHECKS)
        output.say_json(as_dict(found))
    else:
        colour = sys.stdout is not None and sys.stdout.isatty()

        def show(family: str, lines: Sequence[Line]) -> None:
            output.say("\n".join(page(family, lines, colour, args.verbose)))

        found = examine(patient, CHECKS, show)
        output.say(verdict(found))
    return 0 if found.ok else _MISSING


def page(family: str, lines: Sequence[Line], colour: bool = False, verbose: bool = True) -> Iterator[str]:
    """A family's findings as text: `mark  what  value`, the remedy below it. Unless `verbose`, many absent are one."""
    rows = lines if verbose else _folded(lines)
    yield family
    width = max((len(line.what) for line in rows), default=0)
    for line in rows:
        mark = f"{_MARKS[line.status]:>2}"
        if colour:
            mark = f"{_COLOURS[line.status]}{mark}{_PLAIN}"
        yield f"  {mark}  {line.what:<{width}}  {line.value}"
        if line.remedy is not None:
            yield f"      {'':<{width}}  → {line.remedy}"


def _folded(lines: Sequence[Line]) -> list[Line]:
    """Absent ones with the same remedy as one, in the place of the first: it names them."""
    rows: list[Line] = []
    for line in lines:
        same = [one for one in lines if one.status == "absent" and one.remedy == line.remedy]
        if line.status != "absent" or len(same) == 1:
            rows.append(line)
        elif line is same[0]:
            names = dict.fromkeys(one.what.partition(" (")[0].removeprefix("accelerator ") for one in same)
            rows.append(msgspec.structs.replace(line, what="not here", value=", ".join(names)))
    return rows


def verdict(found: Examination) -> str:
    """The last line."""
    lines = [line for family in found.families.values() for line in family]
    missing = [line.what for line in lines if line.needed and line.status == "red"]
    if missing:
        return f"\nmissing for the job: {', '.join(missing)}"
    counts = {status: sum(line.status == status for line in lines) for status in ("red", "yellow")}
    rest = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"\nall that the job needs is there{'; besides that ' + rest if rest else ''}"


def as_dict(found: Examination) -> dict[str, object]:
    """docs/schema/doctor.schema.json."""
    from edgerun import __version__

    checks = [
        {"family": family, **msgspec.to_builtins(line)} for family, lines in found.families.items() for line in lines
    ]
    return {"v": 1, "edgerun": __version__, "ok": found.ok, "checks": checks, "seconds": found.seconds}
