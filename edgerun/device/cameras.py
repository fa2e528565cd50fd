"""The cameras of this machine: which V4L2 nodes there are and what stands behind them."""

from __future__ import annotations

import msgspec

from edgerun.device.machine import Machine

_CSI_DRIVERS = ("unicam", "rp1-cfe", "bcm2835-unicam", "tegra-video", "tegra-capture-vi", "sun6i-csi", "imx7-csi")
"""Receivers of a bare image sensor (CSI-2), by the name of their driver."""


class CameraNode(msgspec.Struct, frozen=True):
    """A node (`dev/video0`), the name its driver gives it, the driver, and lasting names of it below /dev/v4l/by-id."""

    node: str
    name: str | None
    driver: str | None
    by_id: str | None = None

    @property
    def csi(self) -> bool:
        """Whether a bare sensor hangs on it: libcamera has to develop its pictures."""
        return self.driver in _CSI_DRIVERS


def camera_nodes(machine: Machine) -> list[CameraNode]:
    """Every video node, codecs and metadata nodes included. Raises `DeviceError`."""
    lasting = {machine.link(f"dev/v4l/by-id/{name}"): f"/dev/v4l/by-id/{name}" for name in _by_id(machine)}
    nodes = dict.fromkeys([*machine.names("sys/class/video4linux"), *machine.names("dev")])
    found = []
    for node in nodes:
        if node.startswith("video") and node[5:].isdigit():
            folder = f"sys/class/video4linux/{node}"
            name = machine.text(f"{folder}/name") or None
            found.append(CameraNode(f"dev/{node}", name, machine.link(f"{folder}/device/driver"), lasting.get(node)))
    return found


def _by_id(machine: Machine) -> list[str]:
    return machine.names("dev/v4l/by-id")
