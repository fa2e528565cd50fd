"""The files that others read: a dashboard whose every query is of metrics that there are, Telegraf's config, and
Node-RED's flow, which makes the points that Telegraf makes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgerun.fleet.reading import read
from edgerun.telemetry import payload
from tests import mosquitto
from tests.boards import tree
from tests.fleet.parts import opened
from tests.schemas import validate
from tests.telemetry.test_prometheus import Site
from tests.telemetry.test_readings import readings_of

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-edgerun.json").read_text(encoding="utf-8"))
KINDS = ("telemetry", "detections", "event")
OF_A_BOARD = {
    "edgerun_disk_free_bytes",
    "edgerun_thermal_temp_celsius",
    "edgerun_throttled",
    "edgerun_energy_joules_total",
}
"""Metrics that a machine without such a sensor does not have."""


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics_asked_for() -> set[str]:
    return {name for text in expressions() for name in re.findall(r"\bedgerun_\w+", text)}


def names_in(exposition: str) -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in exposition.splitlines() if line and not line.startswith("#")}


def test_every_metric_of_the_dashboard_is_in_a_real_exposition(tmp_path: Path) -> None:
    """Of a daemon that runs here; what this machine has no sensor for: of the sensors' trees of the boards."""
    pytest.importorskip("prometheus_client", reason="the extra edgerun[metrics] is not installed")
    port = mosquitto.free_port()
    config = tmp_path / "edgerun.toml"
    with mosquitto.broker() as broker:
        config.write_text(
            f'device = {{ id = "dock-7", labels = {{ site = "north" }} }}\n'
            f'mqtt = {{ url = "{broker.url}", telemetry_interval = "1s" }}\n'
            f"metrics = {{ port = {port} }}\n"
            f'[models.detector]\npath = "{ROOT / "models" / "ssd-mobilenet-v2-oid"}"\n'
            '[streams.dock]\nsource = "synthetic"\nmodel = "detector"\n'
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", config, "--quiet"], stderr=subprocess.PIPE, text=True
        )
        seen: list[str] = []

        def scraped() -> bool:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                    seen[:] = [page.read().decode()]
                return "edgerun_result_age_seconds_bucket" in seen[0] and "edgerun_spool_messages " in seen[0]
            assert process.poll() is None, process.communicate()[1]
            return False

        try:
            mosquitto.wait_until(scraped, 60, "a scrape")
            with opened(broker) as line:
                known = read(line, "edgerun")
            assert [one.id for one in known.fleet.chosen({"site": "north"})] == ["dock-7"]
            assert known.incomplete == (), "a daemon retains what a fleet reads"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    here = names_in(seen[0])
    typed = set(re.findall(r"^# TYPE (\w+)", seen[0], re.MULTILINE))
    empty = metrics_asked_for() & typed - here
    boards = set()
    for board in tree.BOARDS:
        boards |= names_in(Site(readings_of(board, tmp_path / board)[0]).exporter.exposition().decode())
    wanted = metrics_asked_for()
    assert len(wanted) >= 15
    assert wanted - here - empty <= OF_A_BOARD
    assert wanted <= here | boards | empty, "what is asked for and nobody tells"


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    """Written down as rules, which promtool parses; Grafana's variables are given what it would put there."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    texts = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in expressions()]
    rules = [{"record": f"q{at}", "expr": text} for at, text in enumerate(texts)]

    def check(made: list[dict[str, str]]) -> int:
        file = tmp_path / "rules.yml"
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": made}]}))
        return subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, timeout=60).returncode

    assert check(rules) == 0
    assert check([{"record": "q", "expr": "sum(rate(x))"}]) != 0


def test_the_dashboard_is_one_that_can_be_imported() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"} == variables
    assert {"uid", "title", "schemaVersion"} <= DASHBOARD.keys()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["targets"], panel["title"]
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels that lie on each other"


def telegrafs() -> list[dict[str, Any]]:
    """The inputs of deploy/telegraf.conf, which is TOML."""
    config = tomllib.loads((ROOT / "deploy" / "telegraf.conf").read_text(encoding="utf-8"))
    inputs: list[dict[str, Any]] = config["inputs"]["mqtt_consumer"]
    return inputs


def test_telegraf_listens_to_topics_that_there_are() -> None:
    inputs = telegrafs()
    reference = (ROOT / "docs" / "mqtt.md").read_text(encoding="utf-8")
    for one in inputs:
        (shared,) = one["topics"]
        group, _, topic = shared.removeprefix("$share/").partition("/")
        assert group == "lake"
        assert one["topic_parsing"][0]["topic"] == topic
        tags = one["topic_parsing"][0]["tags"]
        assert tags.count("/") == topic.count("/"), "one part for every level"
        assert tags.split("/")[1] == "device"
        kind = topic.split("/")[2]
        assert re.search(rf"^\| `{kind}", reference, re.MULTILINE), kind
        schema = json.loads((ROOT / "docs" / "schema" / f"{_schema(kind)}.schema.json").read_text(encoding="utf-8"))
        for key in [one["json_time_key"], *one.get("tag_keys", []), *one.get("json_string_fields", [])]:
            assert key in schema["properties"], f"{kind} has no {key}"


class Point(NamedTuple):
    """What of a message a database gets; `time_ms` is Unix milliseconds."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, float | str]
    time_ms: int


