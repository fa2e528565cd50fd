"""A broker, a bad line, a publisher that can be killed, a subscriber that forgets nothing, and the account of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests import mosquitto
from tests.delivery.proxy import Proxy, proxy
from tests.delivery.publisher import LINE, STREAMS
from tests.mosquitto import wait_until

QUICK = {"reconnect_max_s": 0.1, "connect_timeout_s": 2.0, "ack_timeout_s": 1.0, "takeover_delay_s": 0.1}
LATE_S = 60.0
BESIDE = "cccccccc"
"""The run of `Site.start_beside`."""


class Arrival(NamedTuple):
    run: str
    number: int
    replayed: bool
    stream: str
    sent_ns: int
    came_ns: int


class Line(NamedTuple):
    """What the journal says of one publication."""

    ns: int
    connected: bool
    unacked: int


class _Result(msgspec.Struct):
    id: str
    stream: str
    sent_ns: int
    replayed: bool = False


class Consumer:
    """Subscribes with QoS 0: the broker then writes a message to its socket before it acknowledges it to the publisher,
    so that what a killed broker acknowledged has left it.
    """

    def __init__(self, port: int) -> None:
        from paho.mqtt import client as paho

        self._changed = threading.Condition()
        self.arrivals: list[Arrival] = []
        self.ready = threading.Event()
        decoder = msgspec.json.Decoder(_Result)
        client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)

        def on_message(_client: Any, _data: Any, message: Any) -> None:
            came_ns = time.monotonic_ns()
            result = decoder.decode(message.payload)
            run, _, number = result.id.partition("-")
            with self._changed:
                made = Arrival(run, int(number), result.replayed, result.stream, result.sent_ns, came_ns)
                self.arrivals.append(made)
                self._changed.notify_all()

        client.on_connect = lambda one, *_: one.subscribe("edgerun/+/detections/+", 0)
        client.on_subscribe = lambda *_: self.ready.set()
        client.on_disconnect = lambda *_: self.ready.clear()
        client.on_message = on_message
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port)
        client.loop_start()
        self._client = client
        assert self.ready.wait(LATE_S)

    def wait(self, condition: Callable[[list[Arrival]], object], timeout_s: float = LATE_S) -> None:
        """`condition` is asked at most ten times a second, of a list that grows."""
        wait_until(lambda: threading.Event().wait(0.05) or condition(self.arrivals), timeout_s, "what was waited for")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Site:
    """One device, its line and its broker; the runs of its publisher one after the other."""

    def __init__(self, folder: Path, durability: str, **told: Any) -> None:
        self.folder, self.durability, self._told = folder, durability, told
        self.runs: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._beside: subprocess.Popen[bytes] | None = None
        self.killed: dict[str, int] = {}
        self.certain: dict[str, int | None] = {}

    @contextlib.contextmanager
    def up(self, *lines: str) -> Iterator[Site]:
        with mosquitto.broker("max_inflight_messages 0", *lines) as self.broker, proxy(self.broker.port) as line:
            self.line: Proxy = line
            self.consumer = Consumer(self.broker.port)
            try:
                yield self
            finally:
                if self._process is not None:
                    self.kill()
                if self._beside is not None:
                    self._beside.kill()
                    self._beside.wait()
                self.consumer.close()

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def start(self, **told: Any) -> None:
        run = f"{len(self.runs):08x}"
        self.runs.append(run)
        spool = {"durability": self.durability, "replay_rate": 5000.0, "min_free_bytes": 0, "free_share": 1.0}
        how = {
            "url": self.line.url, "folder": str(self.spool), "run": run, "rate": 300,
            "journal": str(self.folder / f"{run}.journal"), "broker": QUICK, **self._told, **told,
        }  # fmt: skip
        how["spool"] = {**spool, **how.get("spool", {})}
        self._process = subprocess.Popen([sys.executable, "-m", "tests.delivery.publisher", json.dumps(how)])

    def start_beside(self, rate: int) -> None:
        """Another device on the same line that has nothing to replay: what it suffers too is the machine's doing."""
        how = {
            "url": self.line.url, "folder": str(self.folder / "beside"), "run": BESIDE, "rate": rate,
            "journal": str(self.folder / f"{BESIDE}.journal"), "broker": QUICK, "device": "beside",
        }  # fmt: skip
        self._beside = subprocess.Popen([sys.executable, "-m", "tests.delivery.publisher", json.dumps(how)])

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGKILL)
        self.killed[self.runs[-1]] = time.monotonic_ns()
        process.wait(10)
        mark = self.spool / "mark"
        told = json.loads(mark.read_bytes()) if mark.exists() and mark.stat().st_size else {}
        self.certain[self.runs[-1]] = told.get("certain") if told.get("run") == self.runs[-1] else None

    def stop(self) -> None:
        """SIGTERM, once it is up."""
        assert self._process is not None
        self.published(0)
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        code = process.wait(LATE_S)
        assert code == 0, code

    def journal(self, run: str | None = None) -> dict[int, Line]:
        """Everything `publish` returned from, by number."""
        path = self.folder / f"{run or self.runs[-1]}.journal"
        data = path.read_bytes() if path.exists() else b""
        lines = LINE.iter_unpack(data[: len(data) // LINE.size * LINE.size])
        return {number: Line(*rest) for number, *rest in lines}

    def told(self, run: str) -> list[tuple[str, str | None, int | None]]:
        """What the spool of a run told: kind, run and number of an `unclean_stop`."""
        path = self.folder / f"{run}.told"
        told = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        return [(one["kind"], one["run"], one["certain"]) for one in told]

    def must_tell(self, run: str) -> list[tuple[str, str | None, int | None]]:
        """Of the kill that ended the run before, and of nothing else."""
        before = dict(pairwise(reversed(self.runs))).get(run)
        return [("unclean_stop", before, self.certain[before])] if before in self.killed else []

    def dropped(self, run: str) -> dict[str, int]:
        """By reason, as a run that was stopped in order counted it."""
        path = self.folder / f"{run}.end"
        return json.loads(path.read_text())["dropped"] if path.exists() else {}

    def published(self, count: int, run: str | None = None) -> None:
        """Wait until the present publisher has published so many."""
        path = self.folder / f"{run or self.runs[-1]}.journal"
        wait_until(lambda: path.exists() and path.stat().st_size >= count * LINE.size, LATE_S, f"{count} publications")

    def restart_broker(self) -> None:
        """Killed and started; nobody publishes before the consumer listens again."""
        self.line.locked.set()
        self.broker.kill()
        self.line.cut()
        wait_until(lambda: not self.consumer.ready.is_set())
        self.broker.restart()
        assert self.consumer.ready.wait(LATE_S)
        self.line.locked.clear()

    def arrived(self, run: str) -> set[int]:
        return {a.number for a in list(self.consumer.arrivals) if a.run == run}

    def promised(self, run: str) -> set[int]:
        """What the durability covers of a run that is over: everything, but for a killed one with "outage" what its
        high-water mark calls certain, and at least all but as many of the newest as the broker had not acknowledged.
        """
        lines = self.journal(run)
        if self.durability == "always" or run not in self.killed or not lines:
            return set(lines)
        newest = max(lines)
        covered = max(self.certain[run] or 0, newest - lines[newest].unacked)
        return {n for n in lines if n <= covered}

    def settle(self) -> Report:
        """End the last run when all that is promised has come, and draw up the account."""
        if self.running():
            self.stop()
            self.start(rate=1, count=0, drain=True)  # whatever is left on disk is replayed by one more
        promised = {run: self.promised(run) for run in self.runs}
        came: dict[str, set[int]] = {run: set() for run in self.runs}
        seen = 0

        def complete(arrivals: list[Arrival]) -> bool:
            nonlocal seen
            for arrival in arrivals[seen : (end := len(arrivals))]:
                came.setdefault(arrival.run, set()).add(arrival.number)
            seen = end
            return all(promised[run] <= came[run] for run in self.runs)

        with contextlib.suppress(AssertionError):  # what is missing is told below
            self.consumer.wait(complete)
        if self.running():
            self.stop()
        at = len(self.consumer.arrivals)
        with contextlib.suppress(AssertionError):  # the broker has it all; the consumer may be behind
            self.consumer.wait(lambda arrivals: len(arrivals) > at, 0.5)
        return Report(self, {run: promised[run] - self.arrived(run) for run in self.runs})


class Report:
    """What became of everything that was published."""

    def __init__(self, site: Site, missing: dict[str, set[int]]) -> None:
        arrivals = [a for a in list(site.consumer.arrivals) if a.run != BESIDE]
        self.missing = {run: numbers for run, numbers in missing.items() if numbers}
        counts = Counter((a.run, a.number) for a in arrivals)
        self.published = sum(len(site.journal(run)) for run in site.runs)
        self.arrived = len(counts)
        self.duplicates = len(arrivals) - len(counts)
        self.most_copies = max(counts.values(), default=0)
        self.uncovered = sum(len(set(site.journal(run)) - site.arrived(run)) for run in site.runs) - sum(
            map(len, missing.values())
        )
        """Lost, where the promise says that they may be."""
        self.oldest_lost_away_s = self._oldest_lost_s(site, connected=False)
        """How long before a kill the oldest result was published that was lost though there was no link."""
        self.oldest_lost_s = self._oldest_lost_s(site, connected=True)
        """The same while there was one."""
        self.told = {run: site.told(run) for run in site.runs if site.told(run) != site.must_tell(run)}
        """What the spool told, where that is not just what it must."""
        self.dropped = {run: dropped for run in site.runs if (dropped := site.dropped(run))}
        self.strange = {run: numbers for run in site.runs if (numbers := self._strange(site, run))}
        """What came and was never published."""
        self.holes = {run: numbers for run in site.runs if (numbers := self._holes(site, run))}
        """Lost though something younger came."""
        self.replayed = sum(a.replayed for a in arrivals)
        self._arrivals, self._runs = arrivals, site.runs

    @staticmethod
    def _oldest_lost_s(site: Site, *, connected: bool) -> float:
        oldest_s = 0.0
        for run, killed_ns in site.killed.items():
            arrived = site.arrived(run)
            lost = (line for number, line in site.journal(run).items() if number not in arrived)
            ages_s = ((killed_ns - line.ns) / 1e9 for line in lost if line.connected is connected)
            oldest_s = max(oldest_s, *ages_s, 0.0)
        return oldest_s

    @staticmethod
    def _strange(site: Site, run: str) -> set[int]:
        """A kill may come between `publish` and the journal: of one more than that says."""
        journal = set(site.journal(run))
        unwritten = {max(journal, default=0) + 1} if run in site.killed else set()
        return site.arrived(run) - journal - unwritten

    @staticmethod
    def _holes(site: Site, run: str) -> set[int]:
        arrived = site.arrived(run)
        newest = max(arrived, default=0)
        return {n for n in site.journal(run) if n < newest} - arrived

    def check(self) -> None:
        assert not self.missing, f"promised and lost: {self.missing}"
        assert not self.holes, f"lost though something younger came: {self.holes}"
        assert not self.strange, f"came and was never published: {self.strange}"
        assert not self.told, f"the spool told what it need not, or not what it must: {self.told}"
        assert not self.dropped, f"dropped: {self.dropped}"
        for stream in STREAMS:
            for replayed in (False, True):
                came = [
                    (self._runs.index(a.run), a.number)
                    for a in self._arrivals
                    if a.stream == stream and a.replayed is replayed
                ]
                firsts = list(dict.fromkeys(came))
                assert firsts == sorted(firsts), f"{stream}: out of order, replayed={replayed}"
                assert replayed or len(firsts) == len(came), f"{stream}: a live result came twice"


def percentile(values: list[float], percent: float) -> float:
    """NaN of nothing; of one value that value."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[round(percent) - 1]


def note(line: str) -> None:
    """Into the file that `EDGERUN_FAULT_MATRIX` names, where the evidence of a run is wanted."""
    path = os.environ.get("EDGERUN_FAULT_MATRIX")
    if path:
        with open(path, "a", encoding="utf-8") as out:
            out.write(line + "\n")
