"""The samples on which original and result differ most: what each of them sees, and on which part it rests."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from edgerun.convert.explain import Predictor, explain
from edgerun.convert.heatmap import draw_heat
from edgerun.convert.likeness import Wanted, iou
from edgerun.convert.parts import Progress, Samples, Worst
from edgerun.errors import ConfigError, FrameError
from edgerun.publish.draw import draw
from edgerun.types import Answer, Image

Opener = Callable[[], Predictor]
"""Opens a model to look at pictures with; the report closes it."""

_DRAWN_PX = 480
"""Shorter pictures are enlarged to this longer side, so that labels drawn into them can be read."""
_JPEG_QUALITY = 82
_HEAT_BUDGET_S = 60.0
"""No further heat-map is begun after so long: a slow model's conversion must not end with many minutes of drawing."""


class Example(msgspec.Struct, frozen=True):
    """One of the worst samples with its pictures: (caption, data: URL), none where the sample is no picture."""

    worst: Worst
    pictures: tuple[tuple[str, str], ...]


def examples(
    worst: Sequence[Worst],
    evaluation: Samples | None,
    openers: Sequence[tuple[str, Opener]],
    inferences: int,
    progress: Progress,
) -> list[Example]:
    """The `worst` samples as `openers` ((name, opener): the original, the result) see them, boxes and all.

    With `inferences` (0: none) a heat-map of each model's result that the other lacks most, as long as the time allows.
    """
    if evaluation is None or not worst:
        return [Example(one, ()) for one in worst]
    found = []
    until_s = time.monotonic() + _HEAT_BUDGET_S
    with ExitStack() as stack:
        models = [(name, stack.enter_context(opener())) for name, opener in openers]
        for at, one in enumerate(worst):
            progress("drawing the worst samples", at, len(worst))
            in_time = time.monotonic() < until_s
            found.append(Example(one, _pictures(one, evaluation, models, inferences if in_time else 0)))
    return found


def _pictures(
    one: Worst, evaluation: Samples, models: Sequence[tuple[str, Predictor]], inferences: int
) -> tuple[tuple[str, str], ...]:
    if not 0 <= one.index < len(evaluation):
        return ()
    sample = evaluation[one.index]
    if sample.picture is None:
        return ()
    picture = np.ascontiguousarray(sample.picture[:, :, ::-1])
    if not models:
        return (("the sample", data_url(_enlarged(picture))),)
    try:
        answers = [model.answer(picture) for _, model in models]
    except FrameError:  # numbers that are none: the texts say it
        return (("the sample", data_url(_enlarged(picture))),)
    drawn = []
    for (name, _), answer in zip(models, answers, strict=True):
        canvas = _enlarged(picture).copy()
        draw(canvas, answer)
        drawn.append((name, data_url(canvas)))
    if inferences:
        for at, (name, model) in enumerate(models):
            others = answers[1 - at] if len(answers) == 2 else Answer()
            drawn += _heat(name, model, picture, odd_one(answers[at], others), inferences)
    return tuple(drawn)


def odd_one(mine: Answer, theirs: Answer) -> int:
    """Which of my detections is least to be found among theirs, by label and IoU; 0 where there are none."""
    if not mine.detections:
        return 0
    found = [
        max((iou(own.box, other.box) for other in theirs.detections or () if other.label == own.label), default=0.0)
        for own in mine.detections
    ]
    return found.index(min(found))


def _heat(name: str, model: Predictor, picture: Image, index: int, inferences: int) -> list[tuple[str, str]]:
    try:
        found = explain(model, picture, Wanted(index=index), inferences=inferences)
    except (ConfigError, FrameError):  # it sees nothing there, which the picture beside it shows
        return []
    caption = f"{name}: what carried “{found.target.text}”"
    return [(caption, data_url(draw_heat(_enlarged(picture), found)))]


def _enlarged(picture: Image) -> Image:
    import cv2

    height, width = picture.shape[:2]
    factor = _DRAWN_PX / max(height, width)
    if factor <= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    larger: Image = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    return larger


def data_url(picture: Image) -> str:
    """`picture` (H×W×3 uint8 BGR) as a JPEG in a URL."""
    import cv2

    content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def file_url(path: Path) -> str | None:
    """The picture in `path` as a JPEG in a URL; None where it is no picture."""
    import cv2

    if not path.is_file():
        return None
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return data_url(picture) if picture is not None else None
