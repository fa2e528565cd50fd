"""Whatever stands in a board's files, no check fails by a fault of its own: a file that makes no sense is a finding."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.doctor.line import Line
from tests.boards import tree
from tests.doctor.test_boards import examined

READ = {name: tree.read(name) for name in tree.BOARDS}
WORDS = (
    b"",
    b"\n",
    b"-1\n",
    b"2147483648\n",
    b"max\n",
    b"0x\n",
    b"1 2 3\n",
    b": : :\n",
    b"\xff\xfe",
    b"nan\n",
    b"5 0\n",
)
NUMBERS = st.sampled_from(WORDS)


def faults(board: tree.Board) -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        found = examined(board, Path(folder))
    return [line for lines in found.families.values() for line in lines if "the check failed" in line.value]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(tree.BOARDS), st.data())
def test_a_file_with_garbage(name: str, data: st.DataObject) -> None:
    board = READ[name]
    victims = data.draw(st.lists(st.sampled_from(sorted(board.files)), min_size=1, max_size=6, unique=True))
    content = {victim: data.draw(NUMBERS | st.binary(max_size=40)) for victim in victims}
    assert not faults(board._replace(files={**board.files, **content}))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(tree.BOARDS), st.data())
def test_files_that_vanish_or_cannot_be_read(name: str, data: st.DataObject) -> None:
    board = READ[name]
    victims = set(data.draw(st.lists(st.sampled_from(sorted(board.files)), min_size=1, max_size=10, unique=True)))
    broken = [victim for victim in sorted(victims) if data.draw(st.booleans())]
    files = {file: content for file, content in board.files.items() if file not in victims}
    assert not faults(board._replace(files=files, broken=[*board.broken, *broken]))
