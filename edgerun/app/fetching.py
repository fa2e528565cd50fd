"""What is asked for by `model/install`: read, and brought into the store, verified."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgerun.app.rollout_file import Audit, open_store
from edgerun.config import Config
from edgerun.errors import ConfigError, DeviceError
from edgerun.models.bundle import find_bundled
from edgerun.models.rollout import Rollout, Verified
from edgerun.models.store import Store
from edgerun.models.versions import check_version
from edgerun.validate import show

KEYS = ("name", "model", "version", "source", "url", "sha256", "rollout", "share")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")


class Wish(msgspec.Struct, frozen=True):
    """One `model/install`. `name` is that of the `[models.NAME]` table; without `source` it is in the store already."""

    name: str
    version: str | None = None
    source: str | None = None
    sha256: str | None = None
    rollout: str | None = None
    share: float = 1.0


def read_wish(arguments: Mapping[str, Any]) -> Wish:
    """The wish in a command. Raises `ConfigError`."""
    for key in arguments:
        if key not in KEYS:
            raise ConfigError("a key that model/install does not know", expected=", ".join(KEYS), got=show(key))
    for one, other in (("name", "model"), ("source", "url")):
        if one in arguments and other in arguments:
            raise ConfigError("given twice", expected=f"{one} or {other}")
    found = {key: arguments[key] for key in ("version", "sha256", "rollout") if arguments.get(key) is not None}
    found |= {
        "name": arguments.get("name", arguments.get("model")),
        "source": arguments.get("source", arguments.get("url")),
    }
    for key, value in found.items():
        if not isinstance(value, str) and not (key == "source" and value is None):
            raise ConfigError("wrong type", where=key, expected="text", got=show(value))
    if "rollout" in found and not _ID.match(found["rollout"]):
        raise ConfigError("not a usable id", where="rollout", expected="1 to 64 of A-Z a-z 0-9 . _ : -")
    if "sha256" in found and not _SHA256.match(found["sha256"]):
        raise ConfigError("not a SHA-256", where="sha256", expected="64 hexadecimal digits")
    if "version" in found:
        check_version(found["version"], "version")
    share = arguments.get("share", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ConfigError("not a share", where="share", expected="0..1", got=show(share))
    return Wish(**found, share=float(share))


def model_of(config: Config, name: str, store: Store) -> str:
    """What the store calls the model of a `[models.NAME]` table. Raises `ConfigError` for one that is not of the store:
    nothing would make a restart take the new version.
    """
    path = config.models[name].path
    if path.parent.parent == store.folder:
        return path.parent.name
    if find_bundled(path.name) == path:
        return path.name
    raise ConfigError(
        "this model is not one of the store, so no other version can take its place",
        where=f"models.{name}.path",
        expected="the name of a model in the store",
        got=path,
        remedy="put it there (edgerun models add), and name it in the config",
    )


def fetch(rollout: Rollout, config: Config, audit: Audit, stop: threading.Event) -> Verified:
    """Bring the version into the store, verified and not active. Whoever asks for it from afar is not trusted with a
    path of this device either: without a signature nothing is taken where `[security]` wants one. `stop` ends a
    download.

    Raises `ConfigError`, `ModelError`, `DeviceError`, `MissingError`.
    """
    from edgerun.models.https import shown_url
    from edgerun.models.install import Origin, Told, fetched, install, stage
    from edgerun.models.verify import Policy
    from edgerun.security.trust import Trust

    store = open_store(config, audit)
    security = config.security
    running = config.models[rollout.name].path
    if find_bundled(running.name) == running and store.find(rollout.model) is None:  # what can be gone back to
        install(store, str(running), Policy(store.now(), None, require_signed=False))
    previous = store.installed(rollout.model).version
    if rollout.source is None:
        wanted = rollout.wanted or store.record(rollout.model).latest()
        return Verified(store.installed(rollout.model, wanted).version, previous)

    def go_on(_bytes: int, _of: int | None) -> None:
        if stop.is_set():
            raise DeviceError("taken back while it was fetched", where=shown_url(str(rollout.source)))

    def wait(seconds: float) -> None:
        stop.wait(seconds)
        go_on(0, None)

    policy = Policy(store.now(), Trust.open(security.trust), security.require_signed, config.device.id)
    with (
        store.staging() as work,
        fetched(store, rollout.source, work, sha256=rollout.sha256, progress=go_on, pause=wait) as (path, origin),
        stage(
            store,
            path,
            Origin(origin.shown, remote=True, entry=origin.entry),
            policy,
            told=Told(rollout.model, rollout.wanted),
        ) as staged,
    ):
        one = store.commit(staged, activate=False)
    return Verified(one.version, previous)


def place(rollout: Rollout, config: Config, reread: Any, audit: Audit) -> Path:
    """Make the new version the store's active one; where it lies. Raises `ModelError`, `DeviceError`, and `ConfigError`
    where the config names a version itself, so that a restart would not take the new one.
    """
    store = open_store(config, audit)
    assert rollout.version is not None, "known since it was verified"
    store.activate(rollout.model, rollout.version)
    path = store.path(rollout.model, rollout.version)
    named = reread().models.get(rollout.name)
    if named is None or named.path != path:
        raise ConfigError(
            "the config names a version, or another model, itself",
            where=f"models.{rollout.name}.path",
            expected=rollout.model,
            got=None if named is None else named.path,
            remedy="name the model without a version",
        )
    return path
