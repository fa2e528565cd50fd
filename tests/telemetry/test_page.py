"""docs/telemetry.md: its tables are those of the schema and of the boards."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from tests import schemas
from tests.boards import tree

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "telemetry.md"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "gen-telemetry"
    spec = importlib.util.spec_from_loader("gen_telemetry", SourceFileLoader("gen_telemetry", str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current(tool: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert tool.written(page) == page, "run tools/gen-telemetry"


def test_every_key_of_the_schema_is_explained(tool: ModuleType) -> None:
    table = tool.keys()
    schema = schemas.validator("telemetry").schema
    for key in schema["properties"]:
        assert re.search(rf"^\\| `{key}[.`]", table, re.MULTILINE), key
    for key in schema["$defs"]["stream"]["properties"]:
        assert f"`streams.*.{key}" in table, key


def test_every_board_has_a_column_and_what_it_lacks_is_no_number(tool: ModuleType) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tool.boards().splitlines()]
    assert rows[0][1:] == list(tree.BOARDS)
    by_name = {row[0].strip("`"): dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}
    assert by_name["thermal.soc_temp_c"]["container"] == "–"
    assert by_name["thermal.soc_temp_c"]["pi5"] == "47.2"
    assert by_name["power.source"]["jetson-xavier-jp4"] == "rail"
    assert "apex_0" in by_name["sensors.broken"]["laptop"]


def test_the_example_is_telemetry() -> None:
    page = PAGE.read_text(encoding="utf-8")
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    schemas.validate("telemetry", example)
    dock = example["streams"]["dock"]
    fates = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed", "in_flight")
    assert dock["grabbed"] == sum(dock[fate] for fate in fates)
