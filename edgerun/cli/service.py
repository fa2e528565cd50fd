"""Make edgerun a service of systemd, take it away again, or see how it is.

`install` writes the units, the user they run as, and drop-ins for the board; `uninstall` removes what it wrote and
nobody edited; `status` is what systemd says. What is written is shown."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import msgspec

from edgerun.cli import flags, logs, output
from edgerun.cli.parser import Parser, add_common
from edgerun.errors import ConfigError, did_you_mean
from edgerun.validate import show

if TYPE_CHECKING:
    from edgerun.device.machine import Machine
    from edgerun.service.install import Outcome
    from edgerun.service.plan import BoardName, Plan
    from edgerun.service.systemd import UnitStatus

EXAMPLES = (
    "edgerun service install --config /etc/edgerun/edgerun.toml --now",
    "edgerun service install --board pi,coral --root /mnt/image",
    "edgerun service status --json | jq '.units[].active'",
)

_NOT_RUNNING = 1
_BOARDS = ("auto", "none", "pi", "jetson", "coral")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its flags."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", required=True, parser_class=Parser
    )
    install = actions.add_parser(
        "install",
        help="write the units and have systemd start edgerun with the system",
        description="Write the units, the user and the drop-ins of this board, and have systemd start edgerun with "
        "the system. A file that somebody edited is not overwritten.",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[:2]),
    )
    install.add_argument("--config", metavar="FILE", help="the config (/etc/edgerun/edgerun.toml, or NAME.toml)")
    install.add_argument(
        "--program", metavar="FILE", help="what to start (this program; in an image /opt/edgerun/bin/edgerun)"
    )
    install.add_argument("--user", metavar="NAME", default="edgerun", help="who it runs as (edgerun, which is made)")
    install.add_argument(
        "--board",
        metavar="B[,B]",
        default="auto",
        help=f"drop-ins for boards and accelerators: {', '.join(_BOARDS)} (auto: what is found here)",
    )
    install.add_argument(
        "--strict-wx",
        action="store_true",
        help="no writable, executable memory: where `edgerun doctor --wx` says that the engines can do without",
    )
    install.add_argument("--now", action="store_true", help="start it too, and wait until it is ready")
    uninstall = actions.add_parser(
        "uninstall",
        help="stop the service and remove what install wrote",
        description="Stop the service and remove what install wrote and nobody edited. Config and state stay.",
        epilog="examples:\n  edgerun service uninstall",
    )
    for each in (install, uninstall):
        each.add_argument("--instance", metavar="NAME", help="one of several: edgerun@NAME.service")
        each.add_argument("--root", metavar="DIR", help="an image to work on, in place of this system; / in a chroot")
        each.add_argument("--dry-run", action="store_true", help="only show what would be done")
        each.add_argument("--force", action="store_true", help="overwrite or remove what somebody edited, too")
        add_common(each)
    status = actions.add_parser(
        "status",
        help="what systemd says of it",
        description="What systemd says of the service and its instances. Exit code 0: all are active; 1: one is not; "
        "4: there is no systemd.",
        epilog=f"examples:\n  {EXAMPLES[2]}",
    )
    add_common(status)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    return {"install": _install, "uninstall": _uninstall, "status": _status}[args.action](args)


def _install(args: argparse.Namespace) -> int:
    from edgerun.device.machine import Machine
    from edgerun.service.install import check_access, install

    image = _image(args.root)
    root = image or Path("/")
    plan = make_plan(args, Machine(root))
    config = root / plan.config.lstrip("/")
    if config.is_file() or args.config is not None:
        _check_config(config, plan, here=image is None)
    elif args.now:
        raise ConfigError("there is no config to start with", where=plan.config, remedy="write it, or give --config")
    if image is None and not args.dry_run:
        check_access(plan, Machine(root), config if config.is_file() else None)
    _show(install(plan, image, dry=args.dry_run, force=args.force, now=args.now), args)
    return 0


def _uninstall(args: argparse.Namespace) -> int:
    from edgerun.service.install import uninstall
    from edgerun.service.plan import check_instance

    instance = check_instance(args.instance) if args.instance is not None else None
    image = _image(args.root)
    _show(uninstall(instance, image, dry=args.dry_run, force=args.force), args)
    return 0


def _image(given: str | None) -> Path | None:
    """The folder that --root names. Raises `ConfigError` where there is none."""
    if given is None:
        return None
    if not os.path.isdir(given):
        raise ConfigError(
            "no such folder",
            where="--root",
            expected="the root of a mounted image",
            got=show(given),
            remedy="mount the image first, or make the folder",
        )
    return Path(given).resolve()


def _status(args: argparse.Namespace) -> int:
    from edgerun.service import systemd

    systemd.require("ask")
    found = systemd.status()
    if args.json:
        output.say_json({"v": 1, "units": [msgspec.to_builtins(unit) for unit in found]})
    else:
        output.say("\n".join(line for unit in found for line in as_lines(unit)))
    loaded = [unit for unit in found if unit.loaded and (unit.pid is not None or unit.starts_at == "enabled")]
    return 0 if loaded and all(unit.active == "active" for unit in loaded) else _NOT_RUNNING


def make_plan(args: argparse.Namespace, machine: Machine) -> Plan:
    """What the flags and the machine say together. Raises `ConfigError`, `DeviceError`."""
    from edgerun.service import plan as plans
    from edgerun.service.units import default_config

    instance = plans.check_instance(args.instance) if args.instance is not None else None
    own = args.user == "edgerun"
    config = default_config(instance)
    if args.config is not None:  # below --root it is named as the installed system will see it
        config = os.path.abspath(args.config) if machine.root == Path("/") else "/" + args.config.lstrip("/")
    return plans.Plan(
        program=program(args.program, machine.root),
        config=config,
        user=args.user,
        group="edgerun" if own else plans.group_of(machine, args.user),
        instance=instance,
        boards=_boards(args.board, machine),
        groups=plans.groups_of(machine),
        systemd_version=plans.systemd_version(machine),
        strict_wx=args.strict_wx,
    )


def program(given: str | None, root: Path) -> tuple[str, ...]:
    """The command line of edgerun, as the installed system sees it.

    Without `given`: the script beside this interpreter, else the interpreter itself; in an image the usual place.
    """
    if given is not None:
        if not given.startswith("/"):
            raise ConfigError("systemd starts absolute paths only", where="--program", got=repr(given))
        return (given,)
    if root != Path("/"):
        return ("/opt/edgerun/bin/edgerun",)
    script = Path(sys.executable).with_name("edgerun")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "edgerun")


def as_lines(unit: UnitStatus) -> Iterator[str]:
    """A unit's status as text."""
    if not unit.loaded:
        yield f"{unit.unit}  not installed (edgerun service install)"
        return
    ended = "" if unit.result in (None, "success") else f", {unit.result}"
    code = f", exit code {unit.exit_code}" if unit.exit_code else ""
    since = f" since {unit.since}" if unit.since and unit.active == "active" else ""
    yield f"{unit.unit}  {unit.active} ({unit.sub}{ended}{code}){since}"
    if unit.text:
        yield f"  says      {unit.text}"
    costs = [f"pid {unit.pid}"] if unit.pid else []
    costs += [f"{unit.memory_mib:g} MiB"] if unit.memory_mib is not None else []
    costs += [f"{unit.cpu_s:g} s of CPU"] if unit.cpu_s is not None else []
    costs += [f"{unit.tasks} threads and processes"] if unit.tasks is not None else []
    if costs:
        yield f"  takes     {', '.join(costs)}"
    yield f"  restarts  {unit.restarts or 0}; at boot: {unit.starts_at or 'unknown'}"


