"""The disk as a power cut leaves it: a file layer that remembers what was written and what was synced.

What POSIX promises and no more: bytes behind the last fdatasync may be there page by page, in any combination, and a
page that is not is zeros or the end of the file; a name that was made or removed since the last fsync of its folder may
be as before. A file overwritten in place within one page is as before or as after.
"""

from __future__ import annotations

import random
from pathlib import Path

from edgerun.spool.files import Files

_PAGE = 4096


class PowerFiles(Files):
    """Passes everything on to the real files and keeps the account."""

    def __init__(self) -> None:
        self._paths: dict[int, Path] = {}
        self._data: dict[Path, bytearray] = {}
        self._synced: dict[Path, int] = {}
        self._small: dict[Path, list[bytes]] = {}
        self._names: set[Path] = set()
        """Those a power cut cannot undo."""
        self._removed: dict[Path, bytes] = {}
        self.points = 0
        """Calls so far after which a cut is of interest."""
        self.at_point: list[object] = []
        """Called at each of them."""

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._paths[fd], self._data[path], self._synced[path] = path, bytearray(), 0
        self._point()
        return fd

    def write(self, fd: int, data: bytes) -> None:
        super().write(fd, data)
        self._data[self._paths[fd]] += data
        self._point()

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        path = self._paths[fd]
        del self._data[path][size:]
        self._synced[path] = min(self._synced[path], size)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        path = self._paths[fd]
        self._synced[path] = len(self._data[path])
        self._point()

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self._names |= set(self._data)
        self._removed.clear()
        self._point()

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        data = self._data.pop(path, None)
        if data is not None and path in self._names:
            self._removed[path] = bytes(data[: self._synced[path]])
        self._names.discard(path)
        self._point()

    def overwrite(self, path: Path, data: bytes, *, sync: bool) -> None:
        super().overwrite(path, data, sync=sync)
        versions = self._small.setdefault(path, [])
        versions[:] = [data] if sync else [*versions[-3:], data]
        self._point()

    def cut(self, folder: Path, dice: random.Random) -> None:
        """Write to `folder` one of the disks that a power cut at this moment may leave."""
        folder.mkdir()
        for path, data in self._data.items():
            if path in self._names or dice.random() < 0.5:
                (folder / path.name).write_bytes(_torn(bytes(data), self._synced[path], dice))
        for path, data in self._removed.items():
            if dice.random() < 0.5:
                (folder / path.name).write_bytes(data)
        for path, versions in self._small.items():
            kept = dice.choice([*versions, None])
            if kept is not None:
                (folder / path.name).write_bytes(kept)

    def _point(self) -> None:
        self.points += 1
        for call in self.at_point:
            call()  # type: ignore[operator]


def _torn(data: bytes, synced: int, dice: random.Random) -> bytes:
    way = dice.randrange(4)
    if way == 0:
        return data[:synced]
    if way == 1:
        return data
    left = bytearray(data[: dice.randint(synced, len(data))])
    if way == 3:  # pages in any combination, what was synced untouched
        for page in range(synced // _PAGE * _PAGE, len(left), _PAGE):
            if dice.random() < 0.5:
                start, end = max(page, synced), min(page + _PAGE, len(left))
                left[start:end] = bytes(end - start)
    return bytes(left)
