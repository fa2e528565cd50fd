"""A rollout's progress in a file, so that it is taken up where it was left."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgerun.decoding import decode
from edgerun.errors import ConfigError, DeviceError
from edgerun.fleet.plan import VERSION, Progress
from edgerun.models.disk import Disk

_MAX_BYTES = 64 << 20


def load(path: Path) -> Progress | None:
    """What was kept; None where nothing was. Raises `ConfigError` for a file that is none of a rollout."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
        progress = decode(content, Progress)
        if progress.v != VERSION or not 0 <= progress.at < len(progress.plan.stages):
            raise ValueError(f"v {progress.v}, stage {progress.at}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError("the rollout's file cannot be read", where=path, got=error.strerror or error) from error
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        remedy = "name another with --state; what the devices do is told by them, not by this file"
        raise ConfigError("this is no file of a rollout", where=path, got=error, remedy=remedy) from error
    return progress


def keep(path: Path, progress: Progress) -> None:
    """On the medium when this returns. Raises `DeviceError`."""
    disk = Disk()
    try:
        disk.make_folder(path.parent)
        disk.replace(path, msgspec.json.encode(progress) + b"\n")
    except OSError as error:
        raise DeviceError(
            "the rollout's progress cannot be kept", where=path, got=error.strerror or str(error)
        ) from error
