"""Whether a camera still shows something: frozen, dark, covered and blurred pictures, told from a small grey view.

It looks at most once a second, at a picture of about 128×96 pixels as the motion gate sees it. What is usual is learnt
from the stream itself, so nothing is told of contrast and sharpness in the first half minute, and what comes in months
(dust) is not noticed. A fault is told when it has lasted, and again when it has been over for a while.

Sharpness is the variance of the Laplacian (J. L. Pech-Pacheco and others, Diatom autofocusing, 2000), here as a share
of the picture's own variance, which takes out how much contrast the light gives: a lens out of focus loses it,
nightfall does not. At this size only what also troubles a detector can be told: a blur of 0.4 % of the width and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from edgerun.polygon import Polygon, check_polygon
from edgerun.scene.lasting import Lasting, Stillness
from edgerun.scene.mask import coverage
from edgerun.types import GreyImage

Fault = Literal["frozen", "dark", "covered", "blurred", "flat", "saturated"]

LOOK_S = 1.0
"""Looks closer together than this are not taken."""
DARK_LEVEL, DARK_CONTRAST = 16.0, 8.0
"""Mean and standard deviation (of 255) below which nothing can be told apart: video black is 16 (ITU-R BT.601)."""
COVERED_CONTRAST, COVERED_TEXTURE = 0.5, 0.2
"""Shares of the usual standard deviation and of the usual edges' variance that something close to the lens leaves."""
BLURRED_SHARPNESS = 0.4
"""Share of the usual sharpness; a Gaussian whose σ is 0.5 % of the width leaves 0.1 of it on two streets."""
RECOVERED = 1.5
"""So many times the limit of a fault must be reached before it is over."""
HOLD_S = 10.0
FROZEN_S = 60.0
"""At least; see `Stillness`: an empty hall at night, coded without noise, stands still by itself."""
STILL_BLOCKS = 0.9
"""Share of blocks that are the same to the last bit: the clock that a recorder draws into a frozen picture runs on."""
USUAL_S = 600.0
"""Time constant of what is usual, once it is known."""
RECENT_S = 180.0
"""The same for contrast and edges: what is covered is so from one minute to the next, evening comes more slowly."""
KNOWN_AFTER = 30
"""Looks until then."""
_BLOCKS = 8
_MOST_PASSED_S = 5.0
"""A camera that was away is no longer seen to be still, or dark."""
_BARE = 4.0
"""A standard deviation below this is too little to speak of sharpness."""


class Change(msgspec.Struct, frozen=True):
    """A fault of the input began, or ended; `text` is a sentence for the operator."""

    fault: Fault
    present: bool
    text: str

    @property
    def event(self) -> str:
        """The `kind` of the event: `input_frozen`, and `input_ok` when it is over."""
        return f"input_{self.fault}" if self.present else "input_ok"


class PictureHealth:
    """Looks at one stream's pictures. Used by one thread; not told of pictures that a source gives without a camera.

    `mask`: polygons in 0..1 that are blacked out, whose pixels say nothing. Raises `ValueError` for an unusable one.
    """

    def __init__(self, mask: Sequence[Polygon] = (), *, frozen_s: float = FROZEN_S, hold_s: float = HOLD_S) -> None:
        for points in mask:
            check_polygon(points)
        self._mask = tuple(mask)
        self._view: _View | None = None
        self._looked_ns: int | None = None
        self._stillness = Stillness(frozen_s)
        self._known = 0
        self._contrast = self._texture = self._sharpness = 0.0
        self._faults: dict[Fault, Lasting] = {
            "frozen": Lasting(0.0, LOOK_S),
            "dark": Lasting(hold_s, hold_s / 2),
            "covered": Lasting(hold_s, hold_s / 2),
            "blurred": Lasting(2 * hold_s, hold_s / 2),
        }

    @property
    def present(self) -> tuple[Fault, ...]:
        """The faults there are now."""
        return tuple([fault for fault, lasting in self._faults.items() if lasting.present])

    def wants(self, captured_ns: int) -> bool:
        """Whether a picture captured then would be looked at: `LOOK_S` after the last."""
        return self._looked_ns is None or captured_ns - self._looked_ns >= LOOK_S * 1e9

    def look(self, grey: GreyImage, captured_ns: int) -> tuple[Change, ...]:
        """`grey`: `H×W` uint8, small, not kept, captured at `captured_ns`; what began or ended with it."""
        if not self.wants(captured_ns):
            return ()
        passed_s = 0.0 if self._looked_ns is None else min((captured_ns - self._looked_ns) / 1e9, _MOST_PASSED_S)
        self._looked_ns = captured_ns
        if self._view is None or self._view.shape != grey.shape:
            self._view = _View(grey.shape, self._mask)
            self._known = 0
        now = self._view.measure(grey)
        return self._tell(self._judge(now, passed_s), passed_s)

    def reset(self) -> None:
        """Learn anew: the camera was moved, or belongs to another place now. Faults that are present stay so."""
        self._view, self._known = None, 0

    def _judge(self, now: _Measured, passed_s: float) -> dict[Fault, bool | None]:
        """Whether each fault is there in this picture; None: neither clearly there nor clearly gone."""
        seen: dict[Fault, bool | None] = {"frozen": self._stillness.feed(now.still_share >= STILL_BLOCKS, passed_s)}
        known = self._known >= KNOWN_AFTER
        dark = _between(max(now.mean / DARK_LEVEL, now.contrast / DARK_CONTRAST))
        contrast = now.contrast / max(self._contrast, _BARE)
        texture = now.texture / max(self._texture, 1.0)
        sharpness = now.sharpness / max(self._sharpness, 1e-6)
        seen["dark"] = dark
        covered = known and dark is False
        seen["covered"] = (
            _between(max(contrast / COVERED_CONTRAST, texture / COVERED_TEXTURE)) if covered else _unless(dark)
        )
        blurred = known and dark is False and seen["covered"] is False and now.contrast >= _BARE
        seen["blurred"] = _between(sharpness / BLURRED_SHARPNESS) if blurred else _unless(dark)
        if seen["covered"]:
            seen["blurred"] = None
        well = not any(seen.values()) and not self.present and now.contrast >= _BARE
        if well:
            self._learn(now, passed_s)
        return seen

    def _learn(self, now: _Measured, passed_s: float) -> None:
        """Move what is usual towards what is: the plain mean at first, then slowly."""
        self._known += 1
        usual, recent = (max(1.0 / self._known, -math.expm1(-passed_s / time_s)) for time_s in (USUAL_S, RECENT_S))
        self._contrast += recent * (now.contrast - self._contrast)
        self._texture += recent * (now.texture - self._texture)
        self._sharpness += usual * (now.sharpness - self._sharpness)

    def _tell(self, seen: dict[Fault, bool | None], passed_s: float) -> tuple[Change, ...]:
        changes = []
        for fault, there in seen.items():
            lasting = self._faults[fault]
            if lasting.feed(there, passed_s):
                text = _WORDS[fault] if lasting.present else f"{_GONE[fault]}"
                changes.append(Change(fault, lasting.present, text))
        return tuple(changes)


