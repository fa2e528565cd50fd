"""Label files in the forms people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.errors import ConfigError, ModelError
from edgerun.models.labels import parse_labels, read_labels


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"person\ncar\n", ("person", "car")),
        (b"\xef\xbb\xbfperson\r\ncar\r\n\r\n", ("person", "car")),
        (b"  person  \n\ncar", ("person", "???", "car")),
        (b"0 background\n1 person\n", ("background", "person")),
        (b"0: traffic light\n1: 7 up", ("traffic light", "7 up")),
        (b"0, cat\n2, dog\n", ("cat", "???", "dog")),
        (b"1 cat\n2 dog\n", ("???", "cat", "dog")),
        (b"7 up\n3 musketeers\n", ("7 up", "3 musketeers")),  # numbers that do not rise belong to the names
        (b"0 zero\nplain\n", ("0 zero", "plain")),
        (b"12 monkeys\n", ("12 monkeys",)),
        ("Straße\n犬".encode(), ("Straße", "犬")),
        (b"crane\nowl\ncrane\n", ("crane", "owl", "crane")),  # as ImageNet's own list has it
    ],
)
def test_forms(content: bytes, labels: tuple[str, ...]) -> None:
    assert parse_labels(content, "x") == labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no labels"),
        (b"\n \n", "no labels"),
        (b"a\nb\n\xff\n", "x:3: the labels are not text"),
        (b"a\0b", "the name of class 0 cannot be used; expected text of at most 200"),
        (b"ok\n\x1b[31mred", "the name of class 1 cannot be used"),
        (b"x" * 201, "the name of class 0 cannot be used.* 201 characters"),
        (b"a\n" * (1 << 20) + b"a", "too many labels; expected ≤ 1048576; got 1048577"),
        (b"item {\n  id: 1\n}", "TensorFlow label map"),
        (b"0 a\n9999999 b", "a class number is too large"),
    ],
)
def test_what_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        parse_labels(content, "x")
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message.removeprefix("x:3: ")):
        read_labels(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="the labels cannot be read; expected a text file"):
            read_labels(path)
