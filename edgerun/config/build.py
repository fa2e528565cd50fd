"""Tables as the TOML has them → a checked `Config`, or everything that is wrong with them at once."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from edgerun.config.governing import check_governing
from edgerun.config.overlay import Overlay
from edgerun.config.references import check_requests, check_streams
from edgerun.config.remote import check_remote
from edgerun.config.security import check_security
from edgerun.config.source import camera_node, check_path, check_url, names_in, parse_source, resolve_path
from edgerun.config.structs import NAME, NAME_WORDS, Config, SourceConfig
from edgerun.config.toml import read_toml
from edgerun.config.web import check_web
from edgerun.errors import ConfigError, ConfigErrors, did_you_mean
from edgerun.secret import KINDS, Kind, Secret, guarded, mask
from edgerun.validate import INVALID, QUOTED, Hook, Report, describe, join, read_struct, show

OptionsOf = Callable[[str, str], type[msgspec.Struct]]
"""(room, kind) → the plug-in's options struct; raises `ConfigError` for an unknown kind."""
FindModel = Callable[[str], Path | None]
"""A model's name → where it is kept, or None when there is no model of that name."""

PLANNED = (
    "compat",
    "mqtt.compat",
    "streams.*.stall_s",
)
"""Keys that belong to the format and that this version does not act on: refused, never silently ignored."""

_MODEL = "a bundle, a .tflite or .onnx file, or the name of a model in the store or with edgerun"
_TLS_KEYS = ("ca_file", "cert_file", "key_file")


def load(
    path: Path,
    options_of: OptionsOf,
    find_model: FindModel | None = None,
    overrides: Mapping[str, tuple[str, Any]] | None = None,
    overlay: Overlay | None = None,
) -> Config:
    """The config file at `path`, checked.

    `overrides` maps a dotted path, in which `*` stands for every name, to (flag, value), for example
    `{"streams.*.max_fps": ("--max-fps", 5)}`: what a flag says takes the place of what the file says. `overlay` is laid
    over the file before that. Raises `ConfigErrors` with everything that is wrong, `MissingError` when a plug-in cannot
    be imported.
    """
    raw, lines = read_toml(path)
    if overlay is not None:
        raw = copy.deepcopy(overlay.over(raw))
    flags: dict[str, str] = {}
    for pattern, (flag, value) in (overrides or {}).items():
        flags.update(dict.fromkeys(_override(raw, "", pattern.split("."), value), flag))

    def where(place: str) -> str:
        at = place
        if overlay is not None and overlay.holds(place):
            return f"{overlay.name}: {place}"
        while at and at not in lines and at not in flags:
            at = _parent(at)
        if at in flags:
            return flags[at]
        named = f"{path}:{lines[at]}" if at else str(path)
        return f"{named}: {place}" if place else named

    try:
        return build(raw, options_of, where=where, folder=path.parent, find_model=find_model)
    except ConfigErrors as error:
        raise ConfigErrors(sorted(error.errors, key=_line)) from None


def build(
    raw: dict[str, Any],
    options_of: OptionsOf,
    *,
    where: Callable[[str], str] = lambda place: place,
    folder: Path = Path(),
    find_model: FindModel | None = None,
) -> Config:
    """`raw`, shaped as the TOML, as a checked `Config`; relative paths are taken from `folder`.

    `where` names a dotted path to the operator. Raises `ConfigErrors` with everything that is wrong, `MissingError`
    when a plug-in cannot be imported.
    """
    reader = _Reader(options_of, folder, find_model)
    report = Report(where, reader.hooks(), _is_planned)
    raw = _split_credentials(raw, report)
    config = read_struct(raw, Config, "", report)
    _check_mqtt(_table(raw, "mqtt"), report)
    for room in ("models", "streams", "quiet"):
        for name in _table(raw, room):
            if not re.search(NAME, str(name)):
                report.add(join(room, str(name)), "not a usable name", expected=NAME_WORDS, got=show(str(name)))
    for name, model in _table(raw, "models").items():
        reader.check_model(join("models", str(name)), model, report)
    check_streams(_table(raw, "streams"), _table(raw, "models"), report)
    check_governing(raw, report)
    check_remote(raw, report)
    check_security(raw, report)
    check_web(raw.get("web"), report)
    check_requests(_table(raw, "streams"), raw.get("mqtt"), report)
    if report.errors or config is INVALID:
        raise ConfigErrors(report.errors)
    found: Config = config
    models = {name: msgspec.structs.replace(m, path=reader.model_path(m.path)) for name, m in found.models.items()}
    return msgspec.structs.replace(found, models=models)


def dump(config: Config) -> dict[str, Any]:
    """`config` as the tables that `build` reads, defaults included, None left out.

    Paths are text. A password is the table that names its place; one in plain text stays a `Secret`, and text that may
    hold one a `MaskedText`: no encoder writes either.
    """
    return {key: value for key, value in _plain(config).items() if value is not None}