_WORDS: dict[Fault, str] = {
    "frozen": "the camera delivers the same picture again and again: restart it, or its encoder",
    "dark": "the picture is black: lamps, infra-red light, lens cap",
    "covered": "the picture has lost its contrast: something is before the lens, or light shines into it",
    "blurred": "the picture has lost its sharpness: focus, dew, dirt on the lens",
}
_GONE: dict[Fault, str] = {
    "frozen": "the picture moves again",
    "dark": "there is something to be seen again",
    "covered": "the picture has its contrast again",
    "blurred": "the picture is sharp again",
}


class _Measured(msgspec.Struct):
    mean: float
    contrast: float
    texture: float
    sharpness: float
    still_share: float


class _View:
    """The measures of pictures of one shape; all buffers are made here."""

    def __init__(self, shape: tuple[int, ...], mask: Sequence[Polygon]) -> None:
        import cv2

        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"looking at a picture's health needs it as H×W, not empty; this one is {shape}")
        self.shape = shape
        height, width = shape
        hidden = coverage(mask, width, height) if mask else np.zeros(shape, np.uint8)
        self._watch: GreyImage | None = None
        self._inner: GreyImage | None = None
        if mask:
            self._watch = cv2.bitwise_not(hidden)
            # Where a mask begins there is an edge that is not the scene's.
            self._inner = cv2.erode(self._watch, np.ones((3, 3), np.uint8))
        self._edges = np.empty(shape, np.int16)
        self._before: GreyImage | None = None
        self._changed = np.empty(shape, np.uint8)
        self._blocks = np.empty((min(_BLOCKS, height), min(_BLOCKS, width)), np.float32)
        self._watched = self._of_blocks(np.ones(shape, np.uint8) if self._watch is None else self._watch)

    def measure(self, grey: GreyImage) -> _Measured:
        """`grey`: `H×W` uint8 of this shape."""
        import cv2

        mean, deviation = cv2.meanStdDev(grey, mask=self._watch)
        contrast = float(deviation[0, 0])
        cv2.Laplacian(grey, cv2.CV_16S, dst=self._edges)
        _, edges = cv2.meanStdDev(self._edges, mask=self._inner)
        texture = float(edges[0, 0]) ** 2
        still_share = 0.0
        if self._before is None:
            self._before = grey.copy()
        else:
            cv2.absdiff(grey, self._before, dst=self._changed)
            if self._watch is not None:
                cv2.bitwise_and(self._changed, self._watch, dst=self._changed)
            changed = self._of_blocks(self._changed) & self._watched
            watched = np.count_nonzero(self._watched)
            still_share = 1.0 - np.count_nonzero(changed) / watched if watched else 0.0
            np.copyto(self._before, grey)
        sharpness = texture / max(contrast * contrast, _BARE)
        return _Measured(float(mean[0, 0]), contrast, texture, sharpness, still_share)

    def _of_blocks(self, picture: GreyImage) -> np.ndarray:
        """For each of up to 8×8 blocks, whether any pixel in it is not 0."""
        rows = np.linspace(0, self.shape[0], self._blocks.shape[0] + 1).astype(int)[:-1]
        columns = np.linspace(0, self.shape[1], self._blocks.shape[1] + 1).astype(int)[:-1]
        across: np.ndarray = np.maximum.reduceat(np.maximum.reduceat(picture, rows, axis=0), columns, axis=1)
        return across > 0


def _between(ratio: float) -> bool | None:
    """`ratio` of a measure to the limit of its fault: there below 1, gone above `RECOVERED`."""
    return True if ratio < 1.0 else False if ratio >= RECOVERED else None


def _unless(dark: bool | None) -> bool | None:
    """In the dark nothing can be said of a fault; else it is not looked for yet."""
    return False if dark is False else None
