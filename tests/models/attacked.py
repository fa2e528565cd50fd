"""A box with a trust store, and bundles that come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.errors import EdgerunError
from edgerun.models import bundle as bundles
from edgerun.models import install as installing
from edgerun.models import verify
from edgerun.models.install import Origin, stage
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from tests.models.stores import contents_of, strict

REMOTE = Origin("https://models.example/net.zip", True)


class Box:
    """A device with a store that trusts `KEY`, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "device" / "store")
        self.policy = strict(folder / "device" / "trust")
        with self.store.staging():
            pass
        self.before = contents_of(folder / "device")
        self.tries = 0

    def attack(self, path: Path, policy: Policy | None = None, origin: Origin = REMOTE) -> str:
        """Offer what lies at `path`; returns why it was refused."""
        self.tries += 1
        with pytest.raises(EdgerunError) as caught, stage(self.store, path, origin, policy or self.policy) as staged:
            self.store.commit(staged)
        assert not self.store.names()
        return str(caught.value)

    def welcome(self, path: Path, policy: Policy | None = None) -> None:
        """The same without the attack is taken: the refusals have a reason."""
        with stage(self.store, path, REMOTE, policy or self.policy) as staged:
            assert load_version(staged.folder)


def load_version(path: Path) -> str:
    return bundles.load(path).version


@pytest.fixture
def box(tmp_path: Path, record_property: Any) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    assert contents_of(tmp_path / "device") == box.before, "something of an attack is left on the device"
    record_property("tries", box.tries)
    record_property("got_in", len(box.store.names()))


def unread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No parser may see a byte: which one did."""
    seen: list[str] = []

    def told(name: str) -> Any:
        def parser(*args: Any, **how: Any) -> Any:
            seen.append(name)
            raise AssertionError(f"{name} was asked")

        return parser

    monkeypatch.setattr(verify, "parse_manifest", told("parse_manifest"))
    monkeypatch.setattr(installing, "load", told("load"))
    return seen
