"""The energy counted so far, kept across restarts in the state folder."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import msgspec

_log = logging.getLogger(__name__)

NAME = "energy.json"


class _Content(msgspec.Struct):
    energy_kwh: float
    v: int = 1


class EnergyFile:
    """`energy.json` in `folder`. Used by one thread. Neither a file that cannot be read nor one that cannot be written
    stops anything: it is logged, and counting begins at 0 or goes on in memory.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._written: float | None = None
        self._complained = False

    def read(self) -> float:
        """Kilowatt hours so far; 0 where nothing was ever written."""
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
            if not (math.isfinite(content.energy_kwh) and content.energy_kwh >= 0):
                raise ValueError(f"{content.energy_kwh} kWh")
        except FileNotFoundError:
            return 0.0
        except (OSError, ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            _log.warning("%s cannot be used, the energy is counted from 0 again: %s", self._path, error)
            return 0.0
        self._written = content.energy_kwh
        return content.energy_kwh

    def write(self, energy_kwh: float | None) -> None:
        """Keep the total, where it is known and has changed: a new file takes the old one's place whole."""
        if energy_kwh is None or energy_kwh == self._written:
            return
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(msgspec.json.encode(_Content(round(energy_kwh, 9))) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            if not self._complained:
                _log.warning("the energy counted is not kept, %s cannot be written: %s", self._path, error)
            self._complained = True
            return
        self._written = energy_kwh
