"""Class-aware greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = float(np.finfo(np.float64).tiny)


def best_order(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.intp], limit: int
) -> NDArray[np.intp]:
    """Indices of the `limit` best candidates, best first.

    Ties go by class and then by the box itself, so that the same candidates in another order give the same boxes.
    """
    pool = None
    if len(scores) > limit:
        # Every score that ties with the last one let in stays until the full order decides.
        pool = np.flatnonzero(scores >= np.partition(scores, len(scores) - limit)[len(scores) - limit])
        boxes, scores, classes = boxes[pool], scores[pool], classes[pool]
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], classes, -scores))[:limit]
    return order if pool is None else pool[order]


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    *,
    iou: float,
    max_candidates: int,
    max_detections: int,
) -> NDArray[np.intp]:
    """Indices of the boxes that stay, highest score first.

    `boxes` is N×4 float32 (x0, y0, x1, y1), x0 ≤ x1, y0 ≤ y1, all finite; `scores` N float32; `classes` N. Only the
    best `max_candidates` are looked at. A box goes when a better one of its class stays and overlaps it by more than
    `iou` (intersection over union), as in TensorFlow's NonMaxSuppression; at most `max_detections` stay.
    """
    order = best_order(boxes, scores, classes, max_candidates)
    if len(order) < 2:
        return order[:max_detections]
    # float64: float32 corners multiply and add without rounding that a scalar reading of the formula would not have.
    x0, y0, x1, y1 = boxes[order].astype(np.float64).T.copy()
    ranks = classes[order]
    areas = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for at in range(len(order)):
        if not alive[at]:
            continue
        kept.append(at)
        if len(kept) == max_detections:
            break
        rest = slice(at + 1, None)
        width = np.minimum(x1[rest], x1[at]) - np.maximum(x0[rest], x0[at])
        height = np.minimum(y1[rest], y1[at]) - np.maximum(y0[rest], y0[at])
        inner = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        union = np.maximum(areas[rest] + areas[at] - inner, _TINY)
        alive[rest] &= (inner / union <= iou) | (ranks[rest] != ranks[at])
    return order[kept]
