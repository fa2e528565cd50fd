"""A live view of one device or a fleet, from what it says over MQTT.

Devices with heat, power and throttling; their streams with state, results a second, age and drops by fate; events,
newest first. q quits, the arrow keys scroll. Rates are those of the results that come; of streams with several models,
and ages and drops, those of the device's newest telemetry (30 s).

--once waits until every device that is online has told (at most --wait), shows the picture and ends; with --json it is
one JSON object for scripts; exit code 1: nothing is known of --device. Nothing is published."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from edgerun.cli import broker_flags, logs, output
from edgerun.cli.parser import add_common
from edgerun.errors import ConfigError, EdgerunError, MissingError

if TYPE_CHECKING:
    from edgerun.watch import Listener, Picture

EXAMPLES = (
    "edgerun watch --broker mqtt://broker.example",
    "edgerun watch --broker mqtts://broker.example --device dock-7",
    "edgerun watch --broker mqtt://broker.example --once --json | jq '.devices[].temp_c'",
)

_WAIT_S = 35.0
_SETTLE_S, _QUIET_S, _RESTLESS_S = 1.0, 0.3, 5.0
"""Retained messages come at once: they are all here after the first of these, when nothing came for the second; in a
fleet that is never quiet, after the third.
"""
_LOOK_S = 0.25
_STYLES = {"": "", "head": "reverse", "dim": "dim", "device": "bold blue", "alarm": "bold yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    broker_flags.add_arguments(parser)
    parser.add_argument("--device", metavar="ID", help="only this one")
    parser.add_argument("--once", action="store_true", help="collect, show, end")
    parser.add_argument("--wait", metavar="S", type=float, default=_WAIT_S, help="--once: at most this long (35)")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Watch until q; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    options = broker_flags.read_options(args, "watch")
    _check(args)
    from edgerun.watch import Listener, Picture

    if not args.once:
        _load_rich("live")
    picture = Picture(args.prefix)
    listener = Listener(options, picture.take, args.device, results=not args.once)
    if not args.once:
        picture.live()
    listener.start()
    try:
        if args.once:
            _collect(picture, args.wait)
            _show_once(picture, args.json)
            if args.device is not None and args.device not in picture.as_dict()["devices"]:
                raise EdgerunError(
                    "nothing is known of this device",
                    where="--device",
                    expected=f"one that publishes below {args.prefix}/ to this broker",
                    got=repr(args.device),
                    remedy="edgerun watch --once without --device shows those that do",
                )
        else:
            with suppress(KeyboardInterrupt):  # looking on is no work that could be cut short
                _show(picture, listener)
    finally:
        listener.stop()
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for what cannot be watched, or not here."""
    if args.device is not None and (not args.device or set(args.device) & set("+#/\0")):
        raise ConfigError("not a device's id", where="--device", expected="a-z, 0-9 and -", got=repr(args.device))
    if not 0 <= args.wait <= 86400:
        raise ConfigError("out of range", where="--wait", expected="0 to 86400 seconds", got=args.wait)
    if args.once:
        return
    if args.json:
        raise ConfigError("a view that goes on is no JSON object", where="--json", remedy="add --once")
    if not sys.stdin or not sys.stdin.isatty() or not sys.stdout or not sys.stdout.isatty():
        raise ConfigError("no terminal to show it in", where="edgerun watch", remedy="add --once")


def _load_rich(module: str) -> Any:
    """Rich draws without flicker and knows how wide characters are. It comes with the extra `watch`."""
    try:
        return importlib.import_module("rich." + module)
    except ImportError as error:
        raise MissingError(
            "the live view needs rich", got=str(error), remedy="pip install 'edgerun[watch]', or add --once"
        ) from error


def _collect(picture: Picture, wait_s: float) -> None:
    """Until all that is retained is here and every device that is online has told, at most `wait_s`."""
    never = threading.Event()
    began = now = quiet_since = time.monotonic()
    version = picture.version
    while now - began < wait_s:
        if picture.version != version:
            version, quiet_since = picture.version, now
        settled = now - began >= _SETTLE_S and now - quiet_since >= _QUIET_S
        if not picture.waits_for() and (settled or now - began >= _RESTLESS_S):
            return
        never.wait(0.05)
        now = time.monotonic()


def _show_once(picture: Picture, as_json: bool) -> None:
    from edgerun.watch.screen import lines

    told = picture.as_dict()
    if as_json:
        output.say_json(told)
        return
    rows = 4 + 2 * len(told["events"]) + sum(1 + len(one["streams"]) for one in told["devices"].values()) + 6
    shown = [line.text.rstrip() for line in lines(told, 200, rows)]
    output.say("\n".join(line for line in shown if line).replace("  (q quits)", "", 1))


def _show(picture: Picture, listener: Listener) -> None:
    """Draw when something came, at most four times a second, and once a second for the ages; until q or Ctrl-C."""
    console = _load_rich("console").Console(highlight=False)
    live_view = _load_rich("live").Live(console=console, screen=True, auto_refresh=False, transient=True)
    top, version, drawn, size = 0, -1, 0.0, os.terminal_size((0, 0))
    with _keys() as key, live_view as live:
        while True:
            now = time.monotonic()
            here = os.get_terminal_size()
            console.size = here  # else it would believe $COLUMNS and $LINES, which do not follow a resize
            if picture.version != version or here != size or now - drawn >= 1:
                version, drawn, size = picture.version, now, here
                live.update(_rendered(picture, listener, *here, top), refresh=True)
            pressed = key(_LOOK_S)
            if pressed in ("q", "Q", "\x03", "\x04"):
                return
            step = {"\x1b[A": -1, "k": -1, "\x1b[B": 1, "j": 1, "\x1b[5~": -10, "\x1b[6~": 10}.get(pressed, 0)
            if step:
                body = sum(1 + len(one["streams"]) for one in picture.as_dict()["devices"].values())
                top, version = max(0, min(body - 1, top + step)), -1


def _rendered(picture: Picture, listener: Listener, columns: int, rows: int, top: int) -> Any:
    from edgerun.watch.screen import lines

    notice = "" if listener.connected else "BROKER AWAY"
    whole = _load_rich("text").Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines(picture.as_dict(), columns, rows, top, notice)):
        filled = line.text.ljust(columns) if line.style == "head" else line.text
        whole.append("\n" * (number > 0)).append(filled, _STYLES[line.style])
    return whole


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits up to so many seconds for a key; "" when none came. The terminal is put back at the end."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def key(timeout_s: float) -> str:
        ready, _, _ = select.select([fd], [], [], timeout_s)
        if not ready:
            return ""
        read = os.read(fd, 16)
        return read.decode("utf-8", "replace") if read else "q"  # the terminal has gone

    try:
        tty.setcbreak(fd)
        yield key
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
