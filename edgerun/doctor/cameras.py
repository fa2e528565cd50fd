"""Cameras: which nodes give pictures, in which formats, and whether those that the config names are there."""

from __future__ import annotations

from collections.abc import Iterator

from edgerun.device import groups
from edgerun.device.cameras import CameraNode, camera_nodes
from edgerun.device.machine import Machine
from edgerun.device.v4l2 import Video, VideoFormat, is_raw
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow
from edgerun.errors import DeviceError

_LIBCAMERA = (
    "use libcamera through GStreamer: `sudo apt install gstreamer1.0-libcamera`, then "
    'device = "libcamerasrc ! video/x-raw,width=640,height=480 ! videoconvert"'
)

_ARGUS = (
    "use NVIDIA's source through an OpenCV with GStreamer: "
    'device = "nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert"'
)


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when /dev or sysfs cannot be listed."""
    machine = patient.machine
    nodes = camera_nodes(machine)
    wanted = {_node(device): streams for device, streams in patient.needs.cameras.items()}
    real = {node: _target(machine, node) for node in wanted}
    seen = False
    sensors: list[CameraNode] = []
    for node in nodes:
        users = [stream for name, streams in wanted.items() if real[name] == node.node for stream in streams]
        if node.csi and not users:
            sensors.append(node)
            continue
        for line in _look_at(machine, node, users):
            seen = True
            yield line
    if sensors:
        seen = True
        names = f"{sensors[0].name or sensors[0].driver}, {len(sensors)} node{'s' * (len(sensors) > 1)}"
        yield yellow("CSI camera", f"{names} of bare sensor data ({sensors[0].driver})", _developer(sensors[0]))
    there = {node.node for node in nodes}
    for device, streams in wanted.items():
        if real[device] not in there and device.startswith("dev/"):
            remedy = "plug it in; `ls -l /dev/v4l/by-id` shows the cameras that are there by names that last"
            yield red(
                "camera", f"/{device} is not there, and stream {', '.join(streams)} reads it", remedy, needed=True
            )
    if not seen and not wanted:
        remedy = "where one is plugged in, `sudo dmesg | tail` shows why the kernel does not take it"
        yield absent("camera", "no /dev/video* that gives pictures", remedy)


def _look_at(machine: Machine, node: CameraNode, users: list[str]) -> Iterator[Line]:
    """Nothing for a codec, a scaler or a node of metadata that nobody reads."""
    name = f"/{node.node}" + (f" ({node.name})" if node.name else "")
    used = f", read by stream {', '.join(users)}" if users else ""
    owner, me = machine.owner(node.node), groups.identity(machine)
    if owner is None:
        yield red(
            "camera", f"{name} is in sysfs and has no node", "let udev make it: `sudo udevadm trigger`", bool(users)
        )
        return
    if me is not None and not me.may_use(owner):
        group, user = groups.group_name(machine, owner.gid), groups.user_name(machine, me.uid)
        remedy = f"join its group: `sudo usermod -aG {group} {user}`, then log in again"
        yield red("camera", f"{name} belongs to {group} and is not yours to use{used}", remedy, bool(users))
        return
    try:
        video = machine.video(node.node)
    except DeviceError as error:
        remedy = f"`sudo fuser -v /{node.node}` shows who holds it; else plug it in again"
        yield red("camera", f"{name} {error.what}: {error.got}{used}", remedy, bool(users))
        return
    if video.kind == "capture":
        yield _formats(name, video, used, bool(users), _developer(node))
    elif users:
        remedy = "name another node of it: `ls -l /dev/v4l/by-id` (the one that ends in index0)"
        yield red("camera", f"{name} gives no pictures, it is for {video.kind}{used}", remedy, needed=True)


def _formats(name: str, video: Video, used: str, needed: bool, developer: str) -> Line:
    usable = [one for one in video.formats if not is_raw(one.fourcc)]
    if not video.formats:
        remedy = "nothing may be connected to it: check the cable, then `v4l2-ctl --list-formats-ext` should list some"
        line = red if needed else yellow
        return line("camera", f"{name} offers no format{used}", remedy, needed)
    if not usable:
        value = f"{name} gives bare sensor data only ({', '.join(one.fourcc for one in video.formats[:4])}){used}"
        return red("camera", value, developer, needed) if needed else yellow("camera", value, developer)
    return green("camera", f"{name}: {'; '.join(_format(one) for one in usable)}{used}", needed)


def _developer(node: CameraNode) -> str:
    """What makes pictures of its bare data."""
    return _ARGUS if (node.driver or "").startswith("tegra") else _LIBCAMERA


def _format(one: VideoFormat) -> str:
    """Its fourcc with the largest size and what that runs at."""
    largest = max(one.sizes, key=lambda size: (size.to or (size.width, size.height))[0], default=None)
    if largest is None:
        return one.fourcc
    width, height = largest.to or (largest.width, largest.height)
    fps = f" at {largest.max_fps:g} fps" if largest.max_fps else ""
    return f"{one.fourcc} up to {width}×{height}{fps}"


def _node(device: str) -> str:
    """`dev/video0` of what a config may say: an index, a node, or a GStreamer pipeline (left as it is)."""
    return f"dev/video{device}" if device.isdigit() else device.removeprefix("/")


def _target(machine: Machine, node: str) -> str:
    """Where a lasting name (/dev/v4l/by-id/…) leads."""
    target = machine.link(node)
    return f"dev/{target}" if target is not None else node
