"""Several streams on one engine: who gets how much of it, whatever the others do."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from tests import emulators
from tests.test_end_to_end import DETECTOR, edgerun, results_of, summary_of


def published(tmp_path: Path, streams: dict[str, str], seconds: float = 4, *more: object) -> dict[str, int]:
    """Results of each stream (name → its keys as TOML), all on the bundled detector."""
    config = tmp_path / "edge.toml"
    tables = "".join(f'[streams.{name}]\nmodel = "detector"\n{keys}\n' for name, keys in streams.items())
    config.write_text(f'[models.detector]\npath = "{DETECTOR}"\nthreads = 1\n{tables}', encoding="utf-8")
    done = edgerun("run", "--config", config, "--quiet", "--json", "--seconds", seconds, *more)
    assert done.returncode == 0, done.stderr
    accounts: dict[str, Any] = summary_of(done.stdout)["streams"]
    return {name: account["published"] for name, account in accounts.items()}


def flood(more: str = "") -> str:
    """A camera of which the engine manages a part."""
    return f'source = "synthetic:320x240@500"\n{more}'


def test_four_equal_streams_get_equal_shares(tmp_path: Path) -> None:
    got = published(tmp_path, {name: flood() for name in "abcd"})
    assert max(got.values()) <= 1.1 * min(got.values()), got


def test_shares_follow_the_weights(tmp_path: Path) -> None:
    got = published(tmp_path, {"light": flood(), "heavy": flood("weight = 3")})
    assert 2.5 < got["heavy"] / got["light"] < 3.5, got


def test_a_promised_rate_is_kept_beside_a_heavy_stream(tmp_path: Path) -> None:
    got = published(tmp_path, {"watch": flood("min_fps = 10\nmax_fps = 12"), "heavy": flood("weight = 100")})
    assert 9 * 4 <= got["watch"] <= 13 * 4, got


@pytest.mark.parametrize("fault", ["--silent-after", "--never-answer"])
def test_a_camera_that_hangs_delays_nobody(tmp_path: Path, fault: str) -> None:
    """It hangs for seconds; the others' results, some 12 ms apart, go on all the while."""
    how = (fault, 20) if fault == "--silent-after" else (fault,)
    lines = tmp_path / "r.jsonl"
    with emulators.start("mjpeg", "--fps", 20, "--size", "320x240", *how) as camera:
        sick = f'source = "{camera.url}"'
        beside = published(tmp_path, {"a": flood(), "sick": sick, "b": flood()}, 6, "--jsonl", lines)
    assert beside["sick"] <= 21
    assert max(beside["a"], beside["b"]) <= 1.1 * min(beside["a"], beside["b"]), beside
    results = results_of(lines)
    for name in "ab":
        taken_ns = [r["mono_ns"] for r in results if r["stream"] == name]
        assert max(after - before for before, after in itertools.pairwise(taken_ns)) < 1e9


def test_a_deadline_that_the_model_can_never_meet_is_told_with_the_figure() -> None:
    done = edgerun(
        "run", "--model", DETECTOR, "--source", "synthetic:320x240@30", "--max-age-ms", 1, "--seconds", 3, "--quiet",
        "--json",
    )  # fmt: skip
    (account,) = summary_of(done.stdout)["streams"].values()
    assert account["published"] == 0
    assert account["expired"] > 30
    told = [line for line in done.stderr.splitlines() if "raise max_age_ms" in line]
    assert len(told) == 1
    assert re.search(r"max_age_ms is 1, and inference alone takes \d+ ms", told[0])
