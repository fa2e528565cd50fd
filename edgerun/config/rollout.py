"""`[rollout]`: how a model that comes by command is tried before it stays."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

_Minutes = Annotated[float, Meta(ge=0, le=100_000)]
_Count = Annotated[int, Meta(ge=0, le=10_000_000)]


class RolloutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[rollout]`: how a model that comes by command is tried before it stays. See docs/rollout.md."""

    shadow: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(
            description="Share of the live frames that the new model looks at too, in its engine's idle time, with "
            "nothing published; 0: it is not tried in the shadow."
        ),
    ] = 0.2
    shadow_frames: Annotated[
        Annotated[int, Meta(ge=1, le=10_000_000)],
        Meta(description="Frames with something in them that have to be compared."),
    ] = 200
    shadow_minutes: Annotated[
        _Minutes, Meta(description="Longest time in the shadow; fewer frames than a tenth by then: it goes back.")
    ] = 120.0
    disagreement: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(description="Largest mean disagreement of the two models in the shadow, 0 (none) to 1."),
    ] = 0.25
    canary_minutes: Annotated[
        _Minutes, Meta(description="How long it serves as canary at least, with these limits.")
    ] = 30.0
    canary_frames: Annotated[_Count, Meta(description="Results that it gives as canary at least.")] = 500
    watch_minutes: Annotated[
        _Minutes, Meta(description="How long it is watched after that, with the same limits, before it is committed.")
    ] = 1440.0
    latency_ratio: Annotated[
        Annotated[float, Meta(gt=0, le=1000)],
        Meta(description="Largest p95 of its inference, against that of the model before."),
    ] = 1.5
    failure_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)], Meta(description="Largest share of frames that fail or come too late.")
    ] = 0.05
    temp_rise_c: Annotated[
        Annotated[float, Meta(gt=0, le=200)],
        Meta(description="Largest rise of the hottest temperature since it serves, where the device's is known."),
    ] = 15.0
    starts: Annotated[
        Annotated[int, Meta(ge=1, le=100)],
        Meta(description="So many starts of edgerun with it that fail, one after the other, bring the old one back."),
    ] = 3
    stable_s: Annotated[
        Annotated[float, Meta(gt=0, le=86400)], Meta(description="A start that lasts this long has not failed.")
    ] = 60.0