class _Reader:
    """Reads what needs more than its type: paths, passwords, sources, the names of models and decoders."""

    def __init__(self, options_of: OptionsOf, folder: Path, find_model: FindModel | None) -> None:
        self._options_of = options_of
        self._folder = folder
        self._find_model = find_model
        self._held: dict[str, str] = {}

    def hooks(self) -> dict[type, Hook]:
        return {Path: self._path, Secret: self._secret, SourceConfig: self._source}

    def check_model(self, place: str, raw: Any, report: Report) -> None:
        """The files and the decoder a `[models.*]` table names must be there."""
        raw = raw if isinstance(raw, dict) else {}
        decoder = raw.get("decoder")
        if isinstance(decoder, str) and decoder:
            try:
                self._options_of("decoder", decoder)
            except ConfigError as error:
                _add(report, join(place, "decoder"), error)
        for key in ("path", "labels"):
            text = raw.get(key)
            if isinstance(text, str | Path) and text and "\0" not in str(text):
                path = self._resolve(text)
                if not (_exists(self.model_path(path)) if key == "path" else os.path.isfile(path)):
                    report.add(
                        join(place, key),
                        "not a file" if _exists(path) else "no such file",
                        expected=_MODEL if key == "path" else "a text file with one label a line",
                        got=mask(str(path)),
                        remedy=did_you_mean(path.name, names_in(path.parent)),
                    )

    def model_path(self, path: Path) -> Path:
        """`path`, or where the model of that name is kept when nothing lies at `path`."""
        bare = path.parent == self._folder and (not path.suffix or "@" in path.name) and len(path.name) <= 128
        kept = self._find_model(path.name) if bare and self._find_model and not _exists(path) else None
        return kept if kept is not None else path

    def _resolve(self, text: str | Path) -> Path:
        return resolve_path(text, self._folder)

    def _path(self, value: Any, place: str, report: Report) -> Any:
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            report.add(place, "not a path", expected="text", got=show(value))
            return INVALID
        return self._resolve(value)

    def _secret(self, value: Any, place: str, report: Report) -> Any:
        if isinstance(value, Secret):
            return value
        expected = '{ credential = "…" }, { env = "…" } or { file = "…" }'
        if isinstance(value, str) and value:
            return Secret("plain", value, report.where(place))
        if not isinstance(value, dict):
            got = "empty text" if value == "" else describe(type(value))  # never the value itself
            report.add(place, "not a password", expected=expected, got=got)
            return INVALID
        unknown = [str(key) for key in value if key not in KINDS[:3]]
        if unknown or len(value) != 1:
            got = "keys " + ", ".join(map(str, value)) if value else "an empty table"
            remedy = did_you_mean(unknown[0], KINDS[:3]) if unknown else None
            report.add(place, "not a place for a password", expected=expected, got=got, remedy=remedy)
            return INVALID
        kind, text = next(iter(value.items()))
        return self._secret_at(kind, text, join(place, kind), report)

    def _secret_at(self, kind: Kind, text: Any, place: str, report: Report) -> Any:
        forms = {"credential": r"[^/\0]+", "env": r"[^=\0]+", "file": r"[^\0]+"}
        if not isinstance(text, str) or not re.fullmatch(forms[kind], text) or text in (".", ".."):
            wanted = {"credential": "its file name", "env": "a variable's name", "file": "a path"}[kind]
            report.add(place, f"not a usable {kind}", expected=wanted)
            return INVALID
        return Secret(kind, str(self._resolve(text)) if kind == "file" else text, report.where(place))

    def _source(self, value: Any, place: str, report: Report) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1000:
            value = str(value)
        try:
            if isinstance(value, str):
                kind, options = parse_source(value, self._folder)
            elif isinstance(value, dict) and isinstance(value.get("kind"), str):
                kind, options = value["kind"], {key: item for key, item in value.items() if key != "kind"}
                if isinstance(path := options.get("path"), str) and path and "\0" not in path:
                    options["path"] = str(self._resolve(path))
            elif isinstance(value, dict):
                what = "wrong type" if "kind" in value else "missing"
                report.add(join(place, "kind"), what, expected='text, such as "camera"')
                return INVALID
            else:
                report.add(place, "wrong type", expected="text or a table with kind", got=show(value))
                return INVALID
            struct = self._options_of("source", kind)
        except ConfigError as error:
            _add(report, place if isinstance(value, str) else join(place, "kind"), error)
            return INVALID
        before = len(report.errors)
        made = read_struct(options, struct, place, report)
        self._hold(options.get("device"), place, report)
        for key, check in (("url", check_url), ("path", lambda text, kind: check_path(kind, Path(text)))):
            text = options.get(key)
            if isinstance(text, str) and "\0" not in text:
                try:
                    check(text, kind)
                except ConfigError as error:
                    _add(report, place if isinstance(value, str) else join(place, key), error)
        return INVALID if len(report.errors) > before else SourceConfig(kind, made)

    def _hold(self, device: Any, place: str, report: Report) -> None:
        """A device is one stream's alone."""
        if not isinstance(device, str | int) or isinstance(device, bool) or "\0" in str(device):
            return
        node = camera_node(device)
        holder = self._held.setdefault(node, place)
        if holder != place:
            report.add(
                place,
                "this device is another stream's already",
                expected="a device of its own",
                got=f"{show(device)}, held by {holder}",
            )


