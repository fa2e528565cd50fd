"""Where commands are taken, whichever way they came: read, admitted or refused, done, answered, and put on record."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from edgerun.clock import Clock, SystemClock
from edgerun.control.limits import Bucket, Limits
from edgerun.control.signed import PLAUSIBLE_S, Signatures
from edgerun.decoding import decode
from edgerun.errors import ConfigError, EdgerunError
from edgerun.validate import show

_log = logging.getLogger(__name__)

LONGEST_BYTES = 65536
_REMEMBERED = 64
_LONGEST_ID = 128
_TOLD_PER_S, _TOLD_BURST = 1.0, 20


class Later:
    """What a verb returns whose answer takes its time. `give` is called once, by the thread that calls `Desk.do`, with
    what is worth saying or with what went wrong.
    """

    def __init__(self) -> None:
        self.give: Callable[[Mapping[str, Any] | EdgerunError], None] = lambda outcome: None


Act = Callable[[Mapping[str, Any]], Mapping[str, Any] | Later | None]
"""Does what a verb asks for with the command's arguments and returns what is worth saying. Raises `EdgerunError`."""
Reply = Callable[[bytes], None]


class Origin(msgspec.Struct, frozen=True):
    """Where a command came from, and from whom as far as that is known. `who` is text for people."""

    via: Literal["mqtt", "socket", "web"]
    who: str = "unknown"


class Command(msgspec.Struct, frozen=True):
    """One thing asked for. `id` is the sender's, if it gave one: the same id again is the same command again.

    `until_ns`: it is not to be done after this (monotonic); None: whenever.
    """

    verb: str
    arguments: Mapping[str, Any]
    reply: Reply
    origin: Origin
    id: str | None = None
    until_ns: int | None = None


class Done(msgspec.Struct, frozen=True):
    """What became of a command, or of what was refused; `error` is empty for one that was done."""

    verb: str
    origin: Origin
    error: str = ""
    not_told: int = 0
    """Refusals before this one that were too many to be told one by one."""


class Rules(msgspec.Struct, frozen=True):
    """Who may ask for what. `allowed` are verbs, or `word/*` for all that begin so; None: every verb.

    What is signed by a trusted key may be any verb. `require_signed`: over MQTT nothing else is taken.
    """

    allowed: frozenset[str] | None = None
    signatures: Signatures | None = None
    require_signed: bool = False

    def allows(self, verb: str) -> bool:
        """Whether `verb` may be asked for without a signature."""
        word, slash, _ = verb.partition("/")
        return self.allowed is None or verb in self.allowed or (bool(slash) and f"{word}/*" in self.allowed)


