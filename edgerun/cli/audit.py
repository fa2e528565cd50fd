"""Show the audit log of this device, or look whether anybody has changed it.

`show` prints the records, newest last; `verify` looks through the chain and, with `--head`, for the record that the
device published last (`<prefix>/<device>/audit/head`, retained). Exit code 1: it was changed; 4: there is none."""

from __future__ import annotations

import argparse
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

from edgerun.cli import flags, logs, output
from edgerun.cli.parser import Parser, add_common
from edgerun.errors import ConfigError, DeviceError, EdgerunError

EXAMPLES = (
    "edgerun audit show --config /etc/edgerun/edgerun.toml",
    "edgerun audit show --last 5 --json | jq '.records[].what'",
    "edgerun audit verify --head $(mosquitto_sub -t edgerun/dock-7/audit/head -C 1 | jq -r .hash)",
)

_KNOWN = ("v", "seq", "ts", "prev", "what", "who", "via", "ok")
_DEFAULT_CONFIG = Path("/etc/edgerun/edgerun.toml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its flags."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", required=True, parser_class=Parser
    )
    show = actions.add_parser(
        "show", help="print the records", description="The records of the audit log, newest last.",
        epilog=f"example:\n  {EXAMPLES[0]}",
    )  # fmt: skip
    show.add_argument("--last", metavar="N", type=int, default=50, help="so many of the newest (50); 0: all")
    verify = actions.add_parser(
        "verify", help="look whether it was changed",
        description="Whether the chain is whole. Exit code 1: it is not; 4: there is none.",
        epilog=f"example:\n  {EXAMPLES[2]}",
    )  # fmt: skip
    verify.add_argument("--head", metavar="HASH", help="the hash that the device published: its record must be there")
    for action in (show, verify):
        action.add_argument("--config", metavar="FILE", help=f"whose device and state it is ({_DEFAULT_CONFIG})")
        action.add_argument("--folder", metavar="DIR", help="the log's folder itself, such as a copy of it")
        add_common(action)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    folder = _folder(args)
    try:
        return _show(args, folder) if args.action == "show" else _verify(args, folder)
    except EdgerunError:
        raise
    except OSError as error:
        raise DeviceError(
            "the audit log cannot be read",
            where=folder,
            got=error.strerror or error,
            remedy="run this as the user edgerun runs as, with its $STATE_DIRECTORY, or name --folder",
        ) from error


def _show(args: argparse.Namespace, folder: Path) -> int:
    from edgerun.control.audit import read

    if args.last < 0:
        raise ConfigError("less than none", where="--last", got=args.last)
    entries = deque(read(folder), maxlen=args.last or None)
    if not entries:
        _must_have_begun(folder)
        output.tell("no records: nothing was changed here, or they were taken away; edgerun audit verify --head tells.")
    if args.json:
        output.say_json({"v": 1, "records": [{"hash": one.hash, **one.record} for one in entries]})
        return 0
    for one in entries:
        output.say(_line(one.record))
    return 0


def _line(record: Any) -> str:
    """For a terminal: what others chose to be called is shown without control characters."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(record.get("ts", 0))))
    more = " ".join(f"{key}={value}" for key, value in record.items() if key not in _KNOWN)
    fate = "" if record.get("ok", True) else " REFUSED"
    line = f"{record['seq']:>6} {at} {record.get('what')}{fate} by {record.get('who')} ({record.get('via')}) {more}"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line).rstrip()


def _verify(args: argparse.Namespace, folder: Path) -> int:
    from edgerun.control.audit import verify

    head = args.head
    if head is not None and not re.fullmatch(r"[0-9a-f]{64}", head):
        raise ConfigError("not a hash", where="--head", expected="64 hexadecimal digits", got=repr(head))
    found = verify(folder, head)
    if not found.records and not found.faults:
        _must_have_begun(folder)
    if args.json:
        output.say_json(
            {
                "v": 1,
                "ok": not found.faults,
                "records": found.records,
                "first": found.first,
                "head": {"seq": found.head.seq, "hash": found.head.hash},
                "faults": list(found.faults),
            }
        )
    else:
        for fault in found.faults:
            output.tell(f"edgerun: {fault}.")
        state = "as they were written" if not found.faults else f"{len(found.faults)} faults"
        if found.records:
            span = f"{found.records} records from {found.first} to {found.head.seq}"
            output.say(f"{span}: {state}; head {found.head.hash}")
        else:
            output.say("no records")
        if head is None and not found.faults:
            output.tell("Whether the newest were cut off can only be told with --head, from the broker.")
    return 1 if found.faults else 0


def _must_have_begun(folder: Path) -> None:
    """Raises `DeviceError` for a folder in which no daemon has ever kept its log."""
    from edgerun.control.audit import begun

    if not begun(folder):
        raise DeviceError(
            "no audit log is there",
            where=folder,
            expected="audit.jsonl",
            remedy="name the --config or --folder of the device that you mean",
        )


def _folder(args: argparse.Namespace) -> Path:
    if args.folder is not None:
        if args.config is not None:
            raise ConfigError("two places", expected="--config or --folder", remedy="leave one of them out")
        return Path(args.folder)
    from edgerun.app.auditing import audit_folder
    from edgerun.config import default_device_id, load

    path = Path(args.config) if args.config is not None else _DEFAULT_CONFIG
    if args.config is None and not path.exists():
        return audit_folder(default_device_id())
    return audit_folder(load(path, flags.options_of, flags.find_model).device.id)
