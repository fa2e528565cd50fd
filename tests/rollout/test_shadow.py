"""The shadow as a sink: what the publisher gives it, also while it is taken away."""

from __future__ import annotations

import msgspec

from edgerun.app.opening import LoadedModel, open_model
from edgerun.app.shadowing import Shadow
from edgerun.clock import SystemClock
from edgerun.config import build
from edgerun.registry import resolve
from edgerun.types import ModelInfo, Publication
from tests.mosquitto import wait_until
from tests.publish.samples import picture, publication
from tests.real_models import ROOT

DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid"
ENOUGH = 200
"""Results, in half of which it looks."""


def test_a_result_that_comes_while_it_is_closed_ends_nobody() -> None:
    raw = {
        "models": {"m": {"path": str(DETECTOR), "threads": 1}},
        "streams": {"dock": {"model": "m", "source": "synthetic"}},
    }
    config = build(raw, lambda room, kind: resolve(room, kind).options)
    live = open_model(config.models["m"])
    shadow = Shadow("m", config, live, lambda: open_model(config.models["m"]), lambda: True, 0.5, SystemClock())
    try:
        given = result_for(live)
        wait_until(lambda: shadow.opened, 30)
        for _ in range(ENOUGH):
            shadow.publish(given)
        wait_until(lambda: shadow.comparison().frames > 0, 30)
        shadow.close()
        for _ in range(ENOUGH):
            shadow.publish(given)
        assert shadow.join(30)
        assert shadow.error is None
    finally:
        live.engine.close()


def result_for(live: LoadedModel) -> Publication:
    """A result of the live model, with its picture."""
    plain = publication(stream="dock", image=picture(320, 240))
    model = ModelInfo(live.bundle.name, live.bundle.version, "cpu")
    return msgspec.structs.replace(plain, result=msgspec.structs.replace(plain.result, model=model))
