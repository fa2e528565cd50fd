"""What stands between a stream's camera and its model: the motion gate, the privacy mask, the crop that moved."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from edgerun.ports import Gate, Source
from edgerun.types import Box, Grab, GreyImage, Image, Motion, View

_GLANCE = View(enough=(96, 72), grey=True)
"""A picture this small shows a person across the street, and is an eighth of a 768×576 JPEG's sides."""


class GatePlan(msgspec.Struct, frozen=True):
    """What the config says of a stream's gate. `blackout` blackens, in place, what nobody may see.

    `still_ns`: while nothing moves the last answer stands for new frames for at most this long; 0: such frames get no
    result. `crop`: the model is given only the part that moves. `share`: of the pixels watched must change for the gate
    to open.
    """

    gate: Gate | None = None
    still_ns: int = 0
    crop: bool = False
    blackout: Callable[[Image], None] | None = None
    inspect: Callable[[Image, int], None] | None = None
    """Shown each picture or window of a live source, masked, with when it was captured (monotonic ns)."""
    share: float = 0.0


class Watch:
    """Applies a stream's `GatePlan`. Used by the capture thread."""

    def __init__(self, plan: GatePlan) -> None:
        self.plan = plan
        self.factor = 1.0
        """The gate asks for this many times its share; any thread may set it."""
        self.live = False
        """The source shows what is there now."""
        self._grey: GreyImage | None = None

    def look(self, source: Source, grab: Grab) -> Motion | None:
        """What moves in the grabbed frame; None without a gate, or when all of it must be decoded to know."""
        if self.plan.gate is None or not source.holds:
            return None
        self._grey = source.retrieve(self._grey, _GLANCE)
        return self.judge(self._grey, grab)

    def judge(self, image: Image, grab: Grab) -> Motion | None:
        """What moves in a picture (`H×W×3` BGR or `H×W`, changed: masked); None without a gate."""
        self.mask(image)
        if self.live and self.plan.inspect is not None:
            self.plan.inspect(image, grab.captured_ns)
        if self.plan.gate is None:
            return None
        motion = self.plan.gate.look(image, grab.captured_ns if grab.recorded_ns is None else grab.recorded_ns)
        if self.factor > 1.0 and motion.share < self.plan.share * self.factor:
            return Motion(motion.share, False)
        return motion

    def mask(self, image: Image) -> None:
        """Blacken what nobody may see, in place."""
        if self.plan.blackout is not None:
            self.plan.blackout(image)

    def region(self, motion: Motion | None, within: Box | None) -> Box | None:
        """The part of the frame that the model is to look at."""
        if motion is None or not self.plan.crop:
            return within
        return crop_around(motion.box, within)


_GRID = 16
_LEAST_SIDE = 0.25


def crop_around(moving: Box | None, within: Box | None) -> Box | None:
    """The part of the frame to look at when only `moving` changed, inside the region `within` (None: the whole frame).

    Rounded outwards to sixteenths of the frame, so that a crop stays the same from frame to frame while little changes,
    and no side below a quarter of it: a smaller part would be enlarged beyond what a detector is trained on.
    Returns `within` where nothing is known or the two do not meet.
    """
    outer = within or (0.0, 0.0, 1.0, 1.0)
    if moving is None:
        return within
    box = (
        *(max(outer[i], min(outer[2 + i], moving[i])) for i in (0, 1)),
        *(max(outer[i], min(outer[2 + i], moving[2 + i])) for i in (0, 1)),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return within
    sides = []
    for i in (0, 1):
        low, high = box[i], box[2 + i]
        lack = max(0.0, _LEAST_SIDE - (high - low)) / 2
        low, high = low - lack, high + lack
        shift = max(0.0, outer[i] - low) - max(0.0, high - outer[2 + i])
        low, high = low + shift, high + shift
        # A hair inside, so that what lies on the grid stays there.
        down, up = math.floor(low * _GRID + 1e-9) / _GRID, math.ceil(high * _GRID - 1e-9) / _GRID
        sides.append((max(outer[i], down), min(outer[2 + i], up)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]
