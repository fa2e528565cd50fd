"""What the sensors and the results say → what the governor goes by; and the config's bands → its policy."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import tzinfo

from edgerun.config.cron import parse_cron
from edgerun.config.governing import FallingConfig, GovernorConfig, QuietConfig, RisingConfig
from edgerun.device.evidence import processor_temp_c
from edgerun.device.governor import Band, Measure, Policy, falling_band, rising_band
from edgerun.device.quiet import Window
from edgerun.device.site import name_parts

_TEMP_MARGIN_C = 3.0
_MARGIN_SHARE = 0.05
_MOST_OF_A_GAP = 0.8
_WARM_BELOW = 0.9
"""A power budget given as one number: from this share of it on nothing is given back."""
_MIB = 2**20
_TARGET_WARM, _TARGET_MARGIN = 0.85, 0.03
"""Above what a stream comes to that is asked for an age a quarter above that at full clock."""
_TARGET_RUNGS = 2
"""A kernel gives its clock back only some degrees lower: a short dip that gets there costs less than a long one."""
_AT_FULL_CLOCK = 0.8
"""What `age_share` is at most while nothing slows the machine down."""
_AGE_GAIN = 0.3
"""Weight of the last look in a stream's mean."""


def policy_of(governor: GovernorConfig, targets: bool = False) -> Policy:
    """The policy that the config states. `targets`: there are streams with a `target_age_ms`."""
    bands: list[Band] = []
    if governor.temp_c is not None:
        bands.append(_rising("temp_c", governor.temp_c, _TEMP_MARGIN_C))
    if governor.power_w is not None:
        power = governor.power_w
        if not isinstance(power, RisingConfig):
            power = RisingConfig(power * _WARM_BELOW, power)
        bands.append(_rising("power_w", power))
    if governor.battery is not None:
        bands.append(_falling(governor.battery))
    if governor.under_voltage:
        bands.append(rising_band("under_voltage", 0.25, 0.5, None, 0.2))
    if governor.memory is not None:
        bands.append(_rising("memory_share", governor.memory))
    if governor.memory_pressure is not None:
        bands.append(_rising("memory_pressure", governor.memory_pressure))
    if targets:
        bands.append(rising_band("age_share", _TARGET_WARM, 1.0, None, _TARGET_MARGIN, _TARGET_RUNGS))
    return Policy(tuple(bands), governor.up_s, governor.settle_s)


def _rising(measure: Measure, given: RisingConfig, margin: float | None = None) -> Band:
    usual = margin if margin is not None else _MARGIN_SHARE * abs(given.hot)
    gap = min(given.hot - given.warm, given.hot - given.warm if given.stop is None else given.stop - given.hot)
    chosen = given.margin if given.margin is not None else min(usual, _MOST_OF_A_GAP * gap)
    return rising_band(measure, given.warm, given.hot, given.stop, chosen)


def _falling(given: FallingConfig) -> Band:
    return falling_band("battery_share", given.low, given.critical, given.stop, given.margin)


def measured(
    values: Mapping[str, float], power_w: float | None, age_share: float | None = None
) -> dict[Measure, float]:
    """What is known, of the newest readings by name. A battery that does not discharge counts as full."""
    found: dict[Measure, float | None] = {
        "temp_c": processor_temp_c(values),
        "power_w": power_w,
        "battery_share": _battery_share(values),
        "under_voltage": _under_voltage(values),
        "memory_share": _memory_share(values),
        "memory_pressure": values.get(
            "cgroup/memory/pressure_some_10s_share", values.get("pressure/memory/some_10s_share")
        ),
        "age_share": age_share,
    }
    return {measure: value for measure, value in found.items() if value is not None}


def unmeasured(governor: GovernorConfig, known: Mapping[Measure, float]) -> list[str]:
    """The keys of [governor] whose limits nothing on this machine is held to, since nothing measures them."""
    keys: dict[Measure, str] = {
        "temp_c": "temp_c",
        "power_w": "power_w",
        "battery_share": "battery",
        "memory_share": "memory",
        "memory_pressure": "memory_pressure",
    }
    return [key for measure, key in keys.items() if getattr(governor, key) is not None and measure not in known]


class SlowedAges:
    """The ages of streams with a target as the device's ladder is to see them: fewer inferences cool a machine that is
    slowed down, and it gives its clock back. Ages that have other causes are the stream's own affair. For one thread.
    """

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        self._late_anyway: set[str] = set()

    def note(self, stream: str, age_share: float, slowed: bool) -> None:
        """The p95 age of a stream's last results as a share of its target; `slowed`: the machine is slowed down."""
        mean = self._means.get(stream, age_share)
        self._means[stream] = mean = mean + _AGE_GAIN * (age_share - mean)
        if not slowed:
            (self._late_anyway.add if mean >= 1.0 else self._late_anyway.discard)(stream)

    def share(self, slowed: bool) -> float | None:
        """The measure `age_share`; None as long as nothing is known."""
        oldest = max((mean for stream, mean in self._means.items() if stream not in self._late_anyway), default=None)
        if oldest is None:
            return _AT_FULL_CLOCK if self._means else None
        return oldest if slowed else min(oldest, _AT_FULL_CLOCK)


def _battery_share(values: Mapping[str, float]) -> float | None:
    """The emptiest of those that discharge."""
    shares: list[float] = []
    for name, value in values.items():
        kind, place, quantity = name_parts(name)
        if kind == "battery" and quantity == "charge_share":
            shares.append(value if values.get(f"battery/{place}/discharging", 1.0) else 1.0)
    return min(shares, default=None)


def _under_voltage(values: Mapping[str, float]) -> float | None:
    told = [value for name, value in values.items() if name_parts(name)[2] == "under_voltage"]
    return max(told, default=None)


def _memory_share(values: Mapping[str, float]) -> float | None:
    """Of what its own group may use, where that is limited, or of the machine's: the fuller.

    What the group uses as the kernel counts it has files in it that would go if need be; this process is counted only.
    """
    shares = []
    limit, used_mib = values.get("cgroup/memory/limit_bytes"), values.get("rss_mib")
    if limit and used_mib is not None:
        shares.append(used_mib * _MIB / limit)
    total, free = values.get("system/memory/total_bytes"), values.get("system/memory/available_bytes")
    if total and free is not None:
        shares.append(1.0 - free / total)
    return max(shares, default=None)


def windows_of(quiet: Mapping[str, QuietConfig]) -> dict[str, Window]:
    """The quiet hours that the config states; a time zone that this machine does not know is its own."""
    windows = {}
    for name, given in quiet.items():
        zone: tzinfo | None = None
        if given.timezone is not None:
            from zoneinfo import ZoneInfo

            with contextlib.suppress(KeyError, ValueError, OSError):
                zone = ZoneInfo(given.timezone)
        windows[name] = Window(name, parse_cron(given.begins), given.lasts, zone)
    return windows
