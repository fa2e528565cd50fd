"""The flags of the commands that go to a broker without a config: where it is, who we are, whom we trust."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgerun.errors import ConfigError, did_you_mean
from edgerun.secret import KINDS, Kind, Secret, mask
from edgerun.validate import show

if TYPE_CHECKING:
    from edgerun.broker.options import BrokerOptions

_log = logging.getLogger(__name__)

_PLACES = {"credential": r"[^/\0]+", "env": r"[^=\0]+", "file": r"[^\0]+"}
_EXPECTED = "credential=NAME (systemd), env=NAME or file=PATH"
_FILES = ("ca_file", "cert_file", "key_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group = parser.add_argument_group("broker")
    group.add_argument(
        "--broker", metavar="URL", required=True, help="mqtt://[user@]host[:port], mqtts://, ws:// or wss://"
    )
    group.add_argument("--username", metavar="U", help="who to log in as, where the URL does not say")
    group.add_argument(
        "--password", metavar="PLACE", help=f"where the password is: {_EXPECTED}; in the URL every user could see it"
    )
    group.add_argument("--ca-file", metavar="PEM", help="trust these certificates instead of the system's")
    group.add_argument("--cert-file", metavar="PEM", help="our certificate, with --key-file, for a broker that asks")
    group.add_argument("--key-file", metavar="PEM", help="the private key of --cert-file")
    group.add_argument("--prefix", metavar="P", default="edgerun", help="the first level of every topic (edgerun)")


def read_options(args: argparse.Namespace, client_id: str) -> BrokerOptions:
    """What they say. Raises `ConfigError`, which never has a password in it."""
    from edgerun.broker.options import BrokerOptions
    from edgerun.config.build import split_credentials
    from edgerun.config.mqtt import broker_url, topic_prefix

    url, username, plain = split_credentials(args.broker)
    for flag, parse, value in (("--broker", broker_url, url), ("--prefix", topic_prefix, args.prefix)):
        _check(flag, parse, value)
    for flag, one, other in (("--username", username, args.username), ("--password", plain, args.password)):
        if one and other is not None:
            raise ConfigError("given twice", where=flag, expected="it in the URL or as a flag, not both")
    password = None if args.password is None else _secret(args.password)
    if plain:
        _log.warning(
            "--broker: a password on the command line can be read by every user of this machine (ps); give it with"
            " --password %s",
            _EXPECTED,
        )
        password = Secret("plain", plain, "--broker")
    username = args.username if args.username is not None else username
    if password is not None and not username:
        raise ConfigError("given without a user", where="--password", remedy="add --username, or user@ to the URL")
    files = _files(args, url)
    return BrokerOptions(
        url=url,
        client_id=client_id,
        username=username,
        password=password,
        prefix=args.prefix,
        ca_file=files.get("ca_file"),
        cert_file=files.get("cert_file"),
        key_file=files.get("key_file"),
    )


def check_url(given: str) -> None:
    """Raises `ConfigError`, which never has a password in it, for what `--broker` cannot be."""
    from edgerun.config.build import split_credentials
    from edgerun.config.mqtt import broker_url

    _check("--broker", broker_url, split_credentials(given)[0])


def _check(flag: str, parse: Callable[[str], str], value: str) -> None:
    try:
        parse(value)
    except ValueError as error:
        raise ConfigError("not usable", where=flag, got=f"{show(mask(value))}: {error}") from None


def _files(args: argparse.Namespace, url: str) -> dict[str, Path]:
    """Raises `ConfigError` for one that is not there, or that a broker without TLS has no use for."""
    out = {key: Path(getattr(args, key)) for key in _FILES if getattr(args, key) is not None}
    for key, path in out.items():
        flag = "--" + key.replace("_", "-")
        if not os.path.isfile(path):
            raise ConfigError("no such file", where=flag, expected="a PEM file", got=path)
        if not url.startswith(("mqtts://", "wss://")):
            expected = "an URL that begins with mqtts:// or wss://"
            raise ConfigError("given for a broker without TLS", where=flag, expected=expected, got=mask(url))
    if ("cert_file" in out) != ("key_file" in out):
        raise ConfigError("one without the other", where="--cert-file, --key-file", expected="both, or neither")
    return out


def _secret(text: str) -> Secret:
    """Where a password is, as `[mqtt] password` names it. Raises `ConfigError` that does not repeat the text."""
    kind, equals, place = text.partition("=")
    kinds = {one: one for one in get_args(Kind) if one in KINDS[:3]}
    if not equals or kind not in kinds or not re.fullmatch(_PLACES[kind], place) or place in (".", ".."):
        remedy = did_you_mean(kind, tuple(kinds)) if equals and kind.isalpha() else None
        raise ConfigError("not a place for a password", where="--password", expected=_EXPECTED, remedy=remedy)
    return Secret(kinds[kind], place, "--password")
