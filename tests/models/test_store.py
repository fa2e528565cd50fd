"""The device's models: one version stays active whatever happens, older ones are not let back in, the disk holds."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import DeviceError, ModelError
from edgerun.models import load
from edgerun.models.install import fetched, stage
from edgerun.models.store import Limits, Staged, Store, find_stored
from edgerun.models.versions import check_version, order
from edgerun.spool.options import state_folder
from tests.models.killing import CHANGES, LIMITS
from tests.models.stores import bundle, contents_of, lenient, put, put_bare, zipped
from tests.real_models import ROOT, model_file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1, 2 and 3 as folders and zips, and a store with 1 and 2, of which 2 is active."""
    base = tmp_path_factory.mktemp("base")
    for version in "123":
        bundle(base, version)
        zipped(base, version)
    store = Store.open(base / "store", limits=LIMITS)
    put(store, base / "net-1")
    put(store, base / "net-2")
    return base


def damaged(base: Path, folder: Path) -> Path:
    """The base with a broken active version."""
    subprocess.run(["cp", "-a", f"{base}/.", folder], check=True)
    (folder / "store" / "net" / "2" / "labels.txt").write_text("other\n")
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_step_one_version_stays_active_and_nothing_is_left_over(
    change: str, base: Path, tmp_path: Path
) -> None:
    start = damaged(base, tmp_path / "damaged") if change == "repair" else base
    words = [sys.executable, "-m", "tests.models.killing", str(start), change, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    final = rows[-1]["seen"]
    assert len(rows) > 6
    states = []
    for row in rows:
        seen, listed = row["seen"], row["seen"]["listed"]
        broken = [key for key in seen if key.startswith("broken")]
        assert broken == (["broken 2"] if change == "repair" and seen["runs"] is None else []), row["step"]
        assert seen["active"] in listed, row["step"]
        assert seen["runs"] == (seen["active"] if not broken else None), row["step"]
        states.append(json.dumps(seen))
        files = {path.split("/")[1].partition("~")[0] for path in row["left"] if path.startswith("net/")}
        assert files == {*listed, "state.json"}, row["step"]
        assert not [path for path in row["left"] if path.startswith(".staging/")], row["step"]
        if change != "rollback":
            assert row.get("after", final) == final, row["step"]
    changes = sum(one != other for one, other in pairwise(states))
    assert 1 <= changes <= 2, "a state in between was seen: only the new version, then the old ones gone"


def test_everything_is_on_the_medium_before_it_is_built_upon(base: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    store = Store.open(tmp_path / "store", step=lambda name: steps.append(name) if name.startswith("after") else None)
    put(store, base / "net-1")
    put_bare(store, model_file("silero_vad.onnx"), "vad")
    for version, names in (
        ("1", ("manifest.json", "model.onnx", "labels.txt")),
        ("1", ("manifest.json", "model.onnx")),
    ):
        end = steps.index(f"after rename {version}")
        for name in (*names, "bundle"):
            assert f"after fsync {name}" in steps[:end]
        rest = steps[end:]
        sure = [rest.index(f"after {step} state.json") for step in ("rename",)]
        assert rest.index("after fsync .state.json.new") < sure[0]
        steps = rest[sure[0] + 1 :]


def test_the_active_and_the_previous_version(base: Path, tmp_path: Path) -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    store = Store.open(tmp_path / "store", audit=lambda what, details: told.append((what, details)))
    assert store.names() == []
    assert store.find("net") is None
    for version in "123":
        put(store, base / f"net-{version}")
    record = store.record("net")
    assert (record.active, record.previous, record.latest()) == ("3", "2", "3")
    assert load(store.path("net")).labels == ("person", "car 3")
    assert store.rollback("net").version == "2"
    assert store.rollback("net").version == "3"
    assert store.find("net@1") == tmp_path / "store" / "net" / "1"
    assert store.find("net@9") is None
    assert [what for what, _ in told] == ["installed", "unsigned"] * 3 + ["rolled_back"] * 2
    assert told[0][1]["sha256"] == store.installed("net", "1").manifest_sha256
    assert dict(told[-1][1]) == {"model": "net", "version": "3", "was": "2"}


def test_an_older_version_is_refused_unless_forced_and_that_is_told(base: Path, tmp_path: Path) -> None:
    told: list[str] = []
    store = Store.open(tmp_path / "store", audit=lambda what, details: told.append(what))
    put(store, base / "net-3")
    with pytest.raises(ModelError, match=r"net@1: an older version than was installed before; expected .* after 3"):
        put(store, base / "net-1")
    assert "downgrade" not in told
    assert put(store, base / "net-1", force=True).version == "1"
    assert told.index("downgrade") < told.index("installed", 1)
    with pytest.raises(ModelError, match="an older version"):
        put(store, base / "net-2")
    assert store.record("net").highest == "3"


def test_a_removed_version_does_not_make_room_for_an_older_one(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    put(store, base / "net-3", activate=False)
    store.remove("net", "3")
    with pytest.raises(ModelError, match="an older version"):
        put(store, base / "net-2")
    with pytest.raises(ModelError, match="the active version stays"):
        store.remove("net", "1")


def test_another_model_of_the_same_version_is_refused(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    with pytest.raises(ModelError, match="another model of the same version"):
        put(store, bundle(tmp_path, "1", threshold=0.9))
    before = store.installed("net")
    assert put(store, base / "net-1") == before
    assert put(store, base / "net-1", force=True) == before


def test_activating_an_older_version_than_the_previous_needs_force(base: Path, tmp_path: Path) -> None:
    told: list[str] = []
    store = Store.open(tmp_path / "store", audit=lambda what, details: told.append(what))
    for version in "123":
        put(store, base / f"net-{version}")
    with pytest.raises(ModelError, match="an older version than the active one"):
        store.activate("net", "1")
    assert store.activate("net", "2").version == "2"
    assert store.activate("net", "3").version == "3"
    assert "downgrade" not in told
    store.activate("net", "1", force=True)
    assert told[-2:] == ["downgrade", "activated"]


def test_a_version_whose_files_changed_is_not_activated_nor_run(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    put(store, base / "net-2")
    for name in ("labels.txt", "manifest.json"):
        path = tmp_path / "store" / "net" / "1" / name
        right = path.read_bytes()
        path.write_bytes(right.replace(b"car", b"cat").replace(b"0.4", b"0.5"))
        with pytest.raises(ModelError):
            store.rollback("net")
        with pytest.raises(ModelError):
            load(store.path("net", "1"))
        path.write_bytes(right)
    os.link(tmp_path / "store" / "net" / "1" / "labels.txt", tmp_path / "elsewhere.txt")
    with pytest.raises(ModelError, match="linked from elsewhere"):
        store.rollback("net")
    (tmp_path / "elsewhere.txt").unlink()
    assert store.rollback("net").version == "1"


def test_a_manifest_with_right_hashes_that_was_never_installed_does_not_run(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    manifest = tmp_path / "store" / "net" / "1" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"threshold": 0.4', b'"threshold": 0.9'))
    with pytest.raises(ModelError, match="the manifest is not the one that was installed"):
        load(store.path("net"))


def test_old_versions_go_and_the_active_and_previous_stay(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", limits=Limits(keep=2))
    for version in "123":
        put(store, base / f"net-{version}", activate=version != "2")
    assert [one.version for one in store.versions("net")] == ["3", "2", "1"]  # 1 is the previous one
    assert store.prune(keep=0) > 0
    assert [one.version for one in store.versions("net")] == ["3", "1"]
    assert {path.name for path in (tmp_path / "store" / "net").iterdir()} == {"3", "1", "state.json"}


def test_the_store_keeps_its_budget(tmp_path: Path) -> None:
    """Old versions go where room is needed, never the active and the previous one."""

    def offer(version: str, limit: int) -> list[str]:
        store = Store.open(tmp_path / "store", limits=Limits(keep=10, max_bytes=limit))
        put(store, bundle(tmp_path, version, more=["x" * 100_000]))
        return [one.version for one in store.versions("net")]

    assert [offer(version, 350_000) for version in "123"][-1] == ["3", "2", "1"]
    assert offer("4", 350_000) == ["4", "3", "2"]
    with pytest.raises(DeviceError, match="would outgrow its budget"):
        offer("5", 250_000)
    record = Store.open(tmp_path / "store").record("net")
    assert (record.active, record.previous) == ("4", "3")
    assert load(tmp_path / "store" / "net" / "4").version == "4"
    assert sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file()) < 250_000


def test_free_space_is_left(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", limits=Limits(min_free=1 << 60))
    with pytest.raises(DeviceError, match="no room for the model"):
        put(store, base / "net-1")
    assert store.names() == []


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_leaves_what_was_active(make_disk: Callable[[str], Path], tmp_path: Path) -> None:
    disk = make_disk("512k")
    store = Store.open(disk / "store", limits=Limits(min_free=0))
    put_bare(store, model_file("okay_nabu.tflite"), "wake", "1")
    filler = disk / "filler"
    fill(filler)
    before = contents_of(disk / "store")
    with pytest.raises(DeviceError, match="no room for the model"):
        put_bare(store, model_file("okay_nabu.tflite"), "wake", "2", threshold=0.5)
    with pytest.raises(DeviceError, match="no room for the model"):
        store.annotate("wake", "1", rollout="x" * 100_000)
    assert load(store.path("wake")).version == "1"
    assert contents_of(disk / "store") == before
    filler.unlink()
    assert put_bare(store, model_file("okay_nabu.tflite"), "wake", "2").version == "2"


def test_a_damaged_state_is_put_together_again(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    put(store, base / "net-2")
    state = tmp_path / "store" / "net" / "state.json"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ModelError, match="the store's file about a model is damaged"):
        store.path("net")
    (tmp_path / "store" / "net" / "2" / "model.onnx").write_bytes(b"half")
    with caplog.at_level(logging.ERROR):
        store = Store.open(tmp_path / "store", audit=lambda what, details: told.append(what))
    assert (store.record("net").active, sorted(store.record("net").versions)) == ("1", ["1"])
    assert store.installed("net").trusted == "unknown"
    assert told == ["rebuilt"]
    assert "put together again: 1 is active" in caplog.text


def test_what_no_state_lists_is_removed_but_not_what_is_being_made(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    (tmp_path / "store" / "net" / "7").mkdir()
    (tmp_path / "store" / "other" / "1").mkdir(parents=True)
    (tmp_path / "store" / ".staging" / "new-old").mkdir()
    with store.staging() as folder:
        Store.open(tmp_path / "store")
        assert folder.is_dir()
    assert contents_of(tmp_path / "store") == {
        ".staging", "net", "net/state.json", "net/1", "net/1/manifest.json", "net/1/model.onnx", "net/1/labels.txt"
    }  # fmt: skip


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DeviceError, match="not a model store"):
        Store.open(tmp_path)
    with pytest.raises(DeviceError, match="not a model store"):
        Store.open(tmp_path / "photo.jpg")


def test_staged_work_can_be_looked_at_before_it_is_committed(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    with (
        store.staging() as work,
        fetched(store, str(base / "net-2.zip"), work) as (path, origin),
        stage(store, path, origin, lenient()) as staged,
    ):
        assert isinstance(staged, Staged)
        assert load(staged.folder).labels == ("person", "car 2")
        assert store.record("net").latest() == "1"
        one = store.commit(staged, activate=False)
    record = store.record("net")
    assert (one.version, record.active, record.latest()) == ("2", "1", "2")
    store.annotate("net", "2", rollout={"id": "r1", "state": "shadow"}, share=0.1)
    store.annotate("net", "2", share=None)
    assert Store.open(tmp_path / "store").installed("net", "2").notes == {"rollout": {"id": "r1", "state": "shadow"}}
    assert store.activate("net", "2").notes
    assert store.record("net").previous == "1"


def test_the_clock_does_not_go_back_behind_the_last_change(base: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, base / "net-1")
    state = tmp_path / "store" / "net" / "state.json"
    known = json.loads(state.read_bytes())
    state.write_text(json.dumps({**known, "seen_at": known["seen_at"] + 1e6}))
    assert store.now() == known["seen_at"] + 1e6


def test_a_config_names_a_model_of_the_store(base: Path) -> None:
    put(Store.open(), base / "net-1")
    assert find_stored("net") == state_folder() / "models" / "net" / "1"
    assert find_stored("net@1") == find_stored("net")
    for name in ("net@2", "other", "../net", "net@../1", "", ".staging"):
        assert find_stored(name) is None


VERSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_versions_are_in_one_order(a: str, b: str, c: str) -> None:
    assert (order(a) < order(b)) + (order(a) == order(b)) + (order(a) > order(b)) == 1
    if order(a) <= order(b) <= order(c):
        assert order(a) <= order(c)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("9", "10"),
        ("1.2", "1.10"),
        ("1.0rc1", "1.0"),
        ("1.0-beta", "1.0"),
        ("1.0a2", "1.0b1"),
        ("1.0.dev3", "1.0a1"),
        ("1.0", "1.0.post1"),
        ("v1.0", "1.1"),
        ("2026.1.31", "2026.02.01"),
        ("1.0-alpha.1", "1.0-alpha.2"),
        ("1.0-alpha", "1.0-alpha.1"),
    ],
)
def test_which_version_is_newer(older: str, newer: str) -> None:
    assert order(older) < order(newer)


@pytest.mark.parametrize("pair", [("1", "1.0"), ("1.0", "v1.0.0"), ("1.0+gpu", "1.0+cpu"), ("1.0-RC1", "1.0rc1")])
def test_versions_that_are_the_same(pair: tuple[str, str]) -> None:
    assert order(pair[0]) == order(pair[1])


@pytest.mark.parametrize(
    "version",
    ["", ".", "..", "a/b", "-1", "1\n", "1..2", "ä", "1.", "x" * 65, "1 2", "con\0", "state.json", "State.JSON"],
)
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ModelError, match="not a usable version"):
        check_version(version, "x")
