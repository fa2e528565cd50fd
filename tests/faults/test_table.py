"""docs/recovery.md names every row of the architecture's table, and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
WORDS = {
    "camera stalls or vanishes": ("camera stalls", "camera vanishes"),
    "a driver hangs inside a read": ("a driver hangs inside a read",),
    "accelerator refuses the model, or returns wrong numbers at the proof": ("accelerator refuses the model",),
    "accelerator hangs, aborts its process or is unplugged in mid-run": ("accelerator hangs, aborts, is unplugged",),
    "broker away": ("broker away",),
    "disk full / spool at its cap": ("disk full, spool at its cap",),
    "model file damaged, unsigned or wrong version": ("model file damaged",),
    "hot / under-voltage / over budget": ("hot", "under-voltage"),
    "config wrong on reload": ("config wrong on reload",),
    "a thread makes no progress": ("a thread makes no progress",),
}


def test_every_row_of_the_architecture_is_in_it() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \|", text.partition("## Recovery")[2].partition("\n## ")[0], re.MULTILINE)
    assert set(rows) - {"what fails"} == set(WORDS)
    ours = set(re.findall(r"^\| (.+?) \|", TABLE, re.MULTILINE))
    for words in WORDS.values():
        for word in words:
            assert any(row.startswith(word) for row in ours), word


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[a-z_/]+\.py)`", TABLE))))
def test_the_tests_it_names_are_there(path: str) -> None:
    assert (ROOT / path).is_file()
