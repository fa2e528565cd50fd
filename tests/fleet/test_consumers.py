"""The files that others read: a dashboard whose every query is of metrics that there are, and Telegraf's config."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edgerun.fleet.reading import read
from tests import mosquitto
from tests.boards import tree
from tests.fleet.parts import opened
from tests.telemetry.test_prometheus import Site
from tests.telemetry.test_readings import readings_of

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-edgerun.json").read_text(encoding="utf-8"))
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


def test_telegraf_listens_to_topics_that_there_are() -> None:
    config = tomllib.loads((ROOT / "deploy" / "telegraf.conf").read_text(encoding="utf-8"))
    inputs = config["inputs"]["mqtt_consumer"]
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


def _schema(kind: str) -> str:
    return {"detections": "result"}.get(kind, kind)
