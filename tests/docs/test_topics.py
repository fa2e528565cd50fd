"""The topics of docs/mqtt.md are those that edgerun uses: all of them, with their QoS, and none that is not.

What is used is read from the log of a real mosquitto, between which and real processes nearly everything is on.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests import mosquitto
from tests.docs import pages
from tests.mosquitto import wait_until
from tests.worker.parts import MODEL, process, worker

PAGE = pages.ROOT / "docs" / "mqtt.md"
DEVICE, WORKER = "dock-7", "w1"
ASKED, ANSWER = "pictures/+", "answers/1"
CONFIG = """
[device]
id = "dock-7"
[mqtt]
url = "{url}"
home_assistant = true
desired = true
telemetry_interval = 1
[models.here]
path = "{model}"
[models.there]
path = "{model}"
engine = "remote"
fallback = "none"
[streams.dock]
source = {{ kind = "synthetic", fps = 5 }}
model = "here"
max_age_ms = 60000
[streams.dock.snapshot]
on = "always"
every_s = 1
[streams.yard]
source = {{ kind = "synthetic", fps = 5 }}
model = "there"
max_age_ms = 60000
[streams.asked]
source = {{ kind = "mqtt", topic = "{asked}" }}
model = "here"
max_age_ms = 60000
"""


class Use(NamedTuple):
    """One topic as one client used it, `way` "out" or "in". `retain` is None where it is subscribed to."""

    client: str
    way: str
    topic: str
    qos: int
    retain: bool | None


class Row(NamedTuple):
    """A row of the page. `pattern` matches whole topics and filters, a `<name>` standing for one level."""

    text: str
    pattern: re.Pattern[str]
    ways: frozenset[str]
    qos: frozenset[int]
    retained: str


def rows() -> list[Row]:
    """The tables whose heads begin with `topic`. Below "A device's own" they go without `edgerun/<device>/`."""
    found = []
    own = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| topic"):
            own = "below" in cells[0]
        elif line.startswith("| `") and len(cells) == 5:
            topic = cells[0].strip("`")
            full = f"edgerun/<device>/{topic}" if own else topic
            levels = "/".join(
                "[^/]+(/[^/]+)?" if level == "<verb>" else re.sub(r"<[^>]+>", "[^/]+", re.escape(level))
                for level in full.split("/")
            )
            ways, qos = frozenset(cells[1].split(", ")), frozenset(map(int, cells[2].split(", ")))
            found.append(Row(full, re.compile(levels), ways, qos, cells[3]))
    return found


def uses(log: str) -> Iterator[Use]:
    """What each client published and subscribed to, by what mosquitto logs."""
    client = ""
    for line in log.splitlines():
        line = re.sub(r"^\d+: ", "", line)
        if sent := re.match(r"Received PUBLISH from (\S+) \(d\d, q(\d), r(\d), m\d+, '([^']*)'", line):
            yield Use(sent[1], "out", sent[4], int(sent[2]), sent[3] == "1")
        elif asked := re.match(r"Received SUBSCRIBE from (\S+)", line):
            client = asked[1]
        elif told := re.match(r"\t(\S+) \(QoS (\d)\)", line):
            yield Use(client, "in", told[1], int(told[2]), None)


def ours(used: Use) -> bool:
    """Of edgerun's own, on a topic that the test has not named itself."""
    return (used.client in (DEVICE, WORKER) or listens_only(used.client)) and used.topic not in (ASKED, ANSWER)


def listens_only(client: str) -> bool:
    """Whether it is somebody who looks at what devices say, as `edgerun fleet` does."""
    return client.startswith("edgerun-")


def publish(broker: mosquitto.Broker, topic: str, payload: bytes | str, *more: str) -> None:
    command = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-V", "5"]
    data = payload.encode() if isinstance(payload, str) else payload
    subprocess.run([*command, "-t", topic, "-s", *more], input=data, check=True, timeout=30)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> set[Use]:
    """What a device, a worker and `edgerun fleet` did while nearly everything was on."""
    folder = tmp_path_factory.mktemp("topics")
    config = folder / "edge.toml"
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("STATE_DIRECTORY", str(folder / "state"))
        broker = stack.enter_context(mosquitto.broker("log_type all"))
        config.write_text(CONFIG.format(url=broker.url, model=MODEL, asked=ASKED), encoding="utf-8")
        seen = stack.enter_context(mosquitto.subscriber(broker, "#"))
        there = stack.enter_context(worker(broker.url, WORKER))
        daemon = stack.enter_context(process("run", "--config", config, "--json"))

        def comes(*topics: str) -> None:
            wanted = {f"edgerun/{DEVICE}/{topic}" for topic in topics}
            wait_until(
                lambda: wanted <= {one.topic for one in seen.messages} or daemon.process.poll() is not None, 90, topics
            )
            assert daemon.process.poll() is None, daemon.text

        comes("detections/dock", "detections/yard", "snapshot/dock", "telemetry", "state/asked", "models/here")
        publish(broker, f"edgerun/{DEVICE}/cmd/pause", '{"stream": "yard"}')
        publish(broker, f"edgerun/{DEVICE}/cmd/model/install", '{"name": "nothing"}')
        wish: dict[str, Any] = {"v": 1, "version": 1, "config": {"streams": {"dock": {"threshold": 0.9}}}}
        publish(broker, f"edgerun/{DEVICE}/config/desired", json.dumps(wish), "-r")
        picture = next(one.payload for one in seen.messages if one.topic == f"edgerun/{DEVICE}/snapshot/dock")
        publish(broker, "pictures/1", picture, "-D", "PUBLISH", "response-topic", ANSWER)
        comes("cmd/pause/result", "cmd/model/install/result", "config/reported", "audit/head", "event")
        wait_until(lambda: any(one.topic == ANSWER for one in seen.messages), 60, "an answer to the picture")
        status = [sys.executable, "-m", "edgerun", "fleet", "status", "--broker", broker.url, "--json"]
        subprocess.run(status, check=True, timeout=60, capture_output=True)
        assert daemon.end() == 0, daemon.text
        assert there.end(signal.SIGTERM) == 0, there.text
        return {one for one in uses(broker.log) if ours(one)}


def test_the_page_has_tables_that_are_read() -> None:
    assert len(rows()) >= 18
    assert {row.retained for row in rows()} == {"yes", "no", "never"}


def test_every_topic_that_is_used_is_on_the_page(used: set[Use]) -> None:
    missing = [one for one in sorted(used, key=str) if not any(_fits(row, one) for row in rows())]
    assert not missing, missing


def test_every_topic_on_the_page_is_used(used: set[Use]) -> None:
    for row in rows():
        ways = {one.way for one in used if _fits(row, one) and one.way in row.ways}
        assert ways == row.ways, f"{row.text}: {ways or 'not seen'}"


def test_every_topic_that_has_a_schema_is_on_the_page() -> None:
    text = (pages.ROOT / "docs" / "schema" / "README.md").read_text(encoding="utf-8")
    described = {f"edgerun/<device>/{topic}" for topic in re.findall(r"`…/([a-z/<>]+)`", text)}
    assert len(described) >= 9
    assert described <= {row.text for row in rows()}


def _fits(row: Row, one: Use) -> bool:
    if row.pattern.fullmatch(one.topic) is None:
        return False
    if one.way == "in" and listens_only(one.client) and "out" in row.ways:
        return True
    right = one.retain is None or one.retain == (row.retained == "yes")
    return right and one.way in row.ways and one.qos in row.qos
