"""Boards as text: unpacked into a folder, and answering as a `Machine`. The format is in README.md."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from edgerun.device.kernel_clock import ClockState
from edgerun.device.machine import Machine, Owner, Space
from edgerun.device.v4l2 import Video, VideoFormat, VideoKind, VideoSize
from edgerun.errors import DeviceError

FOLDER = Path(__file__).parent
BOARDS = tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))

_NODE = re.compile(r"(\S+) ([0-7]{4}) (\d+):(\d+)")


class Board(NamedTuple):
    """A board file, read. `facts` is keyed by the words behind the @; `refused` holds paths that cannot be read."""

    files: dict[str, bytes]
    links: dict[str, str]
    folders: list[str]
    broken: list[str]
    blocking: list[str]
    refused: list[str]
    nodes: dict[str, Owner]
    facts: dict[str, str]


def read(name: str) -> Board:
    """The board `name` ("pi5"). Raises `ValueError`."""
    return parse((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))


def parse(text: str) -> Board:
    """A board from a file's text. Raises `ValueError` naming the line that makes no sense."""
    board = Board({}, {}, [], [], [], [], {}, {})
    head, *entries = re.split(r"^== ", text, flags=re.MULTILINE)
    if any(line and not line.startswith("#") for line in head.splitlines()):
        raise ValueError("something other than comments before the first entry")
    for entry in entries:
        line, _, body = entry.partition("\n")
        _add(board, line, body)
    return board


def _add(board: Board, line: str, body: str) -> None:
    name, equals, value = line.partition(" = ")
    if name.startswith("/") or ".." in name.partition(" -> ")[0].split("/"):
        raise ValueError(f"not a path inside the board: {line}")
    if body and (equals or name != line.split(" ")[0] or name.endswith("/")):
        raise ValueError(f"this entry takes no lines below it: {line}")
    if name.startswith("@"):
        board.facts[name[1:]] = value
    elif equals:
        board.files[name] = _bytes(value) + (b"" if value.endswith("\\x00") else b"\n")
    elif " -> " in line:
        name, _, target = line.partition(" -> ")
        if target.startswith("/"):
            raise ValueError(f"a link out of the board: {line}")
        board.links[name] = target
    elif (node := _NODE.fullmatch(line)) is not None:
        board.nodes[node[1]] = Owner(int(node[2], 8), int(node[3]), int(node[4]))
    elif line.endswith(" !EIO"):
        board.broken.append(line.removesuffix(" !EIO"))
    elif line.endswith(" !EACCES"):
        board.refused.append(line.removesuffix(" !EACCES"))
    elif line.endswith(" !blocks"):
        board.blocking.append(line.removesuffix(" !blocks"))
    elif line.endswith("/"):
        board.folders.append(line)
    elif " " in line or not line:
        raise ValueError(f"no entry looks like this: {line}")
    else:
        board.files[line] = _bytes(body)


def unpack(board: Board, folder: Path) -> Path:
    """Make its tree below `folder`; returns `folder`."""
    for name, content in board.files.items():
        path = _place(folder, name)
        path.write_bytes(content)
        if content.startswith(b"#!/"):
            path.chmod(0o755)
    for name in (*board.nodes, *board.refused):
        _place(folder, name).touch()
    for name, target in board.links.items():
        _place(folder, name).symlink_to(target)
    for name in board.broken:
        _place(folder, name).symlink_to("/proc/self/mem")  # reading at 0 gives EIO: nothing is mapped there
    for name in board.blocking:
        os.mkfifo(_place(folder, name))
    for name in board.folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


class BoardMachine(Machine):
    """A board unpacked below `folder`; it answers itself what no file tells."""

    def __init__(self, board: Board, folder: Path) -> None:
        environ = {name.split(" ")[1]: value for name, value in board.facts.items() if name.startswith("environ ")}
        super().__init__(unpack(board, folder), {"HOME": "/home/pi", **environ})
        self._board = board

    def read(self, name: str) -> bytes | None:
        if name in self._board.refused:
            raise DeviceError("cannot be read", where="/" + name, got="Permission denied")
        return super().read(name)

    def owner(self, name: str) -> Owner | None:
        return self._board.nodes.get(name)

    def space(self, name: str) -> Space | None:
        folders = [fact.split(" ")[1] for fact in self._board.facts if fact.startswith("disk ")]
        above = [folder for folder in folders if f"{name}/".startswith(folder.rstrip("/") + "/")]
        if not above:
            return None
        total, free = self._board.facts[f"disk {max(above, key=len)}"].split()
        return Space(int(total), int(free))

    def architecture(self) -> str:
        return self._board.facts.get("architecture") or super().architecture()

    def python(self) -> tuple[int, int, int]:
        major, minor, micro = self._board.facts["python"].split(".")
        return int(major), int(minor), int(micro)

    def package(self, name: str) -> str | None:
        return self._board.facts.get(f"package {name}")

    def clock(self) -> ClockState:
        if "clock" not in self._board.facts:
            raise DeviceError("adjtimex failed", got="Operation not permitted")
        word, error_ms = self._board.facts["clock"].split()
        return ClockState(word == "synchronised", float(error_ms))

    def video(self, name: str) -> Video:
        told = self._board.facts.get(f"video {name}")
        if told is None:
            raise DeviceError("cannot be opened", where="/" + name, got="Device or resource busy")
        kind, _, formats = told.partition(" ")
        return Video("", "", "", _kind(kind), False, tuple(map(_format, filter(None, formats.split(", ")))))


def _kind(word: str) -> VideoKind:
    kinds: dict[str, VideoKind] = {"capture": "capture", "metadata": "metadata", "m2m": "memory-to-memory"}
    return kinds[word]


def _format(text: str) -> VideoFormat:
    fourcc, *sizes = text.split()
    return VideoFormat(fourcc, fourcc, fourcc == "MJPG", tuple(map(_size, sizes)))


def _size(text: str) -> VideoSize:
    size, _, fps = text.partition("@")
    width, height = size.split("x")
    return VideoSize(int(width), int(height), float(fps or 0))


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _bytes(text: str) -> bytes:
    parts = re.split(r"(\\\\|\\x[0-9a-f]{2})", text)
    raw = [part.encode() if not part.startswith("\\") else _escape(part) for part in parts]
    return b"".join(raw)


def _escape(part: str) -> bytes:
    return b"\\" if part == "\\\\" else bytes([int(part[2:], 16)])
