"""docs/privacy.md against the code: its figures, its config, and what a device with that config says of itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from edgerun.app.picturing import data_policy
from edgerun.app.tracing import FILES_KEPT
from edgerun.cli.flags import find_model, options_of
from edgerun.config import Config, RunOptions, build
from edgerun.decode.conceal import LOWEST_SCORE
from edgerun.publish.snapshot import REMEMBERED_S
from edgerun.scene.blur import _LEVEL, BLOCKS, MARGIN

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")


def config_of(text: str) -> Config:
    return build(tomllib.loads(text), options_of, find_model=find_model)


def the_pages_config() -> Config:
    found = re.search(r"^```toml\n# entrance\.toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return config_of(found[1])


def test_the_config_keeps_to_the_least() -> None:
    told = data_policy(the_pages_config(), RunOptions())
    assert told["streams"]["entrance"] == {
        "results": True,
        "masks": 1,
        "snapshots": {"on": [], "every_s": 10.0, "width": 640, "blur": ["person"], "max_age_s": 3600.0},
        "collect": False,
    }
    assert told["live"] is False
    assert told["spool"]["max_age_s"] == 86400.0
    assert "files" not in told


def test_nothing_but_results_leaves_or_stays_unless_the_config_says_so() -> None:
    told = data_policy(
        config_of(
            'mqtt.url = "mqtt://broker.example"\nmodels.m.path = "ssd-mobilenet-v2-oid"\n'
            'streams.s = { source = "synthetic", model = "m" }'
        ),
        RunOptions(),
    )
    assert told["streams"]["s"] == {"results": True, "masks": 0, "snapshots": False, "collect": False}
    assert (told["live"], told["spool"]["max_age_s"]) == (False, 7 * 86400.0)
    assert "files" not in told


def test_what_is_kept_and_shown_is_told() -> None:
    text = (
        'mqtt.url = "mqtt://broker.example"\nmodels.m.path = "ssd-mobilenet-v2-oid"\n'
        'streams.s = { source = "synthetic", model = "m", collect = {}, snapshot = {} }\nweb = {}\n'
    )
    told = data_policy(config_of(text), RunOptions(jsonl="results.jsonl"))
    assert told["streams"]["s"]["collect"]["max_age_s"] == 30 * 86400.0
    assert told["streams"]["s"]["snapshots"]["max_age_s"] == 86400.0
    assert told["live"]["loopback"] is True
    assert told["files"] == ["jsonl"]


def test_its_figures_are_those_of_the_code() -> None:
    for said in (
        f"widened by {MARGIN:.0%}".replace("%", " %"),
        f"{BLOCKS} × {BLOCKS}",
        f"colours of {256 // _LEVEL} levels",
        f"a score of {LOWEST_SCORE} on",
        f"in the last {REMEMBERED_S:g} seconds",
        "the newest " + {4: "four"}[FILES_KEPT],
        "`max_age` (30 days)",
        "`max_age` (7 days)",
    ):
        assert said in " ".join(PAGE.split()), said


def test_the_tests_that_it_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(set(named)) >= 7
    assert not [name for name in named if not (ROOT / name).is_file()]
