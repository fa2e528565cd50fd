"""`model/install` of a model that workers run: tried, served with, and taken back, by a real daemon."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgerun.models.install import install
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from tests import mosquitto
from tests.mosquitto import Subscriber, wait_until
from tests.rollout.runs import CLIP, DETECTOR, NAME, QUICK, bundle, shuffled_labels
from tests.worker.parts import Process, balanced, process, results

pytestmark = pytest.mark.timeout(600)  # more than all that one of them may wait for

TEXT = """
[device]
id = "dock-7"
[mqtt]
url = "{url}"
[security]
commands = ["model/*"]
require_signed = false
[rollout]
{rollout}
[models.detector]
path = "{name}"
engine = "remote"
fallback = "{fallback}"
threads = 1
[streams.dock]
source = "{clip}"
loop = true
model = "detector"
max_age_ms = 5000
max_fps = 5
"""


def begun(folder: Path, url: str, fallback: str, **rules: Any) -> tuple[Path, Store]:
    """A config, and the device's store with the bundled detector in it."""
    store = Store.open(folder / "state" / "models")
    install(store, str(DETECTOR), Policy(0.0, None, require_signed=False), activate=True)
    table = "\n".join(f"{key} = {value}" for key, value in {**QUICK, **rules}.items())
    config = folder / "edge.toml"
    config.write_text(TEXT.format(url=url, rollout=table, name=NAME, fallback=fallback, clip=CLIP))
    return config, store


def tell(seen: Subscriber, broker: mosquitto.Broker, source: Path) -> None:
    """Ask it to install a version, and wait for its yes."""
    body = json.dumps({"name": "detector", "source": str(source), "id": "1", "rollout": "r1"})
    command = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1"]
    subprocess.run([*command, "-t", "edgerun/dock-7/cmd/model/install", "-m", body], check=True, timeout=30)
    topic = "edgerun/dock-7/cmd/model/install/result"
    wait_until(lambda: any(one.topic == topic for one in seen.messages), 60, "its answer")
    answer = json.loads(next(one.payload for one in seen.messages if one.topic == topic))
    assert answer["ok"], answer


def kinds(seen: Subscriber, daemon: Process) -> list[str]:
    assert daemon.process.poll() is None, daemon.text
    found = [json.loads(one.payload)["kind"] for one in seen.messages if one.topic == "edgerun/dock-7/event"]
    return [one.removeprefix("rollout_") for one in found if one.startswith("rollout_")]


@pytest.mark.parametrize("there", [True, False], ids=["with-a-worker-that-has-it", "with-none"])
def test_a_model_that_runs_on_workers_only(tmp_path: Path, there: bool) -> None:
    """Its new version is served by the workers that have it; where none has, it goes back."""
    out, after = tmp_path / "out.jsonl", bundle(tmp_path, "3", labels_txt=shuffled_labels())
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/dock-7/#") as seen:
        config, store = begun(tmp_path, broker.url, "none", failure_rate=0.5)
        env = {"STATE_DIRECTORY": str(tmp_path / "state")}
        args = ("worker", "--broker", broker.url, "--threads", 1)
        with (
            process(*args, "--model", DETECTOR, "--id", "w2") as old,
            process(*args, "--model", after if there else DETECTOR, "--id", "w3") as new,
            process("run", "--config", config, "--json", "--jsonl", out, **env) as daemon,
        ):
            for one in (old, new):
                one.says("connected as")
            wait_until(lambda: len(results(out)) > 3, 60)
            tell(seen, broker, after)
            end = "committed" if there else "rolled_back"
            wait_until(lambda: end in kinds(seen, daemon), 180, f"{end} after {kinds(seen, daemon)}")
            before = len(results(out))
            wait_until(lambda: len(results(out)) > before + 5, 60)
            assert daemon.end() == 0, daemon.text
            account = daemon.summary()["streams"]["dock"]
    assert balanced(account)
    assert "detector 3: canary" in daemon.text
    assert "disagreement" not in daemon.text, "nothing here could look at the same frames"
    last = results(out)[-1]["model"]
    assert (last["version"], last["accelerator"]) == (("3", "remote:w3") if there else ("2", last["accelerator"]))
    assert last["accelerator"].startswith("remote:")
    assert store.record(NAME).active == last["version"]
