"""What a board shows of its accelerators in its device files, without any driver being loaded."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

import msgspec

_MACHINES = {3: "i386", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""e_machine of the ELF header (ELF specification, and the psABI of each) in the words of uname."""


class Board(msgspec.Struct, frozen=True):
    """The machine, seen below `root`: another one's device files can be looked at on any machine."""

    root: Path = Path("/")

    def has(self, pattern: str) -> bool:
        """Whether a file below the root matches, such as `dev/apex_*`."""
        return next(self.root.glob(pattern), None) is not None

    def usb_ids(self) -> set[str]:
        """`vendor:product` of each USB device, hexadecimal, as lsusb writes them."""
        found = set()
        for vendor in self.root.glob("sys/bus/usb/devices/*/idVendor"):
            ids = [_text(vendor), _text(vendor.with_name("idProduct"))]
            found.add(":".join(ids))
        return found

    @property
    def android(self) -> bool:
        return hasattr(sys, "getandroidapilevel")

    def identity(self) -> str:
        """Machine and model, for telling one kind of board from another."""
        for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
            if name := _text(self.root / path):
                return f"{platform.machine()} {name}"
        for line in _text(self.root / "proc/cpuinfo").splitlines():
            if line.startswith("model name"):
                return f"{platform.machine()} {line.partition(':')[2].strip()}"
        return platform.machine()

    def drivers(self) -> str:
        """What changes whenever a driver may have: the kernel's release, and when a package was installed last."""
        try:
            packages = (self.root / "var/lib/dpkg/status").stat().st_mtime_ns
        except OSError:  # not Debian's kind
            packages = 0
        return f"{platform.release()} {packages}"


def wrong_machine(library: Path) -> str | None:
    """Why a shared library is not for this machine, or None; the loader itself says only that it cannot open it."""
    try:
        with library.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        return f"{library} cannot be read: {error.strerror}"
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return f"{library} is no shared library"
    order = "<" if head[5] == 1 else ">"
    (machine,) = struct.unpack(order + "H", head[18:20])
    name = _MACHINES.get(machine, f"machine {machine}")
    return None if name == platform.machine() else f"{library} is built for {name}, and this is {platform.machine()}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
