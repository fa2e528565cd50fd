"""`edgerun run --model … --source URL --threads 1 --jsonl FILE`, its JSON lines completed by the picture's own stamp.

Nothing of the runtime is changed but the JSON lines' writer: it looks at the picture that was inferred, reads the stamp
out of it as all peers do, and writes both with the line. The moment that counts is when the publish thread takes the
result, so edgerun's way from worker to publisher is part of its ages.
"""

from __future__ import annotations

import json
import sys
import time

from tally import arguments

from edgerun import daemon
from edgerun.bench.stamped import read_any_scale
from edgerun.cli.main import main as edgerun
from edgerun.clock import SystemClock
from edgerun.config import default_device_id
from edgerun.ports import SinkContext
from edgerun.publish.jsonl import JsonlSink
from edgerun.publish.wire import encode_result
from edgerun.types import Publication


class StampedJsonlSink(JsonlSink):
    """One Result message a line, with `ready_ns`, `made_ns` and `frame` behind it."""

    wants_picture = True

    def publish(self, publication: Publication) -> None:
        ready_ns = time.monotonic_ns()
        lease = publication.result.lease
        stamp = read_any_scale(lease.image) if lease is not None else None
        more = {"ready_ns": ready_ns} | ({"frame": stamp[0], "made_ns": stamp[1]} if stamp else {})
        self._lines.write(encode_result(publication, self._device)[:-1] + b"," + json.dumps(more).encode()[1:])


def main() -> int:
    args = arguments(__doc__).parse_args()
    sink = StampedJsonlSink(JsonlSink.options(path=args.out), SinkContext(default_device_id(), SystemClock()))
    serve = daemon.serve
    daemon.serve = lambda config, options, *, observers=(), **how: serve(
        config, options, observers=(*observers, sink), **how
    )
    words = ["run", "--model", args.model, "--source", args.url, "--threads", "1", "--quiet", "--json"]
    if args.seconds:
        words += ["--seconds", str(args.seconds)]
    try:
        return edgerun(words)
    finally:
        sink.flush(5)
        sink.close()


if __name__ == "__main__":
    sys.exit(main())
