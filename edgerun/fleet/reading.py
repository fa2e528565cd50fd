"""Everything that is retained of a fleet, whole: what a broker left out is asked for again, device by device."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgerun.fleet.fleet import KINDS, Device, Fleet
from edgerun.fleet.line import Line

_AT_ONCE = 200
"""Topics asked for in one go: fewer messages than any broker's queue for one client (mosquitto's default: 1000)."""
_PASSES = 3


class Read(msgspec.Struct, frozen=True):
    """What a reading found. `again`: topics that were asked for by name because a broker had left them out."""

    fleet: Fleet
    messages: int
    again: int
    incomplete: tuple[str, ...]
    """Devices of which something is missing even so: they never retained it."""


def read(line: Line, prefix: str, kinds: Sequence[str] = KINDS, *, stay: bool = False) -> Read:
    """Subscribe to what is retained of every device (of `kinds`) until all of it is here, and unsubscribe, not where it
    is to `stay`. Raises `BrokerError`.

    A broker that gives a new subscriber thousands of messages drops what its queue for him does not hold (mosquitto:
    `max_queued_messages`). A device's `info` says which other topics there have to be; those that did not come are
    subscribed to by name, so few at a time that nothing is dropped.
    """
    fleet = Fleet(prefix)
    wanted = {kind.partition("/")[0] for kind in kinds}

    def lacks(device: Device) -> list[str]:
        return [rest for rest in device.missing() if rest.partition("/")[0] in wanted]

    messages = again = 0
    for kind in kinds:  # one after the other: the short ones are never crowded out by the long ones
        messages += _take(line, fleet, [f"{prefix}/+/{kind}"], stay=stay)
    missing: list[str] = []
    for _ in range(_PASSES):
        before, missing = missing, [f"{prefix}/{one.id}/{rest}" for one in _known(fleet) for rest in lacks(one)]
        if not missing or missing == before:
            break
        for first in range(0, len(missing), _AT_ONCE):
            some = missing[first : first + _AT_ONCE]
            messages += _take(line, fleet, some, stay=False)
            again += len(some)
    incomplete = tuple(one.id for one in _known(fleet) if lacks(one))
    return Read(fleet, messages, again, incomplete)


def _known(fleet: Fleet) -> list[Device]:
    return [device for _, device in sorted(fleet.devices.items())]


def _take(line: Line, fleet: Fleet, filters: list[str], *, stay: bool) -> int:
    line.subscribe(filters)
    came = line.drain()
    for topic, payload in came:
        fleet.take(topic, payload)
    if not stay:
        line.unsubscribe(filters)
    return len(came)
