"""What only the firmware's own tool tells: the rails of a Raspberry Pi 5, and throttle flags where no file has them.

Each answer costs a process (about 10 ms), so these are read at most every 5 s, and only when the operator asks for it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from edgerun.device import raspberry
from edgerun.device.site import Found, Site, reading_name
from edgerun.errors import DeviceError
from edgerun.types import Reading

KIND = "pmic"
EVERY_S = 5.0

_PLACES = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")
_LIMIT_S = 3.0
_LINE = re.compile(r"\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9]{1,6}(?:\.[0-9]{1,12})?)[AV]\s*")
"""` VDD_CORE_A current(7)=1.29110400A`; numbers in brackets differ between firmwares, so rails go by their names."""


class PmicRails:
    """`pmic/rails/power_w` of a Pi 5: Σ U · I over the rails that tell both, and `pmic/EXT5V/voltage_v` of its input.

    A lower bound of what the board draws: the 5 V input itself has no current reading, so what USB ports and the
    converters take is not in it.
    """

    def __init__(self, site: Site, tool: str) -> None:
        self._site, self._tool = site, tool

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        model = site.machine.text("proc/device-tree/compatible") or ""
        tool = _tool(site)
        if tool is None or "brcm,bcm2712" not in model.split("\0"):
            return []
        return [Found("rails", tool, cls(site, tool), EVERY_S)]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        volts: dict[str, float] = {}
        amperes: dict[str, float] = {}
        for line in _ask(self._site, self._tool, "pmic_read_adc").splitlines():
            match = _LINE.fullmatch(line)
            if match is not None:
                (volts if match[2] == "V" else amperes)[match[1]] = float(match[3])
        rails = volts.keys() & amperes.keys()
        if not rails:
            raise DeviceError("told no rail", where=f"/{self._tool} pmic_read_adc", remedy="update the boot loader")
        at_ns = self._site.clock.mono_ns()
        power_w = sum(volts[rail] * amperes[rail] for rail in sorted(rails))
        found = [Reading(reading_name(KIND, "rails", "power_w"), power_w, at_ns)]
        if "EXT5V" in volts:
            found.append(Reading(reading_name(KIND, "EXT5V", "voltage_v"), volts["EXT5V"], at_ns))
        return tuple(found)

    def close(self) -> None:
        """Nothing is held open."""


class VcgencmdFlags:
    """The readings of `raspberry.FirmwareFlags` where the kernel has no file for them."""

    def __init__(self, site: Site, tool: str) -> None:
        self._site, self._tool = site, tool

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        tool = _tool(site)
        if tool is None or raspberry.FirmwareFlags.find(site):
            return []
        return [Found("firmware", tool, cls(site, tool), EVERY_S)]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        answer = _ask(self._site, self._tool, "get_throttled").strip()
        match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", answer)
        if match is None:
            raise DeviceError("answered something else", where=f"/{self._tool} get_throttled", got=repr(answer[:40]))
        return raspberry.flag_readings(self._site, int(match[1], 16), f"/{self._tool} get_throttled")

    def close(self) -> None:
        """Nothing is held open."""


def _tool(site: Site) -> str | None:
    if not site.options.vcgencmd:
        return None
    return next((place for place in _PLACES if site.machine.exists(place)), None)


def _ask(site: Site, tool: str, question: str) -> str:
    """The tool's answer. Raises `DeviceError`."""
    where = f"/{tool} {question}"
    try:
        done = subprocess.run(
            [site.machine.path(tool), question],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"gave no answer within {_LIMIT_S:g} s", where=where) from error
    except OSError as error:
        raise DeviceError("cannot be run", where=where, got=error.strerror) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[:80]
        remedy = "put the user into group video: `sudo usermod -aG video USER`"
        raise DeviceError("failed", where=where, got=said or f"exit code {done.returncode}", remedy=remedy)
    return done.stdout.decode("utf-8", "replace")
