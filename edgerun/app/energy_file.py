"""The energy counted so far, kept across restarts in the state folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edgerun.app.state_file import StateFile

NAME = "energy.json"


class _Content(msgspec.Struct, frozen=True):
    energy_kwh: Annotated[float, Meta(ge=0, le=1e12)]
    v: int = 1


class EnergyFile:
    """`energy.json` in `folder`. Used by one thread; what goes wrong with it is logged and stops nothing."""

    def __init__(self, folder: Path) -> None:
        self._file = StateFile(
            folder / NAME,
            _Content,
            lost="the energy is counted from 0 again",
            unkept="the energy counted is not kept",
        )

    def read(self) -> float:
        """Kilowatt hours so far; 0 where nothing was ever written."""
        content = self._file.read()
        return 0.0 if content is None else content.energy_kwh

    def write(self, energy_kwh: float | None) -> None:
        """Keep the total, where it is known and has changed."""
        if energy_kwh is not None and math.isfinite(energy_kwh):
            self._file.write(_Content(round(energy_kwh, 9)))
