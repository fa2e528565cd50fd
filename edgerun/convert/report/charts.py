"""The report's pictures of numbers: bars as plain boxes, which need no script, and the layers as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgerun.convert.parts import LayerChoice
from edgerun.convert.report.markup import Markup, join, percent, table, tag

_PLOT_PX, _MACS_PX, _LEFT_PX, _TOP_PX = 160, 60, 46, 10
_STEP_MIN_PX, _STEP_MAX_PX, _WIDTH_PX = 7, 28, 900
_ROWS = 15
"""Layers shown before the rest is folded away."""

Bar = tuple[str, float, str, str]
"""Name, value, value as text, and whose it is: "original", "result" or "other"."""


def bars(title: str, rows: Sequence[Bar], note: str = "") -> Markup | None:
    """Horizontal bars from 0, the longest as wide as there is room; None without values."""
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return None
    top = max(value for _, value, _, _ in rows) or 1.0
    drawn = [
        tag(
            "div",
            tag("p", tag("span", name), tag("span", text)),
            tag("div", tag("i", style=f"width:{max(0.0, 100 * value / top):.1f}%"), aria_hidden="true"),
            class_=f"bar {whose}",
        )
        for name, value, text, whose in rows
    ]
    return tag("figure", tag("figcaption", title), *drawn, tag("p", note, class_="quiet") if note else None)


def layers(chosen: Sequence[LayerChoice]) -> Markup:
    """How sensitive each layer is, its part of the work and the precision it has: a chart, and the same as tables.

    Without a sensitivity of any layer there is no chart: it would look like one of zeros.
    """
    total = sum(one.layer.macs for one in chosen) or 1
    if not measured(chosen):
        return _table(chosen, total)
    legend = tag(
        "p",
        tag("span", class_="key result"),
        "int8",
        tag("span", class_="key other"),
        "higher precision",
        tag("span", class_="key original"),
        "share of the multiply-accumulates (downwards)",
        class_="quiet",
    )
    chart = tag("div", _chart(chosen, total), class_="scroll", tabindex="0", role="region", aria_label="layer chart")
    return join(legend, chart, _table(chosen, total))


def measured(chosen: Sequence[LayerChoice]) -> bool:
    """Whether the sensitivity of any layer is known."""
    return any(one.sqnr_db is not None for one in chosen)


def _table(chosen: Sequence[LayerChoice], total: int) -> Markup:
    ranked = sorted(chosen, key=lambda one: (is_int8(one), math.inf if one.sqnr_db is None else one.sqnr_db))
    header = ("layer", "operator", "precision", "SQNR, dB", "share of MACs", "weights")
    rows = [
        (
            one.layer.name,
            one.layer.op,
            one.precision,
            None if one.sqnr_db is None else f"{one.sqnr_db:.1f}",
            percent(one.layer.macs / total),
            f"{one.layer.weights:,}",
        )
        for one in ranked
    ]
    caption = (
        "Layers in higher precision first, then the most sensitive" if measured(chosen) else "In order of execution"
    )
    shown = table(caption, header, list(rows[:_ROWS]), numbers=3)
    rest = None
    if len(rows) > _ROWS:
        count = len(rows) - _ROWS
        inside = table("The other layers", header, list(rows[_ROWS:]), numbers=3)
        rest = tag("details", tag("summary", f"the other {count} layers"), inside)
    return join(shown, rest)


def is_int8(one: LayerChoice) -> bool:
    """Whether the layer has the lowest precision."""
    return one.precision == "int8"


def _chart(chosen: Sequence[LayerChoice], total: int) -> Markup:
    """SQNR upwards (a low bar is a sensitive layer), share of the work downwards; layers in the order of execution."""
    step = min(_STEP_MAX_PX, max(_STEP_MIN_PX, (_WIDTH_PX - _LEFT_PX) // max(1, len(chosen))))
    width = _LEFT_PX + step * len(chosen) + 10
    zero = _TOP_PX + _PLOT_PX
    known = [one.sqnr_db for one in chosen if one.sqnr_db is not None and math.isfinite(one.sqnr_db)]
    top_db = max(20.0, 20.0 * math.ceil(max(known, default=20.0) / 20.0))
    most = max((one.layer.macs for one in chosen), default=0) / total or 1.0
    pieces: list[Markup] = []
    for part in (0.0, 0.5, 1.0):
        y = zero - part * _PLOT_PX
        pieces.append(tag("line", x1=_LEFT_PX, x2=width, y1=y, y2=y))
        pieces.append(tag("text", f"{part * top_db:.0f} dB", x=_LEFT_PX - 6, y=y + 4, text_anchor="end"))
    bottom = zero + _MACS_PX
    pieces.append(tag("text", percent(most), x=_LEFT_PX - 6, y=bottom, text_anchor="end"))
    for at, one in enumerate(chosen):
        x, wide = _LEFT_PX + at * step + 1, step - 2
        share = one.layer.macs / total
        pieces.append(_column(one, share, x, wide, (zero, top_db, most)))
    ending = f"{sum(not is_int8(one) for one in chosen)} of {len(chosen)} layers stay in higher precision."
    said = f"SQNR of the outputs with one layer quantised, layer by layer in the order of execution. {ending}"
    return tag(
        "svg",
        tag("title", "Sensitivity of each layer"),
        tag("desc", said),
        *pieces,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        width=width,
        height=bottom + 8,
        viewBox=f"0 0 {width} {bottom + 8}",
    )


def _column(one: LayerChoice, share: float, x: int, wide: int, scale: tuple[int, float, float]) -> Markup:
    zero, top_db, most = scale
    known = one.sqnr_db is not None and math.isfinite(one.sqnr_db)
    db = one.sqnr_db if known and one.sqnr_db is not None else 0.0
    tall = max(2.0, min(1.0, max(0.0, db / top_db)) * _PLOT_PX) if known else 2.0
    said = f"{one.layer.name} ({one.layer.op}): {one.precision}, "
    said += (f"{db:.1f} dB" if known else "not measured") + f", {percent(share)} of the MACs"
    deep = share / most * (_MACS_PX - 4)
    return tag(
        "g",
        tag("title", said),
        tag(
            "rect",
            x=x,
            y=f"{zero - tall:.1f}",
            width=wide,
            height=f"{tall:.1f}",
            class_="int8" if is_int8(one) else "kept",
        ),
        tag("rect", x=x, y=zero + 2, width=wide, height=f"{deep:.1f}", class_="macs"),
    )
