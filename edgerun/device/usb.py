"""What is plugged into USB and PCI, from /sys/bus (Linux, Documentation/ABI/testing/sysfs-bus-usb and -pci)."""

from __future__ import annotations

import msgspec

from edgerun.device.machine import Machine

CORAL_BOOT, CORAL_RUN = "1a6e:089a", "18d1:9302"
"""A USB Coral before and after its firmware is loaded, which its first inference does (google-coral/edgetpu #536)."""
CORAL_PCI = "1ac1:089a"


class UsbDevice(msgspec.Struct, frozen=True):
    """One device. `place` is its port ("1-1.2"), `node` its file ("dev/bus/usb/001/004"), `speed_mbps` of its link."""

    place: str
    id: str
    product: str | None
    speed_mbps: float | None
    node: str | None


def usb_devices(machine: Machine) -> list[UsbDevice]:
    """All of them; one that is unplugged while it is looked at is left out. Raises `DeviceError`."""
    found = []
    for place in machine.names("sys/bus/usb/devices"):
        folder = f"sys/bus/usb/devices/{place}"
        vendor, product = machine.text(f"{folder}/idVendor"), machine.text(f"{folder}/idProduct")
        if ":" in place or vendor is None or product is None:  # an interface of a device, or it has just gone
            continue
        bus, number = machine.number(f"{folder}/busnum"), machine.number(f"{folder}/devnum")
        node = f"dev/bus/usb/{bus:03d}/{number:03d}" if bus is not None and number is not None else None
        name = machine.text(f"{folder}/product") or None
        found.append(UsbDevice(place, f"{vendor}:{product}", name, _speed(machine.text(f"{folder}/speed")), node))
    return found


def pci_devices(machine: Machine) -> list[tuple[str, str]]:
    """(slot, "vendor:device") of each. Raises `DeviceError`."""
    found = []
    for slot in machine.names("sys/bus/pci/devices"):
        numbers = [machine.number(f"sys/bus/pci/devices/{slot}/{name}", 16) for name in ("vendor", "device")]
        if None not in numbers:
            found.append((slot, f"{numbers[0]:04x}:{numbers[1]:04x}"))
    return found


def _speed(text: str | None) -> float | None:
    """Mbit/s: 1.5, 12, 480, 5000 …; None for "unknown"."""
    try:
        return float(text) if text else None
    except ValueError:
        return None
