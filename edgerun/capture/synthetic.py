"""A drawn test picture: always there, always the same, and it says itself which frame it is and when it was taken."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from edgerun.capture.pace import NOT_DUE, Pace
from edgerun.capture.picture import fits
from edgerun.capture.stamp import STAMP_HEIGHT, STAMP_WIDTH, draw_stamp
from edgerun.errors import ConfigError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import NOT_YET, WHOLE, Grab, Image, View

_BOXES = 4
_BAND = (
    64  # rows of the ground that are mixed at once: in single precision a whole picture would take four times itself
)
_MOST_PIXELS = 64_000_000
_Pixels = Annotated[int, msgspec.Meta(ge=1, le=16384)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to draw: `size` (width, height) in pixels, at least 128×64, at most 64 megapixels; `frames` None goes on for
    ever.
    """

    size: tuple[_Pixels, _Pixels] = (640, 480)
    fps: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    frames: Annotated[int, msgspec.Meta(ge=0)] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        width, height = self.size
        if width * height > _MOST_PIXELS:
            raise ConfigError(
                "the synthetic picture is too large",
                expected=f"a size of at most {_MOST_PIXELS // 1_000_000} megapixels",
                got=f"{width}×{height}",
            )


class Pattern:
    """Smooth coloured ground with a few boxes wandering over it. A pure function of (size, seed, frame number)."""

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        width, height = size
        random = np.random.default_rng(seed)
        corners = random.integers(40, 216, (2, 2, 3)).astype(np.float32)
        across = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        upper = corners[0, 0] * (1 - across) + corners[0, 1] * across
        lower = corners[1, 0] * (1 - across) + corners[1, 1] * across
        self._ground: Image = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, _BAND):
            rows = down[top : top + _BAND]
            self._ground[top : top + _BAND] = upper * (1 - rows) + lower * rows
        self._colors = random.integers(0, 256, (_BOXES, 3)).astype(np.uint8)
        self._sizes = [(max(1, width // (4 + i)), max(1, height // (4 + i))) for i in range(_BOXES)]
        self._starts = [(int(random.integers(width)), int(random.integers(height))) for _ in range(_BOXES)]
        self._steps = [(int(random.integers(1, 8)), int(random.integers(1, 6))) for _ in range(_BOXES)]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._ground.shape

    def draw(self, out: Image, frame_no: int, captured_ns: int) -> None:
        """Fill `out` (`H×W×3` uint8 of the pattern's size) with frame `frame_no` and its stamp."""
        np.copyto(out, self._ground)
        height, width = self._ground.shape[:2]
        for color, (w, h), (x, y), (dx, dy) in zip(self._colors, self._sizes, self._starts, self._steps, strict=True):
            left = (x + dx * frame_no) % max(1, width - w)
            top = (y + dy * frame_no) % max(1, height - h)
            out[top : top + h, left : left + w] = color
        draw_stamp(out, frame_no, captured_ns)


class SyntheticSource:
    """Holds: it draws in `retrieve()`, so that a frame nobody wants costs nothing. Its views are grey or whole.

    Live at `fps` (`captured_ns` is when the frame was due); `as_fast` it is lossless and not paced.
    """

    options = Options
    holds = True

    def __init__(self, options: Options, context: SourceContext) -> None:
        width, height = options.size
        if width < STAMP_WIDTH or height < STAMP_HEIGHT:
            raise SourceError(
                "the synthetic picture is too small for its stamp",
                where=f"stream {context.stream}",
                expected=f"a size of at least {STAMP_WIDTH}×{STAMP_HEIGHT}",
                got=f"{width}×{height}",
                final=True,
            )
        self.lossless = context.as_fast
        self._context = context
        self._frames = options.frames
        self._interval_ns = round(1e9 / options.fps)
        self._pattern = Pattern(options.size, options.seed)
        self._pace = Pace(context.clock, context.stop)
        self._colors: Image | None = None
        self._next = 0
        self._captured_ns = 0
        self.frame_size = options.size

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self._next == self._frames and self._context.loop:
            self._next = 0
        if self._next == self._frames or self._context.stop.is_set():
            return None
        if self.lossless:
            captured_ns: int | None = self._context.clock.mono_ns()
        else:
            wake = self._context.wake if until_ns is not None else None
            captured_ns = self._pace.next(self._interval_ns, until_ns, wake)
        if captured_ns is None:
            return None
        if captured_ns == NOT_DUE:
            return NOT_YET
        self._captured_ns = captured_ns
        self._next += 1
        return Grab(captured_ns, str(self._next - 1))

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        if view.grey:
            return self._grey(out)
        image = out if out is not None and fits(out, self._pattern.shape) else np.empty(self._pattern.shape, np.uint8)
        self._pattern.draw(image, self._next - 1, self._captured_ns)
        return image

    def close(self) -> None:
        """Nothing is open."""

    def _grey(self, out: Image | None) -> Image:
        """The green channel, which carries most of the luminance (ITU-R BT.601)."""
        if self._colors is None:
            self._colors = np.empty(self._pattern.shape, np.uint8)
        self._pattern.draw(self._colors, self._next - 1, self._captured_ns)
        shape = self._pattern.shape[:2]
        image = out if out is not None and fits(out, shape) else np.empty(shape, np.uint8)
        np.copyto(image, self._colors[:, :, 1])
        return image