class Desk:
    """Answers are `{"v": 1, "verb", "ok", "id"?, "error"?, …}`. With an id that was seen among the last 64 the answer
    is given again and nothing else happens: QoS 1 may deliver twice.

    `read` is called by any thread that takes commands; `do` by one thread. `on_done` is called with
    what was done or refused, by either; of refusals beyond one a second only the number is told.
    """

    def __init__(
        self,
        verbs: Mapping[str, Act],
        *,
        rules: Rules | None = None,
        limits: Callable[[], Limits] | None = None,
        clock: Clock | None = None,
        on_done: Callable[[Done], None] = lambda done: None,
    ) -> None:
        self._verbs = verbs
        self._rules = rules or Rules()
        self._clock = clock or SystemClock()
        self._on_done = on_done
        self._answers: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._make_limits = limits or (lambda: Limits(self._clock))
        self._counters: dict[str, Counter] = {}
        self._lock = threading.RLock()  # a reply may come to ask again

    @property
    def verbs(self) -> tuple[str, ...]:
        """Those that may be asked for without a signature."""
        return tuple(sorted(verb for verb in self._verbs if self._rules.allows(verb)))

    def renew(self, rules: Rules) -> None:
        """From now on these count; a command that was admitted before is done."""
        with self._lock:
            self._rules = rules

    def read(
        self, verb: str, payload: bytes, origin: Origin, reply: Reply, *, expires_in_s: float | None = None
    ) -> Command | None:
        """The command in `payload`, if it is one and may be given; None for what is refused, which is answered."""
        with self._lock:
            return self._read(verb, payload, origin, reply, expires_in_s)

    def _read(
        self, verb: str, payload: bytes, origin: Origin, reply: Reply, expires_in_s: float | None
    ) -> Command | None:
        counter = self._counters.get(origin.via)
        if counter is None:
            counter = self._counters[origin.via] = Counter(self._make_limits(), self._clock)
        arguments: dict[str, Any] = {}
        mark = None
        try:
            if len(payload) > LONGEST_BYTES:
                raise ConfigError(f"a command has at most {LONGEST_BYTES} bytes; got {len(payload)}")
            if payload.strip():
                arguments = _decode(payload)
            mark = _mark(arguments.pop("id", None))
            if verb not in self._verbs:
                raise ConfigError("no such command", expected=", ".join(sorted(self._verbs)), got=verb)
            if not counter.limits.take(verb):
                raise ConfigError("too many commands", remedy="wait a second and send it again")
            if (origin.via, verb, mark) in self._answers:  # done already
                return Command(verb, arguments, reply, origin, mark)
            origin, arguments = self._admit(verb, arguments, origin)
            until_ns = self._until_ns(arguments.pop("expires", None), expires_in_s)
        except EdgerunError as error:
            self._refuse(counter, verb, origin, reply, mark, str(error))
            return None
        return Command(verb, arguments, reply, origin, mark, until_ns)

    def do(self, command: Command) -> None:
        """Have a command done, and answer it. Raises nothing that a command can cause."""
        key = (command.origin.via, command.verb, command.id or "")
        if command.id is not None and key in self._answers:
            command.reply(self._answers[key])
            return
        answer: dict[str, Any] = {"v": 1, "verb": command.verb, "ok": True}
        if command.id is not None:
            answer["id"] = command.id
        told: Mapping[str, Any] | Later | EdgerunError
        try:
            if command.until_ns is not None and self._clock.mono_ns() >= command.until_ns:
                raise ConfigError("the command has expired while it waited")
            told = self._verbs[command.verb](command.arguments) or {}
        except EdgerunError as error:
            told = error
        if isinstance(told, Later):
            told.give = lambda outcome: self._answer(command, answer, outcome)
        else:
            self._answer(command, answer, told)

    def _answer(self, command: Command, answer: dict[str, Any], outcome: Mapping[str, Any] | EdgerunError) -> None:
        key = (command.origin.via, command.verb, command.id or "")
        answer |= {"ok": False, "error": str(outcome)} if isinstance(outcome, EdgerunError) else outcome
        error_text = str(answer.get("error", "")) if not answer["ok"] else ""
        _log.info("command %s from %s: %s", command.verb, command.origin.who, error_text or "done")
        body = msgspec.json.encode(answer)
        if command.id is not None:
            self._answers[key] = body
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        self._on_done(Done(command.verb, command.origin, error_text))
        command.reply(body)

    def refuse(self, verb: str, origin: Origin, error: str) -> None:
        """Put on record that something was refused before it was read; nobody is answered."""
        with self._lock:
            counter = self._counters.setdefault(origin.via, Counter(self._make_limits(), self._clock))
            self._refuse(counter, verb, origin, None, None, error)

    def _admit(self, verb: str, arguments: dict[str, Any], origin: Origin) -> tuple[Origin, dict[str, Any]]:
        rules = self._rules
        if "signed" in arguments and rules.signatures is not None:
            if len(arguments) > 1:
                raise ConfigError("a signed command has no arguments outside", expected="signed, and id", got="more")
            key, arguments = rules.signatures.read(verb, arguments["signed"])
            return Origin(origin.via, f"{key.comment or 'key'} {key.id}"), arguments
        if rules.require_signed and origin.via == "mqtt":
            raise ConfigError("commands must be signed here", remedy="sign it: edgerun control VERB --sign KEY")
        if not rules.allows(verb):
            raise ConfigError(
                "this command is not allowed here",
                got=verb,
                remedy="list it in commands of [security], or sign it with a key of command_keys",
            )
        return origin, arguments

    def _until_ns(self, expires: Any, expires_in_s: float | None) -> int | None:
        """From `expires`, Unix seconds, and what is left of the message's own expiry. Raises `ConfigError`."""
        left_s = expires_in_s
        if expires is not None:
            if isinstance(expires, bool) or not isinstance(expires, int | float):
                raise ConfigError("wrong type", where="expires", expected="Unix seconds", got=show(expires))
            now_s = self._clock.unix_s()
            if now_s < PLAUSIBLE_S:
                raise ConfigError("this device's clock is not set: whether the command has expired cannot be told")
            left_s = expires - now_s if left_s is None else min(left_s, expires - now_s)
        if left_s is None:
            return None
        if left_s <= 0:
            raise ConfigError("the command has expired")
        return self._clock.mono_ns() + round(min(left_s, 1e9) * 1e9)

    def _refuse(
        self, counter: Counter, verb: str, origin: Origin, reply: Reply | None, mark: str | None, error: str
    ) -> None:
        if not counter.told.take():
            counter.not_told += 1
            return
        not_told, counter.not_told = counter.not_told, 0
        more = f" (and {not_told} more were refused)" if not_told else ""
        _log.warning("command %s from %s: %s%s", show(verb), origin.who, error, more)
        self._on_done(Done(verb, origin, error, not_told))
        if reply is not None:
            answer: dict[str, Any] = {"v": 1, "verb": verb, "ok": False, "error": error}
            reply(msgspec.json.encode(answer if mark is None else {**answer, "id": mark}))


class Counter:
    """One way in: its limits, so that a flood there closes no other, and how much of its refusals was told."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self.told = Bucket(_TOLD_PER_S, _TOLD_BURST, clock)
        self.not_told = 0


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        return decode(payload, dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not a JSON object: {error}") from None


def _mark(mark: Any) -> str | None:
    if mark is not None and not (isinstance(mark, str) and len(mark) <= _LONGEST_ID):
        raise ConfigError(f"an id is text of at most {_LONGEST_ID} characters; got {show(mark)}")
    return mark
