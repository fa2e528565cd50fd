"""What a candidate must keep to be shipped."""

from __future__ import annotations

import msgspec

from edgerun.convert.parts import Quality

MIN_QUALITY = 0.99
"""MLPerf Inference's rule for its closed division: 99 % of the reference's metric (inference_policies, "quality")."""
MAX_EXTRA = 0.02
_SLACK = 1e-9


class Gate(msgspec.Struct, frozen=True):
    """`min_quality`: share of the original's metric; with `max_drop` instead at most so much less of the metric itself.

    `max_extra`: boxes that the original does not have, as a share of those it has; only where the original's own
    detections are the reference.
    """

    min_quality: float = MIN_QUALITY
    max_drop: float | None = None
    max_extra: float = MAX_EXTRA

    def passes(self, quality: Quality) -> bool:
        """Whether the candidate may be shipped. A figure that is no number never passes."""
        if self.max_drop is not None:
            kept = quality.original - quality.value <= self.max_drop + _SLACK
        else:
            kept = quality.kept >= self.min_quality - _SLACK
        return kept and quality.more.get("extra", 0.0) <= self.max_extra + _SLACK

    def shortfall(self, quality: Quality) -> float:
        """0 where it passes, else by how much it misses: to tell the better of two that miss."""
        if self.max_drop is not None:
            missing = quality.original - quality.value - self.max_drop
        else:
            missing = self.min_quality - quality.kept
        over = quality.more.get("extra", 0.0) - self.max_extra
        worst = max(missing, 0.0) + max(over, 0.0)
        return worst if worst == worst else float("inf")

    def text(self, quality: Quality | None = None) -> str:
        """The gate in words; of `quality`'s metric where that is given."""
        metric = quality.metric if quality is not None else "the original's metric"
        if self.max_drop is not None:
            rule = f"{metric}: at most {self.max_drop:g} below the original's"
        else:
            rule = f"{metric}: at least {self.min_quality:.1%} of the original's"
        boxes = quality is not None and "extra" in quality.more
        return f"{rule}; at most {self.max_extra:.1%} extra boxes" if boxes else rule
