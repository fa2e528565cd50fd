"""The config that somebody wants, as `…/config/desired` brings it: read, and refused where it asks for too much."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edgerun.config.overlay import Overlay
from edgerun.decoding import decode
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.secret import mask
from edgerun.validate import join, show

NAME = "config/desired"
TABLES = ("models", "streams", "governor", "quiet")
"""What may be wished for from afar. The rest says who the device is, and who may reach it."""
LONGEST_BYTES = 262_144
_SECRET_PLACES = ("credential", "env", "file")


class Desired(msgspec.Struct, frozen=True):
    """One wish. `sha256` is of the message as it came; `version` only grows."""

    version: int
    sha256: str
    overlay: Overlay


def digest(payload: bytes) -> str:
    """What the sender can know its message by."""
    return hashlib.sha256(payload).hexdigest()


def version_in(payload: bytes) -> int | None:
    """The version that a message gives itself, also one that is refused; None where it has none."""
    try:
        said = decode(payload, dict[str, Any]).get("version")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return said if isinstance(said, int) and not isinstance(said, bool) else None


def read_desired(payload: bytes) -> Desired:
    """The wish in a message: `{"v": 1, "version": N, "config": {…}}`, a merge patch on the file's tables, or
    `{"v": 1, "version": N, "toml": "…"}`, tables that take the place of the file's. Raises `ConfigErrors` with
    everything that is wrong with it, as far as that can be told without the file.
    """
    if len(payload) > LONGEST_BYTES:
        raise _one("too long", expected=f"at most {LONGEST_BYTES} bytes", got=len(payload))
    try:
        said = decode(payload, dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _one("not a JSON object", got=error) from None
    errors = [_error("unknown key", got=show(key)) for key in said if key not in ("v", "version", "config", "toml")]
    if said.get("v", 1) != 1:
        errors.append(_error("another format than this version understands", "v", expected=1, got=show(said["v"])))
    version = version_in(payload)
    if version is None or not 0 <= version < 1 << 53:
        errors.append(
            _error("no usable version", "version", expected="a number from 0 on", got=show(said.get("version")))
        )
    tables, whole = _tables(said, errors)
    errors += _refused(tables)
    if errors:
        raise ConfigErrors(errors)
    assert version is not None, "without one there is an error"
    return Desired(version, digest(payload), Overlay(NAME, tables, whole))


def _tables(said: Mapping[str, Any], errors: list[ConfigError]) -> tuple[Mapping[str, Any], bool]:
    config, toml = said.get("config"), said.get("toml")
    if (config is None) == (toml is None):
        errors.append(_error("says what is wanted twice, or not at all", expected="either config or toml"))
        return {}, False
    if config is not None:
        if not isinstance(config, dict):
            errors.append(_error("wrong type", "config", expected="a table", got=show(config)))
            return {}, False
        return config, False
    try:
        if not isinstance(toml, str):
            raise ValueError("no text")
        return tomllib.loads(toml), True
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        errors.append(_error("not valid TOML", "toml", got=error))
        return {}, True


def _refused(tables: Mapping[str, Any]) -> list[ConfigError]:
    """What nobody may wish for from afar: other tables, secrets, programs to run, folders to write to."""
    errors = [
        _error(
            "not to be changed from afar", key, expected=" or ".join(TABLES), remedy="change it in the device's file"
        )
        for key in tables
        if key not in TABLES
    ]
    for place, key, value in _walk({key: tables[key] for key in tables if key in TABLES}, ""):
        if isinstance(value, str) and mask(value) != value:
            errors.append(_error("a password", place, remedy="keep it on the device: it would lie at the broker"))
        elif key in ("password", "token") or (place.startswith("models.") and key == "key" and place.count(".") == 2):
            errors.append(_error("a secret", place, remedy="name it in the device's file"))
        elif isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in _SECRET_PLACES:
            errors.append(_error("the place of a secret", place, remedy="name it in the device's file"))
        elif key == "kind" and value in ("exec", "external"):
            what = "runs a program" if value == "exec" else "loads a library"
            errors.append(_error(f"what {what}", place, got=show(value), remedy="set it in the device's file"))
        elif key == "folder":
            errors.append(_error("a folder to write to", place, remedy="set it in the device's file"))
    return errors


def _walk(value: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """(dotted path, last key, value) of everything in nested tables and lists."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            at = join(place, str(key))
            yield at, str(key), item
            yield from _walk(item, at)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield place, "", item
            yield from _walk(item, place)


def _error(what: str, place: str = "", **parts: Any) -> ConfigError:
    return ConfigError(what, where=f"{NAME}: {place}" if place else NAME, **parts)


def _one(what: str, **parts: Any) -> ConfigErrors:
    return ConfigErrors([_error(what, **parts)])
