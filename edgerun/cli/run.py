"""Watch cameras, streams, files or folders with a model and give the results to terminal, files and MQTT.

It runs until its sources end, until --seconds or --frames, or until Ctrl-C or SIGTERM, and then says what became of
every frame."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from edgerun.cli import flags, logs, summary
from edgerun.config import Config
from edgerun.config.overlay import Overlay
from edgerun.errors import EdgerunError

EXAMPLES = (
    "edgerun run --config /etc/edgerun/edgerun.toml",
    "edgerun run --model detector.tflite --source /dev/video0 --broker mqtt://localhost",
    "edgerun run --model classifier.onnx --source 'photos/*.jpg' --jsonl - | jq .classes",
)

add_arguments = flags.add_arguments


def run(args: argparse.Namespace) -> int:
    """Run the daemon until it ends."""
    reread = None if args.config is None else partial(flags.read_config, args)
    return serve(flags.read_config, args, reread=reread)


def serve(
    read_config: Callable[[argparse.Namespace], Config],
    args: argparse.Namespace,
    begin: Callable[[Config], None] = lambda config: None,
    reread: Callable[[Overlay | None], Config] | None = None,
) -> int:
    """Run what `read_config` makes of the flags until it ends and print the summary. Raises `EdgerunError`.

    `begin` is called with the config once all is well with the flags; `reread` gives it again, for a reload.
    """
    config, options = flags.all_at_once(lambda: read_config(args), lambda: flags.read_options(args))
    logs.set_up(verbose=args.verbose, quiet=args.quiet)
    begin(config)
    from edgerun.cli import live
    from edgerun.daemon import serve as run_daemon

    with live.live_line(quiet=args.quiet, json=args.json) as line:
        account = run_daemon(config, options, last=True, observers=() if line is None else (line,), reread=reread)
    summary.show(account, options)
    if incomplete := account.get("incomplete"):
        raise EdgerunError("the run has ended, but not all of its work is there", got="; ".join(incomplete))
    return 0
