"""Boxes → the tensors a model would have put out for them, written from the layouts' definitions.

An object is (class, score, (x0, y0, x1, y1)) in 0..1 of the model's input.
"""

from __future__ import annotations

import math

import numpy as np

from edgerun.types import Placement, TensorSpec
from tests.decode import reference

SIDES = (19, 10, 5, 3, 2, 1)
ANCHORS = reference.ssd_anchors(SIDES, 0.2, 0.95, (1.0, 2.0, 0.5, 3.0, 0.3333))
STRETCH = Placement()
LETTERBOX = Placement(scale_y=1 / 0.75, shift_y=-0.125 / 0.75)


def logit(p):
    return math.log(p / (1 - p))


def spec(name, array, scale=(), zero_point=(), axis=0):
    return TensorSpec(name, array.shape, array.dtype.name, scale, zero_point, axis)


def quantised(array, scale, zero_point, dtype="int8"):
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)


def ssd_code(box, anchor):
    ay, ax, ah, aw = anchor
    x0, y0, x1, y1 = box
    return (
        10 * ((y0 + y1) / 2 - ay) / ah,
        10 * ((x0 + x1) / 2 - ax) / aw,
        5 * math.log((y1 - y0) / ah),
        5 * math.log((x1 - x0) / aw),
    )


def nearest_anchor(box, taken):
    """The free anchor that overlaps the box most: as in training, codes stay small."""
    corners = ((ax - aw / 2, ay - ah / 2, ax + aw / 2, ay + ah / 2) for ay, ax, ah, aw in ANCHORS)
    overlaps = [(-1.0 if i in taken else reference.overlap(box, corner)) for i, corner in enumerate(corners)]
    return overlaps.index(max(overlaps))


def ssd_head(objects, classes, background_score=0.99):
    """Boxes 1×1917×4 and logits 1×1917×classes; every anchor without an object is background. Also the anchors used."""
    codes = np.zeros((1, len(ANCHORS), 4), np.float32)
    logits = np.full((1, len(ANCHORS), classes), -8.0, np.float32)
    logits[..., 0] = logit(background_score)
    used = []
    for cls, score, box in objects:
        at = nearest_anchor(box, used)
        used.append(at)
        codes[0, at] = ssd_code(box, ANCHORS[at])
        logits[0, at, cls] = logit(score)
    return codes, logits, used


def yolo_head(objects, classes, anchors, size, objectness, rng):
    """A×(4+C) or A×(5+C), float32: objects at random anchors, the rest small boxes spread over the picture, score 0."""
    first = 5 if objectness else 4
    rows = np.zeros((anchors, first + classes), np.float32)
    rows[:, :2] = rng.uniform(0.02, 0.98, (anchors, 2)) * size
    rows[0, :2] = np.array(size) * 0.99
    rows[:, 2:4] = 0.01 * np.array(size)
    for at, (cls, score, (x0, y0, x1, y1)) in zip(rng.permutation(anchors), objects, strict=False):
        rows[at, :4] = (x0 + x1) / 2 * size[0], (y0 + y1) / 2 * size[1], (x1 - x0) * size[0], (y1 - y0) * size[1]
        rows[at, first + cls] = score / 0.9 if objectness else score
        if objectness:
            rows[at, 4] = 0.9
    return rows


def yolo5_maps(objects, classes, anchors, size):
    """Three maps A×H×W×(5+C): each object in the cell of its centre, at the anchor nearest in size."""
    maps = [
        np.full((len(a), size[1] // s, size[0] // s, 5 + classes), -8.0, np.float32)
        for a, s in zip(anchors, (8, 16, 32), strict=True)
    ]
    for cls, score, (x0, y0, x1, y1) in objects:
        w, h = (x1 - x0) * size[0], (y1 - y0) * size[1]
        pairs = [(k, a) for k, level in enumerate(anchors) for a in range(len(level))]
        k, a = min(
            pairs, key=lambda p: abs(math.log(w / anchors[p[0]][p[1]][0])) + abs(math.log(h / anchors[p[0]][p[1]][1]))
        )
        stride = 8 << k
        cx, cy = (x0 + x1) / 2 * size[0] / stride, (y0 + y1) / 2 * size[1] / stride
        i, j = min(int(cy), maps[k].shape[1] - 1), min(int(cx), maps[k].shape[2] - 1)
        aw, ah = anchors[k][a]
        code = [(cx - j + 0.5) / 2, (cy - i + 0.5) / 2, math.sqrt(w / aw) / 2, math.sqrt(h / ah) / 2, 0.95]
        maps[k][a, i, j, :5] = [logit(min(max(value, 1e-6), 1 - 1e-6)) for value in code]
        maps[k][a, i, j, 5 + cls] = logit(score / 0.95)
    return maps


def yolo8_maps(objects, classes, size):
    """Three maps H×W×(64+C): each object in its centre's cell of the finest map whose 15 steps reach its sides."""
    maps = [np.full((size[1] // s, size[0] // s, 64 + classes), -8.0, np.float32) for s in (8, 16, 32)]
    for cls, score, (x0, y0, x1, y1) in objects:
        half = max((x1 - x0) * size[0], (y1 - y0) * size[1]) / 2
        k = next(k for k in range(3) if half / (8 << k) < 14 or k == 2)
        plane, stride = maps[k], 8 << k
        i = min(int((y0 + y1) / 2 * size[1] / stride), plane.shape[0] - 1)
        j = min(int((x0 + x1) / 2 * size[0] / stride), plane.shape[1] - 1)
        edges = [x0 * size[0] / stride, y0 * size[1] / stride, x1 * size[0] / stride, y1 * size[1] / stride]
        sides = [j + 0.5 - edges[0], i + 0.5 - edges[1], edges[2] - j - 0.5, edges[3] - i - 0.5]
        plane[i, j, :64] = -30
        for side, distance in enumerate(max(0.0, distance) for distance in sides):
            step = min(int(distance), 14)
            share = min(max(distance - step, 1e-9), 1 - 1e-9)
            plane[i, j, 16 * side + step], plane[i, j, 16 * side + step + 1] = math.log(1 - share), math.log(share)
        plane[i, j, 64:] = -8
        plane[i, j, 64 + cls] = logit(score)
    return maps