def _boards(text: str, machine: Machine) -> frozenset[BoardName]:
    from edgerun.service.plan import BoardName, boards_of

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in _BOARDS:
            raise ConfigError(
                "unknown board",
                where="--board",
                expected=", ".join(_BOARDS),
                got=repr(name),
                remedy=did_you_mean(name, _BOARDS),
            )
    found = boards_of(machine) if "auto" in names else frozenset()
    return found | {cast("BoardName", name) for name in names if name in get_args(BoardName)}


def _check_config(config: Path, plan: Plan, *, here: bool) -> None:
    """Raises `ConfigErrors` for a config that is wrong; in an image only whether it is there can be told."""
    if not config.is_file():
        raise ConfigError("there is no such config", where=plan.config, remedy="write it first, or leave --config out")
    if here:
        from edgerun.config import load

        load(config, flags.options_of, flags.find_model)


def _show(outcome: Outcome, args: argparse.Namespace) -> None:
    if args.json:
        output.say_json({"v": 1, "dry_run": args.dry_run, **msgspec.to_builtins(outcome)})
        return
    output.say("\n".join(_lines(outcome, Path(args.root or "/"), args.dry_run)))


def _lines(outcome: Outcome, root: Path, dry: bool) -> Sequence[str]:
    unchanged = sum(deed.did == "unchanged" for deed in outcome.files)
    tense = "would be " if dry else ""
    lines = [f"{tense}{deed.did:<9}  {root / deed.path}" for deed in outcome.files if deed.did != "unchanged"]
    lines += [f"unchanged  {unchanged} file{'s' if unchanged != 1 else ''}"] if unchanged else []
    lines += [f"ran        {words}" for words in outcome.ran]
    return [*lines, *outcome.hints] or ["there was nothing to do"]
