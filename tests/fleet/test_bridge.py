"""deploy/bridge.conf between two real mosquittos: what a device says arrives above, what is asked for arrives below."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests import mosquitto
from tests.fleet.parts import TestDevice, retained

CONF = Path(__file__).parent.parent.parent / "deploy" / "bridge.conf"


def lines_of_bridge(cluster: mosquitto.Broker) -> list[str]:
    """As an operator fills it in; the cluster of this test has neither TLS nor passwords."""
    text = CONF.read_text(encoding="utf-8").replace("<site>", "north")
    text = text.replace("<cluster.example:8883>", f"127.0.0.1:{cluster.port}")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    without = ("persistence", "max_queued_messages", "bridge_cafile", "remote_username", "remote_password")
    return [line for line in lines if line.split()[0] not in without]


@contextlib.contextmanager
def site() -> Iterator[tuple[mosquitto.Broker, mosquitto.Broker]]:
    with (
        mosquitto.broker() as cluster,
        mosquitto.broker(*lines_of_bridge(cluster), start=False) as below,
        mosquitto.subscriber(cluster, "edgerun/_site/north") as seen,
    ):
        below.start()
        seen.wait(lambda ms: ms[-1].payload == b"1", 30)
        yield cluster, below


def test_nothing_that_is_to_be_filled_in_is_left() -> None:
    text = CONF.read_text(encoding="utf-8")
    assert set(re.findall(r"<[a-z][^>]*>", text)) == {"<site>", "<cluster.example:8883>", "<password>"}


def test_every_topic_of_the_reference_goes_up_or_down() -> None:
    text = CONF.read_text(encoding="utf-8")
    for message in retained("dock-7"):
        filters = [line.split()[1] for line in text.splitlines() if re.match(r"topic .* out ", line)]
        assert any(re.fullmatch(one.replace("+", "[^/]+"), message.topic) for one in filters), message.topic


def test_a_device_below_is_seen_above_and_hears_from_there() -> None:
    with site() as (cluster, below):
        with mosquitto.subscriber(cluster, "edgerun/dock-7/#") as above, mosquitto.subscriber(below, "#") as here:
            device = TestDevice(below, "dock-7", {"state": "active"})
            try:
                above.wait(lambda ms: {"edgerun/dock-7/status", "edgerun/dock-7/info"} <= {m.topic for m in ms}, 30)
                device.link.publish("edgerun/dock-7/detections/dock", b'{"v":1,"id":"a-1"}', qos=1)
                above.wait(lambda ms: ms[-1].topic == "edgerun/dock-7/detections/dock", 30)
                asked = json.dumps({"name": "detector", "version": "3", "rollout": "r1", "id": "r1/1"})
                pub = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(cluster.port), "-V", "5"]
                topic = "edgerun/dock-7/cmd/model/install"
                subprocess.run([*pub, "-q", "1", "-t", topic, "-m", asked], check=True)
                seen = above.wait(lambda ms: any(m.topic.endswith("model/install/result") for m in ms), 30)
                seen = above.wait(lambda ms: any(b'"rollout"' in m.payload for m in ms if "/models/" in m.topic), 30)
                results = [one for one in above.messages if one.topic.endswith("/result")]
                assert json.loads(results[0].payload)["ok"] is True
                assert len(device.asked) == 1
                device.link.publish("edgerun/dock-7/event", b"last", qos=1)
                seen = above.wait(lambda ms: ms[-1].payload == b"last", 30)
                here.wait(lambda ms: any(m.payload == b"last" for m in ms), 30)
                counted = Counter((one.topic, one.payload) for one in seen if "/cmd/" in one.topic)
                below_too = Counter((m.topic, m.payload) for m in here.messages if "/cmd/" in m.topic)
                assert set(counted.values()) == set(below_too.values()) == {1}, "nothing goes round"
            finally:
                device.close()
            above.wait(lambda ms: (ms[-1].topic, ms[-1].payload) == ("edgerun/dock-7/status", b"offline"), 30)
        with mosquitto.subscriber(cluster, "edgerun/dock-7/status") as later:
            later.wait(lambda ms: ms[-1].retain and ms[-1].payload == b"offline", 30)


def test_a_site_that_goes_dark_is_told_above() -> None:
    with site() as (cluster, below), mosquitto.subscriber(cluster, "edgerun/_site/north") as seen:
        below.kill()
        seen.wait(lambda ms: ms[-1].payload == b"0", 60)
