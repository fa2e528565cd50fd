"""A process that publishes numbered results through the real connection and spool, and writes down what it published.

Not the whole daemon: it is up in a quarter of a second, so that it can be killed hundreds of times.

    python -m tests.delivery.publisher '{"url": …, "folder": …, "journal": …, "run": …, …}'

The journal has one line of 24 bytes for each message that `publish` has returned from, which survives a kill: number,
monotonic ns, whether there was a link before or behind the call, how many messages the broker had not acknowledged
behind it. What the spool wants an operator to know is appended to a file beside it, `<run>.told`. It ends at SIGTERM
with an orderly stop; with `drain` not before the broker has everything.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import msgspec

from edgerun.broker.connection import Connection
from edgerun.broker.options import BrokerOptions
from edgerun.clock import SystemClock
from edgerun.spool.options import SpoolOptions
from edgerun.spool.spool import Spool

LINE = struct.Struct("<QQ?3xI")
STREAMS = ("yard", "dock")
DEVICE = "gate-3"


def payload(run: str, number: int, size: int) -> bytes:
    seq, stream = divmod(number, len(STREAMS))
    head = (
        f'{{"v":1,"id":"{run}-{number:06d}","seq":{seq},"device":"{DEVICE}","stream":"{STREAMS[stream]}",'
        f'"sent_ns":{time.monotonic_ns()},"detections":['
    )
    one = f'{{"label":"person","class":1,"score":0.{number * 7919 % 10000:04d},"box":[0.41,0.22,0.47,0.51]}}'
    return (head + ",".join([one] * max(1, (size - len(head)) // len(one))) + "]}").encode()


def tell(spool: Spool, path: Path) -> None:
    notices = spool.take_notices()
    if notices:
        with path.open("ab") as out:
            out.writelines(msgspec.json.encode(notice) + b"\n" for notice in notices)


def main() -> None:
    told = json.loads(sys.argv[1])
    stop = threading.Event()
    # The handler does not set `stop` itself: it may run in the middle of `stop.wait`, which holds the lock of `set`.
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: asked.put(None))
    threading.Thread(target=lambda: (asked.get(), stop.set()), daemon=True).start()
    clock = SystemClock()
    spooled = SpoolOptions(Path(told["folder"]), **told.get("spool", {}))
    spool = Spool(spooled, clock, told["run"], max_messages=told.get("limit", 1000))
    device = told.get("device", DEVICE)
    options = BrokerOptions(url=told["url"], client_id=device, will_delay_s=1, **told.get("broker", {}))
    link = Connection(options, clock, outgoing=spool)
    link.start()
    spool.wait_tried(10)
    told_path = Path(told["journal"]).with_suffix(".told")
    tell(spool, told_path)
    journal = os.open(told["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    began_ns, rate, count = time.monotonic_ns(), told["rate"], told.get("count", 1 << 60)
    for number in range(1, count + 1):
        due_s = (began_ns + number * 1_000_000_000 // rate - time.monotonic_ns()) / 1e9
        if stop.wait(max(0.0, due_s)):
            break
        topic = f"edgerun/{device}/detections/{STREAMS[number % len(STREAMS)]}"
        connected = link.connected
        link.publish(topic, payload(told["run"], number, told.get("size", 400)), keep="detection", number=number)
        now = link.stats()
        unacked = now.waiting + now.in_flight
        os.write(journal, LINE.pack(number, time.monotonic_ns(), connected or now.connected, unacked))
        tell(spool, told_path)
    else:
        stop.wait()
    if told.get("drain"):
        link.flush(30)
    link.stop(3)
    tell(spool, told_path)
    stats = link.stats()
    Path(told["journal"]).with_suffix(".end").write_text(
        json.dumps({"queued": stats.queued, "acked": stats.acked, "dropped": stats.dropped, "waiting": stats.waiting})
    )


if __name__ == "__main__":
    main()
