"""What somebody might send to get a model of theirs into a device, or a file of theirs elsewhere: nothing gets in.

Each attack counts its tries; at the end nothing of them is in the store or beside it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgerun.errors import ModelError
from edgerun.models import install as installing
from edgerun.models import verify
from edgerun.models.install import examine, stage
from edgerun.models.verify import Policy
from edgerun.security.signing import encode, sign
from edgerun.security.trust import format_time
from tests.models import attacked
from tests.models.attacked import REMOTE, Box, unread
from tests.models.bundles import files, manifest, write_folder
from tests.models.stores import KEY, NOW, OTHER, STRANGE, bundle, signed, strict, trusting, zipped

box = attacked.box


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_a_byte_changed_anywhere_in_manifest_or_signature(
    box: Box, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(tmp_path, "1", KEY)
    box.welcome(path)
    right = (path / name).read_bytes()
    seen = unread(monkeypatch)
    for place, byte in enumerate(right):
        for other in (byte ^ 1, byte ^ 0x20, 0):
            if other != byte:
                (path / name).write_bytes(right[:place] + bytes([other]) + right[place + 1 :])
                assert "sign" in box.attack(path)
        (path / name).write_bytes(right[:place] + right[place + 1 :])
        assert "sign" in box.attack(path)
        (path / name).write_bytes(right[:place] + b" " + right[place:])
        assert "sign" in box.attack(path)
    (path / name).write_bytes(right + b"\n")
    assert "sign" in box.attack(path)
    assert not seen


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt"])
def test_a_byte_changed_anywhere_in_a_file(
    box: Box, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(tmp_path, "1", KEY)
    right = (path / name).read_bytes()
    monkeypatch.setattr(installing, "load", lambda *args: pytest.fail("a model was parsed"))
    for place in range(len(right)):
        (path / name).write_bytes(right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :])
        assert "not the one its manifest lists" in box.attack(path)
    for content in (right[:-1], right + b"\0", b""):
        (path / name).write_bytes(content)
        assert "not the one its manifest lists" in box.attack(path)


def test_files_swapped_added_or_taken_away(box: Box, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1", KEY)
    model, labels = path / "model.onnx", path / "labels.txt"
    both = model.read_bytes(), labels.read_bytes()
    model.write_bytes(both[1])
    labels.write_bytes(both[0])
    assert "not the one its manifest lists" in box.attack(path)
    model.write_bytes(both[0])
    labels.write_bytes(both[1])
    box.welcome(path)
    for extra in ("more.txt", ".hidden", "manifest.sig.bak", "sub/manifest.json", "model.onnx.data"):
        (path / extra).parent.mkdir(exist_ok=True)
        (path / extra).write_bytes(b"x")
        assert "a file that the manifest does not list" in box.attack(path)
        (path / extra).unlink()
    labels.unlink()
    assert "a file of the bundle is missing" in box.attack(path)


def test_a_signature_of_another_bundle(box: Box, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1", KEY)
    (path / "manifest.sig").write_bytes((bundle(tmp_path, "2", KEY) / "manifest.sig").read_bytes())
    assert "is not one over these bytes" in box.attack(path)
    public = (KEY.public.line + "\n").encode()
    (path / "manifest.sig").write_bytes(encode([sign(public, KEY)]))
    assert "is not one over these bytes" in box.attack(path)


def test_no_signature_an_unknown_key_a_revoked_one_and_one_that_ran_out(box: Box, tmp_path: Path) -> None:
    assert "not signed" in box.attack(bundle(tmp_path / "none", "1"))
    for name in ("empty", "garbage"):
        path = bundle(tmp_path / name, "1")
        (path / "manifest.sig").write_bytes(b"" if name == "empty" else b"\xff" * 200)
        assert "not a signature file" in box.attack(path)
    assert "is not known here" in box.attack(bundle(tmp_path / "strange", "1", STRANGE))
    path = bundle(tmp_path / "mine", "1", KEY)
    trust = trusting(tmp_path / "t", KEY)
    box.welcome(path, Policy(NOW, trust))
    assert "was to be used until" in box.attack(path, Policy(NOW, trust.add(KEY.public, NOW)))
    trust = trust.revoke(KEY.public.id, "lost", NOW)
    assert "was revoked" in box.attack(path, Policy(NOW, trust))
    assert "was revoked" in box.attack(path, Policy(NOW, trust, require_signed=False))
    trust = trust.add(OTHER.public)
    box.welcome(bundle(tmp_path / "other", "1", OTHER), Policy(NOW, trust))
    assert "was revoked" in box.attack(bundle(tmp_path / "both", "1", OTHER, KEY), Policy(NOW, trust))


def test_a_key_that_says_it_is_another(box: Box, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1", STRANGE)
    text = (path / "manifest.sig").read_text()
    (path / "manifest.sig").write_text(text.replace(STRANGE.public.id, KEY.public.id))
    assert "is not one over these bytes" in box.attack(path)


def test_a_bare_file_from_elsewhere(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(files()["model.onnx"])
    assert "not signed" in box.attack(path)


def test_what_has_expired_or_is_for_other_devices(box: Box, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1", KEY, expires=format_time(NOW))
    assert "has expired" in box.attack(path)
    box.welcome(path, strict(tmp_path / "t", now=NOW - 1))
    for number, wrong in enumerate(("soon", "2026-13-01", "", "9" * 100)):
        assert "a time" in box.attack(bundle(tmp_path / str(number), "1", KEY, expires=wrong))
    path = bundle(tmp_path / "devices", "1", KEY, devices=["gate-*", "door"])
    assert "for other devices" in box.attack(path, strict(tmp_path / "t", device="hall"))
    box.welcome(path, strict(tmp_path / "t", device="gate-2"))


NOT_JSON = {
    "a key twice": lambda text: text.replace('"v": 1', '"v": 1, "v": 1', 1),
    "a key twice, escaped": lambda text: text.replace('"v": 1', '"v": 1, "\\u0076": 1', 1),
    "a key twice, deep": lambda text: text.replace('"sha256"', '"sha256": "", "sha256"', 1),
    "files twice": lambda text: text.replace('"files"', '"files": {}, "files"', 1),
    "NaN": lambda text: text.replace("0.4", "NaN"),
    "Infinity": lambda text: text.replace("0.4", "Infinity"),
    "something behind it": lambda text: text + "{}",
    "a comment": lambda text: "/* */" + text,
    "UTF-8 mark": lambda text: "\ufeff" + text,
    "single quotes": lambda text: text.replace('"', "'"),
    "very deep": lambda text: text.replace('{"a": 1}', '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", 1),
    "no object": lambda text: "[]",
    "nothing": lambda text: "",
    "another version": lambda text: text.replace('"v": 1', '"v": 2', 1),
    "a huge number": lambda text: text.replace('"v": 1', f'"v": {"9" * 5000}', 1),
    "huge": lambda text: text + " " * verify.MAX_MANIFEST_BYTES,
}


@pytest.mark.parametrize("attack", NOT_JSON)
def test_a_signed_manifest_that_parsers_would_not_agree_on(box: Box, tmp_path: Path, attack: str) -> None:
    """Even who holds a key cannot make two readers see two manifests."""
    contents = files()
    text = json.dumps(manifest(contents, measured={"a": 1}))
    changed = NOT_JSON[attack](text)
    assert changed != text
    made = signed(contents, changed.encode(), KEY)
    path = write_folder(tmp_path / "b", made, {})
    (path / "manifest.json").write_bytes(made["manifest.json"])
    why = ("manifest is not valid", "manifest is of a version", "manifest.json: too large")
    assert any(one in box.attack(path) for one in why)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_manifest_in_another_encoding(box: Box, tmp_path: Path, encoding: str) -> None:
    contents = files()
    text = json.dumps(manifest(contents, task="détect"), ensure_ascii=False).encode(encoding)
    path = write_folder(tmp_path / "b", signed(contents, text, KEY), {})
    (path / "manifest.json").write_bytes(text)
    assert "UTF-8 JSON" in box.attack(path)


def test_a_signed_file_that_no_parser_takes(box: Box, tmp_path: Path) -> None:
    contents = {**files(), "model.onnx": b"\x08\xff\xff\xff\xff\xff"}
    path = write_folder(tmp_path / "b", signed(contents, manifest(contents), KEY), {})
    (path / "manifest.json").write_text(json.dumps(manifest(contents)))
    box.attack(path)


def test_an_old_version_that_was_once_signed(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for version in "12":
        with stage(box.store, bundle(tmp_path, version, KEY), REMOTE, box.policy) as staged:
            box.store.commit(staged)
    there = stage(box.store, tmp_path / "net-1", REMOTE, box.policy)  # it is, as the previous version
    with there as staged, pytest.raises(ModelError, match="an older version than the active one"):
        box.store.commit(staged)
    box.store.remove("net", "1")
    why = "an older version than was installed before"
    for path in (tmp_path / "net-1", bundle(tmp_path / "again", "2", KEY, threshold=0.01)):
        with pytest.raises(ModelError, match=why), stage(box.store, path, REMOTE, box.policy):
            pytest.fail("staged")
        why = "another model of the same version"
    assert box.store.record("net").active == "2"


def test_names_that_would_lie_elsewhere_in_the_store(box: Box, tmp_path: Path) -> None:
    for number, changes in enumerate(
        ({"name": "../x"}, {"name": ".staging"}, {"name": "a/b"}, {"name": "Ä"}, {"version": "../1"}, {"version": ".."},
         {"version": "state.json/.."}, {"name": ""}, {"version": "1/2"}, {"name": "x" * 300}, {"version": "1\n"})
    ):  # fmt: skip
        contents = files()
        made = signed(contents, manifest(contents, **changes), KEY)
        path = write_folder(tmp_path / str(number), made, {})
        (path / "manifest.json").write_bytes(made["manifest.json"])
        box.attack(path)


def test_a_version_called_as_the_stores_own_file(box: Box, tmp_path: Path) -> None:
    path = bundle(tmp_path, "state.json", KEY)
    box.attack(path)


def test_what_is_not_required_says_no_more_than_no_signature(tmp_path: Path) -> None:
    box = Box(tmp_path)
    lax = strict(tmp_path / "device" / "trust", require_signed=False)
    with stage(box.store, bundle(tmp_path, "1", STRANGE), REMOTE, lax) as staged:
        assert (staged.installed.trusted, staged.installed.signer) == ("unsigned", None)
    with stage(box.store, bundle(tmp_path, "2", KEY), REMOTE, lax) as staged:
        assert (staged.installed.trusted, staged.installed.signer) == ("signed", KEY.public.id)


def test_looking_at_a_bundle_finds_what_installing_finds(tmp_path: Path) -> None:
    policy = strict(tmp_path / "trust")
    path = bundle(tmp_path, "1", KEY)
    assert examine(path, policy) == f"signed {KEY.public.id}"
    assert examine(bundle(tmp_path, "2"), policy) == "unsigned"
    with pytest.raises(ModelError, match="is not known here"):
        examine(zipped(tmp_path, "3", STRANGE), policy)
    (path / "labels.txt").write_bytes(b"x")
    with pytest.raises(ModelError, match="not the one its manifest lists"):
        examine(path, policy)


def test_a_file_that_changes_while_it_is_copied(box: Box, tmp_path: Path) -> None:
    """Hashed is what was written, not what lies there: every byte goes through one reading."""
    path = bundle(tmp_path, "1", KEY)
    wanted = hashlib.sha256((path / "labels.txt").read_bytes()).hexdigest()
    with stage(box.store, path, REMOTE, box.policy) as staged:
        (path / "labels.txt").write_bytes(b"changed\n")
        assert hashlib.sha256((staged.folder / "labels.txt").read_bytes()).hexdigest() == wanted
