"""Actions of `edgerun models` on keys, signatures and trust."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerun.cli import output
from edgerun.cli.parser import Parser, add_common
from edgerun.errors import ConfigError

if TYPE_CHECKING:
    from edgerun.security.trust import Trust

EXAMPLES = {
    "keygen": "edgerun models keygen -o release.key --comment 'release 2026' --passphrase",
    "sign": "edgerun models sign build/detector --key release.key",
    "trust": "edgerun models trust add release.key.pub --not-after 2028-01-01",
}
_PASSPHRASE = "EDGERUN_KEY_PASSPHRASE"


def add(actions: Any) -> None:
    """Add the actions."""
    keygen = _action(actions, "keygen", "make a key pair to sign with")
    keygen.add_argument("-o", "--output", metavar="FILE", required=True, help="the private key; FILE.pub is the public")
    keygen.add_argument("--comment", metavar="TEXT", default="", help="what people call it")
    keygen.add_argument(
        "--passphrase", action="store_true", help=f"encrypt the private key; asked for, or in ${_PASSPHRASE}"
    )
    keygen.set_defaults(do=_keygen)
    add_common(keygen)
    sign = _action(actions, "sign", "sign a bundle, or another file such as the next public key")
    sign.add_argument("path", metavar="PATH", help="a bundle (folder or .zip), or a file to sign as FILE.sig")
    sign.add_argument("--key", metavar="FILE", required=True, help="the private key that keygen made")
    sign.add_argument("--more", action="store_true", help="beside the signatures of other keys, as in a rotation")
    sign.add_argument("--expires", metavar="TIME", help="of a bundle's folder: write it into the manifest first")
    sign.set_defaults(do=_sign)
    add_common(sign)
    trust = _action(actions, "trust", "whose models are taken: list, add, revoke, rotate")
    steps = trust.add_subparsers(dest="step", metavar="STEP", title="steps", required=True, parser_class=Parser)
    _step(steps, "list", "the trusted keys and their states", _trust_list)
    adding = _step(steps, "add", "trust a public key", _trust_add)
    adding.add_argument("key", metavar="KEY.pub", help="the public key")
    adding.add_argument("--not-after", metavar="TIME", help="do not take it from then on, such as 2028-01-01")
    revoking = _step(steps, "revoke", "never take anything of a key again", _trust_revoke)
    revoking.add_argument("key", metavar="ID", help="the key's id, as list shows it")
    revoking.add_argument("--reason", metavar="TEXT", default="", help="why")
    rotating = _step(steps, "rotate", "trust a new key because an old one has signed it", _trust_rotate)
    rotating.add_argument("key", metavar="KEY.pub", help="the new public key; its signature is KEY.pub.sig")
    rotating.add_argument("--retire", metavar="TIME", help="do not take the old key from then on")


def _action(actions: Any, name: str, what: str) -> Any:
    return actions.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:\n  {EXAMPLES[name]}"
    )


def _step(steps: Any, name: str, what: str, do: Any) -> Any:
    words = {"add": "release.key.pub", "revoke": "0123456789abcdef --reason 'laptop lost'", "rotate": "next.key.pub"}
    made = steps.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  edgerun models trust {name} {words.get(name, '--json')}".rstrip(),
    )
    made.add_argument("--trust", metavar="DIR", help="the folder of trusted keys (/etc/edgerun/trust)")
    made.set_defaults(do=do)
    add_common(made)
    return made


def _keygen(args: argparse.Namespace) -> int:
    from edgerun.security.keys import generate, write_pair

    passphrase = _ask(twice=True) if args.passphrase else None
    key = generate(args.comment)
    public = write_pair(key, Path(args.output), passphrase)
    if args.json:
        output.say_json(
            {"v": 1, "id": key.public.id, "private": args.output, "public": str(public), "line": key.public.line}
        )
    else:
        output.say(f"{args.output}: the private key; keep it off the devices.\n{public}: {key.public.line}")
        output.say(f"id {key.public.id}: trusted on a device with edgerun models trust add {public.name}")
    return 0


def _sign(args: argparse.Namespace) -> int:
    from edgerun.models.signing import sign_path
    from edgerun.security.keys import read_private

    path = Path(args.path)
    key = read_private(Path(args.key), _ask() if _is_encrypted(Path(args.key)) else None)
    written = sign_path(path, key, more=args.more, expires=args.expires)
    if args.json:
        output.say_json({"v": 1, "signature": str(written), "key": key.public.id})
    else:
        output.say(f"{written}: signed with {key.public.id} {key.public.comment}".rstrip())
    return 0


def _trust_list(args: argparse.Namespace) -> int:
    return _told(args, _trust(args))


def _trust_add(args: argparse.Namespace) -> int:
    from edgerun.security.keys import read_public

    return _told(args, _trust(args).add(read_public(Path(args.key)), _time(args.not_after, "--not-after")))


def _trust_revoke(args: argparse.Namespace) -> int:
    return _told(args, _trust(args).revoke(args.key, args.reason, time.time()))


def _trust_rotate(args: argparse.Namespace) -> int:
    path = Path(args.key)
    try:
        content, signature = path.read_bytes(), path.with_name(path.name + ".sig").read_bytes()
    except OSError as error:
        raise ConfigError("the new key or its signature cannot be read", where=path, got=error.strerror) from error
    return _told(args, _trust(args).rotate(content, signature, time.time(), _time(args.retire, "--retire")))


def _told(args: argparse.Namespace, trust: Trust) -> int:
    from edgerun.security.trust import format_time

    now = time.time()
    rows = [
        {
            "id": one.key.id,
            "state": one.state(now),
            "comment": one.key.comment,
            "not_after": format_time(one.not_after) if one.not_after is not None else None,
            "reason": one.reason,
            "file": str(one.file),
        }
        for one in trust.keys
    ]
    if args.json:
        output.say_json({"v": 1, "trust": str(trust.folder), "keys": rows})
        return 0
    for row in rows:
        until = f"until {row['not_after']}" if row["not_after"] else ""
        parts = (row["id"], row["state"], row["comment"], until, row["reason"])
        output.say("  ".join(str(part) for part in parts if part))
    if not rows:
        output.say(f"No key is trusted: {trust.folder} holds no .pub file.")
    return 0


def _trust(args: argparse.Namespace) -> Trust:
    from edgerun.security.trust import Trust

    return Trust.open(Path(args.trust) if args.trust is not None else None)


def _time(text: str | None, flag: str) -> float | None:
    from edgerun.security.trust import parse_time

    try:
        return parse_time(text) if text is not None else None
    except ValueError as error:
        raise ConfigError("not a time", where=flag, expected="such as 2028-01-01", got=str(error)) from None


def _is_encrypted(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"ENCRYPTED" in file.read(100)
    except OSError:
        return False


def _ask(*, twice: bool = False) -> str:
    """The passphrase: from the environment, or asked for at the terminal."""
    given = os.environ.get(_PASSPHRASE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise ConfigError("no terminal to ask for the passphrase", expected=f"it in ${_PASSPHRASE}")
    text = getpass.getpass("Passphrase: ")
    if not text or (twice and getpass.getpass("Again: ") != text):
        raise ConfigError("no passphrase, or not the same one twice", remedy="try again")
    return text
