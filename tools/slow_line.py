#!/usr/bin/env python3
"""A line with delay and loss between two network interfaces, both ways, for kernels without netem.

    tools/slow_line.py veth-a veth-b --delay-ms 40 --loss 1

Ethernet frames are read from each interface (packet(7)) and written to the other one, in order, after the delay, each
way; `--loss` per cent of them are not. Frames that the kernel has not cut yet (GSO) pass as one, with their virtio
header (PACKET_VNET_HDR): a frame that is lost may then be several packets. Says `ready`; ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import select
import signal
import socket
import sys
import time
from collections import deque

_SOL_PACKET, _PACKET_VNET_HDR, _OUTGOING = 263, 15, 4  # linux/if_packet.h
_ALL = socket.htons(3)  # ETH_P_ALL
_LONGEST = 80_000


def opened(name: str) -> socket.socket:
    """Reads and writes the frames of one interface. Raises `OSError`."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ALL)
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    made.bind((name, 0))
    made.setblocking(False)
    return made


def relay(ends: tuple[socket.socket, socket.socket], delay_s: float, loss: float, chance: random.Random) -> None:
    """Until the process is ended."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()  # all wait equally long: the first is the next
    poll = select.epoll()
    by_number = {one.fileno(): one for one in ends}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    while True:
        timeout_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else -1
        for number, _ in poll.poll(timeout_s):
            take(by_number[number], other, waiting, delay_s, loss, chance)
        now_s = time.monotonic()
        while waiting and waiting[0][0] <= now_s:
            _, out, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # a full queue, or one end down: lost, as on any line
                out.send(frame)


def take(
    come_in: socket.socket,
    other: dict[socket.socket, socket.socket],
    waiting: deque[tuple[float, socket.socket, bytes]],
    delay_s: float,
    loss: float,
    chance: random.Random,
) -> None:
    """All frames that have come to one end."""
    while True:
        try:
            frame, address = come_in.recvfrom(_LONGEST)
        except BlockingIOError:
            return
        if address[2] != _OUTGOING and chance.random() >= loss:
            waiting.append((time.monotonic() + delay_s, other[come_in], frame))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ends", nargs=2, metavar="INTERFACE")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way (0)")
    parser.add_argument("--loss", type=float, default=0.0, help="per cent of the frames, each way (0)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    first, second = map(opened, args.ends)
    print("ready", flush=True)
    relay((first, second), args.delay_ms / 1000, args.loss / 100, random.Random(0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
