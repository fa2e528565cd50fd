"""What every sensor is given, and how the files of sysfs become readings.

A reading's name is `<kind>/<place>/<quantity>`: "thermal/cpu-thermal/temp_c", "rail/VDD_IN/power_w". The quantity,
behind the last slash, carries the unit; the kind, before the first, is the sensor's; the place may hold anything else.
Units are base units (°C, W, A, V, J, Hz, s, bytes), shares are 0..1, yes and no are 1 and 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from edgerun.clock import Clock
from edgerun.device.machine import Machine
from edgerun.errors import DeviceError
from edgerun.ports import Sensor
from edgerun.types import Reading

_LONGEST_PLACE = 64


class SensorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator decides about the sensors."""

    folders: Annotated[tuple[str, ...], Meta(description="folders whose file systems are watched for free space")] = (
        "/",
    )
    vcgencmd: Annotated[
        bool, Meta(description="ask `vcgencmd` too: the rails of a Pi 5, a process every 5 seconds")
    ] = False


class Site(msgspec.Struct, frozen=True):
    """The machine that is looked at, the clock, and what the operator wants."""

    machine: Machine
    clock: Clock
    options: SensorOptions = SensorOptions()


class Found(msgspec.Struct, frozen=True):
    """One sensor that is there. `where` tells it from another of the same place after the kernel renumbered them.

    `every_s`: reading it more often than this is of no use, or too dear.
    """

    place: str
    where: str
    sensor: Sensor
    every_s: float = 0.0


class SensorKind(Protocol):
    """What a class of sensors offers: the ones that are there now, none where the board lacks them.

    Raises `DeviceError`. It reads no more than it needs to tell them apart.
    """

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]: ...


class PartlyBroken(DeviceError):
    """A sensor some of whose files make no sense; `readings` are those that do."""

    def __init__(self, broken: Sequence[DeviceError], readings: Sequence[Reading]) -> None:
        super().__init__("; ".join(str(one) for one in broken))
        self.readings = tuple(readings)


class Row(NamedTuple):
    """One file of one whole number: value = number / `divisor`. What lies outside `lowest` … `highest` is broken."""

    file: str
    quantity: str
    divisor: float = 1.0
    lowest: float = 0.0
    highest: float = 1e15


def read_rows(site: Site, kind: str, place: str, folder: str, rows: Iterable[Row]) -> Sequence[Reading]:
    """The readings of those `rows` whose files are there.

    Raises what was wrong with a file after all have been tried: `PartlyBroken` where others could be read.
    """
    return gather(site, kind, place, {row.quantity: partial(number, site.machine, folder, row) for row in rows})


def gather(site: Site, kind: str, place: str, values: Mapping[str, Callable[[], float | None]]) -> tuple[Reading, ...]:
    """A reading for each quantity whose function gives a value; None is absent. Raises as `read_rows` does."""
    found: list[Reading] = []
    broken: list[DeviceError] = []
    for quantity, read in values.items():
        try:
            value = read()
        except DeviceError as error:
            broken.append(error)
            continue
        if value is not None:
            found.append(Reading(reading_name(kind, place, quantity), value, site.clock.mono_ns()))
    if broken:
        raise PartlyBroken(broken, found) if found or len(broken) > 1 else broken[0]
    return tuple(found)


def number(machine: Machine, folder: str, row: Row) -> float | None:
    """The value of one row; None when its file is absent. Raises `DeviceError`."""
    file = f"{folder}/{row.file}"
    raw = machine.number(file)
    if raw is None:
        return None
    if not row.lowest * row.divisor <= raw <= row.highest * row.divisor:  # as integers: 10**400 is no float
        raise DeviceError(
            f"says what {row.quantity} cannot be",
            where="/" + file,
            expected=f"{row.lowest:g} … {row.highest:g}",
            got=str(raw)[:40] if row.divisor == 1 or abs(raw) > 10**15 else f"{raw / row.divisor:g}",
        )
    return raw / row.divisor


def reading_name(kind: str, place: str, quantity: str) -> str:
    """`<kind>/<place>/<quantity>`."""
    return f"{kind}/{place}/{quantity}"


def name_parts(name: str) -> tuple[str, str, str]:
    """Kind, place and quantity of a reading's name; one without slashes ("rss_mib") is a quantity of nowhere."""
    kind, _, rest = name.partition("/") if "/" in name else ("", "", name)
    place, _, quantity = rest.rpartition("/")
    return kind, place, quantity


def words(machine: Machine, file: str) -> str | None:
    """A file's text on one line; None when it is absent or empty, or cannot be read."""
    try:
        text = machine.text(file)
    except DeviceError:
        return None
    return plain(text) or None if text is not None else None


def plain(text: str) -> str:
    """`text` as a place: one line, printable, not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_LONGEST_PLACE]


def unique(place: str, taken: set[str]) -> str:
    """`place`, or "place#2" where that is taken already; adds it to `taken`."""
    count, free = 1, place
    while free in taken:
        count += 1
        free = f"{place}#{count}"
    taken.add(free)
    return free


def failed_with(error: DeviceError, *numbers: int) -> bool:
    """Whether the system's error behind it is one of errno's `numbers`."""
    return error.got in {os.strerror(number) for number in numbers}
