"""Accelerator hardware that can be seen: Corals on USB and PCIe, Jetson's and other GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from edgerun.device import groups
from edgerun.device.machine import Machine
from edgerun.device.usb import CORAL_BOOT, CORAL_PCI, CORAL_RUN, UsbDevice, pci_devices, usb_devices
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow
from edgerun.doctor.needs import accelerator_names

_USB3_MBPS = 5000
_LIBRARIES = (
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/arm-linux-gnueabihf",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib",
    "usr/local/lib",
)
_JETSON_GPUS = (".gpu", ".gv11b", ".ga10b", "gpu-gpc-0")
"""How the GPU's devfreq node ends on Nano and TX2, Xavier, Orin and Thor."""


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when sysfs cannot be read."""
    machine = patient.machine
    needed = "edgetpu" in patient.needs.accelerators and all(
        "cpu" not in names for names in map(accelerator_names, patient.needs.models.values()) if "edgetpu" in names
    )
    usb = [device for device in usb_devices(machine) if device.id in (CORAL_BOOT, CORAL_RUN)]
    apexes = [name for name in machine.names("dev") if name.startswith("apex_")]
    cards = [slot for slot, numbers in pci_devices(machine) if numbers == CORAL_PCI]
    for device in usb:
        yield _usb_coral(machine, device, needed and not apexes)
    for name in apexes:
        yield _pci_coral(machine, name, needed and not usb)
    if cards and not apexes:
        yield red(
            "PCIe Coral",
            f"in slot {cards[0]}, without a driver: no /dev/apex_0",
            "install the driver and load it: `sudo apt install gasket-dkms && sudo modprobe apex`",
            needed and not usb,
        )
    if not usb and not apexes and not cards:
        value = f"none on USB ({CORAL_RUN}, {CORAL_BOOT}) or PCIe"
        remedy = f"where one is plugged in, look for it with `lsusb -d {CORAL_RUN}; lsusb -d {CORAL_BOOT}; lspci -nn`"
        yield red("Coral", value, remedy, True) if needed else absent("Coral", value, remedy)
    else:
        yield _library(machine, needed)
    yield from _gpus(machine)


def _usb_coral(machine: Machine, device: UsbDevice, needed: bool) -> Line:
    booted = device.id == CORAL_RUN
    mode = "run mode" if booted else "boot mode: its firmware is loaded at the first inference"
    speed = f", {device.speed_mbps:g} Mbit/s" if device.speed_mbps is not None else ""
    value = f"{device.id} at port {device.place}, {mode}{speed}"
    what = "USB Coral"
    owner = machine.owner(device.node) if device.node is not None else None
    me = groups.identity(machine)
    if owner is not None and me is not None and not me.may_use(owner):
        group = groups.group_name(machine, owner.gid)
        remedy = (
            f"join its group: `sudo usermod -aG {group} {groups.user_name(machine, me.uid)}`, then log in again"
            if group != "root"
            else "install libedgetpu1-std, whose udev rule gives it to plugdev, and plug the Coral in again"
        )
        return red(what, f"{value}, and /{device.node} is not yours to use", remedy, needed)
    if booted and device.speed_mbps is not None and device.speed_mbps < _USB3_MBPS:
        return yellow(
            what, f"{value}: USB 2", "plug it into a blue (USB 3) port, with the cable that came with it", needed
        )
    return green(what, value, needed)


def _pci_coral(machine: Machine, name: str, needed: bool) -> Line:
    what, value = "PCIe Coral", f"/dev/{name}"
    owner, me = machine.owner(f"dev/{name}"), groups.identity(machine)
    if owner is not None and me is not None and not me.may_use(owner):
        group = groups.group_name(machine, owner.gid)
        user = groups.user_name(machine, me.uid)
        remedy = f"join its group: `sudo usermod -aG {group} {user}`, then log in again"
        if group == "root":
            remedy = (
                'give it a group: `echo \'SUBSYSTEM=="apex", MODE="0660", GROUP="apex"\' | sudo tee '
                "/etc/udev/rules.d/65-apex.rules`, then `sudo groupadd apex` and reboot"
            )
        return red(what, f"{value} belongs to {group} and is not yours to use", remedy, needed)
    return green(what, value, needed)


def _library(machine: Machine, needed: bool) -> Line:
    for folder in _LIBRARIES:
        if machine.exists(f"{folder}/libedgetpu.so.1"):
            return green("libedgetpu", f"/{folder}/libedgetpu.so.1")
    return red(
        "libedgetpu",
        "not installed, though a Coral is there",
        "install it from Coral's package source: `sudo apt install libedgetpu1-std`",
        needed,
    )


def _gpus(machine: Machine) -> Iterator[Line]:
    found = False
    for name in machine.names("sys/class/devfreq"):
        if name.endswith(_JETSON_GPUS) and not name.startswith("gpu-nvd"):
            found = True
            hertz = machine.number(f"sys/class/devfreq/{name}/cur_freq")
            yield green("Jetson GPU", f"{name}, {hertz / 1e6:.0f} MHz" if hertz else name)
    version = machine.text("proc/driver/nvidia/version")
    if version:
        found = True
        yield green("NVIDIA GPU", version.splitlines()[0].removeprefix("NVRM version:").strip())
    for node in machine.names("dev/dri"):
        if node.startswith("renderD"):
            found = True
            yield green(
                "GPU", f"/dev/dri/{node}, {machine.link(f'sys/class/drm/{node}/device/driver') or 'driver not told'}"
            )
    if not found:
        remedy = "nothing to do; on a Jetson, `ls /sys/class/devfreq` shows it once the driver is loaded"
        yield absent("GPU", "none that computes", remedy)
