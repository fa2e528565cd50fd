"""A model that remembers what came before serves one stream, in order, and nothing answers in its place."""

from __future__ import annotations

import tomllib
from types import SimpleNamespace

import pytest

from edgerun.app.opening import check_state
from edgerun.cli.flags import options_of
from edgerun.config import build
from edgerun.errors import ConfigError
from tests.test_end_to_end import DETECTOR

REMEMBERS = SimpleNamespace(stateful=True)
BASE = f'[models.m]\npath = "{DETECTOR}"\n[models.n]\npath = "{DETECTOR}"\n'
STREAM = '[streams.{0}]\nsource = "synthetic"\nmodel = "m"\n'


def check(text: str, model: object = REMEMBERS) -> None:
    check_state(build(tomllib.loads(text), options_of), "m", model)  # type: ignore[arg-type]


def test_one_stream_of_its_own_is_right() -> None:
    check(BASE + STREAM.format("a"))
    check(BASE + STREAM.format("a") + STREAM.format("b"), SimpleNamespace(stateful=False))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (BASE + STREAM.format("a") + STREAM.format("b"), "one stream only"),
        (BASE.replace("[models.n]", "cache = 1000\n[models.n]") + STREAM.format("a"), "neither batch nor cache"),
        (BASE.replace("[models.n]", "batch = {max = 2}\n[models.n]") + STREAM.format("a"), "neither batch nor cache"),
        (BASE + STREAM.format("a") + "gate = {still_s = 2}\n", "no gate"),
        (BASE + STREAM.format("a") + "max_fps = 2\n", "no max_fps"),
        (
            BASE + STREAM.format("a").replace('"m"', '"n"') + 'then = {model = "m"}\n',
            "cannot look at crops",
        ),
    ],
)
def test_what_would_mix_up_its_memory_is_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        check(text)
