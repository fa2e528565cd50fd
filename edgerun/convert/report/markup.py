"""HTML and SVG as strings that are well-formed by construction: whatever is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_VOID = frozenset({"img", "meta", "br", "hr", "link"})


class Markup(str):
    """Text that is markup and goes into the page as it is."""

    __slots__ = ()


Content = str | int | float | None


def tag(name: str, /, *content: Content, **attributes: Content) -> Markup:
    """One element. None among `content` and `attributes` is left out; `class_` becomes `class`, `_` becomes `-`."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{said} />")
    return Markup(f"<{name}{said}>{join(*content)}</{name}>")


def join(*content: Content) -> Markup:
    """Pieces one after the other."""
    pieces = (one if isinstance(one, Markup) else escape(str(one)) for one in content if one is not None)
    return Markup("".join(pieces))


def table(caption: str, header: tuple[str, ...], rows: Sequence[tuple[Content, ...]], numbers: int = 1) -> Markup:
    """A table whose first cell of a row heads it; columns from `numbers` on are numbers. It scrolls when too wide."""

    def kind(at: int) -> str | None:
        return "number" if at >= numbers else None

    head = tag("tr", *(tag("th", text, scope="col", class_=kind(at)) for at, text in enumerate(header)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", "–" if cell is None else cell, class_=kind(at)) for at, cell in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    inside = tag("table", tag("thead", head), tag("tbody", *body), aria_label=caption)
    # A part that scrolls must be reachable by keyboard (WCAG 2.1, 2.1.1).
    scrolling = tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return tag("figure", tag("figcaption", caption), scrolling, class_="table")


def percent(share: float) -> str:
    """A share with one decimal, never rounded up to a bound that it misses (0.98996 is 98.9 %)."""
    return f"{int(share * 1000 + 1e-6) / 10:.1f}\N{NO-BREAK SPACE}%"
