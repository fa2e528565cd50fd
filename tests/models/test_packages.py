"""Files out of wheels and npm packages, and the catalog that names some."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ConfigError, EdgerunError, ModelError
from edgerun.models import catalog
from edgerun.models.packages import parse_package, take
from edgerun.models.versions import NAME, check_version
from tests.models.stores import zipped
from tests.real_models import model_file

Maker = Callable[[dict[str, bytes]], tuple[str, Path]]


@pytest.fixture(params=["pypi", "npm"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Writes a package; returns what it is called and where it lies."""

    def wheel(contents: dict[str, bytes]) -> tuple[str, Path]:
        path = tmp_path / "m-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return "pypi:m==1.0", path

    def tarball(contents: dict[str, bytes]) -> tuple[str, Path]:
        path = tmp_path / "m-1.0.tgz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return "npm:m@1.0", path

    return wheel if request.param == "pypi" else tarball


def got(text: str, archive: Path, work: Path) -> Path:
    package = parse_package(text)
    work.mkdir(parents=True)
    return take(package, work, fetched={text.partition("#")[0]: archive})


def test_a_file_a_folder_and_a_file_in_a_zip(make: Maker, tmp_path: Path) -> None:
    inner = zipped(tmp_path, "1").read_bytes()
    contents = {"m/net.tflite": b"net", "m/b/manifest.json": b"{}", "m/b/sub/x": b"x", "m/inner.zip": inner, "n": b"n"}
    name, archive = make(contents)
    one = got(f"{name}#m/net.tflite", archive, tmp_path / "1")
    assert (one.name, one.read_bytes()) == ("net.tflite", b"net")
    folder = got(f"{name}#m/b/", archive, tmp_path / "2")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {"manifest.json": b"{}", "sub/x": b"x"}
    assert got(f"{name}#m/inner.zip!labels.txt", archive, tmp_path / "3").read_bytes() == b"person\ncar 1\n"
    with pytest.raises(ModelError, match=r"does not hold that; expected m/none"):
        got(f"{name}#m/none", archive, tmp_path / "4")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        got(f"{name}#n!x", archive, tmp_path / "5")


@pytest.mark.parametrize("name", ["m/../../evil", "m//evil", "m/a\\evil", "m/C:evil", "m/./evil", "m/ev\nil"])
def test_members_that_lead_out(make: Maker, tmp_path: Path, name: str) -> None:
    called, archive = make({"m/x": b"x", name: b"evil"})
    with pytest.raises(ModelError, match="outside itself or in no plain way"):
        got(f"{called}#m/", archive, tmp_path / "work" / "deep")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "m.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/net.tflite")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ModelError, match="a link in the package"):
        got("npm:m@1.0#package/net.tflite", tmp_path / "m.tgz", tmp_path / "work")


def test_a_tar_bomb_and_a_header_of_any_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo("package/x")
    info.size = 6 << 30
    (tmp_path / "m.tgz").write_bytes(gzip.compress(info.tobuf() + bytes(1 << 20)))
    with pytest.raises(ModelError):
        got("npm:m@1.0#package/x", tmp_path / "m.tgz", tmp_path / "1")
    info = tarfile.TarInfo("package/x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    (tmp_path / "m.tgz").write_bytes(gzip.compress(info.tobuf() + bytes(1 << 20)))
    with pytest.raises(ModelError, match="cannot be unpacked"):
        got("npm:m@1.0#package/x", tmp_path / "m.tgz", tmp_path / "2")


@given(st.binary(max_size=2000), st.booleans())
def test_garbage_is_no_package(tmp_path_factory: pytest.TempPathFactory, content: bytes, packed: bool) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    path = folder / "m.tgz"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(EdgerunError):
        got("npm:m@1.0#package/x", path, folder / "1")
    with pytest.raises(EdgerunError):
        got("pypi:m==1.0#package/x", path.rename(folder / "m.whl"), folder / "2")


@pytest.mark.parametrize(
    "text",
    [
        "pypi:m==1.0#a/b.tflite",
        "pypi:Some.Package_x==1.0.post1+cpu#a/",
        "npm:m@1.0.0-beta.1#package/a.zip!net.tflite",
        "npm:@scope/m@1.0#package/a",
    ],
)
def test_how_a_package_is_named(text: str) -> None:
    assert str(parse_package(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "pypi:m#a",
        "pypi:m>=1#a",
        "pypi:m==1.*#a",
        "pypi:m==1",
        "pypi:m==1#",
        "pypi:-r==1#a",
        "pypi:m==1 --index-url=x#a",
        "pypi:m @ https://x==1#a",
        "npm:m@latest tag#a",
        "npm:../m@1#a",
        "npm:m@../x#a",
        "npm:m@1#/etc/passwd",
        "npm:m@1#a!../b",
        "pypi:m==1#../a",
    ],
)
def test_what_is_no_pinned_package(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_package(text)


def test_the_catalog_says_what_it_must() -> None:
    found = catalog.entries()
    assert len({str(one) for one in found}) == len(found)
    for one in found:
        assert NAME.fullmatch(one.name)
        check_version(one.version, one.name)
        assert one.license
        assert one.about.endswith(".")
        assert one.homepage.startswith("https://")
        for file in one.files:
            assert file.source.startswith("https://") or str(parse_package(file.source)) == file.source
        assert any(file.file.startswith("LICENSE") for file in one.files)
        assert any(re.search(r"\.(tflite|onnx)\Z", file.file) for file in one.files)
    assert catalog.get("silero-vad") == catalog.get("silero-vad@6.2.3")
    with pytest.raises(ConfigError, match='Did you mean "silero-vad"'):
        catalog.get("silero-vat")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("silero-vad", "silero_vad.onnx"),
        ("okay-nabu", "okay_nabu.tflite"),
        ("face-short-range", "face_detection_short_range.tflite"),
    ],
)
def test_the_catalog_has_the_right_hash(name: str, file: str) -> None:
    digest = hashlib.sha256(model_file(file).read_bytes()).hexdigest()
    assert catalog.get(name).files[0].sha256 == digest
