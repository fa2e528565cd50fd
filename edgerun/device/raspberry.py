"""What a Raspberry Pi's firmware says of its supply and its heat.

Raspberry Pi documentation, `vcgencmd get_throttled`: bits 0 … 3 are now, 16 … 19 since boot. The kernel shows them as
`get_throttled` (hexadecimal, without 0x; newer ones call it deprecated) and the first as the hwmon chip `rpi_volt`,
whose driver asks the firmware every 2 s.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.hwmon import chips
from edgerun.device.site import Found, Row, Site, read_rows, reading_name
from edgerun.errors import DeviceError
from edgerun.types import Reading

KIND = "pi"
FLAGS = {0: "under_voltage", 1: "freq_capped", 2: "throttled", 3: "soft_temp_limit"}

_SINCE_BOOT = 16
_ALL_BITS = 0xFFFFFFFF


class VoltageAlarm:
    """`pi/rpi_volt/under_voltage`: the supply was too low within the last 2 s or so."""

    def __init__(self, site: Site, folder: str) -> None:
        self._site, self._folder = site, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        folders = [folder for chip, folder in chips(site.machine) if chip == "rpi_volt"]
        return [Found("rpi_volt", folder, cls(site, folder)) for folder in folders[:1]]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        rows = [Row("in0_lcrit_alarm", "under_voltage", highest=1)]
        return read_rows(self._site, KIND, "rpi_volt", self._folder, rows)

    def close(self) -> None:
        """Nothing is held open."""


class FirmwareFlags:
    """`pi/firmware/under_voltage`, `freq_capped`, `throttled`, `soft_temp_limit`, and each with `_since_boot`."""

    def __init__(self, site: Site, file: str) -> None:
        self._site, self._file = site, file

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        platform = "sys/devices/platform"
        for soc in site.machine.names(platform):  # `soc/soc:firmware`; a Pi 5 has addresses in both
            if soc == "soc" or soc.startswith("soc@"):
                for part in site.machine.names(f"{platform}/{soc}"):
                    file = f"{platform}/{soc}/{part}/get_throttled"
                    if "firmware" in part and site.machine.exists(file):
                        return [Found("firmware", file, cls(site, file))]
        return []

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        flags = self._site.machine.number(self._file, 16)
        return () if flags is None else flag_readings(self._site, flags, "/" + self._file)

    def close(self) -> None:
        """Nothing is held open."""


def flag_readings(site: Site, flags: int, where: str) -> Sequence[Reading]:
    """A reading for each flag. Raises `DeviceError` for what is no set of flags."""
    if not 0 <= flags <= _ALL_BITS:
        raise DeviceError("is no set of flags", where=where, expected="32 bits, hexadecimal", got=f"{flags:x}"[:40])
    at_ns = site.clock.mono_ns()
    shifts = (("", 0), ("_since_boot", _SINCE_BOOT))
    return tuple(
        Reading(reading_name(KIND, "firmware", word + suffix), float(flags >> (bit + shift) & 1), at_ns)
        for suffix, shift in shifts
        for bit, word in FLAGS.items()
    )
