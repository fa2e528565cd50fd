"""The rooms keep to their floors (docs/architecture.md, "Rooms and floors")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "edgerun"

FLOORS = {
    "errors": 0, "notify": 0, "progress": 0,
    "types": 0, "clock": 0, "slot": 0, "meter": 0, "protobuf": 0, "wake": 0, "polygon": 0, "heap": 0,
    "decoding": 0, "turns": 0,
    "ports": 1, "config": 1, "validate": 1, "secret": 1, "registry": 1, "broker": 1, "spool": 1, "security": 1,
    "capture": 2, "preprocess": 2, "infer": 2, "decode": 2, "publish": 2, "device": 2, "models": 2,
    "telemetry": 2, "web": 2, "pipeline": 2, "scene": 2, "control": 2,
    "app": 3, "service": 3,
    "daemon": 4, "setup": 4, "batch": 4, "watch": 4, "fleet": 4, "bench": 4, "doctor": 4, "worker": 4,
    "convert": 5,
    "cli": 6,
    "__main__": 7,
}  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names = [node.module or ""]
            if node.module == "edgerun":
                names = [f"edgerun.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("edgerun.")}
    return found - {"__version__"}


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_lower_floors_and_its_own_room(path: Path) -> None:
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor: name it here and in docs/architecture.md"
    for other in imported_rooms(path) - {room}:
        if FLOORS[room] == 0:
            assert other == "errors", f"{room} is on floor 0 and imports {other}"
        elif FLOORS[room] == 1:
            assert FLOORS[other] <= 1, f"{room} (floor 1) imports {other} (floor {FLOORS[other]})"
        else:
            assert FLOORS[other] < FLOORS[room], (
                f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"
            )


def test_every_room_is_in_the_architecture() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in {room_of(path) for path in SOURCES}:
        assert f"  {room}.py " in page or f"  {room}/ " in page, f"{room} is not drawn in docs/architecture.md"


def test_only_the_command_line_prints() -> None:
    for path in SOURCES:
        if room_of(path) in {"cli", "__main__"}:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
