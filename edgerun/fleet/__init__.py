"""Many devices at once, from what they retain at a broker: how they are, and models rolled out in stages.

`Line` is the connection, `Fleet` what is known, `read` fills it; `plan` decides how a rollout goes on (pure), `Driver`
carries it out.
"""

from edgerun.fleet.driver import Driver
from edgerun.fleet.fleet import Device, Fleet
from edgerun.fleet.line import Line
from edgerun.fleet.plan import Plan, Progress
from edgerun.fleet.reading import read

__all__ = ["Device", "Driver", "Fleet", "Line", "Plan", "Progress", "read"]
