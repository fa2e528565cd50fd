"""CenterNet and FOMO: objects as the peaks of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import Limits, class_names, strongest
from edgerun.decode.tensors import Buffer, ScoreMap, dequantise, describe, match, not_numbers, shape_text, wrong_size
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder centernet"
_Count = Annotated[int, Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the maps mean, and their names where shapes and names do not tell.

    `score`: what turns a value of the heat map into a probability. `sizes`: "cells" of the heat map (the paper's
    stride of 4 pixels each) or "normalised" to 0..1. `background`: a class that means nothing is there (FOMO: 0). `iou`
    of 1 suppresses nothing, as in the paper. `layout`: where the classes stand, if the shape leaves a doubt.
    """

    score: Literal["sigmoid", "none"] = "sigmoid"
    sizes: Literal["cells", "normalised"] = "cells"
    background: int | None = None
    iou: Annotated[float, Meta(ge=0, le=1)] = 1.0
    max_detections: _Count = 100
    max_candidates: _Count = 1000
    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    heat_output: str = ""
    size_output: str = ""
    offset_output: str = ""


class _Map(NamedTuple):
    """`last`: the channels come after the sides."""

    output: int
    height: int
    width: int
    channels: int
    last: bool

    def grid(self, raw: Tensor) -> Tensor:
        """`raw` as H×W×channels."""
        if self.last:
            return raw.reshape(self.height, self.width, self.channels)
        return raw.reshape(self.channels, self.height, self.width).transpose(1, 2, 0)


class CenterNetDecoder:
    """A heat map `1×C×H×W` or `1×H×W×C`, sizes and offsets of 2 channels each → detections.

    An object is a cell whose value is the largest of its class in its 3×3 surroundings (of equal neighbours the first)
    and reaches the threshold; with its size (w, h) and offset (x, y, in cells) its box is centred at
    ((column + x) / W, (row + y) / H) (Zhou et al., *Objects as Points*, 2019, sections 3 and 4.1). Without an output of
    offsets they are ½; without one of sizes (FOMO) the box is the cell itself. Only candidates' surroundings are
    looked at, so the cost is one pass over the heat map. `labels` names the classes an answer can hold.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._options = options
        self._limits = Limits(options.iou, options.max_candidates, options.max_detections)
        self._heat, self._size, self._offset = _roles(options, context)
        self._specs = context.outputs
        classes, background = self._heat.channels, options.background
        if background is not None and not 0 <= background < classes:
            raise ModelError(
                "the background class is none of the model's classes",
                where=_WHERE,
                expected=f"background in 0..{classes - 1}, or null",
                got=f"{background}",
            )
        self._names = class_names(context.labels, classes, _WHERE)
        self.labels = tuple(name for at, name in enumerate(self._names) if at != background)
        spec = self._specs[self._heat.output]
        if len(spec.scale) > 1:
            spec = TensorSpec(spec.name, spec.shape, "float32")
        self._map = ScoreMap(spec, context.threshold, options.score, _WHERE)
        self._real = [Buffer() for _ in self._specs]
        self._below: Any = self._map.below
        if background is not None:
            self._below = np.full(classes, self._map.below, self._map.dtype)
            top = np.inf if self._below.dtype.kind == "f" else np.iinfo(self._below.dtype).max
            self._below[background] = top
            cells = self._heat.height * self._heat.width
            self._below = np.tile(self._below, cells) if self._heat.last else np.repeat(self._below, cells)

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`."""
        heat = self._map.comparable(self._values(outputs, self._heat))  # in its own order: turning it would copy it
        found, scores = self._map.reaching(heat, self._below)
        part = self._heat
        if part.last:
            row, column, classes = np.unravel_index(found, (part.height, part.width, part.channels))
        else:
            classes, row, column = np.unravel_index(found, (part.channels, part.height, part.width))
        peaks = _peaks(part.grid(heat), row, column, classes)
        if not peaks.any():
            return Answer(detections=())
        row, column, classes, scores = row[peaks], column[peaks], classes[peaks], scores[peaks]
        sides = np.array((self._heat.width, self._heat.height), np.float64)
        offset = self._pairs(outputs, self._offset, row, column)
        size = self._pairs(outputs, self._size, row, column)
        centre = (np.stack((column, row), axis=1) + (0.5 if offset is None else offset)) / sides
        unit = sides if size is None or self._options.sizes == "cells" else 1.0
        half = (1.0 if size is None else size) / 2 / unit
        boxes = np.concatenate((centre - half, centre + half), axis=1)
        return strongest(boxes, scores, classes, placement, self._names, self._limits)

    def _values(self, outputs: Sequence[Tensor], part: _Map) -> Tensor:
        """The output in a row, dequantised where it has several scales.

        Raises `FrameError` when it has another size than stated.
        """
        raw, spec = outputs[part.output], self._specs[part.output]
        if raw.size != part.height * part.width * part.channels:
            raise wrong_size(raw, spec, shape_text(spec.shape), _WHERE)
        if len(spec.scale) > 1:  # one for each channel, so nothing can be read before all is
            raw = dequantise(raw, spec, self._real[part.output])
        return raw.reshape(-1)

    def _pairs(
        self, outputs: Sequence[Tensor], part: _Map | None, row: NDArray[np.intp], column: NDArray[np.intp]
    ) -> NDArray[np.float64] | None:
        """The two values of each candidate's cell. Raises `FrameError` when they are not numbers."""
        if part is None:
            return None
        spec = self._specs[part.output]
        values = dequantise(part.grid(self._values(outputs, part))[row, column], spec)
        if not np.isfinite(values).all():
            raise not_numbers("sizes or offsets", spec, _WHERE)
        return values.astype(np.float64)


