"""`[security]` and `[rollout]` of a run that goes on: what a reload sets, and what it says that it cannot."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgerun.app.comparing import LIVE_SECURITY, compare
from edgerun.cli.flags import options_of
from edgerun.config import Config, SecurityConfig, build
from edgerun.control.signed import sign
from edgerun.errors import ConfigErrors
from edgerun.security.keys import generate
from tests.mosquitto import wait_until
from tests.reload import running
from tests.reload.running import Run, Start, say
from tests.test_end_to_end import DETECTOR

start = running.start
KEY = generate("ops")
LINE = json.dumps(KEY.public.line)

_FIXED: dict[str, tuple[Any, Any]] = {
    "socket": ("a.sock", "b.sock"),
    "audit": (True, False),
    "model_key": ({"env": "A"}, {"env": "B"}),
    "state_key": ({"env": "A"}, {"env": "B"}),
}
_SET: dict[str, tuple[Any, Any]] = {
    "require_signed": (True, False),
    "trust": ("a", "b"),
    "commands": (["pause"], ["pause", "model/*"]),
    "signed_commands": (False, True),
    "command_keys": ([], [KEY.public.line]),
}


def config(security: dict[str, Any], rollout: dict[str, Any] | None = None) -> Config:
    tables = {
        "models": {"m": {"path": str(DETECTOR)}},
        "streams": {"s": {"model": "m", "source": "synthetic"}},
        "security": security,
        "rollout": rollout or {},
    }
    return build(tables, options_of)


def test_every_key_is_known_to_be_set_or_fixed() -> None:
    assert _FIXED.keys() | _SET.keys() == set(SecurityConfig.__struct_fields__)
    assert tuple(_SET) == LIVE_SECURITY


@pytest.mark.parametrize("key", _FIXED)
def test_a_key_that_is_read_once_is_refused_by_its_name(key: str) -> None:
    before, after = ({key: one} for one in _FIXED[key])
    with pytest.raises(ConfigErrors) as caught:
        compare(config(before), config(after))
    assert f"security.{key}: cannot change while it runs" in str(caught.value)
    assert "Restart it" in str(caught.value)


@pytest.mark.parametrize("key", _SET)
def test_a_key_that_can_be_set_is_told_by_its_name(key: str) -> None:
    keys = {"command_keys": [KEY.public.line]} if key == "signed_commands" else {}
    before, after = ({key: one, **keys} for one in _SET[key])
    assert compare(config(before), config(after)).settings == {f"security.{key}"}


def test_limits_of_rollouts_are_told_by_their_names() -> None:
    found = compare(config({}), config({}, {"shadow_minutes": 7, "latency_ratio": 2}))
    assert found.settings == {"rollout.shadow_minutes", "rollout.latency_ratio"}
    assert not found.opened | found.renewed | found.changed


def answer(run: Run, verb: str, message: dict[str, Any]) -> dict[str, Any]:
    """What the run says to a command."""
    topic = f"edgerun/dock-1/cmd/{verb}"

    def said() -> list[dict[str, Any]]:
        return [json.loads(one.payload) for one in run.seen.messages if one.topic == f"{topic}/result"]

    before = len(said())
    say(run, topic, json.dumps(message))
    wait_until(lambda: len(said()) > before, 30, f"an answer to {verb}")
    return said()[-1]


def signed(verb: str, nonce: str) -> dict[str, Any]:
    return sign(KEY, "dock-1", verb, "{}", round(time.time()) + 60, nonce)


def test_who_may_command_is_set_while_it_runs(start: Start) -> None:
    run = start()
    thread = run.thread("capture:yard")
    assert answer(run, "resume", {})["ok"]
    assert run.hang_up(run.text + '[security]\ncommands = ["pause", "reload"]\n') == "set security.commands"
    assert "not allowed here" in answer(run, "resume", {})["error"]
    assert answer(run, "pause", {"paused": False})["ok"]
    keys = f"command_keys = [{LINE}]\nsigned_commands = true\n"
    told = run.hang_up(run.text + f"[security]\n{keys}[rollout]\nshadow_minutes = 7\n")
    assert told == "set rollout.shadow_minutes, security.command_keys, security.commands, security.signed_commands"
    assert "must be signed" in answer(run, "resume", {})["error"]
    once = signed("resume", "a" * 32)
    assert answer(run, "resume", once)["ok"]
    assert "was given before" in answer(run, "resume", once)["error"]
    infos = [json.loads(one.payload) for one in run.seen.messages if one.topic == "edgerun/dock-1/info"]
    assert [one["security"]["signed_commands"] for one in infos][-1] is True
    refused = run.hang_up(run.text + f'[security]\naudit = false\nstate_key = {{ env = "A" }}\n{keys}')
    assert "security.audit: cannot change while it runs" in refused
    assert "security.state_key: cannot change while it runs" in refused
    assert "must be signed" in answer(run, "resume", {})["error"], "a refused reload let go of the rules"
    assert run.hang_up(run.text) == ("set rollout.shadow_minutes, security.command_keys, security.signed_commands")
    run.file.write_text(run.text + "[rollout]\nstarts = 5\n")
    assert answer(run, "reload", {})["changed"] == {"settings": ["rollout.starts"]}
    assert run.hang_up(run.text + f"[security]\n{keys}") == (
        "set rollout.starts, security.command_keys, security.signed_commands"
    )
    assert "was given before" in answer(run, "resume", once)["error"], "a reload forgot what was used up"
    assert run.thread("capture:yard") == thread
    run.end()


def test_what_it_obeys_is_announced_anew(start: Start) -> None:
    run = start(mqtt="home_assistant = true")

    def has_button() -> bool | None:
        found = [one.payload for one in run.seen.messages if one.topic.startswith("homeassistant/device/")]
        return b"cmd/reload" in found[-1] if found else None

    wait_until(lambda: has_button() is True, 30, "the button")
    run.hang_up(run.text + '[security]\ncommands = ["pause", "resume"]\n')
    wait_until(lambda: has_button() is False, 30, "the button to go")
    run.end()


def test_keys_that_nothing_can_check_change_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="command_keys"):
        config({"command_keys": ["edgerun-ed25519 AAAA no-key"]})
