"""Which page of the documentation helps with an error.

The pages are installed with edgerun, since a device may have no network: what is named is a file on this machine, and
behind `#` the heading's anchor as forges write it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgerun.errors import (
    BrokerError,
    ConfigError,
    DeviceError,
    EdgerunError,
    MissingError,
    ModelError,
    SealError,
    SourceError,
)

EXTRAS = "install.md#extras"
CONFIG = "config.md"
TABLES = {
    "device": "device",
    "mqtt": "mqtt",
    "mqtt.password": "passwords",
    "mqtt.spool": "mqttspool",
    "metrics": "metrics",
    "web": "web",
    "security": "security",
    "store": "store",
    "rollout": "rollout",
    "models": "modelsname",
    "models.NAME.batch": "modelsnamebatch",
    "models.NAME.remote": "modelsnameremote",
    "streams": "streamsname",
    "streams.NAME.source": "sources",
    "streams.NAME.gate": "streamsnamegate",
    "streams.NAME.privacy": "streamsnameprivacy",
    "streams.NAME.track": "streamsnametrack",
    "streams.NAME.zones": "streamsnamezoneszone",
    "streams.NAME.then": "streamsnamethen",
    "streams.NAME.collect": "streamsnamecollect",
    "streams.NAME.snapshot": "streamsnamesnapshot",
    "streams.NAME.keyword": "streamsnamekeyword",
    "streams.NAME.activity": "streamsnameactivity",
    "governor": "governor",
    "governor.battery": "governorbattery",
    "quiet": "quietname",
    "sensors": "sensors",
    "sensors.power_model": "sensorspower_model",
}
"""A config's tables and their headings in `CONFIG`. NAME is the operator's."""

ROOMS = {
    "edgerun.batch": "cli.md#edgerun-batch",
    "edgerun.bench": "cli.md#edgerun-bench",
    "edgerun.broker": "mqtt.md",
    "edgerun.capture": "cameras.md",
    "edgerun.cli.audit": "security.md#audit-log",
    "edgerun.cli.control": "security.md#commands",
    "edgerun.control.audit": "security.md#audit-log",
    "edgerun.control.local": "operations.md#the-service",
    "edgerun.convert": "convert.md",
    "edgerun.convert.explain": "convert.md#what-carried-a-result-edgerun-explain",
    "edgerun.decode": "config.md#modelsname",
    "edgerun.fleet": "fleet.md",
    "edgerun.infer": "troubleshooting.md",
    "edgerun.models": "models.md",
    "edgerun.models.openssf": "models.md#openssf-model-signing",
    "edgerun.models.rollout": "rollout.md",
    "edgerun.models.signing": "models.md#signing",
    "edgerun.models.verify": "models.md#signing",
    "edgerun.preprocess": "config.md#modelsname",
    "edgerun.registry": "plugins.md",
    "edgerun.security": "security.md",
    "edgerun.security.sealing": "security.md#at-rest",
    "edgerun.security.signing": "models.md#signing",
    "edgerun.security.trust": "models.md#signing",
    "edgerun.service": "operations.md#the-service",
    "edgerun.setup.frigate": "frigate.md",
    "edgerun.spool": "mqtt.md#nothing-lost",
    "edgerun.telemetry": "telemetry.md",
    "edgerun.watch": "operations.md#watch-one-or-many",
    "edgerun.web": "status-page.md",
    "edgerun.worker": "workers.md",
}
"""Where an error was raised, and the page on it; of several the longest name counts."""

KINDS: tuple[tuple[type[EdgerunError], str], ...] = (
    (BrokerError, "mqtt.md"),
    (SealError, "security.md#at-rest"),
    (ModelError, "models.md"),
    (SourceError, "cameras.md"),
    (DeviceError, "troubleshooting.md"),
)
"""For what was raised elsewhere."""

_KEY = re.compile(r"(?:^|: )((?:" + "|".join(sorted({name.partition(".")[0] for name in TABLES})) + r")(?:[.\[].*)?)$")
_IN_A_FILE = re.compile(r"\.toml:\d+")
_NAMED = ("models", "streams", "quiet")


def page_of(error: EdgerunError) -> str | None:
    """`page.md` or `page.md#anchor` below docs/, or None where no page says more than the error.

    A flag's mistake has none: `--help` is what helps.
    """
    if isinstance(error, MissingError) and "edgerun[" in (error.remedy or ""):
        return EXTRAS
    where = "" if error.where is None else str(error.where)
    if where.startswith("--"):
        return None
    if isinstance(error, ConfigError) and (page := _of_config(where)) is not None:
        return page
    if (page := next(filter(None, map(_of_module, _raised_in(error))), None)) is not None:
        return page
    return next((page for kind, page in KINDS if isinstance(error, kind)), None)


def lines(errors: Sequence[EdgerunError]) -> list[str]:
    """What a person is told beneath errors: each page once, and without anchor where several of it are meant."""
    folder = _folder()
    if folder is None:
        return []
    pages: dict[str, set[str]] = {}
    for named in filter(None, map(page_of, errors)):
        page, _, anchor = named.partition("#")
        pages.setdefault(page, set()).add(anchor)
    return [
        f"docs: {folder / page}" + (f"#{next(iter(anchors))}" if len(anchors) == 1 and anchors != {""} else "")
        for page, anchors in pages.items()
    ]


def _of_config(where: str) -> str | None:
    found = _KEY.search(where)
    if found is None:
        return CONFIG if _IN_A_FILE.search(where) else None
    levels = re.sub(r'"(?:[^"\\]|\\.)*"', "NAME", found[1]).split(".")
    if len(levels) > 1 and levels[0] in _NAMED:
        levels[1] = "NAME"
    names = (".".join(levels[:count]) for count in range(len(levels), 0, -1))
    return next((f"{CONFIG}#{TABLES[name]}" for name in names if name in TABLES), CONFIG)


def _raised_in(error: EdgerunError) -> Iterator[str]:
    """The modules that it came through, the one that raised it first."""
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(str(at.tb_frame.f_globals.get("__name__", "")))
        at = at.tb_next
    yield from reversed(frames)


def _of_module(name: str) -> str | None:
    levels = name.split(".")
    names = (".".join(levels[:count]) for count in range(len(levels), 1, -1))
    return next((ROOMS[one] for one in names if one in ROOMS), None)


def _folder() -> Path | None:
    """Where the pages are: in the package, or beside it in a checkout; as short as the working folder allows."""
    package = Path(__file__).parent.parent
    found = next((one for one in (package / "_docs", package.parent / "docs") if (one / CONFIG).is_file()), None)
    if found is None:
        return None
    try:
        here = os.path.relpath(found)
    except OSError:  # the working folder is gone
        return found
    return found if here.startswith("..") else Path(here)
