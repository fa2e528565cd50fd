"""What the spool holds and has dropped, in figures."""

from __future__ import annotations

import msgspec


class SpoolStats(msgspec.Struct, frozen=True):
    """How the spool stands."""

    messages: int
    """That wait to be replayed."""
    bytes: int
    """Of all files."""
    dropped: dict[str, int]
    """By class, whatever the reason, since the process started."""
    replayed: int
    """Acknowledged since the process started."""
    broken: str | None
    """Why nothing is written at the moment."""
