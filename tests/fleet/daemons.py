"""Devices of a fleet as they are: `edgerun run`, each with a state folder, labels and a broker of all of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgerun.models.install import install
from edgerun.models.rollout import in_cohort
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from tests.mosquitto import Broker, Subscriber, wait_until
from tests.rollout.runs import CLIP, DETECTOR, NAME, QUICK

TEXT = """
[device]
id = "{name}"
labels = {{ site = "{site}" }}
[mqtt]
url = "{url}"
telemetry_interval = 5
[security]
commands = ["model/*", "reload"]
require_signed = false
[rollout]
{rollout}
[models.detector]
path = "{model}"
threads = 1
[streams.yard]
source = "{clip}"
loop = true
model = "detector"
max_age_ms = 60000
max_fps = 3
"""
FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")


class Daemon:
    """One device: its folder, its store with the bundled detector in it, and `edgerun run` on that."""

    def __init__(self, folder: Path, broker: Broker, seen: Subscriber, name: str, site: str, **rollout: Any) -> None:
        self.folder, self.name, self._seen = folder, name, seen
        folder.mkdir()
        self.state = folder / "state"
        install(self.store(), str(DETECTOR), Policy(0.0, None, require_signed=False), activate=True)
        table = "\n".join(f"{key} = {value}" for key, value in {**QUICK, **rollout}.items())
        text = TEXT.format(name=name, site=site, url=broker.url, rollout=table, model=NAME, clip=CLIP)
        (folder / "edge.toml").write_text(text)
        with (folder / "log").open("w") as log, (folder / "out").open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgerun", "run", "--config", folder / "edge.toml", "--json"],
                env={**os.environ, "STATE_DIRECTORY": str(self.state)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                text=True,
            )

    def store(self) -> Store:
        return Store.open(self.state / "models")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def heard(self, topic: str) -> list[dict[str, Any]]:
        """What came under its topic `topic`, decoded."""
        whole = f"edgerun/{self.name}/{topic}"
        return [json.loads(one.payload) for one in self._seen.messages if one.topic == whole and one.payload]

    def asked(self) -> list[dict[str, Any]]:
        """The commands to install that went to it."""
        return self.heard("cmd/model/install")

    def rollout(self) -> dict[str, Any]:
        """As it retains it."""
        told = self.heard("models/detector")
        found: dict[str, Any] = told[-1].get("rollout") or {} if told else {}
        return found

    def versions(self) -> list[str]:
        """Those that gave results, each once, in order."""
        return list(dict.fromkeys(one["model"]["version"] for one in self.heard("detections/yard")))

    def serves(self) -> bool:
        """Whether results come. Fails where the daemon has ended."""
        assert self.process.poll() is None, self.log
        return len(self.heard("detections/yard")) > 2

    def end(self) -> dict[str, Any]:
        """Ended as it should be; its stream's account, which adds up."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log
        summary = json.loads((self.folder / "out").read_text().splitlines()[-1])
        account: dict[str, Any] = summary["streams"]["yard"]
        assert account["grabbed"] == sum(account[fate] for fate in FATES), account
        return account

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def daemons(folder: Path, broker: Broker, seen: Subscriber, **rules: dict[str, Any]) -> Iterator[dict[str, Daemon]]:
    """One for each name, with these rules of `[rollout]` besides the quick ones; all of them serve."""
    made: dict[str, Daemon] = {}
    try:
        for at, (name, rollout) in enumerate(rules.items()):
            made[name] = Daemon(folder / name, broker, seen, name, "north" if at else "south", **rollout)
        wait_until(lambda: all(one.serves() for one in made.values()), 180, "results of all of them")
        yield made
    finally:
        for one in made.values():
            one.close()


def id_with(names: list[str], share: float, wanted: int) -> str:
    """A rollout's id for which so many of the devices are in the first `share`."""
    ids = (f"r{number}" for number in range(1000))
    return next(one for one in ids if sum(in_cohort(name, one, share) for name in names) == wanted)


def fleet(*args: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """`edgerun fleet …`, until it ends."""
    command = [sys.executable, "-m", "edgerun", "fleet", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
