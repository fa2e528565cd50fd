"""Reading the files of a bundle, folder or zip, without ever leaving it."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from edgerun.errors import ModelError
from edgerun.models.strict import check_collisions

MAX_FILE_BYTES = 1 << 30
"""A larger file is refused unread: it would not fit the devices this is made for."""
MAX_ENTRIES = 1000
MAX_RATIO = 200
"""Of unpacked to packed size: models reach 10, padded tables 50, a bomb the 1032 of deflate (RFC 1951)."""
_RATIO_FROM = 1 << 20
_MAX_DIRECTORY = 1 << 20
_CHUNK = 1 << 20
_MAX_DEPTH = 20
SAFE_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive(Protocol):
    """The files of a bundle by name."""

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The file's bytes. Raises `ModelError` when it is absent, unreadable, larger than `limit` or elsewhere."""
        ...

    def has(self, name: str) -> bool: ...

    def names(self) -> list[str]:
        """Every file, sorted. Raises `ModelError` for links, whatever else is no file, and for names that collide."""
        ...

    def size(self) -> int:
        """What all files take unpacked. Raises `ModelError`."""
        ...

    def copy(self, name: str, out: IO[bytes], limit: int = MAX_FILE_BYTES) -> tuple[str, int]:
        """Write the file to `out` piece by piece; returns its SHA-256 (hexadecimal) and size. Raises `ModelError`."""
        ...

    def close(self) -> None: ...


def check_name(name: str, where: object) -> str:
    """`name` when it is a plain relative path that stays inside. Raises `ModelError`."""
    parts = PurePosixPath(name).parts
    plain = name and "\\" not in name and ":" not in name and name.isprintable() and not name.startswith("/")
    if not plain or not parts or ".." in parts or str(PurePosixPath(name)) != name:
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

    def names(self) -> list[str]:
        found = []
        for name, entry in self._walk(self._root, ""):
            if not entry.is_file(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "something that is no file"
                raise ModelError(f"{kind} in the bundle", where=f"{self._where}/{name}", expected="plain files")
            found.append(check_name(name, self._where))
            if len(found) > MAX_ENTRIES:
                raise ModelError("too many files", where=self._where, expected=f"≤ {MAX_ENTRIES}")
        check_collisions(found, self._where)
        return sorted(found)

    def size(self) -> int:
        try:
            return sum(entry.stat(follow_symlinks=False).st_size for _, entry in self._walk(self._root, ""))
        except OSError as error:
            text = error.strerror or str(error)
            raise ModelError("a file of the bundle cannot be read", where=self._where, got=text) from error

    def head(self, name: str) -> bytes:
        """The first 8 bytes of a file that `names` has listed. Raises `ModelError`."""
        try:
            with (self._root / check_name(name, self._where)).open("rb") as file:
                return file.read(8)
        except OSError as error:
            text = error.strerror or str(error)
            raise ModelError("a file of the bundle cannot be read", where=self._where / name, got=text) from error

    def copy(self, name: str, out: IO[bytes], limit: int = MAX_FILE_BYTES) -> tuple[str, int]:
        path = self._root / check_name(name, self._where)
        try:
            if not path.parent.resolve(strict=True).is_relative_to(self._root):
                raise ModelError("a link leads out of the bundle", where=path, remedy="do not use this bundle")
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ModelError("not a file", where=path)
                return _pour(file, out, limit, path)
        except OSError as error:
            text = error.strerror or str(error)
            raise ModelError("a file of the bundle cannot be copied", where=path, got=text) from error

    def close(self) -> None:
        """Nothing is held."""

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """What lies in the folder and below, folders that are links being links."""
        if prefix.count("/") > _MAX_DEPTH:
            raise ModelError("folders in folders too deep", where=folder, expected=f"≤ {_MAX_DEPTH}")
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._walk(folder / entry.name, f"{prefix}{entry.name}/")
                    else:
                        yield prefix + entry.name, entry
        except OSError as error:
            raise ModelError("a folder cannot be read", where=folder, got=error.strerror or str(error)) from error


class Zip:
    """A bundle in one zip file. Every entry's name is checked, also of those that are never read."""

    def __init__(self, path: Path) -> None:
        self._where = path
        self._file: IO[bytes] | None = None
        try:
            self._file = path.open("rb")
            self._zip = zipfile.ZipFile(_Guarded(self._file))
            self._file.seek(0)
            self._zip.fp = self._file
            self._entries = self._check()
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            if self._file is not None:
                self._file.close()
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                "not a readable zip file", where=path, got=error, remedy="fetch the bundle again"
            ) from error

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

    def names(self) -> list[str]:
        check_collisions(self._entries, self._where)
        return sorted(self._entries)

    def size(self) -> int:
        return sum(entry.file_size for entry in self._entries.values())

    def copy(self, name: str, out: IO[bytes], limit: int = MAX_FILE_BYTES) -> tuple[str, int]:
        entry = self._entries.get(check_name(name, self._where))
        where = f"{self._where}: {name}"
        if entry is None:
            raise ModelError("a file of the bundle is missing", where=where)
        try:
            with self._zip.open(entry) as file:
                return _pour(file, out, limit, where)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise ModelError("a file of the bundle cannot be unpacked", where=where, got=error) from error

    def close(self) -> None:
        self._zip.close()
        if self._file is not None:
            self._file.close()

    def _check(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise ModelError("too many files", where=self._where, expected=f"≤ {MAX_ENTRIES}", got=len(infos))
        total = 0
        for info in infos:
            if "\0" in info.orig_filename:
                raise ModelError("a name with NUL in it", where=self._where, got=repr(info.orig_filename[:80]))
            if info.file_size > MAX_RATIO * info.compress_size + _RATIO_FROM:
                raise ModelError(
                    "too large for what it is packed in, as a zip bomb is",
                    where=f"{self._where}: {info.filename[:80]!r}",
                    expected=f"≤ {MAX_RATIO} times its packed size",
                    got=f"{info.compress_size} → {info.file_size} bytes",
                    remedy="do not use this bundle",
                )
            total += info.file_size
            if total > MAX_FILE_BYTES:
                raise ModelError("too large unpacked", where=self._where, expected=f"≤ {MAX_FILE_BYTES} bytes")
            name = check_name(info.filename.removesuffix("/"), self._where)
            if info.is_dir():
                if info.file_size:
                    raise ModelError("a folder that has content", where=f"{self._where}: {name}")
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


def _pour(file: IO[bytes], out: IO[bytes], limit: int, where: object) -> tuple[str, int]:
    """All of `file` into `out`; what cannot be written raises `OSError`."""
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise ModelError("too large", where=where, expected=f"≤ {limit} bytes")
        digest.update(chunk)
        out.write(chunk)
    return digest.hexdigest(), size


class _Guarded:
    """A zip file while its directory is read: no more of it than a directory of `MAX_ENTRIES` takes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, _MAX_DIRECTORY) if size >= 0 else _MAX_DIRECTORY)
        if size > _MAX_DIRECTORY:
            raise ValueError(f"a directory of {size} bytes")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """The file is its opener's."""
