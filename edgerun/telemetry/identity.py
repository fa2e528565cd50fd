"""Which machine this is, as far as its kernel says."""

from __future__ import annotations

from pathlib import Path

_PLACEHOLDERS = (
    "",
    "none",
    "unknown",
    "default string",
    "to be filled by o.e.m.",
    "system product name",
    "not specified",
)
"""What firmware vendors leave in the DMI tables of boards they did not name."""


def boot_id(root: Path = Path("/")) -> str | None:
    """The kernel's random id of this boot (random(4)), or None where there is no such file."""
    return _text(root / "proc/sys/kernel/random/boot_id")


def board(root: Path = Path("/")) -> str | None:
    """The device tree's `model` ("Raspberry Pi 5 Model B Rev 1.0"), else DMI's vendor and product, else None."""
    model = _text(root / "proc/device-tree/model")
    if model is not None:
        return model
    dmi = root / "sys/class/dmi/id"
    names = [name for name in (_text(dmi / "sys_vendor"), _text(dmi / "product_name")) if name is not None]
    return " ".join(names) or None


def _text(path: Path) -> str | None:
    """The file's text without the NUL that ends device-tree strings; None when absent, unreadable or a placeholder."""
    try:
        text = path.read_bytes().decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return None
    return None if text.lower() in _PLACEHOLDERS else text
