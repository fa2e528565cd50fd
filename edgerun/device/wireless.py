"""How well the Wi-Fi is heard: /proc/net/wireless (iw_handler of the kernel's wireless extensions)."""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.machine import understood
from edgerun.device.site import Found, Site, plain, reading_name
from edgerun.types import Reading

_FILE = "proc/net/wireless"
_HEAD_LINES = 2
_LOWEST_DBM, _HIGHEST_DBM = -255.0, 30.0
_NO_SIGNAL_DBM = -256.0


class WifiSignal:
    """`wifi/wlan0/signal_dbm` and `lost_beacons` (a counter) of each interface that is associated."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("all", _FILE, cls(site))] if site.machine.exists(_FILE) else []

    def read(self) -> Sequence[Reading]:
        """Columns: interface, status, link, level, noise, five counts of discarded packets, missed beacons.

        Raises `DeviceError`.
        """
        text = self._site.machine.text(_FILE)
        at_ns = self._site.clock.mono_ns()
        found = []
        with understood(_FILE):
            for line in (text or "").splitlines()[_HEAD_LINES:]:
                name, _, rest = line.partition(":")
                fields = rest.split()
                level = float(fields[2])
                signal_dbm = level - 256.0 if level > _HIGHEST_DBM else level  # old drivers leave the sign out
                if signal_dbm == _NO_SIGNAL_DBM:
                    continue
                lost = int(fields[9])
                if not (_LOWEST_DBM <= signal_dbm <= _HIGHEST_DBM and 0 <= lost < 1 << 64):
                    raise ValueError(line[:80])
                for quantity, value in (("signal_dbm", signal_dbm), ("lost_beacons", float(lost))):
                    found.append(Reading(reading_name("wifi", plain(name.strip()), quantity), value, at_ns))
        return found

    def close(self) -> None:
        """Nothing is held open."""
