"""When a device tells, within the interval that it tells in: spread by its name, so that a fleet is not one crowd."""

from __future__ import annotations

import hashlib


def phase_s(device: str, interval_s: float) -> float:
    """Seconds from a device's start to its first telemetry, in (0, `interval_s`]; always the same for one name.

    The first 8 bytes of SHA-256 of the name are as good as uniform: of N devices that are switched on together, N /
    `interval_s` tell in any one second, and not all of them in the same.
    """
    digest = hashlib.sha256(f"telemetry\0{device}".encode()).digest()
    return interval_s * (1.0 - int.from_bytes(digest[:8], "big") / 2**64)