def by_telegraf(topic: str, message: dict[str, Any]) -> Point:
    """As deploy/telegraf.conf has it made, by the rules of Telegraf's `json` parser: numbers become fields named by
    their path joined with `_`, texts only where `json_string_fields` names them, booleans and null never."""
    kind = topic.split("/")[2]
    (config,) = (one for one in telegrafs() if one["topics"][0].split("/")[4] == kind)
    (parsing,) = config["topic_parsing"]
    tags = {key: part for key, part in zip(parsing["tags"].split("/"), topic.split("/"), strict=True) if key != "_"}
    fields: dict[str, float | str] = {}

    def flatten(path: str, value: Any) -> None:
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                flatten(f"{path}_{key}" if path else str(key), inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            fields[path] = float(value)
        elif isinstance(value, str) and path in config.get("json_string_fields", []):
            fields[path] = value

    tags |= {key: message[key] for key in config.get("tag_keys", [])}
    taken = {config["json_time_key"], *config.get("tag_keys", [])}
    flatten("", {key: value for key, value in message.items() if key not in taken})
    return Point(config["name_override"], tags, fields, round(message[config["json_time_key"]] * 1000))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, Any]]]:
    """Topic and message of what a daemon published here: telemetry, results with objects, events of a scene and of a
    camera that is not there."""
    folder = tmp_path_factory.mktemp("device")
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/dock-7/#") as seen:
        (folder / "edgerun.toml").write_text(
            f'''device = {{ id = "dock-7" }}
[models.detector]
path = "{ROOT / "models" / "ssd-mobilenet-v2-oid"}"
[streams.dock]
source = "{ROOT / "models" / "clips" / "street.mp4"}"
model = "detector"
max_age_ms = 60000
track = true
[streams.yard]
source = "rtsp://127.0.0.1:{mosquitto.free_port()}/none"
model = "detector"
[mqtt]
url = "{broker.url}"
telemetry_interval = 1
'''
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", folder / "edgerun.toml", "--quiet"],
            env={**os.environ, "XDG_STATE_HOME": str(folder)},
            stderr=subprocess.PIPE,
            text=True,
        )

        def enough(messages: list[mosquitto.Heard]) -> bool:
            text = {kind: b"".join(one.payload for one in messages if f"/{kind}" in one.topic) for kind in KINDS}
            ages = text["telemetry"].count(b'"age_ms"') >= 2
            return (
                ages
                and b'"box"' in text["detections"]
                and all(kind in text["event"] for kind in (b'"appeared"', b'"stalled"'))
            )

        try:
            messages = seen.wait(enough, 60)
        finally:
            process.send_signal(signal.SIGTERM)
            trouble = process.communicate(timeout=30)[1]
    assert process.returncode == 0, trouble
    return [(one.topic, json.loads(one.payload)) for one in messages if one.topic.split("/")[2] in KINDS]


def test_telegraf_finds_in_real_messages_what_it_looks_for(said: list[tuple[str, dict[str, Any]]]) -> None:
    found: dict[str, set[str]] = {}
    reason = payload.event(run="1f3a9c02", number=1, ts=1.8e9, kind="stalled", text="gone", stream="yard", reason="eof")
    for topic, message in [*said, ("edgerun/dock-7/event", reason)]:
        kind = topic.split("/")[2]
        validate(_schema(kind), message)
        point = by_telegraf(topic, message)
        assert point.tags["device"] == "dock-7"
        assert point.fields
        found.setdefault(kind, set()).update(message, point.fields)
    for one in telegrafs():
        kind = one["topics"][0].split("/")[4]
        for key in [one["json_time_key"], *one.get("tag_keys", []), *one.get("json_string_fields", [])]:
            assert key in found[kind], f"no {kind} has a {key}"
    assert {"streams_dock_fps", "streams_dock_age_ms_p99", "engines_detector_busy"} <= found["telemetry"]
    assert {"age_ms", "detections_0_score", "detections_0_class", "detections_0_box_3"} <= found["detections"]
    assert {"text", "stream", "reason", "track"} <= found["event"]


NODES = {node["id"]: node for node in json.loads((ROOT / "deploy" / "node-red-flow.json").read_text(encoding="utf-8"))}


