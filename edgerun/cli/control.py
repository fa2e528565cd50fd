"""Tell the running daemon what to do, through its control socket; make tokens and keys; open what it sealed.

`edgerun control VERB [key=value …]` gives a command: pause, resume, and whatever else the daemon knows. `token` makes
an access token, `key` a key for sealing files, and `unseal FILE …` opens what was sealed with one."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from edgerun.cli import logs, output
from edgerun.cli.parser import add_common
from edgerun.decoding import decode
from edgerun.errors import ConfigError, DeviceError, EdgerunError, SealError

EXAMPLES = (
    "edgerun control pause --stream dock",
    "edgerun control resume stream=dock --socket /run/edgerun/control.sock --json",
    "edgerun control pause --sign ops.key --device dock-7 --print | mosquitto_pub -t edgerun/dock-7/cmd/pause -s",
    "edgerun control token",
    "edgerun control unseal 00000012-20260501T101500Z.jpg.sealed -o seen --key-file state.key",
)

_DEFAULT_SOCKET = "/run/edgerun/control.sock"
_LIFE_S = 60
_LONGEST_ANSWER = 4 << 20
_TIMEOUT_S = 15.0
_VERB = re.compile(r"[a-z0-9_-]{1,32}(/[a-z0-9_-]{1,32})?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("verb", metavar="VERB", help="a command of the daemon; or token, key, unseal")
    parser.add_argument("rest", metavar="KEY=VALUE", nargs="*", default=[], help="its arguments; of unseal: files")
    ask = parser.add_argument_group("a command")
    ask.add_argument("--stream", metavar="NAME", help="the same as stream=NAME")
    ask.add_argument("--socket", metavar="FILE", help=f"the control socket ($RUNTIME_DIRECTORY, {_DEFAULT_SOCKET})")
    ask.add_argument("--sign", metavar="KEY", help="sign it with this private key (edgerun models keygen)")
    ask.add_argument("--device", metavar="ID", help="the device that a signed command is for")
    ask.add_argument("--expires", metavar="S", type=float, default=_LIFE_S, help="how long a signed one counts (60)")
    ask.add_argument("--print", action="store_true", help="print the message for MQTT instead of giving the command")
    sealed = parser.add_argument_group("unseal")
    sealed.add_argument("--key-file", metavar="FILE", help="the key that the files were sealed with")
    sealed.add_argument("-o", "--output", metavar="DIR", default=".", help="where the opened files go (.)")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    own = {"token": _token, "key": _key, "unseal": _unseal}.get(args.verb)
    if own is None:
        return _command(args)
    return own(args)


def _token(args: argparse.Namespace) -> int:
    from edgerun.security.tokens import hashed, new_token

    _refuse_rest(args)
    token = new_token()
    if args.json:
        output.say_json({"v": 1, "token": token, "hash": hashed(token)})
        return 0
    output.say(token)
    output.tell("It is shown this once. Keep it with whoever needs it; on the device its hash is enough:")
    output.tell(hashed(token))
    return 0


def _key(args: argparse.Namespace) -> int:
    from edgerun.security.sealing import SealingKey

    _refuse_rest(args)
    key = SealingKey.new()
    if args.json:
        output.say_json({"v": 1, "key": key.text(), "id": key.id.hex()})
        return 0
    output.say(key.text())
    output.tell(
        "Whoever has it can read everything that is sealed with it, and without it nobody can. Keep a copy of it"
    )
    output.tell(
        "elsewhere. Sealed to this machine's TPM: systemd-creds encrypt --with-key=tpm2 --name=model-key - FILE"
    )
    return 0


def _unseal(args: argparse.Namespace) -> int:
    from edgerun.secret import Secret
    from edgerun.security.sealing import SUFFIX, SealingKey, open_sealed

    if not args.rest or args.key_file is None:
        raise ConfigError("nothing to open, or no key", expected="edgerun control unseal FILE … --key-file KEY")
    key = SealingKey.read(Secret("file", args.key_file, "--key-file"))
    folder, opened = Path(args.output), []
    for name in args.rest:
        path = Path(name)
        target = folder / path.name.removesuffix(SUFFIX)
        try:
            content = _opened(path, key, open_sealed)
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(content)
        except OSError as error:
            raise DeviceError("the file cannot be opened or written", where=name, got=error.strerror) from error
        opened.append(str(target))
        if not args.json:
            output.say(str(target))
    if args.json:
        output.say_json({"v": 1, "files": opened})
    return 0


def _opened(path: Path, key: Any, open_sealed: Any) -> bytes:
    """Whatever it was sealed for; a file does not say so itself, that is what keeps them from being swapped."""
    from edgerun.security.sealing import SUFFIX

    name, last = path.name.removesuffix(SUFFIX), None
    for purpose in ("collect", "snapshot", "model"):
        try:
            content: bytes = open_sealed(path, key, purpose, name)
            return content
        except SealError as error:
            last = error
    assert last is not None
    raise last


def _command(args: argparse.Namespace) -> int:
    if not _VERB.fullmatch(args.verb):
        raise ConfigError("no verb", expected="pause, resume, token, key, unseal …", got=repr(args.verb))
    message = dict(_argument(word) for word in args.rest)
    if args.stream is not None:
        message["stream"] = args.stream
    if args.sign is not None:
        message = _signed(args, message)
    if args.print:
        output.say(msgspec.json.encode(message).decode())
        return 0
    answer = ask(_socket(args.socket), {"verb": args.verb, **message})
    if args.json:
        output.say_json(answer)
    elif answer.get("ok"):
        told = {key: value for key, value in answer.items() if key not in ("v", "verb", "ok")}
        output.say(msgspec.json.encode(told).decode() if told else f"{args.verb}: done")
    if not answer.get("ok"):
        raise EdgerunError(f"{args.verb} was refused: {answer.get('error', 'no reason given')}")
    return 0


def ask(path: Path, message: dict[str, Any]) -> dict[str, Any]:
    """What the daemon at the socket `path` answers to `message`. Raises `DeviceError`."""
    came = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_TIMEOUT_S)
            link.connect(str(path))
            link.sendall(msgspec.json.encode(message) + b"\n")
            while not came.endswith(b"\n") and len(came) < _LONGEST_ANSWER:
                piece = link.recv(65536)
                if not piece:
                    break
                came += piece
        answer: dict[str, Any] = decode(came, dict[str, Any])
    except OSError as error:
        raise DeviceError(
            "the daemon cannot be reached", where=path, got=error.strerror or error, remedy=_remedy(error)
        ) from error
    except msgspec.DecodeError:
        raise DeviceError("the daemon gave no answer", where=path, got=f"{len(came)} bytes") from None
    return answer


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "run this as root or as a member of the socket's group"
    if isinstance(error, TimeoutError):
        return "see what it does: systemctl status edgerun"
    return (
        "is it running (systemctl start edgerun)? A daemon that was started by hand has a socket only where [security] "
        "names one: `socket` in its config, and the same with --socket here; a service has it in $RUNTIME_DIRECTORY"
    )


def _socket(given: str | None) -> Path:
    if given is not None:
        return Path(given)
    from edgerun.control.local import default_path

    return default_path() or Path(_DEFAULT_SOCKET)


def _argument(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError("not an argument", expected="key=value, such as stream=dock", got=repr(word))
    try:
        return key, msgspec.json.decode(text)
    except msgspec.DecodeError:
        return key, text


def _signed(args: argparse.Namespace, arguments: dict[str, Any]) -> dict[str, Any]:
    from edgerun.control.signed import LONGEST_LIFE_S, sign
    from edgerun.security.keys import read_private

    if args.device is None:
        raise ConfigError("a signed command is for one device", expected="--device ID")
    if not 0 < args.expires <= LONGEST_LIFE_S:
        raise ConfigError("a signed command does not count for so long", where="--expires", expected="1 to 3600 s")
    key = read_private(Path(args.sign))
    text = msgspec.json.encode(arguments).decode()
    return sign(key, args.device, args.verb, text, int(time.time() + args.expires), secrets.token_hex(16))


def _refuse_rest(args: argparse.Namespace) -> None:
    if args.rest:
        raise ConfigError("unexpected argument", got=repr(args.rest[0]), remedy="see edgerun control --help")
