"""Model files that lie sealed on the disk: opened into memory, as plain ones are read.

A sealed file keeps its name: the manifest goes on listing the plain file's size and SHA-256, so signatures hold for a
bundle that is sealed on the device, and a sealed file is opened before it is held against the manifest.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import IO

from edgerun.errors import ModelError, SealError
from edgerun.models.archive import MAX_FILE_BYTES, Archive
from edgerun.security.sealing import SealingKey, is_sealed, seal_file, unseal

PURPOSE = "model"


def open_content(content: bytes, key: SealingKey | None, name: str, where: object) -> bytes:
    """`content`, opened where it is sealed. Raises `ModelError` without the key, or with another one."""
    if not is_sealed(content[:8]):
        return content
    if key is None:
        raise ModelError(
            "the file is sealed",
            where=where,
            expected="the key that opens it",
            remedy='set model_key of [security], such as model_key = { credential = "model-key" }, or give '
            "--model-key FILE",
        )
    try:
        return unseal(content, key, PURPOSE, PurePosixPath(name).name, where)
    except SealError as error:
        raise ModelError(error.what, where=where, expected=error.expected, got=error.got, remedy=error.remedy) from None


def seal_model_file(path: Path, key: SealingKey) -> None:
    """Seal a model's file where it lies, under its own name; one that is sealed already is left. Raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(8)
    if not is_sealed(head):
        seal_file(path, path, key, PURPOSE, path.name)


class Unsealing:
    """An archive whose files may be sealed. The manifest and its signature never are."""

    def __init__(self, archive: Archive, key: SealingKey | None, where: object) -> None:
        self._archive, self._key, self._where = archive, key, where

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        return open_content(self._archive.read(name, limit), self._key, name, f"{self._where}/{name}")

    def has(self, name: str) -> bool:
        return self._archive.has(name)

    def names(self) -> list[str]:
        return self._archive.names()

    def size(self) -> int:
        return self._archive.size()

    def copy(self, name: str, out: IO[bytes], limit: int = MAX_FILE_BYTES) -> tuple[str, int]:
        """As it lies there, sealed."""
        return self._archive.copy(name, out, limit)

    def close(self) -> None:
        self._archive.close()