def _peaks(
    heat: Tensor, row: NDArray[np.intp], column: NDArray[np.intp], classes: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Which cells exceed their neighbours before them, in reading order, and are not below those after them."""
    height, width = heat.shape[:2]
    values = heat[row, column, classes]
    peaks = np.ones(len(values), np.bool_)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down == right == 0:
                continue
            r, c = row + down, column + right
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            beside = heat[r.clip(0, height - 1), c.clip(0, width - 1), classes]
            lower = values > beside if (down, right) < (0, 0) else values >= beside
            peaks &= lower | ~inside
    return peaks


def _read(at: int, spec: TensorSpec, wanted: str, channels: int) -> _Map | None:
    """The output as a map; with as many `channels` as that, where more than 0."""
    if len(spec.shape) != 4 or spec.shape[0] not in (1, -1) or min(spec.shape[1:]) < 1:
        return None
    a, b, c = spec.shape[1:]
    last = c < a
    if channels and (a == channels) != (c == channels):
        last = c == channels
    last = wanted == "nhwc" if wanted != "auto" else last
    return _Map(at, a, b, c, True) if last else _Map(at, b, c, a, False)


def _roles(options: Options, context: DecoderContext) -> tuple[_Map, _Map | None, _Map | None]:
    """Heat, sizes and offsets: by name where shapes fit several. Raises `ModelError`."""
    specs, labels = context.outputs, len(context.labels)

    def pair(spec: TensorSpec) -> bool:
        part = _read(0, spec, options.layout, 2)
        return part is not None and part.channels == 2

    sizes = match(specs, pair, ("wh", "size"), options.size_output)
    offsets = match(specs, pair, ("off", "reg"), options.offset_output)
    if len(sizes) == 1 and len(offsets) == 2:
        offsets = [at for at in offsets if at not in sizes]
    if len(offsets) == 1 and len(sizes) == 2:
        sizes = [at for at in sizes if at not in offsets]
    if len(specs) == 1:
        sizes, offsets = [], []
    elif sizes == offsets:  # two outputs only: the sizes
        offsets = []
    others = [at for at in range(len(specs)) if at not in (*sizes, *offsets)]
    heats = [
        part
        for at in others
        if options.heat_output in ("", specs[at].name)
        and (part := _read(at, specs[at], options.layout, labels)) is not None
    ]
    size = _read(sizes[0], specs[sizes[0]], options.layout, 2) if len(sizes) == 1 else None
    offset = _read(offsets[0], specs[offsets[0]], options.layout, 2) if len(offsets) == 1 else None
    sides = {part[1:3] for part in (*heats, size, offset) if part is not None}
    if len(heats) != 1 or len(sizes) > 1 or len(offsets) > 1 or len(sides) != 1:
        raise ModelError(
            "the outputs are not those of CenterNet, or cannot be told apart",
            where=_WHERE,
            expected="a heat map 1×C×H×W or 1×H×W×C, and sizes and offsets with 2 channels of the same H×W",
            got=describe(specs),
            remedy="name them in the decoder's options: heat_output, size_output, offset_output; or set layout",
        )
    return heats[0], size, offset
