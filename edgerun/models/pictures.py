"""How a picture goes into a model: size, layout, colour, fit and normalisation, each from whoever says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from edgerun.errors import ModelError
from edgerun.models.bundle import Bundle
from edgerun.models.facts import Facts
from edgerun.models.manifest import PictureInput
from edgerun.models.structure import sides
from edgerun.models.understanding import Ledger
from edgerun.types import TensorSpec

PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0..255": ((0.0,), (1.0,)),
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""What a float model may have been trained on → mean and std of 0–255 pixels. `imagenet`: 255 × (0.485, 0.456, 0.406)
and 255 × (0.229, 0.224, 0.225), as torchvision's models state.
"""

_SMALLEST_SIDE, _LONGEST_ASPECT = 8, 4

_YOLOS = ("yolo", "yolo-pose", "yolo-segment", "yolo-obb")


def looks_like_picture(shape: Sequence[int]) -> bool:
    """Four sides of which two make a picture: neither tiny nor a strip. A layout that is in doubt counts as one."""
    if len(shape) != 4:
        return False
    last, second = shape[3] in (1, 3), shape[1] in (1, 3)
    if last == second:
        return min(shape[1:3]) != 1 and max(shape[1], shape[3]) <= 16
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    if min(height, width) < 0:
        return True
    return min(height, width) >= _SMALLEST_SIDE and max(height, width) <= _LONGEST_ASPECT * min(height, width)