def _check_mqtt(mqtt: dict[str, Any], report: Report) -> None:
    """What the keys of `[mqtt]` ask of each other."""
    for key, other in (("cert_file", "key_file"), ("key_file", "cert_file"), ("password", "username")):
        if mqtt.get(key) is not None and mqtt.get(other) is None:
            report.add(join("mqtt", key), f"given without {other}", remedy=f"add {other} or remove {key}")
    for key in _TLS_KEYS:
        path = mqtt.get(key)
        if isinstance(path, str) and path and "\0" not in path:
            made = report.hooks[Path](path, join("mqtt", key), report)
            if not os.path.isfile(made):
                report.add(join("mqtt", key), "no such file", expected="a PEM file", got=str(made))
    more = mqtt.get("more_urls")
    for one in more if isinstance(more, list) else ():
        if isinstance(one, str) and split_credentials(one)[0] != one:
            report.add(
                join("mqtt", "more_urls"), "with a user of its own", expected="brokers that take the user of url",
                got=show(one), remedy="leave user and password out",
            )  # fmt: skip
    url = mqtt.get("url")
    if isinstance(url, str) and url.startswith(("mqtt://", "ws://")):
        for key in (*_TLS_KEYS, "insecure"):
            if mqtt.get(key):
                report.add(
                    join("mqtt", key),
                    "given for a broker without TLS",
                    expected="an url that begins with mqtts:// or wss://",
                    got=show(url),
                )


def split_credentials(url: str) -> tuple[str, str | None, str | None]:
    """`mqtt://user:password@host` → (the url without them, user, password)."""
    match = re.fullmatch(r"([a-z]+://)(.*)@([^@]*)", url, re.DOTALL)
    if match is None:
        return url, None, None
    user, colon, password = match[2].partition(":")
    return match[1] + match[3], unquote(user) or None, unquote(password) if colon else None


def _split_credentials(raw: dict[str, Any], report: Report) -> dict[str, Any]:
    """What the url says of user and password as keys of their own; a copy, `raw` itself stays."""
    mqtt = _table(raw, "mqtt")
    if not isinstance(mqtt.get("url"), str):
        return raw
    url, user, password = split_credentials(mqtt["url"])
    secret = Secret("plain", password, report.where("mqtt.url")) if password else None
    for key, value in (("username", user), ("password", secret)):
        if value is not None and mqtt.get(key) is not None:
            report.add(join("mqtt", key), "given twice", expected="it in the url or as a key, not both")
        elif value is not None:
            mqtt = {**mqtt, key: value}
    return {**raw, "mqtt": {**mqtt, "url": url}}


def _override(table: Any, place: str, keys: list[str], value: Any) -> list[str]:
    """Set the key in every table that the pattern names; returns the dotted paths that were set."""
    if not isinstance(table, dict):
        return []
    key, *rest = keys
    if not rest:
        table[key] = value
        return [join(place, key)]
    if key == "*":
        names = list(table)
    else:
        table.setdefault(key, {})
        names = [key]
    return [done for name in names for done in _override(table[name], join(place, name), rest, value)]


def _is_planned(place: str) -> bool:
    name = rf"(?:{QUOTED}|[^.\"]+)"
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", name), place) for pattern in PLANNED)


def _plain(value: Any) -> Any:
    if isinstance(value, SourceConfig):
        return {"kind": value.kind, **_plain(value.options)}
    if isinstance(value, msgspec.Struct):
        value = {field.encode_name: getattr(value, field.name) for field in msgspec.structs.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Secret):
        return value.place or value
    if isinstance(value, str):
        return guarded(value)
    return str(value) if isinstance(value, Path) else value


def _line(error: ConfigError) -> int:
    found = re.search(r":(\d+): ", str(error.where))
    return int(found[1]) if found else 0


def _parent(place: str) -> str:
    return re.sub(rf"(?:\.?(?:{QUOTED}|[^.\[\]\"]+)|\[\d+\])\Z", "", place)


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # unlike Path.exists it takes a name too long for "not there"


def _add(report: Report, place: str, error: ConfigError) -> None:
    report.add(place, error.what, expected=error.expected, got=error.got, remedy=error.remedy)
