"""What of two configs differs, and what that touches."""

from __future__ import annotations

import contextlib
import queue
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.app import App
from edgerun.app.comparing import Difference, compare
from edgerun.app.reloading import Outcome
from edgerun.cli.flags import options_of
from edgerun.clock import SystemClock
from edgerun.config import RunOptions, build
from edgerun.config.overlay import merge_patch
from edgerun.errors import ConfigError
from edgerun.pipeline.notice import Asked, NoticeBoard
from edgerun.types import Publication
from tests.reload.running import DETECTOR, TWO, config, newer


class Looking:
    """A sink that wants pictures."""

    wants_picture = True
    broken = False

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def publish(self, publication: Publication) -> None:
        result = publication.result
        self.seen.append((result.model.version, result.lease is not None))

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Nothing is held."""


def test_a_run_can_be_asked_for_another_model_and_for_its_pictures(tmp_path: Path) -> None:
    notices: NoticeBoard = NoticeBoard()
    made = build(tomllib.loads(TWO), options_of, find_model=lambda name: DETECTOR)
    app = App(made, RunOptions(console=False), SystemClock(), notices, "0123abcd")
    outcomes: list[Outcome] = []
    looking = Looking()

    def until(condition: Callable[[], object]) -> None:
        """The main thread's turns."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            with contextlib.suppress(queue.Empty):
                notice = notices.get(timeout=0.1)
                if isinstance(notice, Asked):
                    notice.do()
            app.tick()

    try:
        app.start()
        app.changing.add_sink(looking, outcomes.append)
        until(lambda: outcomes and (looking.seen and looking.seen[-1][1]))
        with pytest.raises(ConfigError, match="no such model runs; expected one of a, b; got 'c'"):
            app.swap_model("c", DETECTOR, outcomes.append)
        app.swap_model("a", newer(tmp_path, "7"), outcomes.append)
        until(lambda: len(outcomes) == 2 and {"2", "7"} <= {version for version, _ in looking.seen[-20:]})
        assert outcomes[1].changed.swapped.keys() == {"a"}
        assert outcomes[1].told()["changed"].keys() == {"swapped"}
        app.swap_model("a", tmp_path / "nowhere", outcomes.append)
        until(lambda: len(outcomes) == 3)
        assert "nowhere" in outcomes[2].error
        app.changing.remove_sink(looking, outcomes.append)
        until(lambda: len(outcomes) == 4)
        count = len(looking.seen)
        published = app.pipeline.publisher.published
        until(lambda: app.pipeline.publisher.published > published + 5)
        assert len(looking.seen) == count
        assert app.pipeline.workers[0].idle in (True, False)
    finally:
        app.stop(10)
        app.close()
    for stream in app.summary()["streams"].values():
        assert stream["in_flight"] == 0
        assert stream["failed"] == 0


CHANGES: dict[str, tuple[Callable[[str], str], Difference]] = {
    "nothing": (lambda text: text, Difference()),
    "a model": (lambda text: text.replace("threads = 1", "threads = 2"), Difference(opened=frozenset("b"))),
    "how a model is swapped": (lambda text: text.replace("threads = 1", 'threads = 1\nswap = "gap"'), Difference()),
    "a threshold": (
        lambda text: text + "threshold = 0.2\n",
        Difference(changed=frozenset("y"), governed=True),
    ),
    "a source": (
        lambda text: text + "loop = true\n",
        Difference(renewed=frozenset("y"), governed=True),
    ),
    "another model": (
        lambda text: text.replace('model = "b"', 'model = "a"'),
        Difference(closed=frozenset("b"), renewed=frozenset("y"), governed=True),
    ),
    "a name": (
        lambda text: text.replace("streams.y", "streams.z"),
        Difference(added=frozenset("z"), removed=frozenset("y"), governed=True),
    ),
    "what governs": (lambda text: text + "[governor]\npower_w = 5\n", Difference(governed=True)),
    "a model nobody uses": (lambda text: text + '[models.c]\npath = "ssd-mobilenet-v2-oid"\n', Difference()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_only_what_differs_is_touched(what: str) -> None:
    change, expected = CHANGES[what]
    assert compare(config(TWO), config(change(TWO))) == expected


def test_a_file_that_differs_is_another_model() -> None:
    assert compare(config(TWO), config(TWO), replaced=["a"]) == Difference(opened=frozenset("a"))


KEYS = st.text("abc", min_size=1, max_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(target=st.dictionaries(KEYS, JSON, max_size=3), patch=JSON)
def test_a_patch_applied_twice_is_applied_once(target: dict[str, Any], patch: Any) -> None:
    patch = patch if isinstance(patch, dict) else {}
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_the_standard(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged
