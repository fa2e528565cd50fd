"""Slow readings of the published layouts, one number at a time, sharing nothing with the product.

Boxes are (x0, y0, x1, y1); a found object is (class, score, box). Tensors come as nested lists of real values.
"""

from __future__ import annotations

import math


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def real(q, scale, zero_point):
    return scale * (q - zero_point)


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def suppress(found, iou, most=10**9):
    """Greedy: best first (ties: class, then box), a box goes if one of its class that stayed overlaps it too much."""
    kept = []
    for cls, score, box in sorted(found, key=lambda one: (-one[1], one[0], one[2])):
        if len(kept) < most and not any(k[0] == cls and overlap(k[2], box) > iou for k in kept):
            kept.append((cls, score, box))
    return kept


def placed(box, placement):
    x0, y0, x1, y1 = box
    box = (
        x0 * placement.scale_x + placement.shift_x,
        y0 * placement.scale_y + placement.shift_y,
        x1 * placement.scale_x + placement.shift_x,
        y1 * placement.scale_y + placement.shift_y,
    )
    return tuple(min(1.0, max(0.0, side)) for side in box)


def finish(found, placement, iou, most=10**9):
    whole = []
    for cls, score, box in found:
        box = placed(box, placement)
        if box[2] > box[0] and box[3] > box[1]:
            whole.append((cls, score, box))
    return suppress(whole, iou, most)


def ssd_anchors(sides, lowest, highest, ratios):
    """(cy, cx, h, w) of every anchor, as the Object Detection API's ssd_anchor_generator builds them by default."""
    scales = [lowest + (highest - lowest) * k / (len(sides) - 1) for k in range(len(sides))]
    scales.append(1.0)
    found = []
    for k, side in enumerate(sides):
        for row in range(side):
            for column in range(side):
                if k == 0:
                    kinds = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
                else:
                    kinds = [(scales[k], ratio) for ratio in ratios]
                    kinds += [(math.sqrt(scales[k] * scales[k + 1]), 1.0)]
                for scale, ratio in kinds:
                    height, width = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                    found.append(((row + 0.5) / side, (column + 0.5) / side, height, width))
    return found


def ssd(codes, logits, anchors, placement, threshold, iou, background=0, most=100):
    found = []
    for (ty, tx, th, tw), row, (ay, ax, ah, aw) in zip(codes, logits, anchors, strict=True):
        for cls, logit in enumerate(row):
            score = sigmoid(logit)
            if cls == background or score < threshold:
                continue
            cy, cx = ty / 10 * ah + ay, tx / 10 * aw + ax
            height, width = math.exp(th / 5) * ah, math.exp(tw / 5) * aw
            box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            found.append((cls, score, box))
    return finish(found, placement, iou, most)


def yolo(rows, objectness, size, placement, threshold, iou, most=300):
    """`rows`: per anchor cx, cy, w, h in the units of `size` (1×1: normalised), (objectness,) class scores."""
    found = []
    for row in rows:
        scores = row[5:] if objectness else row[4:]
        cls = scores.index(max(scores))
        score = scores[cls] * (row[4] if objectness else 1.0)
        if score >= threshold:
            cx, cy, w, h = row[0] / size[0], row[1] / size[1], row[2] / size[0], row[3] / size[1]
            found.append((cls, score, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)))
    return finish(found, placement, iou, most)


def yolo5_maps(maps, anchors, size, placement, threshold, iou):
    """`maps[k][anchor][row][column]` is (tx, ty, tw, th, objectness, class scores), nothing activated."""
    rows = []
    for k, level in enumerate(maps):
        stride = 8 * 2**k
        for a, plane in enumerate(level):
            for i, line in enumerate(plane):
                for j, cell in enumerate(line):
                    s = [sigmoid(x) for x in cell]
                    cx, cy = (2 * s[0] - 0.5 + j) * stride, (2 * s[1] - 0.5 + i) * stride
                    w, h = (2 * s[2]) ** 2 * anchors[k][a][0], (2 * s[3]) ** 2 * anchors[k][a][1]
                    rows.append([cx, cy, w, h, *s[4:]])
    return yolo(rows, True, size, placement, threshold, iou)


def yolo8_maps(maps, size, placement, threshold, iou):
    """`maps[k][row][column]` is 16 logits for each of left, top, right, bottom, then the classes' logits."""
    rows = []
    for k, level in enumerate(maps):
        stride = 8 * 2**k
        for i, line in enumerate(level):
            for j, cell in enumerate(line):
                sides = []
                for side in range(4):
                    weights = [math.exp(x) for x in cell[16 * side : 16 * side + 16]]
                    sides.append(sum(step * weight for step, weight in enumerate(weights)) / sum(weights))
                left, top, right, bottom = (
                    (j + 0.5 - sides[0]) * stride,
                    (i + 0.5 - sides[1]) * stride,
                    (j + 0.5 + sides[2]) * stride,
                    (i + 0.5 + sides[3]) * stride,
                )
                middle = ((left + right) / 2, (top + bottom) / 2)
                rows.append([*middle, right - left, bottom - top, *(sigmoid(x) for x in cell[64:])])
    return yolo(rows, False, size, placement, threshold, iou)
