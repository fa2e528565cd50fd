"""One finding."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["green", "yellow", "red", "absent"]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """`what` was looked at, its `value`, and unless it is green one sentence that says what to do.

    `absent` is no fault: the board lacks it. `needed`: the job cannot run while this is red.
    """

    status: Status
    what: str
    value: str
    remedy: str | None = None
    needed: bool = False

    def __post_init__(self) -> None:
        if (self.remedy is None) != (self.status == "green"):
            raise ValueError(f"{self.what}: a line has a remedy exactly when it is not green")


def green(what: str, value: str, needed: bool = False) -> Line:
    """It works."""
    return Line("green", what, value, None, needed)


def yellow(what: str, value: str, remedy: str, needed: bool = False) -> Line:
    """It works, and will hurt."""
    return Line("yellow", what, value, remedy, needed)


def red(what: str, value: str, remedy: str, needed: bool = False) -> Line:
    """It does not work."""
    return Line("red", what, value, remedy, needed)


def absent(what: str, value: str, remedy: str) -> Line:
    """The board has none."""
    return Line("absent", what, value, remedy)
