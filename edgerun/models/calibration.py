"""Score calibration: what TFLite Metadata gives to make a model's scores comparable between its classes.

For class i: `scale / (1 + exp(-(slope · g(x) + offset)))` where x is above `min_score` or none is stated, else the
default (metadata_schema.fbs, ScoreCalibrationOptions; g is the identity, log x, or log x - log(1 - x)).
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.errors import ModelError

_MOST_CLASSES = 1 << 20
_TINY = 1e-30


class Calibration(msgspec.Struct, frozen=True):
    """One line per class: (scale, slope, offset, min_score or None), or None for a class without a line."""

    lines: tuple[tuple[float, float, float, float | None] | None, ...]
    of: Literal["identity", "log", "logit"] = "identity"
    default: float = 0.0

    def apply(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The calibrated scores of `scores` (one per class, real values). Raises `ModelError` for another number."""
        if scores.shape != (len(self.lines),):
            raise ModelError(
                "the score calibration is for another number of classes", expected=len(self.lines), got=scores.shape
            )
        known = np.array([line is not None for line in self.lines])
        table = np.array([(line[0], line[1], line[2]) if line else (0.0, 0.0, 0.0) for line in self.lines])
        least = np.array([-np.inf if line is None or line[3] is None else line[3] for line in self.lines])
        x = scores.astype(np.float64)
        if self.of != "identity":
            inner = np.log(np.maximum(x, _TINY))
            x = inner if self.of == "log" else inner - np.log(np.maximum(1 - x, _TINY))
        with np.errstate(over="ignore"):
            fitted = table[:, 0] / (1 + np.exp(-(table[:, 1] * x + table[:, 2])))
        return np.where(known & (scores > least), fitted, self.default).astype(np.float32)


def parse_calibration(
    content: bytes, of: Literal["identity", "log", "logit"], default: float, where: object
) -> Calibration:
    """The lines of a calibration file: empty, or 3 or 4 numbers with commas between. Raises `ModelError`."""
    try:
        rows = content.decode("utf-8-sig").rstrip("\r\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError("the score calibration is not text", where=where, got=error) from error
    if len(rows) > _MOST_CLASSES:
        raise ModelError("too many lines", where=where, expected=f"≤ {_MOST_CLASSES}", got=len(rows))
    return Calibration(tuple(_line(row, f"{where}:{at}") for at, row in enumerate(rows, 1)), of, default)


def _line(row: str, where: str) -> tuple[float, float, float, float | None] | None:
    if not row.strip():
        return None
    try:
        values = [float(value) for value in row.split(",")]
    except ValueError:
        values = []
    if len(values) not in (3, 4) or not all(np.isfinite(values)) or values[0] < 0:
        raise ModelError(
            "not a line of a score calibration",
            where=where,
            expected="scale,slope,offset[,min_score], scale not negative, or nothing",
            got=repr(row[:80]),
        )
    return values[0], values[1], values[2], values[3] if len(values) == 4 else None
