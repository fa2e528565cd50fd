"""`manifest.json`: what a bundle says of itself, as bytes checked into structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgerun.decoding import decode
from edgerun.errors import ModelError
from edgerun.models.strict import check_json

VERSION = 1

Format = Literal["tflite", "onnx"]
MAX_SIDE = 16384
_Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
_Extent = Annotated[int, Meta(ge=1, le=1 << 24)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Shape = Annotated[tuple[_Extent, ...], Meta(max_length=8)]
_Text = Annotated[str, Meta(min_length=1, max_length=200)]


class PictureInput(msgspec.Struct, frozen=True):
    """How a picture goes into the model; None where that is not known (yet).

    `size` is (width, height) in pixels; `mean` and `std` act on 0–255 pixels, one number per channel in the order of
    `color`, or one for all.
    """

    name: str | None = None
    size: tuple[_Side, _Side] | None = None
    layout: Literal["NHWC", "NCHW"] | None = None
    color: Literal["RGB", "BGR", "GRAY"] | None = None
    fit: Literal["stretch", "letterbox", "crop"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Signal(msgspec.Struct, frozen=True):
    """What a model that takes no picture listens to; None where that is not known.

    `samples` moments of `channels` values each, `rate_hz` of them a second, go into one inference and `hop` new ones
    into the next. With `features` ("micro": the log-mel features of TensorFlow Lite Micro's front end) the model takes
    those of the samples instead; `options` are the front end's. The model is given (value - mean)/std: one number per
    channel (or per band of the features), or one for all. `layout` says whether time or channel comes first where the
    shape leaves it open.
    """

    rate_hz: Annotated[float, Meta(gt=0, le=1e7)] | None = None
    channels: Annotated[int, Meta(ge=1, le=1024)] | None = None
    samples: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    hop: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    features: Literal["micro"] | None = None
    options: dict[str, Any] = {}
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=1024)] = (0.0,)
    std: Annotated[tuple[float, ...], Meta(min_length=1, max_length=1024)] = (1.0,)
    layout: Literal["TC", "CT"] | None = None


class FileEntry(msgspec.Struct, frozen=True):
    """One file of the bundle: its SHA-256 in hexadecimal, and its size where stated."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$")]
    bytes: Annotated[int, Meta(ge=0)] | None = None


class ArtifactEntry(msgspec.Struct, frozen=True, rename={"accelerators": "for"}):
    """A model file and the accelerators it is made for."""

    file: _Text
    accelerators: Annotated[tuple[_Text, ...], Meta(min_length=1)] = ("cpu",)


class Manifest(msgspec.Struct, frozen=True):
    """The keys of version 1 that running a model needs; others (measured, source …) are for people and tools."""

    v: int
    name: _Text
    version: _Text
    files: dict[str, FileEntry]
    artifacts: Annotated[tuple[ArtifactEntry, ...], Meta(min_length=1)]
    task: str | None = None
    inputs: tuple[PictureInput, ...] = ()
    decoder: dict[str, Any] | None = None
    labels: str | None = None
    threshold: _Share | None = None
    signal: Signal | None = None
    reference: dict[str, Any] | None = None
    constants: dict[str, Any] = {}
    """Input → what it is always given: a number, or a list of the input's shape."""
    state: tuple[tuple[str, str], ...] | None = None
    """Pairs of an input and the output that is fed back into it."""
    shapes: dict[str, _Shape] = {}
    """Input → its shape, where the file leaves sides open."""
    expires: str | None = None
    """When the bundle is not installed or activated any more (RFC 3339); what runs goes on, loudly."""
    devices: Annotated[tuple[_Text, ...], Meta(max_length=1000)] = ()
    """Which devices it may be installed on: ids, or patterns with * and ?; empty: all."""
    source: Any = None


class _Version(msgspec.Struct, frozen=True):
    v: int


def parse_manifest(content: bytes, where: object) -> Manifest:
    """The manifest in `content` (UTF-8 JSON). Raises `ModelError`."""
    check_json(content, where)
    try:
        version = decode(content, _Version).v
        if version != VERSION:
            raise ModelError(
                "the manifest is of a version this edgerun does not know",
                where=where,
                expected=f'"v": {VERSION}',
                got=version,
                remedy="update edgerun, or make the bundle with a version that fits",
            )
        manifest = decode(content, Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            "the manifest is not valid", where=where, expected="the JSON of a bundle's manifest", got=error
        ) from error
    if manifest.decoder is not None and not isinstance(manifest.decoder.get("kind"), str):
        raise ModelError("the decoder has no kind", where=where, expected='"decoder": {"kind": "…"}')
    return manifest
