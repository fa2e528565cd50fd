"""Tables that come from elsewhere than the config's file, laid over what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Overlay(msgspec.Struct, frozen=True):
    """`tables` as the TOML has them. `whole`: each takes the place of the file's table of that name; else they are a
    merge patch (RFC 7396): tables are merged key by key, anything else takes the place of what is there, and what is
    None is taken out. `name` tells the operator where they come from.
    """

    name: str
    tables: Mapping[str, Any]
    whole: bool = False

    def over(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """`raw` with this laid over it; `raw` itself stays."""
        if self.whole:
            return {**raw, **self.tables}
        return merge_patch(raw, self.tables)

    def holds(self, place: str) -> bool:
        """Whether the value at the dotted path `place` comes from here."""
        at: Any = self.tables
        for part in place.split("."):
            if not isinstance(at, Mapping) or part not in at:
                return False
            at = at[part]
            if self.whole:
                return True
        return not isinstance(at, Mapping)


def merge_patch(target: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """`target` with `patch` merged into it, as RFC 7396, section 2, has it; neither is changed."""
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge_patch(merged.get(key), value)
        else:
            merged[key] = value
    return merged
