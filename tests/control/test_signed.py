"""Who may give which command: the list, signatures, replays over restarts, and how often."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.control.desk import Desk, Done, Origin, Rules
from edgerun.control.limits import Limits
from edgerun.control.signed import LONGEST_LIFE_S, Nonces, Signatures, sign, signed_bytes
from edgerun.errors import ConfigError
from edgerun.security.keys import private_from_bytes

OPS = private_from_bytes(bytes(range(32)), "ops")
OTHER = private_from_bytes(bytes(range(1, 33)), "other")
DEVICE = "dock-9"
MQTT, LOCAL = Origin("mqtt", "the broker"), Origin("socket", "root")


class Office:
    """A desk with a list, a key and a clock, and everything that came of it."""

    def __init__(self, folder: Path | None = None, clock: FakeClock | None = None, **rules: Any) -> None:
        self.clock = clock or FakeClock()
        nonces = Nonces(None if folder is None else folder / "nonces.json", self.clock)
        signatures = Signatures(DEVICE, [OPS.public], nonces, self.clock)
        self.done: list[tuple[str, Mapping[str, Any]]] = []
        self.told: list[Done] = []
        self.answers: list[dict[str, Any]] = []

        def act(verb: str) -> Any:
            return lambda arguments: self.done.append((verb, arguments))

        self.desk = Desk(
            {verb: act(verb) for verb in ("pause", "reload", "model/install")},
            rules=Rules(frozenset({"pause"}), **{"signatures": signatures, **rules}),
            clock=self.clock,
            on_done=self.told.append,
        )

    def give(self, verb: str, message: Any = None, origin: Origin = MQTT, **how: Any) -> str:
        """What is answered: "" or the error."""
        before = len(self.answers)
        payload = b"" if message is None else json.dumps(message).encode()
        reply = lambda body: self.answers.append(json.loads(body))  # noqa: E731
        command = self.desk.read(verb, payload, origin, reply, **how)
        if command is not None:
            self.desk.do(command)
        if len(self.answers) == before:
            return "silence"
        return "" if self.answers[-1]["ok"] else str(self.answers[-1]["error"])

    def signed(self, verb: str = "model/install", key: Any = OPS, life_s: float = 60, **how: Any) -> dict[str, Any]:
        given = {"device": DEVICE, "arguments": '{"name":"m"}', "nonce": secrets.token_hex(16), **how}
        return sign(key, verb=verb, expires=int(self.clock.unix_s() + life_s), **given)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_the_list_says_what_needs_no_signature(office: Office) -> None:
    assert office.give("pause") == ""
    assert "not allowed here" in office.give("reload")
    assert "not allowed here" in office.give("reload", origin=LOCAL)
    assert "not allowed here" in office.give("model/install", {"name": "m"})
    assert "no such command" in office.give("model/burn")
    assert office.desk.verbs == ("pause",)
    assert [verb for verb, _ in office.done] == ["pause"]


@pytest.mark.parametrize("allowed", [{"model/*"}, {"model/install"}])
def test_a_pattern_allows_all_that_begin_so(allowed: set[str]) -> None:
    rules = Rules(frozenset(allowed))
    assert rules.allows("model/install")
    assert not rules.allows("models/install")
    assert not rules.allows("model")
    assert rules.allows("model/rollback") == ("model/*" in allowed)


def test_a_signed_command_may_be_any(office: Office) -> None:
    assert office.give("model/install", office.signed()) == ""
    assert office.give("model/install", office.signed(), LOCAL) == ""
    assert office.done == [("model/install", {"name": "m"})] * 2
    assert office.told[-1].origin == Origin("socket", f"ops {OPS.public.id}")


def test_where_signatures_are_required_nothing_else_comes_from_the_broker(tmp_path: Path) -> None:
    office = Office(tmp_path, require_signed=True)
    assert "must be signed" in office.give("pause")
    assert office.give("pause", office.signed("pause")) == ""
    assert office.give("pause", origin=LOCAL) == ""  # the kernel says who that is


def test_what_is_not_signed_right_is_refused(office: Office) -> None:
    right = office.signed()
    for field, value in (
        ("arguments", '{"name":"n"}'),
        ("nonce", "0" * 32),
        ("expires", right["signed"]["expires"] + 1),
        ("signature", office.signed()["signed"]["signature"]),
        ("signature", ""),
        ("signature", "AA=="),
        ("signature", "é"),
        ("key", OTHER.public.id),
        ("key", ""),
        ("nonce", "short"),
        ("nonce", "../" * 10),
        ("expires", "soon"),
        ("expires", -1),
        ("arguments", {"name": "m"}),
        ("arguments", "\ud800"),
        ("more", 1),
    ):
        assert office.give("model/install", {"signed": {**right["signed"], field: value}}) not in ("", "silence"), field
        office.clock.advance(1)
    assert "no arguments outside" in office.give("model/install", {**right, "name": "n"})
    assert office.give("reload", right)
    assert office.give("model/install", office.signed(key=OTHER))
    assert office.give("model/install", office.signed(device="dock-8"))
    assert office.give("model/install", office.signed(arguments="[]"))
    assert office.give("model/install", {"signed": []})
    assert office.done == []
    assert office.give("model/install", right) == ""


def test_a_signed_command_counts_once_over_restarts_and_clocks_set_back(tmp_path: Path) -> None:
    clock = FakeClock()
    office = Office(tmp_path, clock)
    message = office.signed(life_s=600)
    assert office.give("model/install", message) == ""
    assert "given before" in office.give("model/install", message)
    for _ in range(3):
        office = Office(tmp_path, clock)
        assert "given before" in office.give("model/install", message)
    clock.advance(601)
    assert "has expired" in office.give("model/install", message)
    assert office.give("model/install", office.signed()) == ""  # forgets what has expired
    clock.advance(-650)
    office = Office(tmp_path, clock)
    assert "expires too early" in office.give("model/install", message)


def test_nonces_that_were_lost_count_as_used(tmp_path: Path) -> None:
    clock = FakeClock()
    office = Office(tmp_path, clock)
    message = office.signed(life_s=LONGEST_LIFE_S - 1)
    assert office.give("model/install", message) == ""
    for damage in (b"", b"[0,{}", b"\xff", b'{"a":1}'):
        (tmp_path / "nonces.json").write_bytes(damage)
        office = Office(tmp_path, clock)
        assert "expires too early" in office.give("model/install", message)
    clock.advance(LONGEST_LIFE_S + 1)
    assert office.give("model/install", office.signed()) == ""


def test_a_nonce_that_cannot_be_kept_is_not_used(tmp_path: Path) -> None:
    office = Office(tmp_path / "no")
    (tmp_path / "no").write_text("")  # no folder
    assert "cannot be kept" in office.give("model/install", office.signed())
    assert office.done == []


@pytest.mark.parametrize(("life_s", "error"), [(-1, "has expired"), (0, "has expired"), (3700, "an hour at most")])
def test_only_for_a_while(office: Office, life_s: float, error: str) -> None:
    assert error in office.give("model/install", office.signed(life_s=life_s))


def test_a_clock_that_is_not_set(tmp_path: Path) -> None:
    office = Office(tmp_path, FakeClock(unix_s=1000.0))
    assert "clock is not set" in office.give("model/install", office.signed())
    assert "clock is not set" in office.give("pause", {"expires": 2000})
    assert office.give("pause") == ""


@given(st.lists(st.text(max_size=6), min_size=4, max_size=4), st.lists(st.text(max_size=6), min_size=4, max_size=4))
@settings(max_examples=200)
def test_no_two_commands_have_the_same_bytes(one: list[str], two: list[str]) -> None:
    made = [signed_bytes(a, b, c, 7, d) for a, b, c, d in (one, two)]
    assert (made[0] == made[1]) == (one == two)


def test_a_command_expires(office: Office) -> None:
    now_s = office.clock.unix_s()
    assert office.give("pause", {"expires": now_s + 10}) == ""
    assert "has expired" in office.give("pause", {"expires": now_s})
    assert "has expired" in office.give("pause", expires_in_s=0)
    assert "Unix seconds" in office.give("pause", {"expires": "soon"})
    answers: list[bytes] = []
    for how in ("message", "argument"):
        expires = json.dumps({"expires": office.clock.unix_s() + 5}).encode()
        message, expires_in_s = (b"", 5) if how == "message" else (expires, None)
        command = office.desk.read("pause", message, MQTT, answers.append, expires_in_s=expires_in_s)
        assert command is not None
        office.clock.advance(6)
        office.desk.do(command)
        assert b"expired while it waited" in answers[-1]
    assert len(office.done) == 1


def test_a_flood_is_refused_and_told_in_few_words(office: Office) -> None:
    told = [office.give("pause") for _ in range(1000)]
    assert told.count("") == 20
    assert sum("too many" in one for one in told) == 20
    assert told.count("silence") == 960
    assert len(office.told) == 40
    assert office.give("pause", origin=LOCAL) == ""  # the other way in is open
    office.clock.advance(2)
    assert office.give("pause") == ""
    assert office.give("reload")
    assert office.told[-1].not_told == 960


def test_one_verb_does_not_use_up_the_others() -> None:
    clock = FakeClock()
    limits = Limits(clock, per_s=1, burst=3, all_per_s=2)
    assert [limits.take("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [limits.take("b") for _ in range(5)] == [True] * 3 + [False] * 2
    assert not limits.take("c")  # six were taken in all
    clock.advance(1)
    assert [limits.take(verb) for verb in "abc"] == [True, True, False]
    clock.advance(3600)
    assert [limits.take("a") for _ in range(5)] == [True] * 3 + [False] * 2


def test_a_key_anybody_could_sign_for_is_none() -> None:
    from edgerun.security.keys import parse_public

    with pytest.raises(ConfigError):
        parse_public("edgerun-ed25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= weak")
