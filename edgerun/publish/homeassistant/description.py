"""What Home Assistant is told of: the device and its streams, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class DescribedStream(msgspec.Struct, frozen=True):
    """One stream. `accounts` are the names that telemetry knows it by: its own, or `stream/model` of several models.

    `labels`: counted one by one. `occupancy`: those of which is told whether any is there; None: as `labels`. Without
    labels all objects together are told. `counted` is False where a model finds no objects (a classification), `events`
    are the kinds of scene events it can have.
    """

    name: str
    accounts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    occupancy: tuple[str, ...] | None = None
    counted: bool = True
    snapshot: bool = False
    events: tuple[str, ...] = ()

    @property
    def occupied_by(self) -> tuple[str, ...]:
        """The labels that have an occupancy sensor; empty: one for all objects together."""
        return self.labels if self.occupancy is None else self.occupancy


class DescribedDevice(msgspec.Struct, frozen=True):
    """The device. `known` holds the groups of its telemetry (`thermal`, `power`, `memory`, `disk`, `spool`, `sensors`)
    as they are now: only what has a value there gets an entity, since absent is not zero.

    `interval_s` is that of telemetry, `models` those with a topic `models/<name>`, `verbs` the commands it obeys.
    """

    id: str
    version: str
    streams: tuple[DescribedStream, ...]
    interval_s: float
    prefix: str = "edgerun"
    board: str | None = None
    models: tuple[str, ...] = ()
    verbs: frozenset[str] = frozenset()
    known: Mapping[str, Any] = {}

    def topic(self, rest: str) -> str:
        """`<prefix>/<device>/<rest>`."""
        return f"{self.prefix}/{self.id}/{rest}"
