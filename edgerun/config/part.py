"""The tables of a config that stand for themselves, for commands that work before the whole is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgerun.config.build import OptionsOf, _Reader
from edgerun.config.security import SecurityConfig
from edgerun.config.store import StoreConfig
from edgerun.config.structs import DeviceConfig
from edgerun.config.toml import read_toml
from edgerun.errors import ConfigErrors
from edgerun.validate import INVALID, Report, read_struct


class Part(msgspec.Struct, frozen=True):
    """`[device]`, `[security]` and `[store]`; models and streams may name what is not installed yet."""

    device: DeviceConfig
    security: SecurityConfig
    store: StoreConfig


def load_part(path: Path, options_of: OptionsOf) -> Part:
    """Those tables of the file at `path`. Raises `ConfigErrors` with everything that is wrong with them."""
    raw, lines = read_toml(path)
    report = Report(_where(path, lines), _Reader(options_of, path.parent, None).hooks())
    tables: dict[str, type[msgspec.Struct]] = {"device": DeviceConfig, "security": SecurityConfig, "store": StoreConfig}
    found = {key: read_struct(raw.get(key, {}), kind, key, report) for key, kind in tables.items()}
    if report.errors or INVALID in found.values():
        raise ConfigErrors(report.errors)
    return Part(**found)


def _where(path: Path, lines: dict[str, int]) -> Callable[[str], str]:
    def where(place: str) -> str:
        at = place
        while at and at not in lines:
            at = at.rpartition(".")[0]
        return f"{path}:{lines[at]}: {place}" if at else f"{path}: {place}"

    return where
