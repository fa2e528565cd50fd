"""docs/home-assistant.md against what is announced: no entity that it does not name, none that there is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from edgerun.publish.homeassistant import LIMIT_BYTES, discovery
from tests.broker.parts import DEVICE
from tests.publish.test_home_assistant import RICH

PAGE = (Path(__file__).parents[2] / "docs" / "home-assistant.md").read_text(encoding="utf-8")
NAMES = {"stream": ("dock", "yard", "door"), "label": ("person", "car"), "model": ("detector", "faces")}
NAMES["folder"] = ("root", "var_lib_edgerun")


def rows() -> list[tuple[list[str], str, str]]:
    """The table: ids, platform, the end of the topic."""
    found = re.findall(r"^\| (`[^|]+) \| (\w+) \| `([^`]+)` \|", PAGE, re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", ids), platform, topic) for ids, platform, topic in found]


def pattern(text: str) -> re.Pattern[str]:
    """What an id or a topic with `<stream>` … in it stands for."""
    parts = re.split(r"<(\w+)>", text)
    return re.compile(
        "".join(re.escape(part) if at % 2 == 0 else _any_of(NAMES[part]) for at, part in enumerate(parts))
    )


def _any_of(names: tuple[str, ...]) -> str:
    return f"({'|'.join(names)}(_[0-9a-f]{{8}})?)"


def announced() -> dict[str, Any]:
    device = msgspec.structs.replace(RICH, verbs=RICH.verbs | {"trace"})
    told: dict[str, Any] = json.loads(discovery(device).payload)["cmps"]
    return told


def test_the_table_is_what_is_announced() -> None:
    told, table = announced(), rows()
    assert len(table) > 20
    ids = [
        (pattern(one), platform, pattern(f"edgerun/{DEVICE}/{topic}")) for ids, platform, topic in table for one in ids
    ]
    several = pattern("<stream>_<model>_rate"), pattern("<stream>_<model>_age")
    for key, entity in told.items():
        topic = entity.get("stat_t") or entity.get("img_t") or entity["cmd_t"]
        if any(one.fullmatch(key) for one in several):
            continue
        fitting = [row for row in ids if row[0].fullmatch(key)]
        assert fitting, f"{key} is not on the page"
        assert any(row[1] == entity["p"] and row[2].fullmatch(topic) for row in fitting), (key, entity)
    for one, platform, _ in ids:
        assert any(one.fullmatch(key) and entity["p"] == platform for key, entity in told.items()), one.pattern


def test_its_figures_are_ours() -> None:
    told = announced()
    assert f"{LIMIT_BYTES // 1024} KiB" in PAGE
    assert told["power"]["exp_aft"] == 3 * RICH.interval_s, "three intervals"
    quick = msgspec.structs.replace(RICH, interval_s=1.0)
    assert json.loads(discovery(quick).payload)["cmps"]["power"]["exp_aft"] == 10
    assert told["trace"]["en"] is False
    assert json.loads(told["trace"]["pl_prs"]) == {"seconds": 60}


def test_what_nobody_may_ask_for_is_not_offered() -> None:
    told = json.loads(discovery(msgspec.structs.replace(RICH, verbs=frozenset())).payload)["cmps"]
    assert not [key for key, entity in told.items() if entity["p"] in ("button", "switch") or "cmd_t" in entity]
