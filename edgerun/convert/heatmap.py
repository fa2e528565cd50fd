"""Pictures of an explanation: read what is explained, draw the heat into it, write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgerun.convert.explain import Explanation
from edgerun.convert.likeness import Target
from edgerun.errors import ConfigError, FrameError
from edgerun.publish.draw import draw
from edgerun.types import Answer, Classification, Detection, Image, Segment


def read_picture(path: Path) -> Image:
    """The picture in `path`, H×W×3 uint8 BGR, turned as its EXIF says. Raises `ConfigError`."""
    import cv2

    from edgerun.capture.picture import decode_picture

    try:
        return decode_picture(cv2, path.read_bytes(), None, str(path))[0]
    except OSError as error:
        raise ConfigError(
            "the picture cannot be read", where=path, expected="a JPEG, PNG or other picture", got=error.strerror
        ) from error
    except FrameError as error:
        raise ConfigError(error.what, where=path, expected="a JPEG, PNG or other picture", got=error.got) from error


def write_picture(path: Path, picture: Image) -> None:
    """Write `picture` (BGR) in the format that the name ends with. Raises `ConfigError` when it cannot be written."""
    import cv2

    content = cv2.imencode(path.suffix, picture)[1].tobytes()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError("the picture cannot be written", where=path, got=error.strerror) from error


def draw_heat(picture: Image, explanation: Explanation) -> Image:
    """A copy of `picture` (H×W×3 uint8 BGR) under the heat, with the result's box and name.

    Cold places stay as they are and lose their colour, so that what shows in colour is what counted.
    """
    import cv2

    height, width = picture.shape[:2]
    heat = cv2.resize(explanation.heat, (width, height), interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    weight = (0.65 * np.sqrt(heat)).astype(np.float32)
    drawn: Image = cv2.blendLinear(colors, grey, weight, 1.0 - weight)
    draw(drawn, _as_answer(explanation.target))
    return drawn


def _as_answer(target: Target) -> Answer:
    """The target as an answer that holds nothing else, for drawing."""
    label, class_id, score = target.label or target.kind, target.class_id or 0, target.score or 0.0
    if target.kind == "detections" and target.box is not None:
        return Answer(detections=(Detection(label, class_id, score, target.box),))
    if target.kind == "classes":
        return Answer(classes=(Classification(label, class_id, score),))
    if target.kind == "segments":
        return Answer(segments=(Segment(label, class_id, score),))
    return Answer(values=())
