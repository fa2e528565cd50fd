"""How full the file systems are that matter, and how worn the cards and chips below them."""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.mounts import card, card_names, mount_of
from edgerun.device.site import Found, Site, reading_name
from edgerun.types import Reading

_SPACE_EVERY_S = 30.0
_WEAR_EVERY_S = 3600.0  # wear is told in steps of a tenth of a life
_RESERVE = {"normal": 1.0, "warning": 2.0, "urgent": 3.0}


class DiskSpace:
    """`disk/<folder>/free_bytes` (for ordinary users), `total_bytes`, `read_only`, of `SensorOptions.folders`."""

    def __init__(self, site: Site, folder: str) -> None:
        self._site, self._folder = site, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found(one, one, cls(site, one), _SPACE_EVERY_S) for one in dict.fromkeys(site.options.folders)]

    def read(self) -> Sequence[Reading]:
        """A folder that is not there has no reading. Raises `DeviceError`."""
        space = self._site.machine.space(self._folder)
        if space is None:
            return ()
        mount = mount_of(self._site.machine, self._folder)
        values = {"free_bytes": float(space.free_bytes), "total_bytes": float(space.total_bytes)}
        if mount is not None:
            values["read_only"] = float(mount.read_only)
        at_ns = self._site.clock.mono_ns()
        return tuple(Reading(reading_name("disk", self._folder, q), value, at_ns) for q, value in values.items())

    def close(self) -> None:
        """Nothing is held open."""


class CardWear:
    """`wear/mmcblk0/life_used_share`: the upper end of a tenth, above 1 beyond its life; `reserve`: 1 normal,
    2 warning, 3 urgent (JESD84-B51, DEVICE_LIFE_TIME_EST and PRE_EOL_INFO). SD cards tell neither.
    """

    def __init__(self, site: Site, device: str) -> None:
        self._site, self._device = site, device

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        names = card_names(site.machine)
        return [Found(name, f"sys/block/{name}", cls(site, name), _WEAR_EVERY_S) for name in names]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        told = card(self._site.machine, self._device)
        at_ns = self._site.clock.mono_ns()
        values = {"life_used_share": told.life_used, "reserve": _RESERVE.get(told.reserve or "")}
        return tuple(
            Reading(reading_name("wear", self._device, quantity), value, at_ns)
            for quantity, value in values.items()
            if value is not None
        )

    def close(self) -> None:
        """Nothing is held open."""
