"""The table of checks, in the order they are shown."""

from __future__ import annotations

from edgerun.doctor import (
    access,
    board,
    broker,
    cameras,
    clock,
    engines,
    heat,
    identity,
    sensors,
    software,
    storage,
    tpu,
)
from edgerun.doctor.examine import Check

CHECKS = (
    Check("board", board.look),
    Check("identity", identity.look),
    Check("software", software.look),
    Check("engines", engines.look, limit_s=600.0, essential=lambda _: True),
    Check("accelerators", tpu.look),
    Check("cameras", cameras.look, limit_s=15.0),
    Check("sensors", sensors.look),
    Check("access", access.look),
    Check("heat and power", heat.look),
    Check("clock", clock.look),
    Check("storage", storage.look),
    Check("broker", broker.look, limit_s=40.0, essential=lambda needs: needs.broker is not None),
)
