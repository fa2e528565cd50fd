"""The latency-throughput frontier as a picture. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgerun.bench.sweep import Point
from edgerun.errors import ConfigError, MissingError

_INCHES = (7.0, 4.5)
_DPI = 120
_MARGIN = 1.15
"""Room for the labels beside the outermost points."""


def require() -> None:
    """Raises `MissingError`, whose remedy is the pip command, without matplotlib: before an hour is measured."""
    _load()


def draw_frontier(points: Sequence[Point], title: str, path: Path) -> None:
    """Write `points` as PNG: p50 latency across, throughput up, one line per thread count along its batches.

    The frontier is ringed. Raises `MissingError` without matplotlib, `ConfigError` when `path` cannot be written.
    """
    figure, axes = _new_figure(title)
    measured = [one for one in points if one.p50_ms is not None and one.throughput_per_s is not None]
    for threads in sorted({one.threads for one in measured}):
        row = sorted((one for one in measured if one.threads == threads), key=lambda one: one.batch)
        label = f"{threads} thread{'s' * (threads != 1)}"
        axes.plot([one.p50_ms for one in row], [one.throughput_per_s for one in row], marker="o", label=label)
        for one in row:
            at = (one.p50_ms, one.throughput_per_s)
            axes.annotate(f"batch {one.batch}", at, textcoords="offset points", xytext=(5, -10), fontsize=7)
    best = sorted((one for one in measured if one.frontier), key=lambda one: one.p50_ms or 0.0)
    across, up = [one.p50_ms for one in best], [one.throughput_per_s for one in best]
    axes.plot(across, up, linestyle="--", marker="o", markersize=12, markerfacecolor="none", color="0.4",
              label="frontier")  # fmt: skip
    axes.set_xlabel("latency of a call, p50 (ms)")
    axes.set_ylabel("inferences per second")
    axes.set_xlim(0, _MARGIN * max((one.p50_ms or 0.0 for one in measured), default=1.0))
    axes.set_ylim(0, _MARGIN * max((one.throughput_per_s or 0.0 for one in measured), default=1.0))
    axes.legend()
    _save(figure, path)


def draw_ages(rows: Sequence[tuple[float, float, float]], title: str, path: Path) -> None:
    """Write as PNG how old results are at each camera rate: `rows` of (frames/s, age p50 in ms, age p99 in ms).

    Raises as `draw_frontier` does.
    """
    figure, axes = _new_figure(title)
    ordered = sorted(rows)
    for column, label in ((1, "p50"), (2, "p99")):
        axes.plot([row[0] for row in ordered], [row[column] for row in ordered], marker="o", label=label)
    axes.set_xlabel("frames per second from the cameras")
    axes.set_ylabel("age of a result (ms)")
    axes.set_ylim(bottom=0)
    axes.legend()
    _save(figure, path)


def _new_figure(title: str) -> tuple[Any, Any]:
    figure_class, canvas_class = _load()
    figure = figure_class(figsize=_INCHES, dpi=_DPI, layout="tight")
    canvas_class(figure)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigError("the picture cannot be written", where=path, got=error.strerror or error) from error


def _load() -> tuple[Any, Any]:
    """matplotlib's Figure and its canvas without a window."""
    try:
        figure = importlib.import_module("matplotlib.figure")
        canvas = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise MissingError(
            "matplotlib cannot be imported, so there is no picture",
            got=error,
            remedy='pip install "edgerun[plot]", or leave the picture out with --no-plot',
        ) from error
    return figure.Figure, canvas.FigureCanvasAgg
