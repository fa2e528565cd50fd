"""What a first config can be made of: cameras that give pictures, and a broker that listens."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import msgspec

from edgerun.broker.options import parse_address
from edgerun.device import groups
from edgerun.device.cameras import camera_nodes
from edgerun.device.machine import Machine
from edgerun.device.v4l2 import VideoFormat, is_raw
from edgerun.errors import DeviceError, EdgerunError

_BROKERS = ("mqtt://localhost",)
_BROKER_LIMIT_S = 0.7
_ENOUGH = (640, 480)
"""A detector of 300 × 300 sees no more in a larger picture, and every size above costs decoding."""


class Camera(msgspec.Struct, frozen=True):
    """A camera that can be read: the name that survives replugging, and how it is best asked."""

    device: str
    name: str
    size: tuple[int, int] | None = None
    fourcc: str | None = None


def cameras(machine: Machine) -> list[Camera]:
    """Those that give pictures and are ours to use. Raises nothing: what cannot be looked at is not offered."""
    found = []
    try:
        nodes = camera_nodes(machine)
    except DeviceError:
        return []
    for node in nodes:
        owner, me = machine.owner(node.node), groups.identity(machine)
        if node.csi or owner is None or (me is not None and not me.may_use(owner)):
            continue
        try:
            video = machine.video(node.node)
        except DeviceError:
            continue
        usable = [one for one in video.formats if not is_raw(one.fourcc)]
        if video.kind == "capture" and usable:
            best = min(usable, key=lambda one: one.fourcc != "MJPG")  # its JPEGs need not all be decoded
            name = node.name or node.driver or "camera"
            fourcc = best.fourcc if best.fourcc == "MJPG" else None
            found.append(Camera(node.by_id or f"/{node.node}", name, _size(best), fourcc))
    return found


def broker(candidates: Iterable[str] = _BROKERS) -> str | None:
    """The first of these addresses at which something listens; whether it lets us in is `edgerun doctor`'s question."""
    for url in candidates:
        try:
            address = parse_address(url)
            with socket.create_connection((address.host, address.port), timeout=_BROKER_LIMIT_S):
                return url
        except (OSError, EdgerunError):
            continue
    return None


def _size(one: VideoFormat) -> tuple[int, int] | None:
    """The smallest that is enough, else the largest there is; None where the camera names none."""
    sizes = sorted((size.to or (size.width, size.height)) for size in one.sizes)
    enough = [size for size in sizes if size[0] >= _ENOUGH[0] and size[1] >= _ENOUGH[1]]
    return enough[0] if enough else sizes[-1] if sizes else None
