"""The levels that a machine can be slowed down by, from everything to nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

FPS_SHARES = (0.9, 0.8, 0.72, 0.64, 0.57, 0.5, 0.45, 0.4, 0.36, 0.32, 0.28, 0.25)
"""Each rung is about a tenth less than the one above: what the best rate is, one of them comes near."""
CRAWL_SHARES = (0.2, 0.16, 0.13, 0.1, 0.08, 0.06, 0.05)
"""Before a stream is paused."""
GATE_FACTORS = (2.0, 4.0)


class Rung(msgspec.Struct, frozen=True):
    """What one stream may do: this share of its frame rate, this variant of its model (0: the first), a gate this much
    sharper (share of pixels that must change × `gate_factor`), or nothing.
    """

    fps_share: float = 1.0
    variant: int = 0
    gate_factor: float = 1.0
    paused: bool = False


Level = Mapping[str, Rung]
"""Every stream's rung."""


Means = Literal["fps", "variant", "gate", "crawl", "pause"]
MEANS: tuple[Means, ...] = ("fps", "variant", "gate", "crawl", "pause")
"""In this order: rates to a quarter, smaller models, sharper gates, rates to a twentieth, pauses."""


class Climber(msgspec.Struct, frozen=True):
    """A stream, and what can be done about it. The lighter it weighs, the earlier it gives way."""

    name: str
    weight: float = 1.0
    variants: int = 0
    """Smaller models or resolutions there are besides the first."""
    gated: bool = False
    rated: bool = True
    """Frames may be left out; not where the model wants every one."""
    pausable: bool = True
    """It may be paused while others go on."""


def build_ladder(streams: Sequence[Climber], means: Collection[Means] = MEANS) -> tuple[Level, ...]:
    """Level 0 is everything. First rates go down, lightest stream first in each round, then variants, then gates get
    sharper, then rates go down further, then all but the heaviest are paused. Of these only the `means` allowed. The
    last level is nothing at all, for `stop`.
    """
    order = sorted(streams, key=lambda stream: stream.weight)
    rungs = {stream.name: Rung() for stream in streams}
    levels = [dict(rungs)]

    def change(stream: Climber, **fields: object) -> None:
        rungs[stream.name] = msgspec.structs.replace(rungs[stream.name], **fields)
        levels.append(dict(rungs))

    def rates(shares: Sequence[float]) -> None:
        for share in shares:
            for stream in order:
                if stream.rated:
                    change(stream, fps_share=share)

    if "fps" in means:
        rates(FPS_SHARES)
    if "variant" in means:
        for variant in range(1, 1 + max((stream.variants for stream in order), default=0)):
            for stream in order:
                if variant <= stream.variants:
                    change(stream, variant=variant)
    if "gate" in means:
        for factor in GATE_FACTORS:
            for stream in order:
                if stream.gated:
                    change(stream, gate_factor=factor)
    if "crawl" in means:
        rates(CRAWL_SHARES)
    if "pause" in means:
        for stream in order[:-1]:
            if stream.pausable:
                change(stream, paused=True)
    if order:
        levels.append({name: msgspec.structs.replace(rung, paused=True) for name, rung in rungs.items()})
    return tuple(levels)


def stricter(one: Rung, other: Rung) -> Rung:
    """What keeps to both."""
    return Rung(
        min(one.fps_share, other.fps_share),
        max(one.variant, other.variant),
        max(one.gate_factor, other.gate_factor),
        one.paused or other.paused,
    )
