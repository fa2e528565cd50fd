"""A pytest plug-in that counts what came to the doors of the device while tests ran, and how it was judged.

    python -m pytest -p tests.doors tests/security tests/control -p no:xdist

prints a line for each file of tests and each door: so many refused, so many taken. What is taken belongs to the tests
that show the right thing works: a test fails when something wrong is taken.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

DOORS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "edgerun.security.sealing:unseal": ("sealed text", lambda answer: True),
    "edgerun.security.signing:decode": ("a signature file", lambda answer: True),
    "edgerun.security.trust:Trust.verify": ("a signature", lambda answer: True),
    "edgerun.security.tokens:Gate.check": ("a token", bool),
    "edgerun.control.signed:Signatures.read": ("a signed command", lambda answer: True),
    "edgerun.control.desk:Desk.read": ("a command", lambda answer: answer is not None),
}
_counts: Counter[tuple[str, str, str]] = Counter()
_running = [""]


def pytest_collection_finish() -> None:
    for place, (door, is_taken) in DOORS.items():
        _watch(place, door, is_taken)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _running[0] = item.nodeid.partition("::")[0]
    return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("what came to the doors")
    for file, door in sorted({(file, door) for file, door, _ in _counts}):
        refused, taken = (_counts[file, door, how] for how in ("refused", "taken"))
        terminalreporter.write_line(f"{file}: {door}: {refused} refused, {taken} taken")


def _watch(place: str, door: str, is_taken: Callable[[Any], bool]) -> None:
    module_name, _, path = place.partition(":")
    module = importlib.import_module(module_name)
    *outer, name = path.split(".")
    owner: Any = functools.reduce(getattr, outer, module)
    real = getattr(owner, name)

    @functools.wraps(real)
    def counted(*args: Any, **how: Any) -> Any:
        judged = "refused"
        try:
            answer = real(*args, **how)
            judged = "taken" if is_taken(answer) else "refused"
        finally:
            _counts[_running[0], door, judged] += 1
        return answer

    setattr(owner, name, counted)
    for other in list(sys.modules.values()):  # who has imported it by name
        if getattr(other, "__name__", "").startswith(("edgerun", "tests")) and vars(other).get(name) is real:
            setattr(other, name, counted)
