"""The C library's heap, kept small.

glibc gives every thread that finds the heap busy an arena of its own, up to eight for each processor, and keeps in each
of them what was freed below something that is still in use: a burst (a backlog of results, a camera opened again) stays
resident for ever. Other C libraries have neither `mallopt` nor `malloc_trim`; nothing is done there.
"""

from __future__ import annotations

import os
from typing import Any

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2
"""The main thread's and one for the others. Small blocks come from each thread's own cache without a lock."""
_EVERY_NS = 60_000_000_000
"""`malloc_trim` takes 0.2 to 0.7 ms for a heap of 75 MiB."""


class Heap:
    """Limits the arenas when made, before there are threads, and gives back to the system what lies unused in them.

    An operator's `MALLOC_ARENA_MAX` stands. Used by one thread.
    """

    def __init__(self) -> None:
        import ctypes

        self._due_ns: int | None = None
        library = ctypes.CDLL(None)
        self._trim: Any = getattr(library, "malloc_trim", None)
        limit: Any = getattr(library, "mallopt", None)
        if limit is not None and "MALLOC_ARENA_MAX" not in os.environ:
            limit(_M_ARENA_MAX, _ARENAS)

    def tick(self, now_ns: int) -> None:
        """Give back what is unused: at the first call, and then once a minute (of monotonic ns)."""
        if self._trim is None or (self._due_ns is not None and now_ns < self._due_ns):
            return
        self._due_ns = now_ns + _EVERY_NS
        self._trim(0)
