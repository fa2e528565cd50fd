"""A stream's own objective: results no older than asked for, by the choice of its rate and of its model's variant.

What makes results old decides what helps. Where inference alone takes as long as a result may be old, only a smaller
model helps, and rates are left alone; else frames wait for their turn, and fewer of them wait less.
"""

from __future__ import annotations

import msgspec

from edgerun.device.governor import Policy, State, rising_band, step
from edgerun.device.ladder import Rung

SHARES = (1.0, 0.72, 0.5, 0.35, 0.25)
POLICY = Policy((rising_band("age_share", 0.85, 1.0, None, 0.1),), up_s=60.0, settle_s=10.0)
_ALONE = 0.9
"""Inference that takes this share of the target leaves nothing for a lower rate to gain."""


def rungs(variants: int, rated: bool) -> tuple[Rung, ...]:
    """From everything to the least: of each variant the rates, the largest model first."""
    return tuple(Rung(share, variant) for variant in range(variants + 1) for share in (SHARES if rated else SHARES[:1]))


def step_towards(
    ladder: tuple[Rung, ...], state: State, age_share: float | None, service_share: float | None, now_ns: int
) -> State:
    """The state after a look; its `level` is a place in `ladder`. Called every second or so; `now_ns` is monotonic.

    `age_share`: the p95 age of the last seconds' results, as a share of the target; `service_share`: that of the time
    that preprocessing, inference and decoding took. None: there were none. Up one place at a time, as `governor.step`.
    """
    measured = {} if age_share is None else {"age_share": age_share}
    after = step(POLICY, len(ladder) + 1, state, measured, now_ns)  # the governor's last level is for `stop`
    if after.level <= state.level or service_share is None or service_share < _ALONE:
        return after
    smaller = [place for place, rung in enumerate(ladder) if rung.variant > ladder[state.level].variant]
    return msgspec.structs.replace(after, level=smaller[0] if smaller else state.level)
