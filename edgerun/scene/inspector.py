"""Looking after a stream's input: whatever picture or window comes along, made fit for those who judge its health."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from edgerun.polygon import Polygon
from edgerun.scene.glance import Glance
from edgerun.scene.health import Change, PictureHealth
from edgerun.scene.signal_health import SignalHealth
from edgerun.types import GreyImage, Motion

_NO_MOTION = Motion(0.0, False)


class PictureInspector:
    """Shows pictures of any size, `H×W×3` BGR or `H×W` grey, to a `PictureHealth`, and tells what changed.

    `tell` is called by the thread that looks. `mask` as in `PictureHealth`: what is blacked out.
    """

    def __init__(self, tell: Callable[[Change], None], mask: Sequence[Polygon] = ()) -> None:
        self._health = PictureHealth(mask)
        self._tell = tell
        self._glance = Glance(self)

    def inspect(self, image: NDArray[Any], captured_ns: int) -> None:
        """One picture; it is only looked at when the last look is a second ago."""
        if self._health.wants(captured_ns):
            self._glance.look(image, captured_ns)

    def look(self, grey: GreyImage, captured_ns: int) -> Motion:
        """For `Glance`, as a gate that never opens."""
        for change in self._health.look(grey, captured_ns):
            self._tell(change)
        return _NO_MOTION


class SignalInspector:
    """Shows every window (`samples×channels`) to a `SignalHealth`, and tells what changed."""

    def __init__(self, tell: Callable[[Change], None]) -> None:
        self._health = SignalHealth()
        self._tell = tell

    def inspect(self, window: NDArray[Any], captured_ns: int) -> None:
        """One window."""
        for change in self._health.look(window, captured_ns):
            self._tell(change)
