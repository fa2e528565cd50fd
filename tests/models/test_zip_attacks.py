"""Zips and folders that would lead out, lie, or burst."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from edgerun.errors import EdgerunError
from edgerun.models.install import stage
from tests.models import attacked
from tests.models.attacked import REMOTE, Box
from tests.models.bundles import files, manifest
from tests.models.stores import KEY, bundle, signed, zipped

box = attacked.box

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
