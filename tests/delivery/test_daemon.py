"""The whole daemon, killed in an outage: what it had published before is replayed by the next one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mosquitto
from tests.delivery.proxy import proxy
from tests.mosquitto import wait_until
from tests.spool.test_spool import on_disk

CONFIG = """
[device]
id = "gate-3"
[mqtt]
url = "{url}"
[mqtt.spool]
durability = "{durability}"
[models.detector]
path = "ssd-mobilenet-v2-oid"
[streams.yard]
source = {{ kind = "synthetic", size = [320, 240], fps = 10 }}
model = "detector"
max_age_ms = 5000
"""


@pytest.mark.parametrize("durability", ["outage", "always"])
def test_a_killed_daemon_loses_nothing_it_had_spooled(tmp_path: Path, durability: str) -> None:
    topic = "edgerun/gate-3/detections/yard"
    with mosquitto.broker() as broker, proxy(broker.port) as line:
        config = tmp_path / "edgerun.toml"
        config.write_text(CONFIG.format(url=line.url, durability=durability))
        command = [sys.executable, "-m", "edgerun", "run", "--config", str(config), "--quiet"]
        environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
        with mosquitto.subscriber(broker, "edgerun/gate-3/#") as seen:
            process = subprocess.Popen(command, env=environment)
            try:
                seen.wait(lambda ms: sum(m.topic == topic for m in ms) >= 5, 60)
                line.locked.set()
                line.cut()
                spool = tmp_path / "state" / "spool" / "gate-3"
                wait_until(lambda: on_disk(spool) > 2000, 60)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            line.heal()
            process = subprocess.Popen(command, env=environment)
            try:
                messages = seen.wait(lambda ms: sum(b"replayed" in m.payload for m in ms if m.topic == topic) >= 5, 60)
                seen.wait(lambda ms: any(b"unclean_stop" in m.payload for m in ms), 60)
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
    bodies = [json.loads(m.payload) for m in messages if m.topic == topic]
    run = bodies[0]["id"].partition("-")[0]
    numbers = sorted({int(b["id"].partition("-")[2]) for b in bodies if b["id"].startswith(run)})
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a number is missing in the middle"
