"""Reading the files of a bundle, folder or zip, without ever leaving it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgerun.errors import ModelError

MAX_FILE_BYTES = 1 << 30
"""A larger file is refused unread: it would not fit the devices this is made for."""
MAX_ENTRIES = 1000
SAFE_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive(Protocol):
    """The files of a bundle by name."""

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The file's bytes. Raises `ModelError` when it is absent, unreadable, larger than `limit` or elsewhere."""
        ...

    def has(self, name: str) -> bool: ...

    def close(self) -> None: ...


def check_name(name: str, where: object) -> str:
    """`name` when it is a plain relative path that stays inside. Raises `ModelError`."""
    parts = PurePosixPath(name).parts
    plain = name and "\\" not in name and ":" not in name and name.isprintable() and not name.startswith("/")
    if not plain or ".." in parts or str(PurePosixPath(name)) != name:
        raise ModelError(
            "the bundle names a file outside itself or in no plain way",
            where=where,
            expected="relative names with / and without ..",
            got=repr(name),
            remedy="do not use this bundle",
        )
    return name


class Folder:
    """A bundle that lies unpacked."""

    def __init__(self, path: Path) -> None:
        self._root = path.resolve()
        self._where = path

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        path = self._root / check_name(name, self._where)
        try:
            if not path.resolve(strict=True).is_relative_to(self._root):
                raise ModelError("a link leads out of the bundle", where=path, remedy="do not use this bundle")
            if not path.is_file():
                raise ModelError("not a file", where=path)
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            text = getattr(error, "strerror", None) or str(error)
            raise ModelError("a file of the bundle cannot be read", where=path, got=text) from error
        return _bounded(content, limit, path)

    def close(self) -> None:
        """Nothing is held."""


class Zip:
    """A bundle in one zip file. Every entry's name is checked, also of those that are never read."""

    def __init__(self, path: Path) -> None:
        self._where = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ModelError(
                "not a readable zip file", where=path, got=error, remedy="fetch the bundle again"
            ) from error
        try:
            self._entries = self._check()
        except ModelError:
            self.close()
            raise

    def has(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        entry = self._entries.get(check_name(name, self._where))
        where = f"{self._where}: {name}"
        if entry is None:
            raise ModelError("a file of the bundle is missing", where=where)
        if entry.file_size > limit:
            raise ModelError("too large", where=where, expected=f"≤ {limit} bytes", got=entry.file_size)
        try:
            with self._zip.open(entry) as file:
                content = file.read(limit + 1)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise ModelError("a file of the bundle cannot be unpacked", where=where, got=error) from error
        return _bounded(content, limit, where)

    def close(self) -> None:
        self._zip.close()

    def _check(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise ModelError("too many files", where=self._where, expected=f"≤ {MAX_ENTRIES}", got=len(infos))
        for info in infos:
            name = check_name(info.filename.removesuffix("/"), self._where)
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ModelError("a link in the bundle", where=f"{self._where}: {name}", expected="plain files")
            if name in entries:
                raise ModelError("two files of one name", where=f"{self._where}: {name}")
            if info.flag_bits & 1 or info.compress_type not in SAFE_COMPRESSION:
                raise ModelError(
                    "a file packed in a way that is not read",
                    where=f"{self._where}: {name}",
                    expected="stored or deflated, not encrypted",
                )
            entries[name] = info
        return entries


def _bounded(content: bytes, limit: int, where: object) -> bytes:
    if len(content) > limit:
        raise ModelError("too large", where=where, expected=f"≤ {limit} bytes")
    return content
