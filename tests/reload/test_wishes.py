"""What is wished for on `config/desired`: run, answered or refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.config.overlay import Overlay
from edgerun.control.desired import read_desired
from edgerun.errors import ConfigErrors
from tests import schemas
from tests.mosquitto import Heard, wait_until
from tests.reload.running import Run, Start, last, say


def test_what_is_wished_for_runs_and_is_answered(start: Start) -> None:
    run = start(mqtt="desired = true")
    root = "edgerun/dock-1/config"

    def wish(said: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(said)
        say(run, f"{root}/desired", body, retain=True)
        mark = hashlib.sha256(body.encode()).hexdigest()

        def answered(messages: list[Heard]) -> bool:
            reports = [one for one in messages if one.topic == f"{root}/reported" and one.payload]
            return bool(reports) and json.loads(reports[-1].payload)["sha256"] == mark

        run.seen.wait(answered, 30)
        report: dict[str, Any] = json.loads(last(run.seen, f"{root}/reported"))
        schemas.validate("reported", report)
        return report

    said = {"v": 1, "version": 3, "config": {"streams": {"gate": {"threshold": 0.01}, "yard": None}}}
    report = wish(said)
    assert report | {"sha256": ""} == {"v": 1, "version": 3, "state": "applied", "errors": [], "sha256": ""}
    assert run.events("reloaded") == ["removed yard; changed gate"]
    assert "nothing to change" in run.hang_up(run.text), "the file alone has no say any more"
    refused = {
        "older than what runs": {"version": 2, "config": {}},
        "another config of the version that runs": {"version": 3, "config": {"streams": {"yard": None}}},
        "config/desired: mqtt: not to be changed from afar": {"version": 4, "config": {"mqtt": {"url": "mqtt://x"}}},
        "config/desired: streams.gate.threshold: wrong type": {
            "version": 4, "config": {"streams": {"gate": {"threshold": "high"}}},
        },
        "config/desired: streams.gate.source: a password": {
            "version": 4, "config": {"streams": {"gate": {"source": "rtsp://me:secret@camera/1"}}},
        },
        "config/desired: not a JSON object": "no table",
    }  # fmt: skip
    for what, said_so in refused.items():
        report = wish(said_so)  # type: ignore[arg-type]
        assert report["state"] == "rejected"
        assert any(what in error for error in report["errors"]), report
    assert "secret" not in run.log
    toml = '[streams.other]\nsource = "synthetic:320x240@10"\nmodel = "detector"\n'
    assert wish({"version": 5, "toml": toml})["state"] == "applied"
    assert run.events("reloaded")[-1] == "added other; removed gate"
    say(run, f"{root}/desired", "", retain=True)
    wait_until(lambda: run.events("reloaded")[-1] == "added gate, yard; removed other")
    wait_until(lambda: last(run.seen, f"{root}/reported") == b"", what="the report's end")
    say(run, f"{root}/desired", json.dumps({"version": 1, "config": {"streams": {"yard": None}}}), retain=True)
    wait_until(lambda: b'"version":1' in last(run.seen, f"{root}/reported"), 30, "the report")
    assert b"applied" in last(run.seen, f"{root}/reported")
    run.end()
    again = Run(run.file.parent, run.text, run.seen)
    try:
        wait_until(lambda: "removed yard" in again.log, 60, "the retained wish")
    finally:
        again.process.send_signal(signal.SIGTERM)
        again.process.communicate(timeout=30)


def test_a_wish_from_afar_has_no_say_unless_it_is_allowed(start: Start) -> None:
    run = start()
    say(run, "edgerun/dock-1/config/desired", json.dumps({"version": 1, "config": {"streams": {"yard": None}}}))
    assert run.hang_up(run.text) == "nothing to change"
    assert not [one for one in run.seen.messages if one.topic == "edgerun/dock-1/config/reported"]
    run.end()


def test_an_overlay_knows_its_own_places() -> None:
    patch = Overlay("afar", {"streams": {"a": {"threshold": 0.5}}})
    assert patch.holds("streams.a.threshold")
    assert not patch.holds("streams.a")
    assert not patch.holds("streams.b.threshold")
    assert Overlay("afar", {"streams": {}}, whole=True).holds("streams.b.threshold")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("[]", "not a JSON object"),
        ('{"version": 1}', "twice, or not at all"),
        ('{"version": 1, "config": {}, "toml": ""}', "twice, or not at all"),
        ('{"version": true, "config": {}}', "no usable version"),
        ('{"v": 2, "version": 1, "config": {}}', "another format"),
        ('{"version": 1, "toml": "a = "}', "not valid TOML"),
        ('{"version": 1, "config": [], "x": 1}', "unknown key"),
        ('{"version": 1, "config": {"security": {}}}', "not to be changed from afar"),
        ('{"version": 1, "config": {"streams": {"a": {"source": {"kind": "exec"}}}}}', "runs a program"),
        ('{"version": 1, "config": {"models": {"a": {"accelerators": [{"kind": "external"}]}}}}', "loads a library"),
        ('{"version": 1, "config": {"models": {"a": {"key": {"file": "/etc/key"}}}}}', "a secret"),
        ('{"version": 1, "config": {"streams": {"a": {"collect": {"folder": "/"}}}}}', "a folder to write to"),
        ('{"version": 1, "config": {"streams": {"a": {"source": "http://u:p@h/"}}}}', "a password"),
    ],
)
def test_what_may_not_be_wished_for(said: str, what: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_desired(said.encode())
    assert what in str(caught.value)
    assert "config/desired" in str(caught.value)


@given(st.binary(max_size=200))
def test_any_message_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(ConfigErrors):
        read_desired(payload)
