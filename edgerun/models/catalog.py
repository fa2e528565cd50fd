"""Models that can be had by name: `catalog.json`, part of edgerun, with each file's source, hash and licence."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgerun.decoding import decode
from edgerun.errors import ConfigError, did_you_mean
from edgerun.models.versions import order


class CatalogFile(msgspec.Struct, frozen=True):
    """One file: its name in the bundle, where it comes from (`fetch.fetch`), the SHA-256 it must have."""

    file: str
    source: str
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class CatalogEntry(msgspec.Struct, frozen=True):
    """One version of a model. `manifest`: keys of the bundle's manifest, and
    `labels` its classes, that its files do not tell themselves."""

    name: str
    version: str
    task: str
    license: str
    about: str
    files: Annotated[tuple[CatalogFile, ...], Meta(min_length=1)]
    bytes: int
    homepage: str = ""
    manifest: dict[str, Any] = {}
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class _Catalog(msgspec.Struct, frozen=True):
    v: int
    models: tuple[CatalogEntry, ...]


@cache
def entries() -> tuple[CatalogEntry, ...]:
    """All of the catalog, by name and version, the newest first."""
    content = Path(__file__).with_name("catalog.json").read_bytes()
    found = decode(content, _Catalog).models
    newest = sorted(found, key=lambda one: order(one.version), reverse=True)
    return tuple(sorted(newest, key=lambda one: one.name))


def find(text: str) -> CatalogEntry | None:
    """The entry called `name` (the newest version) or `name@version`; None when the catalog has none."""
    name, _, version = text.partition("@")
    return next((one for one in entries() if one.name == name and version in ("", one.version)), None)


def get(text: str) -> CatalogEntry:
    """As `find`. Raises `ConfigError`."""
    found = find(text)
    if found is None:
        known = [one.name for one in entries()]
        raise ConfigError(
            "no such model in the catalog",
            expected=", ".join(dict.fromkeys(known)),
            got=repr(text),
            remedy=did_you_mean(text.partition("@")[0], known),
        )
    return found
