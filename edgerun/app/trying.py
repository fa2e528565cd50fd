"""A version in the shadow of the one that runs: begun, asked what came of it, and left."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgerun.app.listening import rate_of_sources
from edgerun.app.opening import open_model, read_bundle
from edgerun.app.preparing import available_bytes, needed_bytes
from edgerun.app.rollout_file import open_store
from edgerun.app.shadowing import Shadow
from edgerun.app.trial import Ties, Trial
from edgerun.errors import EdgerunError, EngineError
from edgerun.models.rollout import Compared, Event, Failed, Rollout


def why_no_shadow(ties: Ties, rollout: Rollout) -> str:
    """Why two of them cannot be open at once; empty where they can."""
    config = ties.config()
    model = config.models[rollout.name]
    if model.swap == "gap":
        return "swap is gap: memory does not hold two of them"
    if model.engine == "remote" and model.fallback == "none":
        return "it runs on workers only, and nothing here could look at the same frames"
    try:
        wanted = msgspec.structs.replace(model, path=_path_of(ties, rollout))
        need = needed_bytes(len(read_bundle(wanted, config.security.model_key).model))
        free = available_bytes()
    except EdgerunError:  # opening it tells
        return ""
    if model.swap == "auto" and free is not None and free < need:
        return f"{free >> 20} MiB of memory are free, and two of them may need {need >> 20}"
    return ""


def begin_shadow(ties: Ties, trial: Trial, now_ns: int) -> None:
    """From now on it looks too. Raises `ModelError` where it is not in the store any more."""
    config, name, pipeline = ties.config(), trial.rollout.name, ties.pipeline
    wanted = msgspec.structs.replace(config.models[name], path=_path_of(ties, trial.rollout))
    trial.begun_ns = now_ns
    trial.shadow = shadow = Shadow(
        name,
        config,
        ties.models[name],
        lambda: open_model(wanted, None, rate_of_sources(config, name), config.security.model_key),
        lambda: all(one.idle for one in pipeline.workers) and not any(len(one.slot) for one in pipeline.lanes),
        config.rollout.shadow,
        ties.clock,
    )
    ties.changing.add_sink(shadow, lambda outcome: None)


def compared(ties: Ties, trial: Trial, now_ns: int) -> Event:
    """What came of the shadow of this trial so far."""
    shadow, config = trial.shadow, ties.config()
    assert shadow is not None, "asked for where there is one"
    comparison = shadow.comparison()
    if shadow.error is not None:
        beside = config.models[trial.rollout.name].accelerators != ("cpu",)
        if isinstance(shadow.error, EngineError) and beside and not shadow.opened:
            # What holds the accelerator may be the live model.
            return Compared(comparison, impossible=f"it could not be opened beside the other: {shadow.error}")
        return Failed(str(shadow.error))
    over = (now_ns - trial.begun_ns) / 60e9 >= config.rollout.shadow_minutes
    return Compared(comparison, over, shadow.impossible)


def leave_shadow(ties: Ties, trial: Trial) -> None:
    """It looks no more; its thread closes it."""
    shadow, trial.shadow = trial.shadow, None
    assert shadow is not None, "asked for where there is one"
    ties.changing.remove_sink(shadow, lambda outcome: None)
    shadow.close()


def _path_of(ties: Ties, rollout: Rollout) -> Path:
    return open_store(ties.config()).path(rollout.model, rollout.version)
