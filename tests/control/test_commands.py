"""Commands through a real broker, to the device and in the running daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.app.commanding import Commanding
from edgerun.broker.connection import Connection
from edgerun.clock import SystemClock
from edgerun.control.commands import Commands
from edgerun.control.desk import Command, Desk
from edgerun.errors import ConfigError
from edgerun.pipeline.notice import Asked, NoticeBoard, StopRequested
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.ports import Incoming
from edgerun.slot import Outbox, Slot
from tests import mosquitto
from tests.broker.parts import connection
from tests.test_end_to_end import CLIP, DETECTOR, start

ROOT = "edgerun/dock-9"


class Wire:
    """A broker that keeps what is published, and hands over what the test sends."""

    connected = True

    def __init__(self) -> None:
        self.inbox: Slot[Incoming] | None = None
        self.sent: list[tuple[str, dict[str, Any], bytes | None]] = []

    def subscribe(self, topic_filter: str, inbox: Slot[Incoming], qos: int = 1, *, as_published: bool = False) -> None:
        self.inbox = inbox

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation: bytes | None = None,
        **how: Any,
    ) -> None:
        self.sent.append((topic, json.loads(payload), correlation))

    def flush(self, timeout_s: float) -> bool:
        return True


def fed(*messages: Incoming) -> tuple[Wire, list[Command], Desk]:
    """Everything the messages come to, up to the hand-over."""
    wire, taken, done = Wire(), [], []

    def act(arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
        done.append(arguments)
        if "fail" in arguments:
            raise ConfigError("it cannot be")
        return {"times": len(done)}

    desk = Desk({"pause": act})
    commands = Commands(wire, ROOT, desk)
    assert wire.inbox is not None
    for message in messages:
        wire.inbox.put(message)
    commands.close()
    commands.run(taken.append)
    return wire, taken, desk


def message(payload: bytes = b"", verb: str = "pause", **how: Any) -> Incoming:
    return Incoming(f"{ROOT}/cmd/{verb}", payload, 1, **{"retain": False, **how})


def test_a_command_is_done_and_answered() -> None:
    wire, taken, desk = fed(message(b'{"stream": "dock"}', response_topic="me/answers", correlation=b"7"))
    desk.do(taken[0])
    assert wire.sent == [("me/answers", {"v": 1, "verb": "pause", "ok": True, "times": 1}, b"7")]


def test_the_same_id_is_the_same_command() -> None:
    wire, taken, desk = fed(*[message(b'{"id": "a"}')] * 3, message(b'{"id": "b"}'), message(), message())
    for command in taken:
        desk.do(command)
    assert [(body.get("id"), body["times"]) for _, body, _ in wire.sent] == [
        ("a", 1), ("a", 1), ("a", 1), ("b", 2), (None, 3), (None, 4),
    ]  # fmt: skip
    assert {topic for topic, _, _ in wire.sent} == {f"{ROOT}/cmd/pause/result"}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (message(b"[1]"), "not a JSON object"),
        (message(b"{"), "not a JSON object"),
        (message(b"\xff"), "not a JSON object"),
        (message(b'{"id": "\xff"}'), "not a JSON object"),
        (message(b'{"id": "\xed\xa0\x80"}'), "not a JSON object"),
        (message(b'{"id": 7}'), "an id is text of at most 128 characters; got 7"),
        (message(b'{"id": "' + b"x" * 129 + b'"}'), "an id is text of at most 128"),
        (message(b"[" * 60_000), "not a JSON object"),
        (message(b" " * 65_537), "at most 65536 bytes; got 65537"),
        (message(b'{"fail": 1}'), "it cannot be"),
        (message(verb="pawse"), "no such command; expected pause; got pawse"),
        (message(verb="model/burn"), "no such command"),
    ],
)
def test_what_cannot_be_done_is_answered(sent: Incoming, error: str) -> None:
    wire, taken, desk = fed(sent)
    for command in taken:
        desk.do(command)
    ((_, body, _),) = wire.sent
    assert body["ok"] is False
    assert error in body["error"]


def test_a_retained_command_and_an_answer_are_none() -> None:
    wire, taken, _ = fed(message(b"{}", retain=True), message(verb="pause/result"), message(b"{}", retain=False))
    assert len(taken) == 1
    assert wire.sent == []


@pytest.mark.parametrize("verb", ["v" * (65535 - len(ROOT) - 5), "a\nERROR: b", "", "a/b/c", "Pause", "pause/"])
def test_a_topic_that_is_no_verbs(verb: str) -> None:
    wire, taken, _ = fed(message(b"{}", verb=verb))
    assert (wire.sent, taken) == ([], [])


def test_of_a_flood_the_last_are_done_and_the_rest_is_told(caplog: pytest.LogCaptureFixture) -> None:
    _, taken, _ = fed(*[message(b'{"n": %d}' % number) for number in range(1000)])
    assert [command.arguments["n"] for command in taken] == list(range(984, 1000))
    assert [record.getMessage() for record in caplog.records] == ["984 commands gave way so far, more than 16 waited"]


def test_a_flood_does_not_wait_before_a_notice_of_something_else() -> None:
    wire, notices = Wire(), NoticeBoard()
    pipeline = Pipeline([], [], Publisher(Outbox(1), [], SystemClock(), "0"), Outbox(1), SystemClock(), notices)
    commanding = Commanding(wire, ROOT, pipeline, notices)
    assert wire.inbox is not None
    for _ in range(16):
        wire.inbox.put(message(b"{}", verb="resume"))
    commanding.start()
    first = notices.get(timeout=20)
    assert isinstance(first, Asked)
    notices.put(StopRequested("SIGTERM"))
    assert isinstance(notices.get(timeout=20), StopRequested)
    first.do()
    assert isinstance(notices.get(timeout=20), Asked)
    commanding.close()
    commanding._thread.join(20)
    assert not commanding._thread.is_alive()
    assert notices.empty()


def test_a_response_topic_nobody_can_publish_to() -> None:
    wire, taken, desk = fed(message(response_topic="a/#"))
    desk.do(taken[0])
    assert wire.sent[0][0] == f"{ROOT}/cmd/pause/result"


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(
    lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(deadline=None)
def test_no_payload_does_more_than_be_refused(payload: bytes) -> None:
    _, taken, desk = fed(message(payload))
    for command in taken:
        desk.do(command)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Connection]:
    """A running daemon with two streams, and a connection beside it."""
    with mosquitto.broker() as broker:
        file = tmp_path / "edge.toml"
        file.write_text(
            f'[device]\nid = "dock-9"\n[mqtt]\nurl = "{broker.url}"\n[models.m]\npath = "{DETECTOR}"\n'
            f'[streams.a]\nmodel = "m"\nsource = "{CLIP}"\nloop = true\n'
            f'[streams.b]\nmodel = "m"\nsource = "synthetic:320x240@20"\n'
        )
        process = start("run", "--config", file, "--quiet")
        try:
            with connection(broker.url) as link:
                yield link
        finally:
            process.terminate()
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


def next_state(states: Slot[Incoming], wanted: str) -> dict[str, Any]:
    while True:
        got = states.take(30)
        assert got is not None
        body: dict[str, Any] = json.loads(got.payload)
        if body["state"] == wanted:
            return body


def test_a_stream_is_paused_and_goes_on(daemon: Connection) -> None:
    states: dict[str, Slot[Incoming]] = {name: Slot(100) for name in "ab"}
    results: Slot[Incoming] = Slot(1)
    answers: Slot[Incoming] = Slot(8)
    for name, slot in states.items():
        daemon.subscribe(f"{ROOT}/state/{name}", slot)
    daemon.subscribe(f"{ROOT}/cmd/+/result", answers)
    next_state(states["a"], "running")
    next_state(states["b"], "running")
    daemon.publish(f"{ROOT}/cmd/pause", b'{"stream": "a"}', qos=1)
    answer = answers.take(20)
    assert answer is not None
    assert json.loads(answer.payload) == {"v": 1, "verb": "pause", "ok": True}
    assert next_state(states["a"], "paused")["reason"] == "paused by a command"
    daemon.subscribe(f"{ROOT}/detections/b", results)
    assert results.take(20) is not None  # the other goes on
    daemon.publish(f"{ROOT}/cmd/resume", b"{}", qos=1)
    next_state(states["a"], "running")
    daemon.publish(f"{ROOT}/cmd/pause", b'{"stream": "c"}', qos=1)
    answers.take(20)
    refused = answers.take(20)
    assert refused is not None
    assert "expected one of a, b" in json.loads(refused.payload)["error"]


def test_clearing_a_retained_command_is_no_command(daemon: Connection) -> None:
    """The empty message that takes it back reaches those who listen, as a command without arguments would."""
    states: Slot[Incoming] = Slot(100)
    answers: Slot[Incoming] = Slot(8)
    daemon.subscribe(f"{ROOT}/state/b", states)
    daemon.subscribe(f"{ROOT}/cmd/+/result", answers)
    next_state(states, "running")
    daemon.publish(f"{ROOT}/cmd/pause", b"", qos=1, retain=True)
    daemon.publish(f"{ROOT}/cmd/alive", b"", qos=1)
    answer = answers.take(20)
    assert answer is not None
    assert json.loads(answer.payload) == {"v": 1, "verb": "alive", "ok": True}, "nobody paused anything"
