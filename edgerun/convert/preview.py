"""What the model will really see, as one picture: wrong normalisation is the commonest fault, and here it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.convert.parts import Samples
from edgerun.convert.subject import Subject
from edgerun.errors import DeviceError
from edgerun.types import Image, Tensor

_COLUMNS, _ROWS, _TILE = 6, 4, 160
_MARGIN, _LINE = 8, 18
_INK, _PAPER, _ALARM = (32, 32, 32), (250, 250, 250), (32, 32, 200)  # BGR
_SAMPLED = 64
_RGB = ("R", "G", "B")


class Channel(msgspec.Struct, frozen=True):
    """The values of one channel of the input, after normalisation, over the samples looked at."""

    name: str
    min: float
    mean: float
    max: float


class Preview(msgspec.Struct, frozen=True):
    """What was seen; `warnings` are sentences, empty where nothing looks wrong."""

    channels: tuple[Channel, ...]
    warnings: tuple[str, ...]
    samples: int


def look(subject: Subject, samples: Samples) -> Preview:
    """The ranges of the tensors that the model gets, of at most 64 samples spread over the set."""
    indices = spread(len(samples), _SAMPLED)
    tables = [_channels(subject, next(iter(samples[at].inputs.values()))) for at in indices]
    low = np.min([table.min(axis=1) for table in tables], axis=0)
    high = np.max([table.max(axis=1) for table in tables], axis=0)
    mean = np.mean([table.mean(axis=1) for table in tables], axis=0)
    names = _names(subject, len(low))
    channels = tuple(Channel(*row) for row in zip(names, low.tolist(), mean.tolist(), high.tolist(), strict=True))
    return Preview(channels, _warnings(subject, channels), len(samples))


def draw(subject: Subject, samples: Samples, path: Path) -> Preview:
    """Write the contact sheet (PNG): samples turned back from the tensor, its ranges, and what looks wrong.

    Where the model takes no pictures each sample is drawn as curves. Raises `DeviceError` where it cannot be written.
    """
    import cv2

    found = look(subject, samples)
    tiles = [_tile(cv2, subject, samples[at]) for at in spread(len(samples), _COLUMNS * _ROWS)]
    rows = -(-len(tiles) // _COLUMNS)
    lines = _lines(subject, samples, found)
    top = 2 * _MARGIN + _LINE * len(lines)
    height = top + rows * (_TILE + _MARGIN)
    width = _MARGIN + _COLUMNS * (_TILE + _MARGIN)
    sheet = np.full((height, width, 3), _PAPER, np.uint8)
    for at, (text, alarm) in enumerate(lines):
        place = (_MARGIN, _MARGIN + _LINE * (at + 1) - 5)
        ink = _ALARM if alarm else _INK
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, ink, 1, cv2.LINE_AA)
    for at, tile in enumerate(tiles):
        y = top + (at // _COLUMNS) * (_TILE + _MARGIN)
        x = _MARGIN + (at % _COLUMNS) * (_TILE + _MARGIN)
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    done, content = cv2.imencode(".png", sheet)
    try:
        path.write_bytes(content.tobytes() if done else b"")
    except OSError as error:
        raise DeviceError("the preview cannot be written", where=path, got=error.strerror or str(error)) from error
    return found


def restore(subject: Subject, tensor: Tensor) -> Image:
    """The tensor turned back into a picture, H×W×3 uint8 BGR: times std, plus mean, in the model's own colours.

    A wrong normalisation cannot be seen in it, a wrong colour order and fit can.
    """
    picture = subject.bundle.picture
    values = tensor[0].astype(np.float64)
    if picture.layout == "NCHW":
        values = values.transpose(1, 2, 0)
    pixels = values * np.array(picture.std or (1.0,)) + np.array(picture.mean or (0.0,))
    shown: Image = pixels.round().clip(0, 255).astype(np.uint8)
    if shown.shape[2] == 1:
        return np.repeat(shown, 3, axis=2)
    # The sheet shows colours as the model is told they are: blue faces tell that the order is wrong.
    return np.ascontiguousarray(shown[..., ::-1] if picture.color != "BGR" else shown)


def spread(count: int, most: int) -> list[int]:
    """At most `most` places of `count`, evenly spread."""
    if count <= most:
        return list(range(count))
    return sorted({int(at) for at in np.linspace(0, count - 1, most).round()})


def _channels(subject: Subject, tensor: Tensor) -> NDArray[np.float64]:
    """The tensor as channels×values."""
    values = tensor.astype(np.float64)
    if subject.kind == "picture" and values.ndim == 4:
        axis = 1 if subject.bundle.picture.layout == "NCHW" else 3
        return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return values.reshape(1, -1)


def _names(subject: Subject, count: int) -> Sequence[str]:
    color = subject.bundle.picture.color
    if subject.kind == "picture" and count == 3:
        return _RGB[::-1] if color == "BGR" else _RGB
    return ["grey"] if count == 1 and subject.kind == "picture" else [str(at) for at in range(count)]


def _warnings(subject: Subject, channels: Sequence[Channel]) -> tuple[str, ...]:
    """What few models want. Trained ranges are 0..1, -1..1, or about -2.7..2.7 (ImageNet's mean and deviation)."""
    if subject.kind != "picture" or not subject.inputs[0].dtype.startswith("float"):
        return ()
    low, high = min(one.min for one in channels), max(one.max for one in channels)
    mean = sum(one.mean for one in channels) / len(channels)
    found = []
    if high > 16:
        found.append(f"Values go up to {high:.4g}: few float models want raw pixels. Check --mean and --std.")
    elif high - low < 0.2:
        found.append(f"All values lie in {low:.3g}..{high:.3g}: normalised twice, or dark pictures? Check --std.")
    elif abs(mean) > 3 or high > 6 or low < -6:
        found.append(f"Values lie in {low:.3g}..{high:.3g} around {mean:.3g}: unusual. Check --mean and --std.")
    if channels and max(one.mean for one in channels) - min(one.mean for one in channels) > 0.5 * max(high - low, 1e-9):
        found.append("The channels lie far apart: is --mean in the order of --color?")
    return tuple(found)


def _lines(subject: Subject, samples: Samples, found: Preview) -> list[tuple[str, bool]]:
    """Text above the pictures, in what OpenCV's fonts can draw."""
    picture = subject.bundle.picture
    lines = [(f"{len(samples)} samples of {samples.source}"[:110], False)]
    if subject.kind == "picture" and picture.size is not None:
        mean = ", ".join(f"{one:g}" for one in picture.mean or ())
        std = ", ".join(f"{one:g}" for one in picture.std or ())
        lines.append(
            (
                f"{picture.size[0]}x{picture.size[1]} {picture.color} {picture.fit}, (pixel - {mean}) / {std}"[:110],
                False,
            )
        )
    lines += [
        (f"{one.name}: min {one.min:.4g}  mean {one.mean:.4g}  max {one.max:.4g}", False) for one in found.channels
    ]
    lines += [(text[:120], True) for text in found.warnings]
    return [(text.encode("ascii", "replace").decode(), alarm) for text, alarm in lines]


def _tile(cv2: Any, subject: Subject, sample: Any) -> Image:
    tensor = next(iter(sample.inputs.values()))
    if subject.kind == "picture" and tensor.ndim == 4:
        whole = restore(subject, tensor)
        scale = min(_TILE / whole.shape[0], _TILE / whole.shape[1])
        size = (max(1, round(whole.shape[1] * scale)), max(1, round(whole.shape[0] * scale)))
        shrunk: Image = cv2.resize(whole, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
        return shrunk
    return _curve(cv2, tensor)


def _curve(cv2: Any, tensor: Tensor) -> Image:
    tile = np.full((_TILE, _TILE, 3), 255, np.uint8)
    values = tensor.astype(np.float64).reshape(-1)[: 64 * _TILE]
    low, span = float(values.min()), float(np.ptp(values)) or 1.0
    x = np.linspace(0, _TILE - 1, len(values))
    y = (_TILE - 1) * (1 - (values - low) / span)
    points = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(tile, [points], False, _INK, 1, cv2.LINE_AA)
    return tile
