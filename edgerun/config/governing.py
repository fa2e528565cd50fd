"""What a device does when it gets hot, short of power or of memory, and at which hours: `[governor]`, `[sensors]`,
`[quiet]`, and what streams and models have to do with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from edgerun.config.cron import parse_cron
from edgerun.errors import did_you_mean
from edgerun.validate import Report, join, show

Temp = Annotated[float, Meta(ge=-50, le=150)]
Watts = Annotated[float, Meta(gt=0, le=10_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Margin = Annotated[float, Meta(gt=0)]
Label = Annotated[str, Meta(min_length=1)]
Means = Literal["fps", "variant", "gate", "crawl", "pause"]


def cron_text(text: str) -> str:
    """`text` when it is a cron time. Raises `ValueError`."""
    parse_cron(text)
    return text


def zone_name(text: str) -> str:
    """`text` when it is a time zone that this machine knows. Raises `ValueError`."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("no such time zone here") from error
    return text


class RisingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`{ warm, hot, stop, margin }`: what gets worse as it rises."""

    warm: Annotated[float, Meta(description="From here on nothing is given back.")]
    hot: Annotated[float, Meta(description="From here on work is taken away, step by step.")]
    stop: Annotated[float | None, Meta(description="From here on everything is paused; by default never.")] = None
    margin: Annotated[
        Margin | None, Meta(description="How far below each it must fall again; by default 3 °C, else a twentieth.")
    ] = None


class FallingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`{ low, critical, stop, margin }`: what gets worse as it falls; shares, 0..1."""

    low: Annotated[Share, Meta(description="Below this nothing is given back.")]
    critical: Annotated[Share, Meta(description="Below this work is taken away, step by step.")]
    stop: Annotated[Share | None, Meta(description="Below this everything is paused; by default never.")] = None
    margin: Annotated[Margin, Meta(description="How far above each it must rise again.")] = 0.02


class GovernorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[governor]`: do less when the device gets hot, short of power or of memory, and more again when it can."""

    temp_c: Annotated[
        RisingConfig | None,
        Meta(description="Of the processor, as `{ warm = 70, hot = 80, stop = 90 }`; by default not looked at."),
    ] = None
    power_w: Annotated[
        Watts | RisingConfig | None,
        Meta(
            description="What the device may draw, where it can be measured; a number is `hot`, `warm` a tenth below.",
            extra={"expected": "watts, or a table with warm and hot"},
        ),
    ] = None
    battery: Annotated[
        FallingConfig | None,
        Meta(description="Its charge while it discharges, as `{ low = 0.3, critical = 0.15, stop = 0.05 }`."),
    ] = None
    under_voltage: Annotated[
        bool, Meta(description="Do less while the supply's voltage is too low (Raspberry Pi).")
    ] = True
    memory: Annotated[
        RisingConfig | None,
        Meta(
            description="Share of its memory (of its cgroup, where limited) in use, as `{ warm = 0.85, hot = 0.92 }`."
        ),
    ] = None
    memory_pressure: Annotated[
        RisingConfig | None,
        Meta(description="Share of the time in which work waits for memory (PSI), as `{ warm = 0.05, hot = 0.2 }`."),
    ] = None
    means: Annotated[
        Annotated[tuple[Means, ...], Meta(min_length=1)],
        Meta(
            description="What may be done: lower rates to a quarter, take smaller `variants`, sharpen gates, lower "
            "rates to a twentieth (crawl), pause all but the heaviest stream; always in this order."
        ),
    ] = ("fps", "variant", "gate", "crawl", "pause")
    up_s: Annotated[Annotated[float, Meta(ge=1, le=86400)], Meta(description="Time of calm before each step up.")] = (
        60.0
    )
    settle_s: Annotated[
        Annotated[float, Meta(ge=1, le=3600)], Meta(description="What a step down is given to take effect.")
    ] = 10.0


class PowerModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[sensors.power_model]`: what the machine draws, where nothing measures it; figures are then `estimated`."""

    idle_w: Annotated[Annotated[float, Meta(ge=0, le=10_000)], Meta(description="With all processors idle.")]
    busy_w: Annotated[Annotated[float, Meta(ge=0, le=10_000)], Meta(description="With all of them busy.")]


class SensorsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[sensors]`: how the device looks at itself."""

    interval_s: Annotated[Annotated[float, Meta(ge=0.1, le=60)], Meta(description="Time between two looks.")] = 2.0
    root: Annotated[
        Path,
        Meta(description="Where the machine's `sys`, `proc` and `dev` are: in a container that is shown its host's."),
    ] = Path("/")
    folders: Annotated[
        tuple[Label, ...], Meta(description="Folders whose file systems are watched for free space.")
    ] = ("/",)
    vcgencmd: Annotated[
        bool, Meta(description="Ask `vcgencmd` too: the rails of a Raspberry Pi 5, a process every 5 seconds.")
    ] = False
    rail: Annotated[
        Label | None, Meta(description="The power rail that feeds the whole device, where the board does not say.")
    ] = None
    idle_w: Annotated[
        Watts | None, Meta(description="What the device draws at rest; by default it is measured whenever it rests.")
    ] = None
    baseline_s: Annotated[
        Annotated[float, Meta(ge=0, le=600)],
        Meta(description="Rest for this long before the streams start, to measure what the device draws then."),
    ] = 0.0
    power_model: Annotated[PowerModelConfig | None, Meta(description="A table, see below.")] = None


class QuietConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[quiet.NAME]`: hours at which streams rest."""

    begins: Annotated[
        Annotated[str, Meta(extra={"parse": cron_text, "expected": 'five cron fields, such as "0 22 * * mon-fri"'})],
        Meta(description="When, by the wall clock: minute, hour, day of the month, month, day of the week."),
    ]
    lasts: Annotated[
        Annotated[float, Meta(ge=60, le=31 * 86400, extra={"unit": "s"})], Meta(description="For how long.")
    ]
    streams: Annotated[tuple[Label, ...], Meta(description="Which; by default all.")] = ()
    max_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Go on with at most this many results a second; by default they are paused."),
    ] = None
    timezone: Annotated[
        Annotated[str, Meta(min_length=1, extra={"parse": zone_name, "expected": 'a name such as "Europe/Berlin"'})]
        | None,
        Meta(description="Whose wall clock; by default the machine's."),
    ] = None


class GovernedStream(Protocol):
    """What the governor asks of a stream's config."""

    @property
    def weight(self) -> float: ...

    @property
    def gate(self) -> object | None: ...

    @property
    def target_age_ms(self) -> float | None: ...

    @property
    def least_fps(self) -> float | None: ...

    @property
    def may_pause(self) -> bool: ...


class GovernedConfig(Protocol):
    """What the governor asks of a config."""

    @property
    def streams(self) -> Mapping[str, GovernedStream]: ...

    @property
    def mqtt(self) -> object | None: ...

    @property
    def governor(self) -> GovernorConfig | None: ...

    @property
    def sensors(self) -> SensorsConfig: ...

    @property
    def quiet(self) -> Mapping[str, QuietConfig]: ...


def looks_at_itself(config: GovernedConfig) -> bool:
    """Whether anything is made of what the device sees of itself: telemetry, levels, quiet hours."""
    aims = any(stream.target_age_ms is not None for stream in config.streams.values())
    return config.mqtt is not None or config.governor is not None or bool(config.quiet) or aims


def check_governing(raw: dict[str, Any], report: Report) -> None:
    """Report what the tables, as written, ask of each other."""
    streams, models = _table(raw, "streams"), _table(raw, "models")
    governor = raw.get("governor")
    if isinstance(governor, dict):
        _check_governor(governor, streams, models, report)
    for name, model in models.items():
        _check_variants(str(name), model, models, report)
    for name, stream in streams.items():
        if isinstance(stream, dict):
            _check_stream(join("streams", str(name)), stream, report)
    for name, quiet in _table(raw, "quiet").items():
        asked = quiet.get("streams") if isinstance(quiet, dict) else None
        for one in asked if isinstance(asked, list | tuple) else ():
            if isinstance(one, str) and one and one not in streams:
                known = [str(stream) for stream in streams]
                place = join(join("quiet", str(name)), "streams")
                remedy = did_you_mean(one, known)
                report.add(place, "no such stream", expected="one of " + ", ".join(known), got=show(one), remedy=remedy)
    model = _table(_table(raw, "sensors"), "power_model")
    low, high = _number(model.get("idle_w")), _number(model.get("busy_w"))
    if low is not None and high is not None and low > high:
        report.add("sensors.power_model.busy_w", "less than idle_w", expected=f"at least {low:g}", got=f"{high:g}")


def _check_governor(governor: dict[str, Any], streams: dict[str, Any], models: dict[str, Any], report: Report) -> None:
    rising, falling = ("warm", "hot", "stop"), ("low", "critical", "stop")
    for key, names in (
        ("temp_c", rising),
        ("power_w", rising),
        ("battery", falling),
        ("memory", rising),
        ("memory_pressure", rising),
    ):
        _check_band(join("governor", key), _table(governor, key), names, report)
    bands = [governor.get(key) for key in ("temp_c", "power_w", "battery", "memory", "memory_pressure")]
    if governor.get("under_voltage") is False and not any(band is not None for band in bands):
        report.add("governor", "nothing to go by", expected="at least one of temp_c, power_w, battery, memory")
    up_s, settle_s = _number(governor.get("up_s", 60.0)), _number(governor.get("settle_s", 10.0))
    if up_s is not None and settle_s is not None and up_s < settle_s:
        what = "shorter than settle_s: it would rise faster than it may fall"
        report.add("governor.up_s", what, expected=f"at least {settle_s:g}", got=f"{up_s:g}")
    means = governor.get("means")
    if isinstance(means, list | tuple) and means and all(isinstance(one, str) for one in means):
        _check_means([str(one) for one in means], streams, models, report)


def _check_means(means: list[str], streams: dict[str, Any], models: dict[str, Any], report: Report) -> None:
    """A ladder without rungs between everything and nothing."""
    tables = [stream for stream in streams.values() if isinstance(stream, dict)]
    there = {"fps", "crawl"}
    if any(_table(models, one).get("variants") for stream in tables for one in _names(stream.get("model"))):
        there.add("variant")
    if any(stream.get("gate") is not None for stream in tables):
        there.add("gate")
    if sum(stream.get("may_pause") is not False for stream in tables) and len(tables) > 1:
        there.add("pause")
    needed = {"variant": "a model with variants", "gate": "a stream with a gate", "pause": "a second stream"}
    if tables and set(means) <= needed.keys() - there:
        expected = " or ".join(['"fps" among them', *(needed[one] for one in means)])
        report.add("governor.means", "nothing here that they could lower", expected=expected, got=", ".join(means))


def _check_band(place: str, band: dict[str, Any], names: tuple[str, ...], report: Report) -> None:
    """Its zones must follow one another, and overlap by less than they are wide."""
    values = [(name, value) for name in names if (value := _number(band.get(name))) is not None]
    sign = -1 if names[0] == "low" else 1
    for (name, value), (after, beyond) in pairwise(values):
        if sign * (beyond - value) <= 0:
            order = "above" if sign > 0 else "below"
            what = f"the zones cross: {after} must be {order} {name}"
            report.add(join(place, after), what, expected=f"{order} {value:g}", got=f"{beyond:g}")
            return
    margin = _number(band.get("margin"))
    gaps = [abs(after - before) for (_, before), (_, after) in pairwise(values)]
    if margin is not None and margin > 0 and gaps and margin >= min(gaps):
        what = "the zones overlap whole: what is entered would be left only below the one before"
        report.add(join(place, "margin"), what, expected=f"less than {min(gaps):g}", got=f"{margin:g}")


def _check_variants(name: str, model: Any, models: dict[str, Any], report: Report) -> None:
    variants = model.get("variants") if isinstance(model, dict) else None
    place, seen = join(join("models", name), "variants"), set[str]()
    for one in variants if isinstance(variants, list | tuple) else ():
        if not isinstance(one, str):
            continue
        others = [str(other) for other in models if str(other) != name]
        if one == name or one in seen:
            report.add(place, "the same model twice", remedy="name each model once, and not the one they stand in for")
        elif one not in models:
            remedy = did_you_mean(one, others) or f"add [models.{one}]"
            expected = "one of " + ", ".join(others) if others else "the name of another [models.NAME] table"
            report.add(place, "no such model", expected=expected, got=show(one), remedy=remedy)
        elif _table(models, one).get("variants"):
            what = "a variant that has variants of its own"
            report.add(place, what, got=show(one), remedy="name all of them here, the largest first")
        seen.add(one)


def _check_stream(place: str, stream: dict[str, Any], report: Report) -> None:
    for low, high, default in (("least_fps", "max_fps", None), ("target_age_ms", "max_age_ms", 1000.0)):
        least, most = _number(stream.get(low)), _number(stream.get(high, default))
        if least is not None and most is not None and least > most:
            report.add(join(place, low), f"more than {high}", expected=f"at most {most:g}", got=f"{least:g}")


def _names(model: Any) -> list[str]:
    return [str(one) for one in (model if isinstance(model, list | tuple) else [model])]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _table(raw: Any, key: str) -> dict[str, Any]:
    value = raw.get(key) if isinstance(raw, dict) else None
    return value if isinstance(value, dict) else {}
