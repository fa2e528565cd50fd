"""The temperature of PCIe Corals: google/gasket-driver, apex_driver.c. USB Corals have none to read.

The chip halves its clock at each trip point it reaches (84.8, 89.8, 94.8 °C by default) and stops at the hardware's
second warning. A chip that has died or lost its link reads about −88 °C.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.site import Found, Row, Site, read_rows
from edgerun.device.thermal import HOTTEST_C, TEMP
from edgerun.errors import DeviceError
from edgerun.types import Reading

KIND = "coral"

_FOLDER = "sys/class/apex"
_REMEDY = "the Edge TPU does not answer: switch the board off and on, and check that the card sits well"


class Apex:
    """`coral/apex_0/temp_c`, its trips `trip0_c` … `trip2_c` and `stop_c`, where it stops for its own good."""

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder
        trips = [Row(f"trip_point{index}_temp", f"trip{index}_c", 1000.0, 0.0, HOTTEST_C) for index in range(3)]
        self._trips = [*trips, Row("hw_temp_warn2", "stop_c", 1000.0, 0.0, HOTTEST_C)]

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        folders = {name: f"{_FOLDER}/{name}" for name in site.machine.names(_FOLDER)}
        return [Found(name, folder, cls(site, name, folder)) for name, folder in folders.items()]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`: −88 °C is a dead chip, not a cold one."""
        try:
            temp = read_rows(self._site, KIND, self._place, self._folder, [TEMP])
        except DeviceError as error:
            error.remedy = _REMEDY
            raise
        return (*temp, *read_rows(self._site, KIND, self._place, self._folder, self._trips)) if temp else ()

    def close(self) -> None:
        """Nothing is held open."""
