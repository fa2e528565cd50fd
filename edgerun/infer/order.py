"""How each accelerator of a declared order fares, and when one that failed is tried again."""

from __future__ import annotations

import random

from edgerun.errors import ConfigError, MissingError, ModelError
from edgerun.infer.accelerators import Accelerator

_MOST_BACK_OFF_S = 60.0
_HEALTHY_S = 300.0
"""After this long in use an accelerator's failures before are forgiven."""


class Entry:
    """One accelerator of the order. `reason`: why it does not run; `hopeless`: trying again is pointless.

    `next_ns`: when to try again, `since_ns`: since when it runs, both monotonic.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.reason: str | None = None
        self.hopeless = False
        self.failures = 0
        self.next_ns = 0
        self.since_ns = 0

    @property
    def kind(self) -> str:
        return self.accelerator.kind

    def refuse(self, error: Exception, now_ns: int) -> None:
        """It did not open, or was lost: when to try again, with full jitter (M. Brooker, "Exponential Backoff And
        Jitter", AWS Architecture Blog, 2015).
        """
        self.reason = str(error)
        self.hopeless = isinstance(error, ConfigError | MissingError | ModelError)
        self.failures += 1
        delay_s = random.uniform(0, min(_MOST_BACK_OFF_S, 2.0 ** min(self.failures - 1, 16)))
        self.next_ns = now_ns + round(delay_s * 1e9)

    def lose(self, error: Exception, now_ns: int) -> None:
        """It failed after it had worked, so it is worth trying again."""
        if now_ns - self.since_ns > _HEALTHY_S * 1e9:
            self.failures = 0
        self.refuse(error, now_ns)
        self.hopeless = False
