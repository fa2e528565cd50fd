"""A worker that serves for months: another version of its model, brokers that do not let it in, and its password."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from edgerun.models.sealed import seal_model_file
from edgerun.security.sealing import SealingKey
from tests import mosquitto
from tests.mosquitto import wait_until
from tests.rollout.runs import bundle
from tests.worker.parts import MODEL, Process, balanced, device, process, results

ARGS = ("--model", MODEL, "--id", "w1", "--threads", 1)


def test_a_worker_takes_another_version_over_between_two_frames(tmp_path: Path) -> None:
    out, model = tmp_path / "out.jsonl", tmp_path / "model"
    after = bundle(tmp_path, "3", labels_txt=(MODEL / "labels.txt").read_bytes().replace(b"person", b"somebody"))
    shutil.copytree(MODEL, model)
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/w1/info") as infos:
        config = device(tmp_path, broker.url, stream="max_age_ms = 60000", fps=60)
        config.write_text(config.read_text().replace(str(MODEL), str(after)))
        args = ("worker", "--broker", broker.url, "--model", model, "--id", "w1", "--threads", 1, "--json")
        with process(*args) as there, process("run", "--config", config, "--json", "--jsonl", out) as daemon:
            there.says("connected as")
            there.says("reads ssd-mobilenet-v2-oid in another way")
            there.send(signal.SIGHUP)
            there.says("nothing to change")
            shutil.rmtree(model)
            shutil.copytree(after, model)
            there.send(signal.SIGHUP)
            there.says("changed: ssd-mobilenet-v2-oid from version 2 to 3")
            wait_until(lambda: {one["model"]["accelerator"] for one in results(out)[-5:]} == {"remote:w1"}, 60)
            (model / "model.tflite").write_bytes(b"none")
            there.send(signal.SIGHUP)
            there.says("not changed: ")
            before = len(results(out))
            wait_until(lambda: len(results(out)) > before + 5, 60)
            assert daemon.end() == 0, daemon.text
            account = daemon.summary()["streams"]["dock"]
            assert there.end() == 0, there.text
    assert "Traceback" not in there.text
    assert balanced(account)
    assert account["failed"] == 0
    assert [json.loads(one.payload)["models"]["main"]["version"] for one in infos.messages if one.payload] == ["2", "3"]
    served = there.summary()
    assert served["taken"] == served["answered"] + sum(served["refused"].values()) + served["twice"]


def test_a_sealed_model_is_served_and_read_again_with_its_key(tmp_path: Path) -> None:
    """To the devices it is the same model: what is compared is the plain file's hash."""
    key, out, model = SealingKey.new(), tmp_path / "out.jsonl", tmp_path / "model"
    shutil.copytree(MODEL, model)
    seal_model_file(model / "model.tflite", key)
    (tmp_path / "key").write_text(key.text())
    (tmp_path / "key").chmod(0o600)
    with mosquitto.broker() as broker:
        config = device(tmp_path, broker.url, stream="max_age_ms = 60000", fps=30)
        args = ("worker", "--broker", broker.url, "--model", model, "--id", "w1", "--threads", 1)
        with process(*args) as keyless:
            keyless.says("the file is sealed")
            assert keyless.end(None) != 0
        with (
            process(*args, "--model-key", tmp_path / "key") as there,
            process("run", "--config", config, "--json", "--jsonl", out) as daemon,
        ):
            wait_until(lambda: sum(one["model"]["accelerator"] == "remote:w1" for one in results(out)) > 5, 60)
            there.send(signal.SIGHUP)
            there.says("nothing to change")
            assert daemon.end() == 0, daemon.text
            assert there.end() == 0, there.text


def test_a_file_that_holds_another_model_by_now_changes_nothing(tmp_path: Path) -> None:
    other = bundle(tmp_path, "3")
    manifest = json.loads((other / "manifest.json").read_text())
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    with (
        mosquitto.broker() as broker,
        process("worker", "--broker", broker.url, "--model", model, "--id", "w1", "--threads", 1) as there,
    ):
        there.says("connected as")
        shutil.rmtree(model)
        shutil.copytree(other, model)
        (model / "manifest.json").write_text(json.dumps({**manifest, "name": "another"}))
        there.send(signal.SIGHUP)
        there.says("another model, which has requests of its own; expected ssd-mobilenet-v2-oid; got another")
        assert there.end() == 0, there.text


