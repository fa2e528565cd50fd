"""Models that are known by their tensors: published ones whose files say nothing of themselves.

A family is recognised only by names, shapes and types together that nothing else is likely to have; what it then
tells comes from its makers' own code or paper, named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgerun.models.facts import Facts
from edgerun.models.manifest import PictureInput, Signal
from edgerun.models.structure import Structure

_MIDDLE = (127.5,)
"""As mean and std: pixels become -1..1."""


def recognise(file: Structure) -> Facts | None:
    """What is known of the model, or None."""
    for family in _FAMILIES:
        facts = family(file)
        if facts is not None:
            return facts
    return None


def ssd_anchor_count(size: tuple[int, int]) -> int:
    """Anchors of the TensorFlow Object Detection API's default SSD: six grids of strides 16 … 512, three anchors in the
    cells of the first, six in the others (`multiple_grid_anchor_generator.py`, `reduce_boxes_in_lowest_layer`).
    """
    grids = [math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in (16, 32, 64, 128, 256, 512)]
    return 3 * grids[0] + 6 * sum(grids[1:])


def _silero_5(file: Structure) -> Facts | None:
    """Windows of 512 samples at 16 kHz, each after the last 64 of the one before (`utils_vad.py`, version 5 and 6)."""
    if _names(file) != ({"input", "state", "sr"}, {"output", "stateN"}):
        return None
    return Facts(
        task="vad",
        decoder="vad",
        labels=("speech",),
        signal=Signal(rate_hz=16000, channels=1, samples=576, hop=512),
        shapes={"input": (1, 576), "state": (2, 1, 128)},
        constants={"sr": 16000},
        state=(("state", "stateN"),),
        origin="recognised: Silero VAD 5 or 6",
    )


def _silero_4(file: Structure) -> Facts | None:
    """Windows of 512 samples at 16 kHz (`utils_vad.py`, version 3 and 4)."""
    if _names(file) != ({"input", "sr", "h", "c"}, {"output", "hn", "cn"}):
        return None
    return Facts(
        task="vad",
        decoder="vad",
        labels=("speech",),
        signal=Signal(rate_hz=16000, channels=1, samples=512, hop=512),
        shapes={"input": (1, 512), "h": (2, 1, 64), "c": (2, 1, 64)},
        constants={"sr": 16000},
        state=(("h", "hn"), ("c", "cn")),
        origin="recognised: Silero VAD 3 or 4",
    )


def _micro_wake_word(file: Structure) -> Facts | None:
    """int8 features of a few 10 ms steps in, one probability out, state inside (microWakeWord and ESPHome: 16 kHz,
    30 ms windows every 10 ms, 40 channels of the TensorFlow Lite Micro front end). Its published words are told apart
    by a mean of five answers above 0.85 to 0.97 (`probability_cutoff` and `sliding_window_size` of their manifests).
    """
    if len(file.inputs) != 1 or len(file.outputs) != 1 or not file.variables:
        return None
    given, answer = file.inputs[0], file.outputs[0]
    if len(given.shape) != 3 or given.shape[0] != 1 or given.shape[2] != 40 or given.dtype != "int8":
        return None
    if answer.shape != (1, 1) or answer.dtype != "uint8":
        return None
    steps = given.shape[1]
    return Facts(
        task="keyword",
        decoder="keyword",
        threshold=0.85,
        signal=Signal(rate_hz=16000, channels=1, samples=480 + 160 * (steps - 1), hop=160 * steps, features="micro"),
        origin="recognised: microWakeWord",
    )


def _blazeface(file: Structure) -> Facts | None:
    """MediaPipe's `face_detection_short_range.pbtxt` and `face_detection_full_range`: aspect kept, -1..1."""
    if len(file.inputs) != 1 or len(file.inputs[0].shape) != 4 or len(file.outputs) != 2:
        return None
    size = (file.inputs[0].shape[2], file.inputs[0].shape[1])
    shapes = sorted(spec.shape for spec in file.outputs)
    for side, count in ((128, 896), (192, 2304)):
        if size == (side, side) and shapes == [(1, count, 1), (1, count, 16)]:
            return Facts(
                task="detect",
                decoder="blazeface",
                labels=("face",),
                picture=PictureInput(color="RGB", fit="letterbox", mean=_MIDDLE, std=_MIDDLE),
                origin="recognised: BlazeFace",
            )
    return None


def _ssd(file: Structure) -> Facts | None:
    """Raw SSD heads; MobileNet's extractors of that API take (2/255) · pixel - 1, stretched."""
    if len(file.inputs) != 1 or len(file.inputs[0].shape) != 4 or len(file.outputs) != 2:
        return None
    size = (file.inputs[0].shape[2], file.inputs[0].shape[1])
    boxes, scores = sorted((spec.shape for spec in file.outputs), key=lambda shape: shape[-1:] != (4,))
    count = ssd_anchor_count(size)
    if min(size) < 32 or boxes != (1, count, 4) or len(scores) != 3 or scores[:2] != (1, count):
        return None
    return Facts(
        task="detect",
        decoder="ssd-anchors",
        picture=PictureInput(color="RGB", fit="stretch", mean=_MIDDLE, std=_MIDDLE),
        origin=f"recognised: TF Object Detection SSD, {count} anchors",
    )


def _movenet(file: Structure) -> Facts | None:
    """Single-pose MoveNet: 17 keypoints (y, x, score); pixels as they are (TensorFlow Hub, `movenet/singlepose`)."""
    if len(file.inputs) != 1 or len(file.outputs) != 1 or file.outputs[0].shape != (1, 1, 17, 3):
        return None
    return Facts(
        task="pose",
        decoder="pose",
        picture=PictureInput(color="RGB", fit="letterbox", mean=(0.0,), std=(1.0,)),
        origin="recognised: MoveNet",
    )


def _names(file: Structure) -> tuple[set[str], set[str]]:
    return {spec.name for spec in file.inputs}, {spec.name for spec in file.outputs}


_FAMILIES: tuple[Callable[[Structure], Facts | None], ...] = (
    _silero_5,
    _silero_4,
    _micro_wake_word,
    _blazeface,
    _ssd,
    _movenet,
)
