"""Planted secrets, and everything that a run says: in none of it may one of them stand."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from edgerun.cli.control import ask
from edgerun.cli.flags import find_model, options_of
from edgerun.config import dump, load
from edgerun.errors import EdgerunError
from edgerun.security.sealing import SealingKey
from edgerun.security.tokens import Gate, hashed, new_token
from tests import mosquitto
from tests.mosquitto import wait_until
from tests.test_end_to_end import CLIP, DETECTOR, edgerun

pytestmark = pytest.mark.timeout(400)  # more than all that one of them may wait for

PASSWORD = "planted-mqtt-pässword"
CAMERA = "planted-camera-p@ss"
TOKEN = "planted-metrics-token-1"
WEB_TOKEN = "planted-web-token-22"
QUERY = "planted-query-word-3"
PIPELINE = "planted-pipeline-word-4"
KEY = SealingKey(bytes(range(64, 96)))


def spellings() -> dict[str, bytes]:
    """Each secret as text, and as some encoder would write it."""
    out = {}
    for secret in (PASSWORD, CAMERA, TOKEN, WEB_TOKEN, QUERY, PIPELINE, KEY.text()):
        raw = secret.encode()
        out[f"{secret} plain"] = raw
        out[f"{secret} in a url"] = quote(secret, safe="").encode()
        out[f"{secret} in JSON"] = json.dumps(secret)[1:-1].encode()
        out[f"{secret} in base64"] = base64.b64encode(raw)[:-4]
    out["the key's bytes"] = bytes.fromhex(KEY.text())
    return out


def leaks(said: dict[str, bytes]) -> list[str]:
    return [f"{place}: {name}" for place, text in said.items() for name, found in spellings().items() if found in text]


def config_in(folder: Path, broker_url: str, port: int, web_port: int) -> Path:
    for name, secret in (("password", PASSWORD), ("token", TOKEN), ("web-token", WEB_TOKEN), ("key", KEY.text())):
        (folder / name).write_text(secret)
        (folder / name).chmod(0o600)
    file = folder / "edge.toml"
    camera = f"rtsp://viewer:{quote(CAMERA, safe='')}@127.0.0.1:{mosquitto.free_port()}/stream"
    asked = f"http://127.0.0.1:{mosquitto.free_port()}/video.cgi?user=viewer&pwd={QUERY}"
    file.write_text(
        f'[device]\nid = "dock-9"\n[mqtt]\nurl = "{broker_url}"\n'
        'username = "edgerun"\npassword = { file = "password" }\n'
        "telemetry_interval = 1\nhome_assistant = true\n"
        f'[metrics]\nport = {port}\ntoken = {{ file = "token" }}\n'
        f'[web]\nlisten = "127.0.0.1:{web_port}"\ntoken = {{ file = "web-token" }}\n'
        '[security]\nsocket = "control.sock"\nstate_key = { file = "key" }\nmodel_key = { file = "key" }\n'
        f'[models.m]\npath = "{DETECTOR}"\n'
        f'[streams.good]\nmodel = "m"\nsource = "{CLIP}"\nloop = true\n'
        f'[streams.lost]\nmodel = "m"\nsource = "{camera}"\n'
        f'[streams.asked]\nmodel = "m"\nsource = "{asked}"\n'
    )
    return file


def scraped(port: int, token: str | None, path: str = "/metrics") -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    link.request("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    answer = link.getresponse()
    body = answer.read()
    link.close()
    return answer.status, body


def test_the_search_finds_each_of_them() -> None:
    for name, text in spellings().items():
        assert any(name in leak for leak in leaks({"here": b"before " + text + b" behind"})), name


def test_no_secret_in_anything_that_a_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, bytes] = {}
    port, web_port = mosquitto.free_port(), mosquitto.free_port()
    with mosquitto.broker_with_password("edgerun", PASSWORD) as broker:
        file = config_in(tmp_path, broker.url, port, web_port)
        config = load(file, options_of, find_model)
        said["repr"] = repr(config).encode() + str(dump(config)).encode()
        said["dump"] = msgspec.json.encode(dump(config), enc_hook=repr)
        for name, args in (
            ("check", ("check", "--config", file, "--json")),
            ("check text", ("check", "--config", file, "--debug", "-v")),
            ("doctor", ("doctor", "--config", file, "--json")),
        ):
            done = edgerun(*args)
            said[name] = (done.stdout + done.stderr).encode()
            state = tmp_path / "state"
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", file, "-v", "--debug", "--trace", tmp_path / "trace"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
            env={**os.environ, "XDG_STATE_HOME": str(state), "PYTHONFAULTHANDLER": "1", "PYTHONASYNCIODEBUG": "1"},
        )  # fmt: skip
        heard = tmp_path / "heard"
        with heard.open("wb") as out_file:
            listener = subprocess.Popen(
                [mosquitto.program("mosquitto_sub"), "-h", "127.0.0.1", "-p", str(broker.port), "-u", "edgerun",
                 "-P", PASSWORD, "-t", "#", "-v"],
                stdout=out_file, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            wait_until(
                lambda: process.poll() is not None
                or all(b"dock-9/" + one in heard.read_bytes() for one in (b"telemetry", b"event", b"detections/good")),
                60, "everything being said",
            )  # fmt: skip
            assert process.poll() is None, process.communicate()[1].decode()[-2000:]
            for verb in ("pause", "trace", "reload", "nothing"):
                said[f"control {verb}"] = json.dumps(ask(tmp_path / "control.sock", {"verb": verb})).encode()
            wait_until(lambda: mosquitto.accepts(port))
            status, said["metrics"] = scraped(port, TOKEN)
            assert status == 200
            for page in ("/", "/api/status", "/api/timeline", "/api/events", "/api/layout", "/healthz", "/readyz"):
                status, said[f"web {page}"] = scraped(web_port, WEB_TOKEN, page)
                assert status in (200, 503), page
            refused, said["metrics refused"] = scraped(port, TOKEN + "x")
            assert refused == 401
            assert scraped(port, None)[0] == 401
        finally:
            process.send_signal(signal.SIGABRT)  # its crash output: the stacks of all threads
            out, err = process.communicate(timeout=30)
            listener.terminate()
            listener.wait(10)
        assert b"Current thread" in err
        said |= {"out": out, "err": err, "MQTT": heard.read_bytes(), "broker's log": broker.log.encode()}
        said |= {str(path): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    done = edgerun("run", "--config", file, "--seconds", 3, "-v", "--debug", "--trace", tmp_path / "trace")
    with file.open("a") as more:
        more.write(
            '[streams.piped]\nmodel = "m"\nsource = "rtspsrc location=rtsp://127.0.0.1:9/1 user-id=viewer '
            f'user-pw={PIPELINE} ! decodebin ! videoconvert"\n'
        )
    failed = edgerun("run", "--config", file, "--seconds", 3, "-v", "--debug")
    assert "piped" in failed.stderr
    said["a run that fails"] = (failed.stdout + failed.stderr).encode()
    said |= {"a run to its end": (done.stdout + done.stderr).encode(), "trace": (tmp_path / "trace").read_bytes()}
    assert b"rtsp" in said["err"]
    for place in ("MQTT", "metrics", "err", "check", "doctor", "dump", "trace"):
        assert said[place], place
    assert leaks(said) == []


def errors() -> Iterator[EdgerunError]:
    for make in (lambda: Gate(TOKEN[:8]), lambda: Gate("sha256:" + TOKEN), lambda: SealingKey(KEY.text().encode())):
        with pytest.raises(EdgerunError) as caught:
            make()
        yield caught.value


def test_errors_do_not_quote_what_is_wrong() -> None:
    said = {str(number): str(error).encode() for number, error in enumerate(errors())}
    assert leaks(said) == []
    assert all(TOKEN[:8].encode() not in text for text in said.values())


def test_a_token_is_checked_by_its_hash() -> None:
    token = new_token()
    assert len(token) == 43
    assert new_token() != token
    for gate in (Gate(token), Gate(hashed(token))):
        assert gate.check(token)
        assert gate.check_bearer(f"Bearer {token}")
        assert gate.check_bearer(f"bearer  {token}")
        for wrong in ("", token[:-1], token + " x", hashed(token), token.swapcase(), "é", "\udc80"):
            assert not gate.check(wrong)
        for wrong in (None, "", token, f"Basic {token}", "Bearer", f"Bearer {hashed(token)}"):
            assert not gate.check_bearer(wrong)
        assert token not in repr(gate)
        assert hashed(token) not in repr(gate)
