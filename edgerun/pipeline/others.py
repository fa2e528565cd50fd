"""Those who infer elsewhere, as the worker that sends frames to them knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from edgerun.pipeline.ending import Job
from edgerun.types import Answer

if TYPE_CHECKING:
    from edgerun.pipeline.lane import LanePlan


class Landed(msgspec.Struct, frozen=True):
    """What became of one frame: an answer made by `by`, or the reason and the words why there is none."""

    ticket: int
    answer: Answer | None
    by: str = ""
    reason: str = ""
    text: str = ""


class Others(Protocol):
    """Those who infer elsewhere. `open` and `close` frame every use; `landed` is called by another thread.

    `inherit`: to be called before `open`, with the ones before, which are closed.
    """

    @property
    def absent(self) -> str: ...

    @property
    def has_room(self) -> bool: ...

    @property
    def waiting(self) -> bool: ...

    @property
    def usual_ns(self) -> int: ...

    @property
    def patience_ns(self) -> int: ...

    def inherit(self, before: Others) -> None: ...

    def open(self, landed: Callable[[], None]) -> None: ...

    def send(self, plan: LanePlan, job: Job, deadline_ns: int, *, probe: bool = False) -> int: ...

    def probe_due(self, now_ns: int) -> bool: ...

    def take(self) -> Sequence[Landed]: ...

    def hurry(self, within_ns: int) -> None: ...

    def recall(self) -> None: ...

    def close(self) -> None: ...
