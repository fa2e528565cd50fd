"""The energy a machine says it has used: the RAPL counters that Linux shows under /sys/class/powercap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

_PACKAGE = re.compile(r"[a-z]+-rapl:\d+")
"""A whole package. Its parts are `…:N:M` and counted in it already, so they must not be added."""


class _Zone(msgspec.Struct, frozen=True):
    path: Path
    range_uj: int | None


class EnergyMeter:
    """Energy of the processor packages since construction or the last `take_j`: the whole machine's, not one process's.

    Linux kernel documentation, power/powercap: `energy_uj` counts microjoules and wraps at `max_energy_range_uj`. It is
    readable by root only on most systems (CVE-2020-8694), and no Arm board has it. `root` holds the machine's `sys`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._zones = tuple(_find_zones(root / "sys/class/powercap"))
        self._last = self._read()

    @property
    def readable(self) -> bool:
        return bool(self._last)

    def take_j(self) -> float | None:
        """Joules used since the last call; None where no counter can be read, or one ran back without saying where."""
        before, self._last = self._last, self._read()
        if not before or len(before) != len(self._last):
            return None
        used_uj = 0
        for zone, old, new in zip(self._zones, before, self._last, strict=True):
            step = new - old
            if step < 0:
                if zone.range_uj is None or step + zone.range_uj < 0:
                    return None
                step += zone.range_uj
            used_uj += step
        return used_uj / 1e6

    def _read(self) -> Sequence[int]:
        values = [_number(zone.path / "energy_uj") for zone in self._zones]
        return [value for value in values if value is not None] if None not in values else []


def _find_zones(powercap: Path) -> list[_Zone]:
    if not powercap.is_dir():
        return []
    zones = []
    for path in sorted(powercap.iterdir()):
        # "psys" is the whole platform and holds the packages too.
        if not _PACKAGE.fullmatch(path.name) or _text(path / "name") == "psys":
            continue
        if _number(path / "energy_uj") is not None:
            zones.append(_Zone(path, _number(path / "max_energy_range_uj")))
    return zones


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
