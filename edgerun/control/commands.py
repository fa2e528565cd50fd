"""Commands over MQTT: `<prefix>/<device>/cmd/<verb>` in, what came of each out."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgerun.broker.message import check_topic
from edgerun.errors import Closed, ConfigError, EdgerunError
from edgerun.ports import Broker, Incoming
from edgerun.slot import Slot
from edgerun.validate import show

_log = logging.getLogger(__name__)

_WAITING = 16  # commands that may wait; people send them
_LONGEST_BYTES = 65536
_REMEMBERED = 64
_VERB = re.compile(r"[a-z0-9_-]{1,32}(/[a-z0-9_-]{1,32})?")
_LONGEST_ID = 128

Act = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Does what a verb asks for with the command's arguments and returns what is worth saying. Raises `EdgerunError`."""


class Command(msgspec.Struct, frozen=True):
    """One thing asked for. `id` is the sender's, if it gave one: the same id again is the same command again."""

    verb: str
    arguments: Mapping[str, Any]
    reply_topic: str
    correlation: bytes | None = None
    id: str | None = None


class Commands:
    """Takes commands from the broker on the thread "control" and has them done, one after the other, by `hand_over`.

    Who may send them is the broker's to say (its access list). Refused are retained messages, which every reconnect
    would bring again, what is no JSON object, and unknown verbs. A command is answered on its response topic, else on
    `…/cmd/<verb>/result`: `{"v": 1, "verb", "ok", "id"?, "error"?, …}`. With an id that was seen among the last 64 the
    answer is given again and nothing else happens: QoS 1 may deliver twice. Of more than 16 that wait the oldest give
    way, which is told in the log.
    """

    def __init__(self, broker: Broker, root: str, verbs: Mapping[str, Act]) -> None:
        self._broker = broker
        self._root = f"{root}/cmd/"
        self._verbs = verbs
        self._inbox: Slot[Incoming] = Slot(_WAITING)
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._told_dropped = 0
        for levels in ("+", "+/+"):
            broker.subscribe(self._root + levels, self._inbox, 1)

    def run(self, hand_over: Callable[[Command], None]) -> None:
        """The thread's body, until `close`: what is asked for, as it comes."""
        while True:
            try:
                incoming = self._inbox.take()
            except Closed:
                return
            assert incoming is not None  # it waits for ever
            self._tell_dropped()
            command = self._read(incoming)
            if command is not None:
                hand_over(command)

    def do(self, command: Command) -> None:
        """Have a command done, and answer it. Used by one thread; raises nothing that a command can cause."""
        if command.id is not None and command.id in self._answers:
            self._send(command, self._answers[command.id])
            return
        answer: dict[str, Any] = {"v": 1, "verb": command.verb, "ok": True}
        if command.id is not None:
            answer["id"] = command.id
        try:
            act = self._verbs.get(command.verb)
            if act is None:
                raise ConfigError("no such command", expected=", ".join(sorted(self._verbs)), got=command.verb)
            answer |= act(command.arguments) or {}
        except EdgerunError as error:
            answer |= {"ok": False, "error": str(error)}
        _log.info("command %s: %s", command.verb, answer.get("error", "done"))
        body = msgspec.json.encode(answer)
        if command.id is not None:
            self._answers[command.id] = body
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        self._send(command, body)

    def close(self) -> None:
        """Take no more commands; `run` ends."""
        self._inbox.close()

    def _read(self, incoming: Incoming) -> Command | None:
        """The command in a message; None for what is none, told in the log and, where it can be, to the sender."""
        verb = incoming.topic.removeprefix(self._root)
        if verb.endswith("/result"):  # ours
            return None
        if not _VERB.fullmatch(verb):
            _log.warning("a message on %s is no command: no verb is called so", show(incoming.topic))
            return None
        reply_topic = self._root + verb + "/result"
        if incoming.response_topic is not None:
            try:
                check_topic(incoming.response_topic)
                reply_topic = incoming.response_topic
            except ValueError:
                _log.warning("command %s: its response topic is none that can be published to", verb)
        what, arguments = "", {}
        if incoming.retain:
            what = "a retained command is refused: every reconnect would bring it again"
        elif len(incoming.payload) > _LONGEST_BYTES:
            what = f"a command has at most {_LONGEST_BYTES} bytes; got {len(incoming.payload)}"
        elif incoming.payload.strip():
            try:
                arguments = msgspec.json.decode(incoming.payload, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                what = f"not a JSON object: {error}"
        mark = arguments.pop("id", None)
        if mark is not None and not (isinstance(mark, str) and len(mark) <= _LONGEST_ID):
            what = f"an id is text of at most {_LONGEST_ID} characters; got {show(mark)}"
            mark = None
        command = Command(verb, arguments, reply_topic, incoming.correlation, mark)
        if not what:
            return command
        _log.warning("command %s: %s", verb, what)
        if not incoming.retain:
            self._send(command, msgspec.json.encode({"v": 1, "verb": verb, "ok": False, "error": what}))
        return None

    def _tell_dropped(self) -> None:
        """With the first, and whenever they have doubled."""
        dropped = self._inbox.stats().victims
        if dropped > 2 * self._told_dropped:
            self._told_dropped = dropped
            _log.warning("%d commands gave way so far, more than %d waited", dropped, _WAITING)

    def _send(self, command: Command, body: bytes) -> None:
        self._broker.publish(command.reply_topic, body, qos=1, correlation=command.correlation)
