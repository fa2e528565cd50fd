"""What Vulkan offers on this machine: asked of the loader itself, because runtimes only say that nothing fits.

Structures and numbers are those of the Vulkan specification (registry.khronos.org/vulkan, vulkan_core.h). Asking loads
the vendors' drivers, so it belongs into an engine's own process.
"""

from __future__ import annotations

import ctypes

import msgspec

_LOADER = "libvulkan.so.1"
_SUCCESS, _INCOMPLETE = 0, 5
_KINDS = {1: "integrated GPU", 2: "discrete GPU", 3: "virtual GPU", 4: "software"}
_PROPERTIES_BYTES = 824
_NAME_AT, _NAME_BYTES = 20, 256
_MOST = 16


class _InstanceInfo(ctypes.Structure):
    """VkInstanceCreateInfo; `kind` is VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class Adapter(msgspec.Struct, frozen=True):
    """One physical device. `software`: it computes on the CPU (Mesa's llvmpipe)."""

    name: str
    kind: str
    version: str

    @property
    def software(self) -> bool:
        return self.kind == _KINDS[4]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, Vulkan {self.version})"


def adapters() -> tuple[list[Adapter], str]:
    """The devices that Vulkan shows, and where there are none why."""
    try:
        vulkan = ctypes.CDLL(_LOADER)
    except OSError:
        return [], f"no Vulkan loader: {_LOADER} is not installed"
    info = _InstanceInfo(kind=1)
    instance = ctypes.c_void_p()
    if code := vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)):
        return [], f"no Vulkan driver is installed (vkCreateInstance: {code})"
    try:
        count = ctypes.c_uint32(_MOST)
        handles = (ctypes.c_void_p * _MOST)()
        code = vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        if code not in (_SUCCESS, _INCOMPLETE):
            return [], f"no Vulkan driver works (vkEnumeratePhysicalDevices: {code})"
        found = [_adapter(vulkan, handle) for handle in handles[: count.value] if handle]
    finally:
        vulkan.vkDestroyInstance(instance, None)
    return found, "" if found else "Vulkan is installed, but shows no device"


def _adapter(vulkan: ctypes.CDLL, handle: int) -> Adapter:
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
    version, _, _, _, kind = (int.from_bytes(properties.raw[at : at + 4], "little") for at in range(0, 20, 4))
    name = properties.raw[_NAME_AT : _NAME_AT + _NAME_BYTES].partition(b"\0")[0].decode("utf-8", "replace")
    return Adapter(
        name, _KINDS.get(kind, "device"), f"{version >> 22 & 0x7F}.{version >> 12 & 0x3FF}.{version & 0xFFF}"
    )
