"""The board files' own format."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgerun.device.machine import Owner
from tests.boards import tree


def test_every_kind_of_entry(tmp_path: Path) -> None:
    text = (
        "# a board\n== a/one = 47200\n== a/many\nx = 1\ny\n== a/link -> one\n== a/empty/\n== a/bad !EIO\n"
        "== dev/v 0660 0:44\n== a/bytes = LNV\\xff\\\\\n== a/model = Pi\\x00\n== @disk / = 10 5\n"
    )
    board = tree.BoardMachine(tree.parse(text), tmp_path)
    assert board.read("a/one") == b"47200\n"
    assert board.read("a/many") == b"x = 1\ny\n"
    assert board.link("a/link") == "one"
    assert board.text("a/link") == "47200"
    assert board.read("a/bytes") == b"LNV\xff\\\n"
    assert board.read("a/model") == b"Pi\x00"
    assert (tmp_path / "a/empty").is_dir()
    with pytest.raises(OSError, match="Input/output") as caught:
        (tmp_path / "a/bad").read_bytes()
    assert caught.value.errno == errno.EIO
    assert board.owner("dev/v") == Owner(0o660, 0, 44)
    space = board.space("/var/lib")
    assert space is not None
    assert space.free_bytes == 5


@pytest.mark.parametrize(
    "text",
    ["== /etc/passwd = x\n", "== a/../../b = x\n", "== a -> /etc\n", "== a b c\n", "== a = 1\nmore\n", "words\n"],
)
def test_an_entry_that_makes_no_sense_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        tree.parse(text)


@pytest.mark.parametrize("name", tree.BOARDS)
def test_every_board_unpacks_and_says_where_its_values_are_from(name: str, tmp_path: Path) -> None:
    assert (tree.FOLDER / f"{name}.txt").read_text(encoding="utf-8").startswith("# ")
    board = tree.BoardMachine(tree.read(name), tmp_path)
    assert board.text("proc/meminfo")
