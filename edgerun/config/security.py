"""`[security]`: who may change the device."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgerun.errors import did_you_mean
from edgerun.secret import Secret
from edgerun.security.keys import parse_public
from edgerun.validate import Report, show

DEFAULT_COMMANDS = ("pause", "resume", "snapshot", "trace", "reload", "alive", "ready")
VERBS = (
    "alive", "model/install", "model/rollback", "pause", "ready", "reload", "resume", "shapes", "snapshot", "trace",
)  # fmt: skip
"""Every command that there is; which of them a run knows depends on what it has."""
_VERB = r"^[a-z0-9_-]{1,32}(/([a-z0-9_-]{1,32}|\*))?\Z"


def public_key(line: str) -> str:
    """`line` when it is a public key. Raises `ValueError`."""
    parse_public(line)
    return line


Verb = Annotated[str, Meta(pattern=_VERB, extra={"expected": 'a verb such as "pause", "model/install" or "model/*"'})]
KeyLine = Annotated[
    str, Meta(extra={"parse": public_key, "expected": "a line edgerun-ed25519 <base64> <comment>, as in a .pub file"})
]
_A_KEY = {"expected": "a table that says where it is"}


class SecurityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[security]`: who may change the device."""

    require_signed: Annotated[
        bool,
        Meta(description="Models that come from elsewhere must be signed by a key of `trust`."),
    ] = True
    trust: Annotated[
        Path | None,
        Meta(description="The folder of public keys that are trusted; by default `/etc/edgerun/trust`."),
    ] = None
    commands: Annotated[
        tuple[Verb, ...],
        Meta(
            description="Commands that need no signature, over MQTT and the control socket; `model/*` for all of those."
        ),
    ] = DEFAULT_COMMANDS
    signed_commands: Annotated[
        bool, Meta(description="Over MQTT only signed commands are taken; needs `command_keys`.")
    ] = False
    command_keys: Annotated[
        tuple[KeyLine, ...],
        Meta(description="Lines of .pub files (`edgerun models keygen`): what these keys sign may be any command."),
    ] = ()
    socket: Annotated[
        Path | None,
        Meta(description="The control socket; by default `control.sock` in `$RUNTIME_DIRECTORY`, else there is none."),
    ] = None
    audit: Annotated[
        bool, Meta(description="Keep the audit log, where there is a broker or a control socket. See docs/security.md.")
    ] = True
    model_key: Annotated[
        Secret | None,
        Meta(
            description="Opens sealed model files: 32 bytes, made by `edgerun control key`; given like a password.",
            extra=_A_KEY,
        ),
    ] = None
    state_key: Annotated[
        Secret | None,
        Meta(
            description="Seals what is kept in the state folder: spool, collected pictures; and snapshots in files.",
            extra=_A_KEY,
        ),
    ] = None


def check_security(raw: dict[str, Any], report: Report) -> None:
    """Report what the keys of `[security]`, as written, ask of each other, and whom `[metrics]` would let in."""
    security, metrics = raw.get("security"), raw.get("metrics")
    if isinstance(security, dict) and security.get("signed_commands") is True and not security.get("command_keys"):
        report.add(
            "security.signed_commands",
            "given without command_keys: no command would ever be taken",
            remedy="add command_keys with the line of a .pub file",
        )
    commands = security.get("commands") if isinstance(security, dict) else None
    for verb in commands if isinstance(commands, list) else ():
        _check_verb(verb, report)
    listen = metrics.get("listen") if isinstance(metrics, dict) else None
    if not isinstance(metrics, dict) or not isinstance(listen, str):
        return
    try:
        loopback = ipaddress.ip_address(listen).is_loopback
    except ValueError:
        report.add("metrics.listen", "metrics are served on an address", expected="an IP address", got=show(listen))
        return
    if not loopback and metrics.get("token") is None:
        report.add(
            "metrics.listen",
            "metrics are only served to this machine unless there is a token",
            expected="a loopback address, or a token",
            got=show(listen),
            remedy="add token (make one with: edgerun control token), or use 127.0.0.1",
        )


def _check_verb(verb: object, report: Report) -> None:
    """One that there is; what is not even written like one was told already."""
    if not isinstance(verb, str) or not re.match(_VERB, verb):
        return
    group = verb.removesuffix("*")
    if verb not in VERBS and not (group.endswith("/") and any(one.startswith(group) for one in VERBS)):
        report.add(
            "security.commands",
            "no such command",
            expected="of " + ", ".join(VERBS),
            got=show(verb),
            remedy=did_you_mean(verb, list(VERBS)),
        )
