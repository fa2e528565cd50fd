"""A rollout on trial: what it works on, and what works on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edgerun.app.auditing import Auditing
from edgerun.app.changing import Changing
from edgerun.app.looking import Window
from edgerun.app.opening import LoadedModel
from edgerun.app.shadowing import Shadow
from edgerun.clock import Clock
from edgerun.config import Config
from edgerun.control.desk import Later
from edgerun.models.rollout import Rollout
from edgerun.pipeline.notice import NoticeBoard
from edgerun.pipeline.pipeline import Pipeline
from edgerun.telemetry.ledger import StreamTotals
from edgerun.types import Reading

if TYPE_CHECKING:  # for runs with a broker
    from edgerun.publish.homeassistant import ModelTopics


class Ties(msgspec.Struct, frozen=True):
    """What a rollout works on. `config` gives the config that runs, `reread` the one that a restart would have."""

    config: Callable[[], Config]
    reread: Callable[[], Config]
    models: Mapping[str, LoadedModel]
    pipeline: Pipeline
    changing: Changing
    notices: NoticeBoard
    clock: Clock
    note: Callable[[str, str], None]
    audit: Callable[[], Auditing | None]
    readings: Callable[[], Sequence[Reading]]
    totals: Callable[[str], Mapping[str, StreamTotals]]
    """What was measured of each account of a model."""
    versions: ModelTopics | None = None


class Trial(msgspec.Struct):
    """One rollout with what works on it now."""

    rollout: Rollout
    busy: bool = False
    later: Later | None = None
    """Who waits for an answer."""
    asked_back: tuple[str, Later] | None = None
    """Why it is to be taken back as soon as nothing is under way, and who waits for that."""
    stop: threading.Event = msgspec.field(default_factory=threading.Event)
    """What is being fetched for it is not wanted any more."""
    shadow: Shadow | None = None
    window: Window | None = None
    begun_ns: int = 0
    """When this process began to use the new version."""
    told_ns: int = 0
    kept_ns: int = 0
    retry_ns: int = 0
