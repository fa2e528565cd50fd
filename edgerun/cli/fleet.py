"""Many devices at once, by what they retain at the broker.

`fleet status` reads what every device retains (status, info, state, models), once: versions, health, alarms; devices
are chosen by their `[device] labels`. `fleet rollout` asks devices to install a new version of a model, in stages, and
watches what each says of it; it halts by itself when too many go back, refuse or are lost (exit code 3). It may be
ended at any time: the same command goes on where it was. Devices that try the new version go on by themselves."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerun.cli import broker_flags, logs, output
from edgerun.cli.parser import Parser, add_common
from edgerun.errors import ConfigError

if TYPE_CHECKING:
    from edgerun.broker.options import BrokerOptions
    from edgerun.fleet import Device, Plan, Progress
    from edgerun.fleet.driver import Sign
    from edgerun.fleet.plan import Count

EXAMPLES = (
    "edgerun fleet status --broker mqtts://broker.example --label site=north",
    "edgerun fleet status --broker mqtt://broker.example --json | jq '.summary.models'",
    "edgerun fleet rollout --broker mqtts://broker.example --model detector --version 3 "
    "--source https://models.example/detector-3.zip --stages 1%,10%,100%",
)

_SHOWN = 50
"""Of more devices than these only those with alarms are shown, unless all are asked for."""
_GATE = 3
_LIFE_S = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its flags."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", required=True, parser_class=Parser
    )
    status = actions.add_parser(
        "status", help="how all of them are", epilog=f"example:\n  {EXAMPLES[0]}",
        description="Versions, health and alarms of every device, from what is retained.",
    )  # fmt: skip
    status.add_argument("--all", action="store_true", help="show every device, not only those with alarms")
    rollout = actions.add_parser(
        "rollout", help="a new version of a model, in stages", epilog=f"example:\n  {EXAMPLES[2]}",
        description="Ask devices to install a model, a share after the other; they try it and go back by themselves.",
    )  # fmt: skip
    what = rollout.add_argument_group("what")
    what.add_argument("--model", metavar="NAME", required=True, help="the [models.NAME] table on the devices")
    what.add_argument("--version", metavar="V", required=True, help="the new version")
    what.add_argument("--source", metavar="URL", help="where devices fetch it; without: it is in their stores")
    what.add_argument("--sha256", metavar="HEX", help="what the file at URL has to hash to")
    what.add_argument("--id", metavar="ID", help="of the rollout; by default made of model and version")
    how = rollout.add_argument_group("how")
    how.add_argument("--stages", metavar="LIST", default="1%,10%,100%", help="shares of the devices (1%%,10%%,100%%)")
    how.add_argument("--limit", metavar="SHARE", default="5%", help="halt when more of them fail (5%%)")
    how.add_argument("--fewest", metavar="N", type=int, default=20, help="judge the rate from so many devices on (20)")
    how.add_argument("--enough", metavar="SHARE", default="90%", help="of a stage that must have ended (90%%)")
    how.add_argument("--soak", metavar="S", type=float, default=0.0, help="shortest length of a stage, seconds (0)")
    how.add_argument("--stage-timeout", metavar="S", type=float, default=86400.0, help="longest (86400)")
    how.add_argument("--lost-after", metavar="S", type=float, default=300.0, help="offline for so long: lost (300)")
    how.add_argument("--rate", metavar="N", type=float, default=50.0, help="commands a second (50)")
    how.add_argument("--take-back", action="store_true", help="when halted, ask those that have it to go back")
    how.add_argument("--sign", metavar="KEY", help="sign commands with this private key (edgerun models keygen)")
    how.add_argument("--state", metavar="FILE", help="where its progress is kept (in the state folder)")
    how.add_argument("--anyway", action="store_true", help="go on with a rollout that was halted")
    for action in (status, rollout):
        broker_flags.add_arguments(action)
        action.add_argument(
            "--label", metavar="NAME=TEXT", action="append", default=[], help="only devices with it; repeatable"
        )
        add_common(action)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    options, labels = broker_flags.read_options(args, "fleet"), _labels(args.label)
    return _status(args, options, labels) if args.action == "status" else _rollout(args, options, labels)


def _status(args: argparse.Namespace, options: BrokerOptions, labels: Mapping[str, str]) -> int:
    from edgerun.fleet import Line, read
    from edgerun.fleet.fleet import summary

    line = Line(options)
    line.open()
    try:
        found = read(line, args.prefix)
    finally:
        line.close()
    devices = found.fleet.chosen(labels)
    told = summary(devices)
    if args.json:
        output.say_json(
            {
                "v": 1,
                "summary": told,
                "devices": {one.id: one.told() for one in devices},
                "incomplete": [name for name in found.incomplete if found.fleet.devices[name] in devices],
                "refused": found.fleet.refused,
            }
        )
        return 0
    for text in _lines(devices, told, everything=args.all):
        output.say(_clean(text))
    if found.fleet.refused:
        output.tell(f"{found.fleet.refused} messages are not what a device says and were left out.")
    return 0


def _lines(devices: list[Device], told: Mapping[str, Any], *, everything: bool) -> list[str]:
    shown = devices if everything or len(devices) <= _SHOWN else [one for one in devices if one.alarms()]
    out = []
    for device in shown:
        info = device.info
        labels = " ".join(f"{key}={text}" for key, text in sorted(info.labels.items())) if info is not None else ""
        models = " ".join(f"{name}={one['version']}" for name, one in device.told().get("models", {}).items())
        status = "online" if device.online else "OFFLINE" if device.online is False else "unknown"
        out.append("  ".join(part for part in (f"{device.id:<20}", f"{status:<7}", labels, models) if part))
        out += [f"    ! {alarm}" for alarm in device.alarms() if alarm != "offline"]
    if len(shown) < len(devices):
        out.append(f"… {len(devices) - len(shown)} devices without an alarm (--all shows them)")
    out.append(
        f"{told['devices']} devices: {told['online']} online, {told['offline']} offline, {told['alarmed']} with alarms"
    )
    out.append("edgerun " + (_counts(told["edgerun"]) or "of no device is known"))
    out += [f"model {name}: {_counts(counts)}" for name, counts in told["models"].items()]
    return out + [f"rollout {name}: {_counts(counts)}" for name, counts in told["rollouts"].items()]


def _rollout(args: argparse.Namespace, options: BrokerOptions, labels: Mapping[str, str]) -> int:
    from edgerun.fleet import Driver, Line

    plan = _plan(args, labels)
    path = Path(args.state) if args.state is not None else _state_file(plan)
    progress = _progress(plan, path, anyway=args.anyway)
    sign = _signer(args.sign)
    if progress.state == "done":
        return _show_end(args, progress, None, path)
    look = _Look()
    line = Line(options)
    line.open()
    try:
        driver = Driver(
            line, args.prefix, progress, path, rate=args.rate, take_back=args.take_back, look=look, sign=sign
        )
        progress = driver.run()
    finally:
        line.close()
    return _show_end(args, progress, look.found, path)


class _Look:
    """Tells on standard error what has changed, at most once in two seconds."""

    def __init__(self) -> None:
        self.found: Count | None = None
        self._told, self._at = "", 0.0

    def __call__(self, progress: Progress, found: Count) -> None:
        self.found = found
        counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.told().items())
        text = f"stage {progress.share:.4g} of the fleet: {counts or 'no device'}"
        now = time.monotonic()
        if text != self._told and (now - self._at >= 2.0 or not sys.stderr.isatty()):
            self._told, self._at = text, now
            output.tell(text)


def _show_end(args: argparse.Namespace, progress: Progress, found: Count | None, path: Path) -> int:
    if args.json:
        told: dict[str, Any] = {"v": 1, "rollout": progress.plan.id, "state": progress.state, "share": progress.share}
        if progress.reason:
            told["reason"] = progress.reason
        if found is not None:
            told |= {"devices": found.told(), "reasons": dict(found.reasons)}
        output.say_json(told | {"asked": len(progress.asked), "file": str(path)})
    elif progress.state == "done":
        output.say(f"rollout {progress.plan.id}: done, {len(progress.asked)} devices were asked")
    else:
        share = f"{progress.share:.4g}"
        output.say(_clean(f"rollout {progress.plan.id}: halted at the share {share}: {progress.reason}"))
    return 0 if progress.state == "done" else _GATE


def _plan(args: argparse.Namespace, labels: Mapping[str, str]) -> Plan:
    """Raises `ConfigError`."""
    import re

    from edgerun.fleet.plan import Plan, parse_stages
    from edgerun.models.install import check_source
    from edgerun.models.versions import check_version

    check_version(args.version, "--version")
    if args.source is not None:
        try:
            check_source(args.source)
        except ConfigError as error:
            error.where = "--source"
            raise
    name = args.id if args.id is not None else re.sub(r"[^A-Za-z0-9._:-]", "-", f"{args.model}-{args.version}")[:64]
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", name):
        raise ConfigError("not a usable id", where="--id", expected="1 to 64 of A-Z a-z 0-9 . _ : -", got=repr(name))
    if args.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", args.sha256):
        raise ConfigError("not a SHA-256", where="--sha256", expected="64 hexadecimal digits", got=repr(args.sha256))
    for flag in ("fewest", "soak", "stage_timeout", "lost_after", "rate"):
        low, value = (1 if flag in ("fewest", "rate") else 0), getattr(args, flag)
        if not low <= value <= 1e9:
            raise ConfigError(
                "out of range", where="--" + flag.replace("_", "-"), expected=f"at least {low}", got=value
            )
    return Plan(
        id=name,
        model=args.model,
        version=args.version,
        source=args.source,
        sha256=args.sha256,
        stages=parse_stages(args.stages),
        labels=dict(labels),
        limit=_share(args.limit, "--limit"),
        fewest=args.fewest,
        enough=_share(args.enough, "--enough"),
        soak_s=args.soak,
        stage_s=args.stage_timeout,
        lost_s=args.lost_after,
    )


def _progress(plan: Plan, path: Path, *, anyway: bool) -> Progress:
    """What was kept of this rollout, or its beginning. Raises `ConfigError`."""
    import msgspec

    from edgerun.fleet import keeping
    from edgerun.fleet.plan import Progress

    kept = keeping.load(path)
    if kept is None:
        return Progress(plan=plan, since=time.time())
    told, wanted = kept.plan, plan
    for field in ("id", "model", "version", "source", "sha256", "stages", "labels"):
        if getattr(told, field) != getattr(wanted, field):
            raise ConfigError(
                "another rollout is kept there", where=path, expected=f"{field} {getattr(told, field)}",
                got=getattr(wanted, field), remedy="give what that one was begun with, or another --id or --state",
            )  # fmt: skip
    kept = msgspec.structs.replace(kept, plan=plan)  # its limits may be others now
    if kept.state == "halted":
        if not anyway:
            raise ConfigError(
                f"this rollout was halted: {kept.reason}", where=path,
                remedy="see to the cause; --anyway goes on with it, another --id begins anew",
            )  # fmt: skip
        kept = msgspec.structs.replace(kept, state="running", reason="", since=time.time(), refused={})
    return kept


def _signer(key: str | None) -> Sign:
    if key is None:
        from edgerun.fleet.driver import unsigned

        return unsigned
    import msgspec

    from edgerun.control.signed import sign
    from edgerun.security.keys import read_private

    private = read_private(Path(key))

    def signed(device: str, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        text = msgspec.json.encode(arguments).decode()
        return sign(private, device, verb, text, int(time.time() + _LIFE_S), secrets.token_hex(16))

    return signed


def _state_file(plan: Plan) -> Path:
    from edgerun.spool.options import state_folder

    return state_folder() / "fleet" / f"{plan.id.replace(':', '_')}.json"


def _labels(words: list[str]) -> dict[str, str]:
    """Raises `ConfigError`."""
    out = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise ConfigError("not a label", where="--label", expected="name=text, such as site=north", got=repr(word))
        out[name] = text
    return out


def _share(text: str, flag: str) -> float:
    """Raises `ConfigError`."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError("not a share", where=flag, expected="such as 5% or 0.05", got=repr(text))
    return share


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or 'unknown'} on {number}" for name, number in counts.items())


def _clean(text: str) -> str:
    """Without what would steer a terminal: devices say what they like."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
