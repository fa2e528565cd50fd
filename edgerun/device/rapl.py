"""The energy counters of x86 processors: Linux, Documentation/power/powercap/powercap.rst.

`energy_uj` counts microjoules and wraps at `max_energy_range_uj`; there is no power file. It is readable by root only
since CVE-2020-8694, and no Arm board has it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from edgerun.device.site import Found, Row, Site, failed_with, number, reading_name, unique, words
from edgerun.errors import DeviceError
from edgerun.types import Reading

KIND = "rapl"
REMEDY = "let everybody read it until the next boot: `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`"

_FOLDER = "sys/class/powercap"
_PACKAGE = re.compile(r"[a-z]+-rapl:\d+")
"""A whole package. Its parts are `…:N:M` and counted in it already, so they must not be added."""


class RaplDomain:
    """One package: `rapl/package-0/energy_j` (a counter) and `range_j`, where it wraps, if that is told.

    `rapl/psys` is the whole platform and holds the packages too.
    """

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        for name in site.machine.names(_FOLDER):
            if _PACKAGE.fullmatch(name) and site.machine.exists(f"{_FOLDER}/{name}/energy_uj"):
                folder = f"{_FOLDER}/{name}"
                place = unique(words(site.machine, f"{folder}/name") or name, taken)
                found.append(Found(place, folder, cls(site, place, folder)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`, with the remedy where permission is what lacks."""
        try:
            energy_j = number(self._site.machine, self._folder, Row("energy_uj", "energy_j", 1e6))
        except DeviceError as error:
            if failed_with(error, errno.EACCES, errno.EPERM):
                error.remedy = REMEDY
            raise
        if energy_j is None:
            return ()
        at_ns = self._site.clock.mono_ns()
        try:
            range_j = number(self._site.machine, self._folder, Row("max_energy_range_uj", "range_j", 1e6, lowest=1e-6))
        except DeviceError:
            range_j = None  # then a counter that runs back is not guessed at
        values = (("energy_j", energy_j), ("range_j", range_j))
        return tuple(Reading(reading_name(KIND, self._place, q), v, at_ns) for q, v in values if v is not None)

    def close(self) -> None:
        """Nothing is held open."""
