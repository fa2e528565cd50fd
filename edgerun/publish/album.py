"""A folder of pictures with sidecars that never takes more than its budget: the oldest give way.

A picture counts from the moment its sidecar is there, which is written last; what a power cut left half done is taken
away at the start. Files begin with a serial number, because wall clocks jump.
"""

from __future__ import annotations

import calendar
import os
import re
import shutil
import time
from collections import deque
from pathlib import Path

from edgerun.errors import ConfigError
from edgerun.ports import Seal

_NAME = re.compile(r"^(\d{8,})-\d{8}T\d{6}Z\.(jpg|json)(\.sealed)?$")
_SEALED = ".sealed"
_PARTIAL = ".part"
_KEEP_FREE = 0.05
"""Share of the file system that is left to others."""


class Album:
    """One folder; used by one thread. Only names of its own making are counted or removed.

    Raises `ConfigError` where the folder cannot be made or written.
    """

    def __init__(self, folder: Path, max_bytes: int, seal: Seal | None = None) -> None:
        """`seal`: files are written sealed, with the purpose "collect", and are called `….jpg.sealed`."""
        self._folder, self._max_bytes, self._seal = folder, max_bytes, seal
        self._bytes = 0
        self._next = 0
        self._shots: deque[tuple[str, int]] = deque()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._look_round()
            probe = folder / f"probe{_PARTIAL}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                "pictures cannot be collected there",
                where=folder,
                got=error.strerror or error,
                remedy="name a folder that this user may write to",
            ) from error

    @property
    def taken_bytes(self) -> int:
        """What is in it."""
        return self._bytes

    def add(self, unix_s: float, picture: bytes, sidecar: bytes) -> bool:
        """Put a picture (JPEG) with its sidecar (JSON) in; False where there is no room. Raises `OSError`."""
        stem = f"{self._next:08}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(max(0.0, unix_s)))}"
        if self._seal is not None:
            picture = self._seal(picture, "collect", stem + ".jpg")
            sidecar = self._seal(sidecar, "collect", stem + ".json")
        size = len(picture) + len(sidecar)
        if size > self._max_bytes:
            return False
        while self._shots and self._bytes + size > self._max_bytes:
            self._drop_oldest()
        disk = shutil.disk_usage(self._folder)
        if disk.free - size < _KEEP_FREE * disk.total:
            return False
        self._next += 1
        suffix = _SEALED if self._seal is not None else ""
        try:
            self._put(f"{stem}.jpg{suffix}", picture)
            self._put(f"{stem}.json{suffix}", sidecar)
        except OSError:
            self._remove(stem)
            raise
        self._shots.append((stem, size))
        self._bytes += size
        return True

    def prune(self, before_unix_s: float) -> int:
        """Delete the pictures taken before that time, as their names tell it; returns how many. Raises `OSError`.

        A picture that a clock that was not set yet dated to 1970 counts as old: a limit to what is kept is to hold.
        """
        old = [shot for shot in self._shots if _taken_unix_s(shot[0]) < before_unix_s]
        for stem, size in old:
            self._remove(stem)
            self._shots.remove((stem, size))
            self._bytes -= size
        return len(old)

    def _put(self, name: str, content: bytes) -> None:
        """A file that is there whole or not at all, after a power cut too."""
        partial = self._folder / (name + _PARTIAL)
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fdatasync(fd)
            partial.replace(self._folder / name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _drop_oldest(self) -> None:
        stem, size = self._shots.popleft()
        self._remove(stem)
        self._bytes -= size

    def _remove(self, stem: str) -> None:
        """The sidecar first: without it the picture does not count."""
        for kind in ("json", "jpg"):
            for suffix in ("", _SEALED):
                (self._folder / f"{stem}.{kind}{suffix}").unlink(missing_ok=True)

    def _look_round(self) -> None:
        """Count what is there, oldest first, and take away what is not whole."""
        sizes: dict[str, dict[str, int]] = {}
        for entry in os.scandir(self._folder):
            if _NAME.match(entry.name.removesuffix(_PARTIAL)) is None:
                continue
            if entry.name.endswith(_PARTIAL):
                Path(entry.path).unlink(missing_ok=True)
                continue
            stem, _, suffix = entry.name.removesuffix(_SEALED).rpartition(".")
            sizes.setdefault(stem, {})[suffix] = entry.stat().st_size
        for stem in sorted(sizes, key=lambda stem: int(stem.partition("-")[0])):
            self._next = int(stem.partition("-")[0]) + 1
            if len(sizes[stem]) == 2 and all(sizes[stem].values()):
                size = sum(sizes[stem].values())
                self._shots.append((stem, size))
                self._bytes += size
            else:
                self._remove(stem)
        while self._shots and self._bytes > self._max_bytes:
            self._drop_oldest()


def _taken_unix_s(stem: str) -> float:
    """0 where the name tells no time that there is."""
    try:
        return calendar.timegm(time.strptime(stem.partition("-")[2], "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return 0.0
