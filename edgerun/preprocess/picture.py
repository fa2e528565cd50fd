"""Camera pictures → the picture input of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.errors import FrameError, ModelError
from edgerun.preprocess.fit import Fit, Geometry, pixels_of, place_part
from edgerun.preprocess.values import Writer, is_identity, make_writer, value_table
from edgerun.types import Box, Image, Placement, Tensor, TensorSpec

Layout = Literal["NHWC", "NCHW"]
Color = Literal["RGB", "BGR", "GRAY"]

PAD = 114
"""Grey of the bars beside a letterboxed picture, in pixels: what YOLOv5 and its successors are trained with."""


class PicturePreprocess:
    """Resizes (bilinear), converts the colour and normalises pictures into the rows of the input's tensor.

    Resizing comes first, because every later step then works on the model's few pixels instead of the camera's many.
    All buffers are allocated here; `prepare` allocates nothing. `mean` and `std` act on 0–255 pixels, one per channel
    in the order of `color`, or one for all; `rows` is how many pictures the tensor holds. Used by one thread at a time.
    Raises `ModelError` when the input is not a picture of this layout and colour.
    """

    def __init__(
        self,
        spec: TensorSpec,
        *,
        size: tuple[int, int] | None = None,
        layout: Layout = "NHWC",
        color: Color = "RGB",
        fit: Fit = "stretch",
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        rows: int = 1,
    ) -> None:
        channels = 1 if color == "GRAY" else 3
        self.size = width, height = _picture_size(spec, layout, channels, size, rows)
        means, stds = _per_channel("mean", mean, channels, spec), _per_channel("std", std, channels, spec)
        values = _Values(value_table(spec, means, stds), means, stds, spec)
        shape = (height, width, channels) if layout == "NHWC" else (channels, height, width)
        self._tensor: Tensor = np.zeros((rows, *shape), values.table.dtype)
        self._rows = [_Row(self._tensor[i : i + 1], self.size, layout, color, fit, values) for i in range(rows)]

    def prepare(self, image: Image, region: Box | None = None, row: int = 0) -> tuple[Tensor, Placement]:
        """See `ports.Preprocess`. Raises `FrameError` when `image` is not H×W×3 uint8, or nothing of it is left."""
        return self._rows[row].prepare(image, region)

    def batch(self, rows: int, first: int = 0) -> Tensor:
        """See `ports.Preprocess`."""
        return self._tensor[first : first + rows]

    def picture(self, row: int = 0) -> Image:
        """What the row was made from last: the resized picture with its bars, `H×W×3` uint8 BGR of the model's size.

        `prepare`d again it gives the same tensor. Valid until the next call with that row.
        """
        return self._rows[row].resized

    def reset(self) -> None:
        """See `ports.Preprocess`: nothing is remembered."""


class _Values(msgspec.Struct, frozen=True):
    """What pixels become: the table, and the normalisation it was made from."""

    table: NDArray[Any]
    mean: Sequence[float]
    std: Sequence[float]
    spec: TensorSpec


class _Row:
    """One picture's way into its `1×…` part of the tensor."""

    def __init__(
        self, tensor: Tensor, size: tuple[int, int], layout: Layout, color: Color, fit: Fit, values: _Values
    ) -> None:
        import cv2

        self._tensor, self._size, self._fit = tensor, size, fit
        width, height = size
        channels = 1 if color == "GRAY" else 3
        flat = layout == "NHWC" or channels == 1
        picture = (height, width) if channels == 1 else (height, width, channels)
        self._writers: list[Writer] = []
        direct = is_identity(values.table) and flat
        converted = tensor.reshape(picture) if direct else np.zeros(picture, np.uint8)
        # Grey needs a converted copy even where a colour model would take the resized picture as it is.
        self._resized: Image = converted if color == "BGR" else np.zeros((height, width, 3), np.uint8)
        if color != "BGR":
            code = cv2.COLOR_BGR2RGB if color == "RGB" else cv2.COLOR_BGR2GRAY
            resized = self._resized
            self._writers.append(lambda: cv2.cvtColor(resized, code, dst=converted))
        if not direct and flat:
            self._writers.append(
                make_writer(converted, tensor.reshape(picture), values.table, values.mean, values.std, values.spec)
            )
        elif not direct:
            self._write_planes(converted, values)
        self._geometry: Geometry | None = None
        self._shape: tuple[int, ...] = ()
        self._region: Box | None = None
        self._target: Image = self._resized

    @property
    def resized(self) -> Image:
        return self._resized

    def prepare(self, image: Image, region: Box | None) -> tuple[Tensor, Placement]:
        import cv2

        geometry = self._geometry
        if geometry is None or image.shape != self._shape or region != self._region or image.dtype != np.uint8:
            geometry = self._adapt(image, region)
        x0, y0, x1, y1 = geometry.source
        try:
            cv2.resize(image[y0:y1, x0:x1], self._target_size, dst=self._target, interpolation=cv2.INTER_LINEAR)
            for write in self._writers:
                write()
        except cv2.error as error:
            text = " ".join(str(error).split())
            raise FrameError("OpenCV cannot resize this picture", reason="preprocess", got=text) from error
        return self._tensor, geometry.placement

    def _write_planes(self, converted: Image, values: _Values) -> None:
        """NCHW: split into planes, then write each."""
        import cv2

        tensor = self._tensor[0]
        table = values.table
        identity = is_identity(table)
        planes = list(tensor) if identity else list(np.zeros(tensor.shape, np.uint8))
        self._writers.append(lambda: cv2.split(converted, planes))
        if not identity:
            for i, plane in enumerate(planes):
                one = slice(i, i + 1)
                self._writers.append(
                    make_writer(plane, tensor[i], table[one], values.mean[one], values.std[one], values.spec)
                )

    def _adapt(self, image: Image, region: Box | None) -> Geometry:
        """The geometry for pictures of this shape and this region of them, from now on."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise FrameError(
                "this picture cannot be used",
                reason="preprocess",
                expected="height×width×3 uint8 (BGR), no side 0",
                got=f"{'×'.join(map(str, image.shape)) or 'a scalar'} {image.dtype}",
            )
        height, width = image.shape[:2]
        part = (0, 0, width, height) if region is None else pixels_of(region, width, height)
        geometry = place_part(part, width, height, *self._size, self._fit)
        x0, y0, x1, y1 = geometry.target
        self._resized[...] = PAD
        self._target = self._resized[y0:y1, x0:x1]
        self._target_size = (x1 - x0, y1 - y0)
        self._geometry, self._shape, self._region = geometry, image.shape, region
        return geometry


def _picture_size(
    spec: TensorSpec, layout: Layout, channels: int, size: tuple[int, int] | None, rows: int
) -> tuple[int, int]:
    """Width and height of the input, from its shape where that states them."""
    shape = spec.shape
    wanted = "1×height×width×channels" if layout == "NHWC" else "1×channels×height×width"
    if len(shape) == 4 and (shape[0] in (1, -1) or rows > 1):
        height, width, depth = shape[1:] if layout == "NHWC" else (shape[2], shape[3], shape[1])
        if size is not None:
            width, height = (
                stated if stated > 0 else given for stated, given in zip((width, height), size, strict=True)
            )
        if depth in (channels, -1) and width > 0 and height > 0 and size in (None, (width, height)):
            return width, height
    at = f", {size[0]}×{size[1]} pixels" if size else ""
    raise ModelError(
        "the input does not take pictures as described",
        where=spec.name,
        expected=f"{wanted} ({layout}) with {channels} channels{at}",
        got="×".join("?" if side < 0 else str(side) for side in shape),
        remedy="correct layout, color and size in the manifest",
    )


def _per_channel(key: str, values: Sequence[float], channels: int, spec: TensorSpec) -> list[float]:
    numbers = [float(value) for value in values] * (channels if len(values) == 1 else 1)
    if len(numbers) != channels or not np.isfinite(numbers).all() or (key == "std" and min(numbers) <= 0):
        raise ModelError(
            f"{key} does not fit the input",
            where=spec.name,
            expected=f"{channels} finite numbers{', each above 0' if key == 'std' else ''}, or one for all",
            got=list(values),
        )
    return numbers
