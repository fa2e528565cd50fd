"""Which recordings there are, where the results of each go, and which are done already."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgerun.batch.job import Job, Outcome, note_of
from edgerun.config import parse_source
from edgerun.decoding import decode
from edgerun.errors import ConfigError
from edgerun.validate import show

_FOR_RECORDINGS = ("file", "wav", "csv")


def find(patterns: Sequence[str]) -> list[Path]:
    """Every recording that `patterns` (files, folders, globs) name, once, in order. Raises `ConfigError`."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        names = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        if not names or not all(os.path.exists(name) for name in names):
            raise ConfigError("there is no such file", where="FILES", got=show(pattern))
        for name in names:
            inside = list(_inside(Path(name)))
            if not inside:
                raise ConfigError(
                    "no recordings in there", where="FILES", got=show(name), expected="videos, WAV or CSV"
                )
            found.update(dict.fromkeys(inside))
    return list(found)


def jobs(files: Sequence[Path], out: Path, config: str, model_sha256: str) -> list[Job]:
    """One for each file; results carry the file's name, made unlike where two are called the same."""
    taken: dict[str, int] = {}
    made = []
    for path in files:
        count = taken[path.name] = taken.get(path.name, 0) + 1
        name = path.name if count == 1 else f"{path.stem}~{count}{path.suffix}"
        status = path.stat()
        what = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{model_sha256}\n{config}"
        key = hashlib.sha256(what.encode()).hexdigest()
        made.append(Job(str(path.resolve()), str(out / f"{name}.jsonl"), config, key))
    return made


def done(job: Job) -> Outcome | None:
    """What an earlier run made of the same file with the same model and settings; None where it has to be done."""
    try:
        outcome = decode(Path(note_of(job.results)).read_bytes(), Outcome)
    except (OSError, msgspec.DecodeError):
        return None
    return outcome if outcome.key == job.key and os.path.exists(job.results) else None


def _inside(path: Path) -> Iterator[Path]:
    """`path`, or the recordings anywhere below it."""
    if not path.is_dir():
        parse_source(str(path))  # raises what it has to say of a file that is none
        yield path
        return
    for one in sorted(path.rglob("*")):
        if one.is_file() and _is_recording(one):
            yield one


def _is_recording(path: Path) -> bool:
    try:
        return parse_source(str(path))[0] in _FOR_RECORDINGS
    except ConfigError:
        return False
