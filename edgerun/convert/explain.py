"""Which part of a picture carried a model's result: it is covered here and there, and what is left of the result tells.

The model is a black box: whatever runs can be explained. Detections are explained by random masks (D-RISE), everything
else by a patch that is moved over the picture in several sizes (occlusion).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.app.opening import LoadedModel, open_decoder, open_model
from edgerun.config import ModelConfig, SourceConfig, StreamConfig
from edgerun.convert.likeness import SUREST, Likeness, Target, Wanted, choose
from edgerun.errors import ConfigError, ModelError
from edgerun.ports import Decoder
from edgerun.registry import resolve
from edgerun.types import Answer, Box, Image

Heat = NDArray[np.float32]
"""H×W, 0..1 (1: the hottest place), 0 where covering changes nothing that chance would not."""
Done = Callable[[int, int], None]
"""Told (inferences done, of how many)."""

LEAST, USUAL = 24, 200
"""Inferences: the fewest that give a map, and as many as are made unless told otherwise."""
_LONGEST_SIDE = 1280
"""Larger pictures are made smaller first (pixels): covering a camera's 12 megapixels costs more than inferring them."""
_MAP_SIDE = 96
"""Longer side of the map that masks are drawn and summed in."""
_LEVELS = (0.125, 0.25, 0.625)
"""Shares of the inferences that go to large, middle and small patches: the small ones need more to cover it all."""
_CELLS_MIN, _CELLS_MAX = 6, 16
"""Cells of a random mask along a side; 16 is D-RISE's own."""
_CHANCE = 2.0
"""Standard errors that random masks must agree by before a place counts as warm."""
_CLASS_FLOOR = 0.001
"""Score below which a class counts as gone."""
_REGIONS = 5


class Region(msgspec.Struct, frozen=True):
    """A warm part: `box` in 0..1 of the picture, its `share` of all the heat, and its hottest value (`peak`)."""

    box: Box
    share: float
    peak: float


class Explanation(msgspec.Struct, frozen=True):
    """What carried a result. `heat` has the picture's height and width, or both scaled down to 1280 for larger ones.

    `kept` is how like the result the model's answer to the whole picture is, from which covering takes away; for a
    class or a detection its score. `inferences` counts every one that was made.
    """

    target: Target
    method: str
    kept: float
    inferences: int
    seconds: float
    seed: int
    regions: tuple[Region, ...]
    heat: Heat


class Predictor:
    """A model with what makes its input and reads its outputs: picture in, answer out, as `run` would give it.

    Raises what opening the model raises; `ModelError` for one whose answers depend on what came before. Used by one
    thread; whoever opens it closes it (or uses it as a context manager).
    """

    def __init__(self, config: ModelConfig) -> None:
        self._model = open_model(config)
        try:
            if self._model.stateful:
                raise ModelError(
                    "a model that remembers what came before cannot be explained by one picture", where=config.path
                )
            if self._model.bundle.signal is not None:
                raise ModelError(
                    "the model takes no picture", where=config.path, expected="a model that looks at pictures"
                )
            bundle = self._model.bundle
            self.name, self.labels, self.size = bundle.name, bundle.labels or (), self._model.preprocess.size
            self._threshold = bundle.threshold if bundle.threshold is not None else 0.5
            self._decoder = self._open(self._model, self._threshold)
            self._fine: Decoder | None = None
            self.inferences = 0
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine. Idempotent."""
        self._model.engine.close()

    def answer(self, picture: Image) -> Answer:
        """The answer to `picture` (H×W×3 uint8 BGR). Raises `FrameError` or `EngineError`."""
        return self._decode(self._decoder, picture)

    def fine_answer(self, picture: Image) -> Answer:
        """The same with results far below the threshold and masks: what it still sees when much of it is covered."""
        if self._fine is None:
            self._fine = self._open_fine(self.answer(picture))
        return self._decode(self._fine, picture)

    def _decode(self, decoder: Decoder, picture: Image) -> Answer:
        tensor, placement = self._model.preprocess.prepare(picture)
        outputs = self._model.engine.infer([tensor])
        self.inferences += 1
        return decoder.decode((*outputs, tensor) if decoder.wants_inputs else outputs, placement)

    def _open_fine(self, example: Answer) -> Decoder:
        bundle = self._model.bundle
        threshold = self._threshold
        changed: dict[str, Any] = {}
        if example.detections is not None:
            threshold /= 10
        elif example.classes is not None:
            threshold, changed = _CLASS_FLOOR, {"top_k": max(bundle.top_k, len(self.labels) or 1000)}
        elif example.segments is not None:
            changed = {"decoder_options": {**bundle.decoder_options, "runs": True}}
        model = msgspec.structs.replace(self._model, bundle=msgspec.structs.replace(bundle, **changed))
        return self._open(model, threshold)

    def _open(self, model: LoadedModel, threshold: float) -> Decoder:
        source = SourceConfig("synthetic", resolve("source", "synthetic").options())
        return open_decoder("explain", model, StreamConfig(source, "explain", threshold=threshold))


def explain(
    predictor: Predictor,
    picture: Image,
    wanted: Wanted = SUREST,
    *,
    inferences: int = USUAL,
    seed: int = 0,
    where: str = "",
    done: Done = lambda done, total: None,
) -> Explanation:
    """What carried the wanted result of `picture` (H×W×3 uint8 BGR), in at most `inferences` inferences.

    The same seed gives the same map. `where` names the picture in errors. Raises `ConfigError` where there is no such
    result or too few inferences, `FrameError` or `EngineError`.
    """
    if inferences < LEAST:
        raise ConfigError("too few inferences for a map", where="--inferences", expected=f"≥ {LEAST}", got=inferences)
    began_s, before = time.monotonic(), predictor.inferences
    answer = predictor.answer(picture)
    chosen, like = _choose(predictor, picture, answer, wanted, where)
    small = _shrink(picture)
    whole = like(predictor.fine_answer(small))
    used = predictor.inferences - before
    cover = _Cover(predictor, small, like, lambda: done(predictor.inferences - before, inferences))
    if chosen.kind == "detections":
        method, heat = "d-rise", _random_masks(cover, chosen.box or (0, 0, 1, 1), inferences - used, seed)
    else:
        method, heat = "occlusion", _patches(cover, whole, inferences - used)
    heat = _normalise(heat, (small.shape[1], small.shape[0]))
    made = predictor.inferences - before
    seconds = round(time.monotonic() - began_s, 3)
    return Explanation(chosen, method, round(whole, 4), made, seconds, seed, _regions(heat), heat)


def _choose(
    predictor: Predictor, picture: Image, answer: Answer, wanted: Wanted, where: str
) -> tuple[Target, Likeness]:
    """The result, of those below the threshold too when a class is asked for."""
    if wanted.label is not None and (answer.detections is not None or answer.classes is not None):
        answer = predictor.fine_answer(picture)
    elif answer.segments is not None:
        answer = predictor.fine_answer(picture)  # with its masks
    return choose(answer, wanted, predictor.labels, where)


def _shrink(picture: Image) -> Image:
    import cv2

    height, width = picture.shape[:2]
    factor = _LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    smaller: Image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return smaller


class _Cover:
    """Covers parts of one picture and says how much of the result is left.

    What is covered becomes the picture's mean colour, as Zeiler and Fergus (*Visualizing and Understanding
    Convolutional Networks*, 2014) do with grey: no new object, and the least change of brightness.
    """

    def __init__(self, predictor: Predictor, picture: Image, like: Likeness, tick: Callable[[], None]) -> None:
        import cv2

        self._cv2: Any = cv2
        self._predictor, self._picture, self._like, self._tick = predictor, picture, like, tick
        self._plain = np.empty_like(picture)
        self._plain[...] = picture.reshape(-1, 3).mean(axis=0).round()
        height, width = picture.shape[:2]
        scale = min(1.0, _MAP_SIDE / max(height, width))
        self.size = max(8, round(width * scale)), max(8, round(height * scale))

    def left(self, seen: Heat) -> float:
        """How like the result the answer is to the picture where `seen` (map-sized, 1: seen, 0: covered) shows it."""
        height, width = self._picture.shape[:2]
        weight = self._cv2.resize(seen, (width, height), interpolation=self._cv2.INTER_LINEAR)
        shown = self._cv2.blendLinear(self._picture, self._plain, weight, 1.0 - weight)
        left = self._like(self._predictor.fine_answer(shown))
        self._tick()
        return left


def _patches(cover: _Cover, whole: float, inferences: int) -> Heat:
    """The mean loss of the patches that covered a place: three sizes, each overlapping by half, equally weighted."""
    width, height = cover.size
    heat = np.zeros((height, width), np.float32)
    for share in _LEVELS:
        steps = max(2, math.isqrt(int(inferences * share)))
        rows, columns = (np.linspace(0, side, steps + 2).round().astype(int) for side in (height, width))
        loss, times = np.zeros_like(heat), np.zeros_like(heat)
        for row in range(steps):
            for column in range(steps):
                part = np.s_[rows[row] : rows[row + 2], columns[column] : columns[column + 2]]
                seen = np.ones_like(heat)
                seen[part] = 0.0
                loss[part] += whole - cover.left(seen)
                times[part] += 1
        heat += _smooth(loss / times, (width / (steps + 1), height / (steps + 1)))
    return heat


def _random_masks(cover: _Cover, box: Box, inferences: int, seed: int) -> Heat:
    """D-RISE: how closely a place being seen goes with the detection being there, over random masks.

    Petsiuk et al. (2021), section 4, with changes that let 200 masks do for their 5,000: the masks come in pairs that
    are each other's opposite, cells are as large as half the object, the mean is taken off (so that the sum is a
    correlation), and what `_CHANCE` standard errors explain is taken off too.
    """
    width, height = cover.size
    random = np.random.default_rng(seed)
    columns, rows = (_cells(box[2] - box[0]), _cells(box[3] - box[1]))
    seen, seen_squared, together = (np.zeros((height, width)) for _ in range(3))
    left_sum = left_squared = 0.0
    mask: Heat = np.zeros((height, width), np.float32)
    for at in range(inferences):
        mask = np.subtract(1.0, mask, dtype=np.float32) if at % 2 else _mask(random, columns, rows, cover.size)
        left = cover.left(mask)
        seen += mask
        seen_squared += mask * mask
        together += left * mask
        left_sum, left_squared = left_sum + left, left_squared + left * left
    spread = math.sqrt(max(0.0, left_squared / inferences - (left_sum / inferences) ** 2))
    if spread < 1e-6:
        return np.zeros((height, width), np.float32)
    covariance = together / inferences - left_sum / inferences * seen / inferences
    deviation = np.sqrt(np.maximum(seen_squared / inferences - (seen / inferences) ** 2, 1e-9))
    correlation = covariance / (deviation * spread)
    return _smooth(correlation, (width / columns, height / rows)) - np.float32(_CHANCE / math.sqrt(inferences))


def _cells(side: float) -> int:
    return min(_CELLS_MAX, max(_CELLS_MIN, round(2.0 / max(side, 1e-3))))


def _mask(random: np.random.Generator, columns: int, rows: int, size: tuple[int, int]) -> Heat:
    """A coarse grid of seen and covered cells, half of each, drawn out smoothly and shifted by part of a cell."""
    import cv2

    width, height = size
    cells = (random.random((rows + 1, columns + 1)) < 0.5).astype(np.float32)
    wide, tall = math.ceil(width / columns), math.ceil(height / rows)
    grown = cv2.resize(cells, (width + wide, height + tall), interpolation=cv2.INTER_LINEAR)
    x, y = int(random.integers(0, wide)), int(random.integers(0, tall))
    mask: Heat = grown[y : y + height, x : x + width]
    return mask


def _smooth(heat: NDArray[Any], cell: tuple[float, float]) -> Heat:
    """Blurred by a third of a `cell` (width, height in map pixels): patches and cells have edges that mean nothing."""
    import cv2

    blurred: NDArray[Any] = cv2.GaussianBlur(heat, (0, 0), sigmaX=max(0.3, cell[0] / 3), sigmaY=max(0.3, cell[1] / 3))
    return blurred.astype(np.float32)


def _normalise(heat: Heat, size: tuple[int, int]) -> Heat:
    """0..1 in the picture's size; all 0 where nothing was warm."""
    import cv2

    warm = np.clip(heat, 0.0, None)
    top = float(warm.max())
    if not (math.isfinite(top) and top > 1e-6):
        return np.zeros(size[::-1], np.float32)
    scaled: Heat = cv2.resize(warm / top, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def _regions(heat: Heat) -> tuple[Region, ...]:
    """The connected parts at least half as hot as the hottest place, those with most heat first."""
    import cv2

    total = float(heat.sum())
    if not total:
        return ()
    count, labels, stats, _ = cv2.connectedComponentsWithStats((heat >= 0.5).astype(np.uint8))
    height, width = heat.shape
    found = []
    for at in range(1, count):
        x, y, wide, tall, _ = (int(value) for value in stats[at])
        inside = heat[labels == at]
        box = round(x / width, 4), round(y / height, 4), round((x + wide) / width, 4), round((y + tall) / height, 4)
        found.append(Region(box, round(float(inside.sum()) / total, 4), round(float(inside.max()), 4)))
    return tuple(sorted(found, key=lambda one: -one.share)[:_REGIONS])


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """Everything but the map itself, for JSON; scores and boxes with four decimals."""
    keys = ("target", "method", "kept", "regions", "inferences", "seconds", "seed")
    told = {key: msgspec.to_builtins(getattr(explanation, key)) for key in keys}
    target = told["target"]
    if "score" in target:
        target["score"] = round(target["score"], 4)
    if "box" in target:
        target["box"] = [round(side, 4) for side in target["box"]]
    return told
