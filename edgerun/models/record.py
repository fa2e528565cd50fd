"""What the store knows of one model: `state.json` in its folder, the one file that says what is installed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgerun import decoding
from edgerun.errors import DeviceError, ModelError
from edgerun.models.disk import Disk
from edgerun.models.versions import order

VERSION = 1
STATE = "state.json"
MAX_BYTES = 4 << 20

Trusted = Literal["signed", "openssf", "catalog", "unsigned", "unknown"]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Installed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version in the store. Times in Unix seconds.

    `trusted` says why it was taken: signed by a trusted key (`signer` is its id), an OpenSSF bundle of a trusted key,
    its hash is in edgerun's own catalog, or not at all. `source` is where it came from, without secrets. `notes` are of
    whoever decides what is active (a rollout): the store keeps them and does not look.
    """

    name: str
    version: str
    manifest_sha256: Digest
    bytes: int
    installed_at: float
    source: str = ""
    remote: bool = False
    trusted: Trusted = "unknown"
    signer: str | None = None
    task: str | None = None
    license: str | None = None
    expires: str | None = None
    activated_at: float | None = None
    notes: dict[str, Any] = {}
    folder: str | None = None
    """Where it lies in the model's folder, where that is not `version`: it took the place of a damaged one."""

    @property
    def place(self) -> str:
        return self.folder or self.version


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All of one model. `highest` is the newest version that was ever installed: what a downgrade is told by.

    `seen_at` is the latest moment this file was written: a clock that says less is wrong.
    """

    v: int = VERSION
    name: str
    active: str | None = None
    previous: str | None = None
    highest: str | None = None
    seen_at: float = 0.0
    versions: dict[str, Installed] = {}

    def ordered(self) -> list[Installed]:
        """The versions, the newest first."""
        return sorted(self.versions.values(), key=lambda one: (order(one.version), one.installed_at), reverse=True)

    def latest(self) -> str | None:
        """The newest version that is installed."""
        return self.ordered()[0].version if self.versions else None

    def with_version(self, one: Installed) -> Record:
        """With this version, in place of one of the same name."""
        newer = self.highest is None or order(one.version) > order(self.highest)
        return msgspec.structs.replace(
            self, versions={**self.versions, one.version: one}, highest=one.version if newer else self.highest
        )

    def without(self, version: str) -> Record:
        """Without this version, which is not the active one."""
        left = {key: one for key, one in self.versions.items() if key != version}
        return msgspec.structs.replace(
            self, versions=left, previous=None if self.previous == version else self.previous
        )

    def activated(self, version: str, now: float) -> Record:
        """With this version active; the one that was becomes the previous one."""
        if version == self.active:
            return self
        one = msgspec.structs.replace(self.versions[version], activated_at=now)
        return msgspec.structs.replace(
            self, active=version, previous=self.active, versions={**self.versions, version: one}
        )

    def noted(self, version: str, notes: Mapping[str, Any]) -> Record:
        """With these notes; a note of None is taken away."""
        old = self.versions[version]
        made = {key: value for key, value in {**old.notes, **notes}.items() if value is not None}
        return msgspec.structs.replace(
            self, versions={**self.versions, version: msgspec.structs.replace(old, notes=made)}
        )


def encode(record: Record) -> bytes:
    """As `decode` reads it."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(content: bytes, name: str, where: object) -> Record:
    """The record in `content`. Raises `ModelError` for one that is not whole or is another model's."""
    try:
        record = decoding.decode(content, Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(where, error) from error
    if record.v != VERSION or record.name != name:
        raise _damaged(where, f"version {record.v} of {record.name!r}")
    for version in (record.active, record.previous):
        if version is not None and version not in record.versions:
            raise _damaged(where, f"version {version!r}, of which nothing is known")
    if any((record.name, key) != (one.name, one.version) for key, one in record.versions.items()):
        raise _damaged(where, "versions that do not fit their names")
    return record


def read(home: Path) -> Record | None:
    """The record in a model's folder; None where there is none. Raises `ModelError` when damaged, `DeviceError`."""
    path = home / STATE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DeviceError("the model store cannot be read", where=path, got=error.strerror or str(error)) from error
    return decode(content, home.name, path)


def write(home: Path, record: Record, disk: Disk) -> None:
    """Replace the record in a model's folder, in one step. Raises `OSError`."""
    seen = max(record.seen_at, time.time())
    disk.replace(home / STATE, encode(msgspec.structs.replace(record, seen_at=seen)))


def _damaged(where: object, got: object) -> ModelError:
    return ModelError("the store's file about a model is damaged", where=where, expected="what edgerun wrote", got=got)


def check_recorded(folder: Path, manifest: bytes) -> None:
    """Raises `ModelError` when `folder` is a version in a store and `manifest` not the one that was installed there."""
    found = read(folder.parent)
    if found is None:
        return
    known = [one for one in found.versions.values() if one.place == folder.name]
    got = hashlib.sha256(manifest).hexdigest()
    if known and known[0].manifest_sha256 != got:
        raise ModelError(
            "the manifest is not the one that was installed",
            where=folder,
            expected=f"sha256 {known[0].manifest_sha256}",
            got=f"sha256 {got}",
            remedy=f"run edgerun models rollback {found.name}, or fetch the model again",
        )
