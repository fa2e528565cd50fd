"""What a start makes of a rollout that a crash has left anywhere, on a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.app.rollout_file import RolloutFiles, resume
from edgerun.config import Config, build
from edgerun.errors import DeviceError
from edgerun.models.rollout import Rollout
from edgerun.models.store import Store
from edgerun.registry import resolve
from tests.models.stores import bundle, put


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Versions 1 and 2 of "net"; 1 is active."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    made = Store.open(tmp_path / "state" / "models")
    put(made, bundle(tmp_path, "1"))
    put(made, bundle(tmp_path, "2"), activate=False)
    return made


def config_of(store: Store, device: str = "dock-1") -> Config:
    raw: dict[str, Any] = {
        "device": {"id": device},
        "models": {"detector": {"path": "net"}},
        "streams": {"yard": {"source": "synthetic", "model": "detector"}},
    }
    return build(raw, lambda room, kind: resolve(room, kind).options, find_model=store.find)


def kept(**changes: Any) -> Rollout:
    known = {"id": "r", "device": "dock-1", "model": "net", "name": "detector", "version": "2", "previous": "1"}
    rollout = Rollout(**{**known, "share": 1.0, "passed": True, **changes})
    RolloutFiles().write(rollout)
    return rollout


def resumed(store: Store) -> tuple[Rollout, str]:
    """The rollout after a start, and the version that the start runs."""
    found = resume(config_of(store), 9.0)
    rollout = found.rollouts["net"]
    assert RolloutFiles().read()["net"] == rollout, "what goes on is not what is kept"
    assert store.record("net").active == found.config.models["detector"].path.name
    return rollout, found.config.models["detector"].path.name


def test_without_a_rollout_nothing_changes(store: Store) -> None:
    config = config_of(store)
    assert resume(config, 9.0).config == config


@pytest.mark.parametrize("state", ["verified", "shadow"])
def test_before_it_serves_the_old_one_runs(store: Store, state: str) -> None:
    before = kept(state=state)
    assert resumed(store) == (before, "1")


def test_cut_off_before_the_store_was_told(store: Store) -> None:
    before = kept(state="canary")
    assert resumed(store) == (before, "1"), "it is placed once more, by who drives it"


def test_cut_off_after_the_store_was_told(store: Store) -> None:
    kept(state="canary")
    store.activate("net", "2")
    rollout, runs = resumed(store)
    assert (rollout.placed, rollout.starts, runs) == (True, 1, "2")


def test_cut_off_while_it_was_put_back(store: Store) -> None:
    store.activate("net", "2")
    kept(state="rolled_back", reason="slow", placed=True)
    rollout, runs = resumed(store)
    assert (rollout.placed, rollout.reason, runs) == (False, "slow", "1")


def test_cut_off_after_it_was_put_back(store: Store) -> None:
    kept(state="rolled_back", reason="slow", placed=True)
    rollout, runs = resumed(store)
    assert (rollout.placed, runs) == (False, "1")


def test_the_start_that_is_one_too_many(store: Store) -> None:
    store.activate("net", "2")
    kept(state="active", placed=True, starts=3)
    rollout, runs = resumed(store)
    assert (rollout.state, rollout.placed, rollout.reason, runs) == (
        "rolled_back", False, "3 starts with it failed", "1",
    )  # fmt: skip


def test_put_back_also_when_other_versions_came_between(store: Store, tmp_path: Path) -> None:
    put(store, bundle(tmp_path, "3"))
    store.activate("net", "2", force=True)
    kept(state="active", placed=True, starts=3)
    assert store.record("net").previous == "3"
    assert resumed(store)[1] == "1"


def test_what_a_hand_has_changed_meanwhile_stays(store: Store) -> None:
    kept(state="active", placed=True)
    rollout, runs = resumed(store)
    assert (rollout.state, runs) == ("rolled_back", "1")
    assert rollout.reason == "version 1 was made the active one by something else"


def test_what_is_committed_is_not_counted(store: Store) -> None:
    store.activate("net", "2")
    before = kept(state="committed", placed=True)
    assert resumed(store) == (before, "2")


def test_the_rollout_of_another_device_is_not_touched(store: Store) -> None:
    store.activate("net", "2")
    before = kept(state="active", placed=True, starts=3)
    assert resume(config_of(store, "dock-2"), 9.0).rollouts == {}
    assert RolloutFiles().read()["net"] == before


def test_a_damaged_file_is_told_and_stops_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    kept(state="active")
    (store.folder.parent / "rollout" / "net.json").write_bytes(b"{")
    assert resume(config_of(store), 9.0).rollouts == {}
    assert "the file of a rollout is damaged" in caplog.text


def test_what_cannot_be_kept_is_told(store: Store) -> None:
    folder = store.folder.parent / "rollout"
    folder.write_text("no folder")
    with pytest.raises(DeviceError, match="the state of a rollout cannot be kept"):
        kept(state="active")
    assert msgspec.structs.asdict(resume(config_of(store), 9.0))["rollouts"] == {}
