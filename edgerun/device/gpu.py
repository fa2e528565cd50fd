"""How busy graphics processors are, and how fast they run.

Jetson: devfreq below `*.gpu`, `*.gv11b`, `*.ga10b` …, load in `device/load`, 0 … 1000; older kernels have
`/sys/devices/gpu.0/load`. Mali (Rockchip and others): `load` says "45@800000000Hz". amdgpu: `gpu_busy_percent` (Linux,
Documentation/gpu/amdgpu/thermal.rst).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edgerun.device.site import Found, Row, Site, gather, number, words
from edgerun.errors import DeviceError
from edgerun.types import Reading

_DEVFREQ = "sys/class/devfreq"
_NAMES = re.compile(r".*(\.gpu|\.gv11b|\.ga10b|\.gp10b|\.gm20b|gpu-gpc-\d+|gpu-nvd-\d+|\.mali|gpu)")
_ALONE = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")
_FREQ = Row("cur_freq", "freq_hz", highest=1e11), Row("max_freq", "limit_hz", highest=1e11)
_LOAD_FILES = ("device/load", "load")
_MALI_LOAD = re.compile(r"(\d{1,3})@\d+Hz")


class Gpu:
    """`gpu/<device>/load_share`, `freq_hz`, `limit_hz`, as far as each is there.

    On early Jetson boots the node comes late: it is found at the next look round.
    """

    def __init__(self, site: Site, place: str, folder: str | None, load: tuple[str, Row] | None) -> None:
        self._site, self._place, self._folder, self._load = site, place, folder, load

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        machine = site.machine
        alone = next((file for file in _ALONE if machine.exists(file)), None)
        found = []
        for name in machine.names(_DEVFREQ):
            if _NAMES.fullmatch(name):
                folder = f"{_DEVFREQ}/{name}"
                file = next((f"{folder}/{f}" for f in _LOAD_FILES if machine.exists(f"{folder}/{f}")), alone)
                found.append(Found(name, folder, cls(site, name, folder, _jetson(file) if file else None)))
        if not found and alone is not None:
            found.append(Found("gpu.0", alone, cls(site, "gpu.0", None, _jetson(alone))))
        for card in machine.names("sys/class/drm"):
            folder = f"sys/class/drm/{card}/device"
            if re.fullmatch(r"card\d+", card) and machine.exists(f"{folder}/gpu_busy_percent"):
                row = Row("gpu_busy_percent", "load_share", 100.0, 0.0, 1.0)
                found.append(Found(card, folder, cls(site, card, None, (folder, row))))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        values: dict[str, Callable[[], float | None]] = {}
        if self._load is not None:
            values["load_share"] = self._share
        if self._folder is not None:
            folder, (current, limit) = self._folder, _FREQ
            values["freq_hz"] = lambda: number(self._site.machine, folder, current)
            values["limit_hz"] = lambda: number(self._site.machine, folder, limit)
        return gather(self._site, "gpu", self._place, values)

    def close(self) -> None:
        """Nothing is held open."""

    def _share(self) -> float | None:
        assert self._load is not None
        folder, row = self._load
        mali = _MALI_LOAD.fullmatch(words(self._site.machine, f"{folder}/{row.file}") or "")
        if mali is None:
            return number(self._site.machine, folder, row)
        if int(mali[1]) > 100:
            raise DeviceError("says what a load cannot be", where=f"/{folder}/{row.file}", got=mali[0])
        return int(mali[1]) / 100


def _jetson(file: str) -> tuple[str, Row]:
    folder, _, name = file.rpartition("/")
    return folder, Row(name, "load_share", 1000.0, 0.0, 1.0)