def describe_picture(
    bundle: Bundle,
    inputs: Sequence[TensorSpec],
    layers: Sequence[Facts],
    size: tuple[int, int] | None,
    ledger: Ledger,
) -> DescribedPicture | None:
    """The picture input with its layout and size, or None when it has none, which is then noted as a need.

    Raises `ModelError` for a manifest that describes another input.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        error = ModelError(
            "this is not a model for pictures",
            where=bundle.name,
            expected="one input 1×height×width×channels or 1×channels×height×width",
            got=", ".join(f"{spec.name} {sides(spec.shape)} {spec.dtype}" for spec in inputs) or "no inputs",
            remedy="name its other inputs in a manifest.json (state, constants), or use a model for pictures",
        )
        ledger.need("one input for a picture", None, "constants or state", error)
        return None
    wanted, spec = bundle.picture.name, inputs[0]
    if wanted is not None and wanted != spec.name and not bundle.bare:
        raise ModelError(
            "the manifest describes another input",
            where=bundle.name,
            expected=f"inputs[0].name {spec.name!r}",
            got=wanted,
        )
    layout = _layout(bundle, spec, layers, ledger)
    if layout is None:
        return None
    shape = spec.shape
    height, width, channels = (shape[1], shape[2], shape[3]) if layout == "NHWC" else (shape[2], shape[3], shape[1])
    stated, origin = (size, "--size") if size is not None else _said(layers, "size")
    if min(width, height) < 1 and stated is None:
        error = ModelError(
            "the input's size is open",
            where=bundle.name,
            expected="inputs[0].size [width, height] in a manifest.json, or a model exported with a fixed size",
            got=sides(shape),
        )
        ledger.need("the picture's size", "--size WxH", "inputs[0].size", error)
        return None
    if min(width, height) >= 1:
        origin = f"shape {sides(shape)}"
    elif stated is not None:
        width, height = (own if own > 0 else said for own, said in zip((width, height), stated, strict=True))
    ledger.note("size", (width, height), origin)
    return DescribedPicture(bundle, spec, layers, ledger, layout, (width, height), channels)


class DescribedPicture:
    """A picture input whose place is known; `finish` adds what depends on the decoder."""

    def __init__(
        self,
        bundle: Bundle,
        spec: TensorSpec,
        layers: Sequence[Facts],
        ledger: Ledger,
        layout: Literal["NHWC", "NCHW"],
        size: tuple[int, int],
        channels: int,
    ) -> None:
        self._bundle, self._spec, self._layers, self._ledger = bundle, spec, layers, ledger
        self._layout, self._channels = layout, channels
        self.size = size

    def finish(self, kind: str | None, pixels: str | None) -> PictureInput:
        """The input with colour, fit and normalisation. Raises `ModelError` for a manifest with half of the latter."""
        ledger = self._ledger
        color, origin = _said(self._layers, "color")
        if color is not None:
            ledger.note("color", color, origin)
        elif self._channels == 1:
            color = ledger.note("color", "GRAY", f"shape {sides(self._spec.shape)}")
        else:
            color = ledger.assume("color", "RGB", "colour order RGB")
        fit, origin = _said(self._layers, "fit")
        if fit is not None:
            ledger.note("fit", fit, origin)
        elif kind in _YOLOS:
            fit = ledger.assume("fit", "letterbox", "letterboxed")
        else:
            fit = ledger.assume("fit", "stretch", "stretched to the input's size")
        mean, std = self._normalisation(kind, pixels)
        return PictureInput(
            name=self._spec.name, size=self.size, layout=self._layout, color=color, fit=fit, mean=mean, std=std
        )

    def _normalisation(
        self, kind: str | None, pixels: str | None
    ) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        stated = self._bundle.picture
        if (stated.mean is None) != (stated.std is None):
            raise ModelError(
                "mean without std or std without mean", where=self._bundle.name, expected="both in inputs[0], or none"
            )
        if pixels is not None:
            return self._noted(*given_pixels(pixels, self._channels, self._bundle.name), "--pixels")
        for one in self._layers:
            if one.picture.mean is not None and one.picture.std is not None:
                self._check(one)
                return self._noted(one.picture.mean, one.picture.std, one.origin)
        return self._assumed(kind)

    def _assumed(self, kind: str | None) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and std where nothing states them.

        8-bit inputs: pixels fill the input's range as they are (uint8) or less 128 (int8), as in TensorFlow Lite's
        examples; expressed through the quantisation so that quantising gives them back. Float inputs of YOLO: 0..1, as
        every exporter of that family has it. Any other float input could want 0..1, -1..1 or ImageNet's mean, which
        only its maker knows.
        """
        spec = self._spec
        if spec.dtype in ("uint8", "int8"):
            offset = 128 if spec.dtype == "int8" else 0
            self._ledger.assumed.append("pixels less 128" if offset else "raw pixels 0–255")
            if len(spec.scale) == 1 and len(spec.zero_point) == 1 and spec.scale[0] > 0:
                return self._noted((float(spec.zero_point[0] + offset),), (1 / spec.scale[0],), "assumed")
            return self._noted((float(offset),), (1.0,), "assumed")
        if kind in _YOLOS:
            self._ledger.assumed.append("pixels / 255 (0..1)")
            return self._noted((0.0,), (255.0,), "assumed")
        error = ModelError(
            "how pixels are normalised for this model is not known",
            where=self._bundle.name,
            expected="metadata in the file, or a bundle whose manifest.json has inputs[0].mean and inputs[0].std",
            got=f"a {spec.dtype} input {sides(spec.shape)} without metadata",
            remedy="pixel values become (pixel - mean) / std: [0] and [255] for models trained on 0..1, [127.5] and "
            "[127.5] for -1..1",
        )
        flag = f"--pixels {'|'.join(PIXELS)}"
        self._ledger.need("how pixels are normalised", flag, "inputs[0].mean and inputs[0].std", error)
        return None, None

    def _noted(
        self, mean: tuple[float, ...], std: tuple[float, ...], origin: str
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        self._ledger.note("mean", mean, origin)
        self._ledger.note("std", std, origin)
        return mean, std

    def _check(self, facts: Facts) -> None:
        """The file's own numbers must be usable: as many as channels or one, and nothing is divided by 0."""
        for name, values in (("mean", facts.picture.mean or ()), ("std", facts.picture.std or ())):
            finite = all(abs(value) < float("inf") for value in values)
            if len(values) not in (1, self._channels) or not finite or (name == "std" and 0.0 in values):
                raise ModelError(
                    f"the model's {name} cannot be used",
                    where=f"{self._bundle.name}: {facts.origin}",
                    expected=f"1 or {self._channels} numbers" + (", none of them 0" if name == "std" else ""),
                    got=", ".join(f"{value:g}" for value in values[:8]) or "none",
                )


def given_pixels(text: str, channels: int, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of one of `PIXELS`. Raises `ModelError` for another, and for three means of a grey picture."""
    if text not in PIXELS or (text == "imagenet" and channels != 3):
        known = [name for name in PIXELS if name != "imagenet" or channels == 3]
        raise ModelError(
            "pixels are not normalised that way", where=where, expected=f"--pixels {'|'.join(known)}", got=text
        )
    return PIXELS[text]


def _said(layers: Sequence[Facts], key: str) -> tuple[Any, str]:
    for one in layers:
        value = getattr(one.picture, key)
        if value is not None:
            return value, one.origin
    return None, ""


def _layout(
    bundle: Bundle, spec: TensorSpec, layers: Sequence[Facts], ledger: Ledger
) -> Literal["NHWC", "NCHW"] | None:
    """The channels are where a side is 1 or 3."""
    stated, origin = _said(layers, "layout")
    if stated is None:
        last, second = spec.shape[3] in (1, 3), spec.shape[1] in (1, 3)
        if last == second:
            error = ModelError(
                "where the input keeps its channels cannot be told from its shape",
                where=bundle.name,
                expected='inputs[0].layout "NHWC" or "NCHW" in a manifest.json',
                got=sides(spec.shape),
            )
            ledger.need("where the input keeps its channels", None, "inputs[0].layout", error)
            return None
        stated, origin = "NHWC" if last else "NCHW", f"shape {sides(spec.shape)}"
    return ledger.note("layout", stated, origin)  # type: ignore[no-any-return]