@pytest.mark.parametrize("kind", ["env", "file", "credential"])
def test_the_password_is_not_on_the_command_line(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "broker-password"
    secret.write_text("swordfish\n")
    secret.chmod(0o600)
    place = {"env": "BROKER_PASSWORD", "file": str(secret), "credential": secret.name}[kind]
    env = {"BROKER_PASSWORD": "swordfish", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    with mosquitto.broker_with_password("site", "swordfish") as broker:
        to = ("--broker", broker.url.replace("://", "://site@"), "--password", f"{kind}={place}")
        with process("worker", *to, *ARGS, **env) as there:
            there.says("connected as w1")
            assert b"swordfish" not in Path(f"/proc/{there.process.pid}/cmdline").read_bytes()
            status = Process("fleet", "status", *to, "--json", **env)
            assert status.end(None, 60) == 0, status.text
            assert "w1" in status.summary()["devices"]
            assert there.end() == 0
    assert "swordfish" not in there.text


def test_a_password_on_the_command_line_is_warned_of() -> None:
    with mosquitto.broker_with_password("site", "swordfish") as broker:
        url = broker.url.replace("://", "://site:swordfish@")
        with process("worker", "--broker", url, *ARGS) as there:
            there.says("connected as w1")
            assert "can be read by every user of this machine" in there.text
            assert "swordfish" not in there.text


def test_a_wrong_password_is_told_and_tried_again() -> None:
    with mosquitto.broker_with_password("site", "swordfish") as broker:
        to = ("--broker", broker.url, "--username", "site", "--password", "env=BROKER_PASSWORD")
        with process("worker", *to, *ARGS, BROKER_PASSWORD="guess") as there:
            there.says("the broker refuses user 'site'")
            assert "Check username and password" in there.text
            assert there.end() == 0, there.text
        status = Process("fleet", "status", *to, BROKER_PASSWORD="guess")
        assert status.end(None, 60) == 1
    assert "the broker refuses user 'site'" in status.text
    for one in (there, status):
        assert "Traceback" not in one.text
        assert "guess" not in one.text


def test_a_certificate_nobody_vouches_for_is_told_and_the_right_one_is_taken(tmp_path: Path) -> None:
    ours, theirs = mosquitto.authority(tmp_path / "ours"), mosquitto.authority(tmp_path / "theirs")
    with mosquitto.broker_with_tls(theirs) as broker:
        with process("worker", "--broker", broker.url, "--ca-file", ours.ca, *ARGS) as there:
            there.says("the broker's certificate is not trusted")
            assert there.end() == 0, there.text
        status = Process("fleet", "status", "--broker", broker.url)
        assert status.end(None, 60) == 1
        with process("worker", "--broker", broker.url, "--ca-file", theirs.ca, *ARGS) as other:
            other.says("connected as w1")
    assert "the broker's certificate is not trusted" in status.text
    assert "Traceback" not in there.text + status.text


def test_a_broker_that_asks_for_a_certificate_gets_one(tmp_path: Path) -> None:
    ours = mosquitto.authority(tmp_path / "ours")
    with mosquitto.broker_with_tls(ours, "require_certificate true") as broker:
        own = ("--ca-file", ours.ca, "--cert-file", ours.cert, "--key-file", ours.key)
        with process("worker", "--broker", broker.url, *own, *ARGS) as there:
            there.says("connected as w1")
        status = Process("fleet", "status", "--broker", broker.url, *own)
        assert status.end(None, 60) == 0, status.text


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--password", "swordfish"), "--password: not a place for a password; expected credential=NAME"),
        (("--password", "evn=swordfish"), 'Did you mean "env"?'),
        (("--username", "u", "--password", "env=NOWHERE"), "expected the environment variable NOWHERE"),
        (("--password", "env=NOWHERE"), "--password: given without a user"),
        (("--ca-file", MODEL / "manifest.json"), "given for a broker without TLS"),
        (("--cert-file", "/nowhere.pem"), "--cert-file: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["worker", "fleet"])
def test_mistakes_of_the_link(command: str, args: tuple[object, ...], says: str) -> None:
    first = ("worker", *ARGS) if command == "worker" else ("fleet", "status")
    with process(*first, "--broker", "mqtt://127.0.0.1:1", *args) as there:
        assert there.end(None, 60) == 2, there.text
    assert says in there.text
    assert "swordfish" not in there.text
    assert "Traceback" not in there.text
