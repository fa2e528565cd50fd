"""The levels that a machine can be slowed down by, from everything to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


class Climber(msgspec.Struct, frozen=True):
    """A stream, and what can be done about it. The lighter it weighs, the earlier it gives way."""

    name: str
    weight: float = 1.0
    variants: int = 0
    """Smaller models or resolutions there are besides the first."""
    gated: bool = False


def build_ladder(streams: Sequence[Climber]) -> tuple[Level, ...]:
    """Level 0 is everything. First rates go down, lightest stream first in each round, then variants, then gates get
    sharper, then all but the heaviest are paused. The last level is nothing at all, for `stop`.
    """
    order = sorted(streams, key=lambda stream: stream.weight)
    rungs = {stream.name: Rung() for stream in streams}
    levels = [dict(rungs)]

    def change(stream: Climber, **fields: object) -> None:
        rungs[stream.name] = msgspec.structs.replace(rungs[stream.name], **fields)
        levels.append(dict(rungs))

    for share in FPS_SHARES:
        for stream in order:
            change(stream, fps_share=share)
    for variant in range(1, 1 + max((stream.variants for stream in order), default=0)):
        for stream in order:
            if variant <= stream.variants:
                change(stream, variant=variant)
    for factor in GATE_FACTORS:
        for stream in order:
            if stream.gated:
                change(stream, gate_factor=factor)
    for share in CRAWL_SHARES:
        for stream in order:
            change(stream, fps_share=share)
    for stream in order[:-1]:
        change(stream, paused=True)
    if order:
        change(order[-1], paused=True)
    return tuple(levels)
