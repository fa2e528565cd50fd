"""A device under test: the real daemon, a real broker, and a healthy stream, "well", beside what is to go wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import mosquitto
from tests.broker.gate import REFUSED_BY_5, gate
from tests.delivery.proxy import Proxy, proxy
from tests.mosquitto import wait_until
from tests.test_end_to_end import DETECTOR, summary_of

HEAD = """
[device]
id = "box"
[mqtt]
url = "{broker}"
telemetry_interval = 1
[models.detector]
path = "{detector}"
threads = 1
[streams.well]
source = {{ kind = "synthetic", size = [320, 240], fps = 10 }}
model = "detector"
"""
WELL_MAX_AGE_MS = 1000
"""The default of `max_age_ms`, which `HEAD` leaves alone."""
LATE_S = 60.0


class Box:
    """One run of the daemon, and what the broker heard of it."""

    def __init__(
        self, folder: Path, state: Path, seen: mosquitto.Subscriber, line: Proxy, config: str, **environ: str
    ) -> None:
        self.state, self.seen, self.line = state, seen, line
        self.summary: dict[str, Any] = {}
        self._config = folder / "edgerun.toml"
        self._config.write_text(HEAD.format(broker=line.url, detector=DETECTOR) + config, encoding="utf-8")
        self._environ = {**os.environ, "STATE_DIRECTORY": str(self.state), **environ}
        self._log: list[str] = []

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", str(self._config), "--quiet", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environ,
        )
        self._reader = threading.Thread(target=self._read, name="log")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._log.append(line)

    @property
    def log(self) -> str:
        return "".join(self._log)

    def bodies(self, topic: str) -> list[dict[str, Any]]:
        """What came on `edgerun/box/<topic>`, oldest first."""
        return [json.loads(m.payload) for m in self.seen.messages if m.topic == f"edgerun/box/{topic}"]

    def results(self, stream: str, *, replayed: bool = False) -> list[dict[str, Any]]:
        return [one for one in self.bodies(f"detections/{stream}") if one.get("replayed", False) is replayed]

    def events(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        """The events of a kind, of a stream or of the device as a whole."""
        return [one for one in self.bodies("event") if one["kind"] == kind and one.get("stream") == stream]

    def spooled(self) -> dict[str, int]:
        """The group `spool` of the last telemetry; nothing before the first."""
        return next((one["spool"] for one in reversed(self.bodies("telemetry"))), {})

    def states(self, stream: str) -> list[str]:
        """Every state that was published, in order; the same one again, as after a reconnect, once."""
        told = [one["state"] for one in self.bodies(f"state/{stream}")]
        return [state for state, before in zip(told, [None, *told], strict=False) if state != before]

    def wait(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Until `condition` is true; fails at once when the daemon has ended."""

        def met() -> object:
            assert self.process.poll() is None, self.log
            return condition()

        wait_until(met, LATE_S, what)

    def replay_ends(self) -> None:
        """Nothing is left on the disk, by a telemetry of after this call (the next may have been on its way)."""
        known = len(self.bodies("telemetry"))
        self.wait(
            lambda: any(one["spool"]["messages"] == 0 for one in self.bodies("telemetry")[known + 1 :]),
            "the end of the replay",
        )

    def well_goes_on(self, more: int = 5) -> None:
        """The healthy stream gives so many more results from frames that are taken from now on."""
        at = max((one["seq"] for one in self.results("well")), default=-1)
        self.wait(lambda: sum(one["seq"] > at for one in self.results("well")) >= more, "the other stream's results")

    def stop(self) -> dict[str, Any]:
        """SIGTERM; returns the summary, which adds up."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(60)
        self._reader.join()
        assert code == 0, self.log
        self.summary = summary_of(out)
        return self.summary

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def check_well(self) -> None:
        """After `stop`: the healthy stream noticed nothing. Its ages are within its own bound, no more frames were
        too old than were answered, none failed, it was never anything but running, and its results are in order.
        """
        wait_until(lambda: self.states("well")[-1:] == ["ended"], LATE_S, "what the broker had still to pass on")
        account, results = self.summary["streams"]["well"], self.results("well")
        ages = [one["age_ms"] for one in results]
        assert max(ages) <= WELL_MAX_AGE_MS
        assert account["age_ms"]["max"] <= WELL_MAX_AGE_MS
        assert account["failed"] == 0, account
        assert account["expired"] <= account["published"], account
        seqs = [one["seq"] for one in results]
        assert seqs == sorted(set(seqs))
        assert self.states("well")[-2:] == ["running", "ended"]
        assert not set(self.states("well")) - {"running", "ended", "stalled"}
        assert self.states("well").count("stalled") <= 1  # before its first frame
        assert not self.events("stalled", "well")


@contextlib.contextmanager
def box(
    folder: Path,
    config: str,
    *,
    state: Path | None = None,
    old: bool = False,
    prepare: Callable[[mosquitto.Broker], None] = lambda broker: None,
    **environ: str,
) -> Iterator[Box]:
    """A running daemon with a broker of its own, whose healthy stream has given its first results.

    `old`: the broker knows MQTT 3.1.1 only. `prepare` is called before the daemon is started.
    """
    with contextlib.ExitStack() as open_:
        broker = open_.enter_context(mosquitto.broker())
        prepare(broker)
        seen = open_.enter_context(mosquitto.subscriber(broker, "edgerun/#"))
        port = open_.enter_context(gate(broker.port, REFUSED_BY_5)).port if old else broker.port
        line = open_.enter_context(proxy(port))
        made = Box(folder, state or folder / "state", seen, line, config, **environ)
        made.start()
        try:
            made.well_goes_on(2)
            yield made
        finally:
            made.kill()
