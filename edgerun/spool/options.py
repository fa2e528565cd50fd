"""What may be spooled, where, and how much of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edgerun.errors import ConfigError
from edgerun.security.sealing import SealingKey

Durability = Literal["outage", "always"]


class SpoolOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One spool. `folder` belongs to it alone; it is made when it is not there. Raises `ConfigError`."""

    folder: Path
    durability: Durability = "outage"
    """`outage`: in memory while the broker acknowledges within a second; `always`: on disk before it is sent."""
    max_bytes: int = 64 << 20
    """Of all files together."""
    max_age_s: float = 7 * 86400.0
    """Older messages are dropped, counted. Of a message stamped by a clock that was not set yet the age is not known:
    it stays."""
    sync_ms: int = 1000
    """Longest time from writing to having synced: what a power cut may take. 0: every record before it is sent."""
    free_share: float = 0.1
    """Never more than this share of what would be free without the spool."""
    min_free_bytes: int = 32 << 20
    """Left free on the file system, whatever `max_bytes` allows."""
    replay_rate: float = 500.0
    """Spooled messages a second, at most, behind live ones."""
    segment_bytes: int = 1 << 20
    """Of one file; what is dropped at the bound is a whole one. At most an eighth of `max_bytes`."""
    written_s: float = 0.25
    """How long a publisher waits for its message's write ("always")."""
    retry_s: float = 10.0
    """After an error, or without room, until the disk is tried again."""
    close_s: float = 2.0
    """What a slow disk is given at the end."""
    key: SealingKey | None = None
    """What messages are sealed with on disk; None: they lie there as they are."""

    def __post_init__(self) -> None:
        for name, lowest in (("max_bytes", 1 << 16), ("sync_ms", 0), ("segment_bytes", 4096), ("min_free_bytes", 0)):
            if getattr(self, name) < lowest:
                raise ConfigError("too small", where=name, expected=f"at least {lowest}", got=getattr(self, name))
        if self.max_age_s <= 0 or self.replay_rate <= 0 or not 0 < self.free_share <= 1:
            raise ConfigError(
                "out of range",
                where="max_age, replay_rate, free_share",
                expected="more than 0, and a share of at most 1",
                got=f"{self.max_age_s:g}, {self.replay_rate:g}, {self.free_share:g}",
            )
        msgspec.structs.force_setattr(self, "segment_bytes", min(self.segment_bytes, self.max_bytes // 8))


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the state of edgerun lies: `$STATE_DIRECTORY` (systemd.exec(5); the first, should it name several), else
    `$XDG_STATE_HOME/edgerun`, else `~/.local/state/edgerun` (XDG Base Directory Specification 0.8: a relative path in
    the variable is ignored).
    """
    given = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    home = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(home):
        return Path(home) / "edgerun"
    return Path(environment.get("HOME") or os.path.expanduser("~")) / ".local" / "state" / "edgerun"


def spool_folder(device: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The spool of one device: `<state>/spool/<device>`; each of the device's characters a path cannot hold is `_`."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in device).lstrip(".") or "_"
    return state_folder(environment) / "spool" / safe
