"""A power cut at any moment: what was synced and not acknowledged is there, whatever became of the rest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgerun.broker.message import KINDS, Kind
from edgerun.spool.options import SpoolOptions
from edgerun.spool.store import New, Store
from tests.spool.power import PowerFiles

END = dict.fromkeys(KINDS, 1 << 62)


def keep_all(kind: Kind, first: int, behind: int) -> int:
    return 1 << 62


def options(folder: Path, **other: object) -> SpoolOptions:
    small = {"segment_bytes": 4096, "min_free_bytes": 0, "free_share": 1.0}
    return SpoolOptions(folder, **{**small, **other})  # type: ignore[arg-type]


def survivors(folder: Path) -> list[str]:
    store = Store(options(folder))
    store.open()
    try:
        records, lost = store.read(100_000, END)
        assert lost == 0, "what was promised at the start could not be read"
        return [record.payload.decode() for _, record in records]
    finally:
        store.abandon()


class Story:
    """A spool at work, which knows at any moment what must survive and what may come back."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.files = PowerFiles()
        self.store = Store(options(folder), self.files)
        self.store.open()
        self.written: dict[str, tuple[Kind, int]] = {}
        self.synced: set[str] = set()
        self.acked: set[str] = set()

    def must(self) -> set[str]:
        return self.synced - self.acked

    def step(self, n: int) -> None:
        what = self.dice.random()
        if what < 0.55:
            kind = self.dice.choice(KINDS)
            texts = [f"{n}-{i}-{'x' * self.dice.randint(0, 900)}{self.dice.random()}" for i in range(3)]
            news = [New(kind, "edgerun/a/b", text.encode(), 1_795_230_000_000) for text in texts]
            places, dropped, error = self.store.append(news, keep_all)
            assert not dropped
            assert error is None
            for text, place in zip(texts, places, strict=True):
                assert isinstance(place, int)
                self.written[text] = (kind, place)
        elif what < 0.7:
            self.store.sync()
            self.synced = set(self.written)
        elif what < 0.95:
            waiting = sorted(set(self.written) - self.acked)
            for text in self.dice.sample(waiting, min(len(waiting), 4)):
                self.acked.add(text)  # from here on it may be gone
                self.store.ack(*self.written[text])
            self.store.write_acks()
        else:
            self.store.tidy(2048)


@pytest.mark.parametrize("seed", range(12))
def test_what_was_synced_survives_a_cut_at_any_moment(tmp_path: Path, seed: int) -> None:
    story = Story(tmp_path / "spool", seed)
    rounds = 0

    def cut() -> None:
        nonlocal rounds
        rounds += 1
        disk = tmp_path / f"cut-{rounds}"
        story.files.cut(disk, story.dice)
        got = survivors(disk)
        assert story.must() <= set(got)
        assert len(got) == len(set(got)), "given twice"
        assert set(got) <= set(story.written) | set(in_the_air), "out of nowhere"

    in_the_air: list[str] = []
    story.files.at_point.append(lambda: in_the_air.__setitem__(slice(None), [*got_last(story)]) or cut())
    for n in range(40):
        story.step(n)
    assert rounds > 40


def got_last(story: Story) -> list[str]:
    """What the disk of no cut at all holds: what is being written at this moment is among it."""
    from edgerun.spool.record import DATA, Found, scan

    texts = []
    for data in story.files._data.values():
        texts += [f.record().payload.decode() for f in scan(bytes(data), 8) if isinstance(f, Found) and f.kind == DATA]
    return texts


@pytest.mark.parametrize("seed", range(4))
def test_a_device_that_is_cut_off_again_and_again(tmp_path: Path, seed: int) -> None:
    """Each process takes over what the cut before has left, and adds to it."""
    dice = random.Random(seed)
    folder = tmp_path / "0"
    must: set[str] = set()
    for life in range(1, 12):
        files = PowerFiles()
        files._data |= {p: bytearray(p.read_bytes()) for p in folder.glob("*.seg")} if folder.exists() else {}
        files._names |= set(files._data)
        files._synced |= {p: len(data) for p, data in files._data.items()}
        store = Store(options(folder), files)
        store.open()
        records, lost = store.read(100_000, END)
        got = [record.payload.decode() for _, record in records]
        assert lost == 0
        assert must <= set(got)
        for kind, record in records[: dice.randint(0, len(records))]:
            store.ack(kind, record.n)
            must.discard(record.payload.decode())
        store.write_acks()
        store.tidy()
        for n in range(dice.randint(1, 6)):
            texts = [f"{life}-{n}-{i}" + "y" * dice.randint(0, 2000) for i in range(dice.randint(1, 5))]
            store.append([New("event", "t", text.encode(), 0) for text in texts], keep_all)
            if dice.random() < 0.6:
                store.sync()
                must |= set(texts)
        folder = tmp_path / str(life)
        files.cut(folder, dice)
        store.abandon()
