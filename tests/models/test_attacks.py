"""What somebody might send to get a model of theirs into a device, or a file of theirs elsewhere: nothing gets in.

Each attack counts its tries; at the end nothing of them is in the store or beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.errors import EdgerunError, ModelError
from edgerun.models import bundle as bundles
from edgerun.models import install as installing
from edgerun.models import verify
from edgerun.models.install import Origin, examine, stage
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from edgerun.security.signing import encode, sign
from edgerun.security.trust import format_time
from tests.models.bundles import files, manifest, write_folder
from tests.models.stores import KEY, NOW, OTHER, STRANGE, bundle, contents_of, signed, strict, trusting, zipped

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


NAMES = (
    "../evil", "a/../../evil", "/etc/evil", "//evil", "./evil", "a//evil", "a/./evil", "C:evil", "a\\evil", "..\\evil",
    "\\\\host\\evil", "evil\n", "evil\x1b[2J", "ev\u202eil", "evil\x00.txt", "", ".", "..", "~/evil:", "a/", "evil\x7f",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out(box: Box, tmp_path: Path, name: str) -> None:
    """Listed in a signed manifest, and as an entry of the zip."""
    contents = {**files(), name: b"evil"}
    made = signed(contents, manifest(contents), KEY)
    why = ("outside itself or in no plain way", "a name with NUL", "a folder that has content")
    assert any(one in box.attack(raw_zip(tmp_path / "listed.zip", made)) for one in why)
    plain = signed(files(), manifest(files()), KEY)
    box.welcome(raw_zip(tmp_path / "plain.zip", plain))
    why = ("outside itself or in no plain way", "a name with NUL", "a folder that has content")
    assert any(one in box.attack(raw_zip(tmp_path / "extra.zip", {**plain, name: b"evil"})) for one in why)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_name_that_goes_on_behind_a_nul(box: Box, tmp_path: Path) -> None:
    """`zipfile` and others end a name there: it would be another file to another reader."""
    made = signed(files(), manifest(files()), KEY)
    box.welcome(raw_zip(tmp_path / "right.zip", made))
    made["labels.txt\0.sh"] = made.pop("labels.txt")
    assert "a name with NUL in it" in box.attack(raw_zip(tmp_path / "nul.zip", made))


def raw_zip(path: Path, contents: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    """A zip with names as they are given, which `zipfile` would not write so (APPNOTE.TXT 6.3.10, 4.3)."""
    out, directory = bytearray(), bytearray()
    for name, content in contents.items():
        text = name.encode()
        size = len(content)
        fixed = struct.pack("<HHHHIIIHH", 0x800, 0, 0, 33, zlib.crc32(content), size, size, len(text), 0)
        mode = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
        place = len(out)
        out += b"PK\3\4" + struct.pack("<H", 20) + fixed + text + content
        directory += b"PK\1\2" + struct.pack("<HH", 0x314, 20) + fixed
        directory += struct.pack("<HHHII", 0, 0, 0, mode, place) + text
    count = len(contents)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(out), 0)
    path.write_bytes(out + directory + end)
    return path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("labels.txt", "LABELS.TXT"),
        ("labels.txt", "Labels.txt"),
        ("straße.txt", "STRASSE.txt"),
        ("é.txt", "e\u0301.txt"),
        ("ſ.txt", "s.txt"),
        ("manifest.json", "Manifest.json"),
        ("manifest.sig", "MANIFEST.SIG"),
        ("a", "A/b"),
        ("a", "a/b"),
    ],
)
def test_names_that_are_one_on_some_file_systems(box: Box, tmp_path: Path, one: str, other: str) -> None:
    contents = {**files(), **{name: b"x" for name in (one, other) if not name.startswith("manifest")}}
    contents.setdefault("labels.txt", b"person\n")
    made = signed(contents, manifest(contents), KEY)
    assert "would be one on some file systems" in box.attack(raw_zip(tmp_path / "b.zip", {**made, other: b"x"}))


def test_two_entries_of_one_name(box: Box, tmp_path: Path) -> None:
    path = zipped(tmp_path, "1", KEY)
    box.welcome(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("labels.txt", b"other\n")
    assert "two files of one name" in box.attack(path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "labels.txt", "model.onnx", "."])
def test_links_in_a_folder_and_in_a_zip(box: Box, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("person\ncar 1\n")
    path = bundle(tmp_path, "1", KEY)
    for name in ("labels.txt", "manifest.sig", "extra"):
        kept = (path / name).read_bytes() if (path / name).exists() else None
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)
        assert "a link in the bundle" in box.attack(path)
        (path / name).unlink()
        if kept is not None:
            (path / name).write_bytes(kept)
    box.welcome(path)
    (path / "sub").symlink_to("/etc", target_is_directory=True)
    assert "a link in the bundle" in box.attack(path)
    made = signed(files(), manifest(files()), KEY)
    for name in ("labels.txt", "extra"):
        entries = {**made, name: target.encode()}
        zipped_link = raw_zip(tmp_path / "l.zip", entries, {name: stat.S_IFLNK | 0o777})
        assert "a link in the bundle" in box.attack(zipped_link)


def test_pipes_sockets_and_hard_links(box: Box, tmp_path: Path) -> None:
    path = bundle(tmp_path, "1", KEY)
    os.mkfifo(path / "pipe")
    assert "no file" in box.attack(path)
    (path / "pipe").unlink()
    (path / "labels.txt").unlink()
    os.mkfifo(path / "labels.txt")
    assert "no file" in box.attack(path)
    (path / "labels.txt").unlink()
    (tmp_path / "outside").write_bytes(b"person\ncar 1\n")
    os.link(tmp_path / "outside", path / "labels.txt")
    with stage(box.store, path, REMOTE, box.policy) as staged:
        (tmp_path / "outside").write_bytes(b"changed later\n")
        assert (staged.folder / "labels.txt").read_bytes() == b"person\ncar 1\n"


def test_zip_bombs(box: Box, tmp_path: Path) -> None:
    plain = signed(files(), manifest(files()), KEY)

    def made(**extra: bytes) -> Path:
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**plain, **extra}.items():
                archive.writestr(name, content)
        return path

    assert "zip bomb" in box.attack(made(zeros=bytes(64 << 20)))
    assert "too many files" in box.attack(made(**{f"f{n}": b"" for n in range(1001)}))
    quine = made(inner=made(zeros=bytes(64 << 20)).read_bytes())
    assert "does not list" in box.attack(quine)  # never unpacked in turn
    large = bytearray(made(zeros=os.urandom(1000)).read_bytes())
    place = large.rindex(b"PK\1\2")
    large[place + 24 : place + 28] = struct.pack("<I", 0xFFFFFFF0)
    (tmp_path / "says.zip").write_bytes(large)
    assert "too large" in box.attack(tmp_path / "says.zip")
    end = made().read_bytes()
    for size in (0xFFFFFFF0, 1 << 26):
        changed = bytearray(end)
        changed[-10:-6] = struct.pack("<I", size)
        (tmp_path / "directory.zip").write_bytes(changed)
        assert "not a readable zip" in box.attack(tmp_path / "directory.zip")


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ways_of_packing_that_are_not_needed(box: Box, tmp_path: Path, kind: int) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in signed(files(), manifest(files()), KEY).items():
            archive.writestr(name, content)
    assert "packed in a way that is not read" in box.attack(path)


def test_a_zip_cut_off_or_damaged_anywhere(box: Box, tmp_path: Path) -> None:
    right = zipped(tmp_path, "1", KEY).read_bytes()
    path = tmp_path / "cut.zip"
    for size in range(0, len(right) - 1, 7):
        path.write_bytes(right[:size])
        box.attack(path)
    for place in range(0, len(right), 11):
        path.write_bytes(right[:place] + bytes([right[place] ^ 0xFF]) + right[place + 1 :])
        box.tries += 1
        try:
            with stage(box.store, path, REMOTE, box.policy) as staged:
                same = {one.name: one.read_bytes() for one in staged.folder.iterdir()}
        except EdgerunError:
            continue
        with zipfile.ZipFile(tmp_path / "net-1.zip") as archive:  # a byte that says nothing: a time, a comment's length
            assert same == {name: archive.read(name) for name in archive.namelist()}


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
