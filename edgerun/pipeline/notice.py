"""What the pipeline's threads tell the main thread: changes of state, and faults that end the run."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Literal

import msgspec

State = Literal["running", "stalled", "paused", "degraded", "ended"]


class StreamNotice(msgspec.Struct, frozen=True):
    """A stream's state changed; `reason` is one sentence, empty when all is well again."""

    stream: str
    state: State
    reason: str = ""


class EngineNotice(msgspec.Struct, frozen=True):
    """An engine runs somewhere else now, or nowhere: what happened, the accelerator in use, and why."""

    model: str
    event: Literal["fell_back", "recovered", "lost"]
    accelerator: str
    reason: str


class InputNotice(msgspec.Struct, frozen=True):
    """What a stream's camera or sensor sees is not what it should be, or is again: see `scene.health.Change`."""

    stream: str
    fault: str
    present: bool
    event: str
    text: str


class ThreadDied(msgspec.Struct, frozen=True):
    """A thread met something it has no recovery for: the run ends."""

    thread: str
    error: BaseException


class StopRequested(msgspec.Struct, frozen=True):
    """Somebody (a signal, a limit) asked for the end of the run."""

    reason: str


class ReloadRequested(msgspec.Struct, frozen=True):
    """Somebody (a signal) asked for the config to be read again."""

    reason: str


class Asked(msgspec.Struct, frozen=True):
    """Somebody asked for something that is the main thread's to do."""

    do: Callable[[], None]


class ThreadEnded(msgspec.Struct, frozen=True):
    """A thread came to the end of its data."""

    thread: str


Notice = StreamNotice | EngineNotice | InputNotice | ThreadDied | StopRequested | ReloadRequested | ThreadEnded | Asked

# SimpleQueue.put is reentrant, so a signal handler may put too; notices are rare (back-off spaces them).
NoticeBoard = queue.SimpleQueue[Notice]
