"""What drift is measured against where the bundle says nothing, kept across restarts in the state folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgerun.app.state_file import StateFile
from edgerun.telemetry.drift import Learnt

NAME = "drift.json"


class _Content(msgspec.Struct, frozen=True):
    device: str
    accounts: dict[str, Learnt]
    v: int = 1


class DriftFile:
    """`drift.json` in `folder`. Used by one thread; what goes wrong with it is logged and stops nothing."""

    def __init__(self, folder: Path) -> None:
        self._file = StateFile(
            folder / NAME,
            _Content,
            lost="what is usual is learnt anew",
            unkept="what is usual is not kept",
        )

    def read(self, device: str) -> dict[str, Learnt]:
        """What was learnt by account; nothing of another device."""
        content = self._file.read()
        return {} if content is None or content.device != device else content.accounts

    def write(self, device: str, learnt: Mapping[str, Learnt]) -> None:
        """Keep it, where there is any and it has changed."""
        if learnt:
            self._file.write(_Content(device, dict(learnt)))
