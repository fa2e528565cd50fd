"""The machine being looked at: its files below a root, and the questions that no file answers.

Files that are absent, broken and empty are three things: None, `DeviceError` and "". A board's tree unpacked into a
folder stands in for the machine by its root; the few methods that ask the kernel instead of a file are the ones that a
board file answers by itself (tests/boards).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from edgerun.device import kernel_clock, v4l2
from edgerun.errors import DeviceError

_MOST_BYTES = 1 << 24  # no file that is read here comes near, the package list of a full desktop included


class Owner(msgspec.Struct, frozen=True):
    """Who may use a device node: permission bits (0o660) and numeric owner and group."""

    mode: int
    uid: int
    gid: int


class Space(msgspec.Struct, frozen=True):
    """A file system's size and what an ordinary user may still write, bytes."""

    total_bytes: int
    free_bytes: int


class Machine:
    """This machine, or a tree below `root` that holds `sys`, `proc`, `dev`, `etc`. Paths are given without a slash.

    `mounted` says where a part of it lies elsewhere, as in a container that is shown its host's:
    {"sys": Path("/host/sys"), "sys/fs/cgroup": Path("/host/cgroup")}. The longest that fits counts.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        environ: Mapping[str, str] = os.environ,
        mounted: Mapping[str, Path] | None = None,
    ) -> None:
        self.root = root
        self.environ = environ
        self._mounted = sorted((mounted or {}).items(), key=lambda pair: -len(pair[0]))

    def path(self, name: str) -> Path:
        """Where `name` ("sys/class/thermal") lies."""
        name = name.lstrip("/")
        for part, folder in self._mounted:
            if name == part or name.startswith(part + "/"):
                return folder / name[len(part) + 1 :]
        return self.root / name

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None when it is absent. Raises `DeviceError` when it cannot be read.

        Read with bare `read` calls: a driver that says EAGAIN has no value now, and asking again would spin.
        """
        path = self.path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(name, error) from error
        try:
            content = b""
            while len(content) < _MOST_BYTES and (more := os.read(fd, 1 << 16)):
                content += more
            return content
        except OSError as error:
            raise _unreadable(name, error) from error
        finally:
            os.close(fd)

    def text(self, name: str) -> str | None:
        """A file's text without the NULs and white space at its ends; None when it is absent.

        Bytes that are not UTF-8 become U+FFFD: some batteries are named so. Raises `DeviceError`.
        """
        content = self.read(name)
        return None if content is None else content.decode("utf-8", "replace").strip("\0 \t\r\n")

    def number(self, name: str, base: int = 10) -> int | None:
        """A file's first word as a whole number; None when it is absent. Raises `DeviceError` for anything else."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return int(text.split()[0], base)
        except (IndexError, ValueError) as error:
            raise DeviceError("is not a number", where="/" + name, expected="a number", got=repr(text[:40])) from error

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, numbers in order (`video2` before `video10`); nothing when it is absent.

        Raises `DeviceError` when it cannot be listed.
        """
        try:
            return sorted(os.listdir(self.path(folder)), key=_by_number)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(folder, error) from error

    def exists(self, name: str) -> bool:
        """Whether anything is there, a link that leads nowhere included."""
        return os.path.lexists(self.path(name))

    def link(self, name: str) -> str | None:
        """The last part of what a link points to (`driver` → "uvcvideo"); None when it is not a link."""
        try:
            return os.path.basename(os.readlink(self.path(name)))
        except OSError:
            return None

    def owner(self, name: str) -> Owner | None:
        """Whose a node is; None when it is absent. Raises `DeviceError`."""
        try:
            status = self.path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(name, error) from error
        return Owner(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def space(self, name: str) -> Space | None:
        """How full the file system of a folder is (statvfs(3)); None when it is absent. Raises `DeviceError`."""
        try:
            facts = os.statvfs(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(name, error) from error
        return Space(facts.f_frsize * facts.f_blocks, facts.f_frsize * facts.f_bavail)

    def architecture(self) -> str:
        """As the kernel names it: "aarch64", "x86_64"."""
        return self.text("proc/sys/kernel/arch") or os.uname().machine

    def python(self) -> tuple[int, int, int]:
        """The version of the Python that runs edgerun."""
        return sys.version_info[:3]

    def package(self, name: str) -> str | None:
        """The version of an installed Python package, None when it is not installed."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(name)
        except PackageNotFoundError:
            return None

    def clock(self) -> kernel_clock.ClockState:
        """How the kernel's clock is kept (adjtimex(2)). Raises `DeviceError`."""
        return kernel_clock.read()

    def video(self, name: str) -> v4l2.Video:
        """What a V4L2 node says it can do. Raises `DeviceError`."""
        return v4l2.ask(self.path(name))


@contextlib.contextmanager
def understood(name: str) -> Iterator[None]:
    """Taking a file's text apart: whatever that fails by becomes a `DeviceError` which names the file."""
    try:
        yield
    except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
        raise DeviceError("is not what the kernel writes there", where="/" + name, got=str(error)) from error


def _unreadable(name: str, error: OSError) -> DeviceError:
    return DeviceError("cannot be read", where="/" + name, got=error.strerror or str(error))


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
