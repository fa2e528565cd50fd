"""What every peer tells: one JSON line per result into a file, and one line on stdout when it ends.

Only numpy is needed, so that each peer keeps to the libraries its users have. The stamp in the top left corner of a
picture is that of `edgerun.capture.stamp`: 16×8 blocks of 8×8 pixels holding the frame's number, its CLOCK_MONOTONIC
nanoseconds and a CRC-32 of both. (The loops here want no dependency on edgerun; a test holds the two readers together.)
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTS = (50, 95, 99)


def arguments(what: str | None) -> argparse.ArgumentParser:
    """The flags that all peers have."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--url", help="the camera (HTTP, MJPEG)")
    parser.add_argument("--model", required=True, help="the .tflite file")
    parser.add_argument("--labels", help="one label a line")
    parser.add_argument("--out", default="/dev/null", help="where the results go, one JSON line each")
    parser.add_argument("--seconds", type=float, help="end after so many; otherwise at SIGTERM")
    return parser


def read_stamp(image: np.ndarray) -> tuple[int, int] | None:
    """(number, made_ns) of a stamped picture (`H×W×3` uint8), None where there is no intact stamp."""
    if image.shape[0] < 64 or image.shape[1] < 128:
        return None
    means = image[:64, :128].reshape(8, 8, 16, 8, 3)[:, 2:6, :, 2:6].mean(axis=(1, 3, 4))
    bits = np.packbits((means > 127.5).astype(np.uint8)).tobytes()
    number, made_ns, check = struct.unpack(">IQI", bits)
    return (number, made_ns) if zlib.crc32(bits[:12]) == check else None


class Tally:
    """Writes the results down. `result` belongs to one thread; `stop` is set at SIGTERM and when the time is up."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.stop = threading.Event()
        self.decoded = 0
        """Pictures that were decoded, whether inferred or not."""
        self.results = 0
        self._began_ns = time.monotonic_ns()
        self._until_ns = self._began_ns + round(args.seconds * 1e9) if args.seconds else None
        self._first_ns = 0
        self._last_ns = 0
        self._ages_ms: list[float] = []
        self._out = open(args.out, "a", buffering=1)  # noqa: SIM115  (closed in `end`; lines are out at once)
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        signal.signal(signal.SIGINT, lambda *_: self.stop.set())

    @property
    def going(self) -> bool:
        if self._until_ns is not None and time.monotonic_ns() >= self._until_ns:
            self.stop.set()
        return not self.stop.is_set()

    def result(self, image: np.ndarray, detections: Sequence[dict[str, Any]]) -> None:
        """The `detections` in `image` are ready now."""
        ready_ns = time.monotonic_ns()
        stamp = read_stamp(image)
        self.results += 1
        self._first_ns = self._first_ns or ready_ns
        self._last_ns = ready_ns
        line: dict[str, Any] = {"ready_ns": ready_ns, "detections": detections}
        if stamp is not None:
            line |= {"frame": stamp[0], "made_ns": stamp[1]}
            self._ages_ms.append((ready_ns - stamp[1]) / 1e6)
        self._out.write(json.dumps(line) + "\n")

    def end(self, **more: Any) -> None:
        """Print the line that sums the run up."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = (self._last_ns - self._first_ns) / 1e9
        print(
            json.dumps(
                {
                    "results": self.results,
                    "seconds": round(seconds, 3),
                    "decoded": self.decoded,
                    "cpu_s": round(used.ru_utime + used.ru_stime, 3),
                    "start_s": round((self._first_ns - self._began_ns) / 1e9, 3) if self._first_ns else None,
                    "ages_ms": percentiles(self._ages_ms),
                    **more,
                }
            )
        )
        sys.stdout.flush()
        self._out.close()


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 (nearest rank) and max; empty when there is nothing to tell."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {f"p{percent}": ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in PERCENTS}
    return {name: round(value, 3) for name, value in {**ranks, "max": ordered[-1]}.items()}