def nodes(kind: str) -> list[dict[str, Any]]:
    return [node for node in NODES.values() if node["type"] == kind]


def test_node_red_listens_to_what_telegraf_listens_to() -> None:
    assert {(one["topic"], int(one["qos"])) for one in nodes("mqtt in")} == {
        (one["topics"][0], one["qos"]) for one in telegrafs()
    }
    (broker,), (database,), (write,) = nodes("mqtt-broker"), nodes("influxdb"), nodes("influxdb batch")
    assert broker["protocolVersion"] == "5"
    assert not broker["cleansession"], "the broker keeps what comes while Node-RED is away"
    assert int(broker["sessionExpiry"]) >= 3600, "0 ends the session with the connection"
    assert broker["autoUnsubscribe"] is False, "else a Node-RED that stops leaves the session without subscriptions"
    assert write["precision"] == "ms"
    assert write["influxdb"] == database["id"]
    assert all(one["broker"] == broker["id"] and one["datatype"] == "json" for one in nodes("mqtt in"))
    targets = [to for node in NODES.values() for wires in node.get("wires", []) for to in wires]
    assert set(targets) <= NODES.keys()
    assert all(NODES[to]["z"] == NODES[one["id"]]["z"] for one in nodes("mqtt in") for to in one["wires"][0])
    variables = set(re.findall(r"\$\{(\w+)\}", json.dumps([broker, database])))
    guide = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    assert variables == {"MQTT_URL", "MQTT_CLIENT_ID", "INFLUX_HOST", "INFLUX_PORT", "INFLUX_DATABASE"}
    assert all(f"{name}=" in guide for name in variables)


def test_node_red_keeps_what_telegraf_keeps() -> None:
    written = re.search(r"const KINDS = (\{.*?\n\});", NODES["edgerun-point"]["func"], re.DOTALL)
    assert written is not None
    kinds = json.loads(written[1])
    assert kinds == {
        one["topics"][0].split("/")[4]: {
            "measurement": one["name_override"],
            "tags": one.get("tag_keys", []),
            "texts": one.get("json_string_fields", []),
        }
        for one in telegrafs()
    }
    for kind, rule in kinds.items():
        schema = json.loads((ROOT / "docs" / "schema" / f"{_schema(kind)}.schema.json").read_text(encoding="utf-8"))
        assert {"ts", *rule["tags"], *rule["texts"]} <= schema["properties"].keys()


RUN = """
const { func, messages } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const warnings = [];
const made = new Function("msg", "node", func);
const points = messages.map(([topic, payload]) => made({ topic, payload }, { warn: (text) => warnings.push(text) }));
process.stdout.write(JSON.stringify({ points, warnings }));
"""


def by_node_red(messages: list[tuple[str, Any]]) -> tuple[list[Any], list[str]]:
    """Points, or None, that the flow's function makes, run by node; and what it warns of."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node (Debian package nodejs) is not installed")
    given = json.dumps({"func": NODES["edgerun-point"]["func"], "messages": messages})
    out = subprocess.run([node, "-e", RUN], input=given, capture_output=True, text=True, timeout=60, check=True).stdout
    answer = json.loads(out)
    return [one and one["payload"][0] for one in answer["points"]], answer["warnings"]


def test_node_red_makes_the_points_that_telegraf_makes(said: list[tuple[str, dict[str, Any]]]) -> None:
    points, warnings = by_node_red(said)
    assert warnings == []
    for (topic, message), made in zip(said, points, strict=True):
        expected = by_telegraf(topic, message)
        assert Point(made["measurement"], made["tags"], made["fields"], made["timestamp"]) == expected


def test_node_red_makes_no_point_of_what_is_none() -> None:
    """And of a name with a line break in it not two: the connector would write it as it is."""
    event = "edgerun/dock-7/event"
    none: list[Any] = [None, 7, "text", [{"ts": 1}], {}, {"ts": "1"}, {"ts": None, "text": "x"}]
    points, warnings = by_node_red([(event, message) for message in none])
    assert points == [None] * len(none)
    assert len(warnings) == len(none)
    assert by_node_red([(event, {"ts": 1, "kind": "k", "id": "i"})]) == ([None], []), "nothing but time and tags"
    hostile = {"ts": 1.5, "kind": "a\nevents,device=other x=1", "id": "", "text": "b\nc", "n\nevents x": 1}
    (point,), _ = by_node_red([(event, hostile)])
    assert point["tags"] == {"device": "dock-7", "kind": "a_events,device=other x=1"}
    assert point["fields"] == {"text": "b\nc", "n_events x": 1}
    assert point["timestamp"] == 1500


def _schema(kind: str) -> str:
    return {"detections": "result"}.get(kind, kind)
