"""Workers and devices as users run them: real processes, the bundled model, a real mosquitto, real signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests import mosquitto
from tests.broker.gate import REFUSED_BY_5, gate
from tests.mosquitto import wait_until
from tests.worker.parts import MODEL, ROOT, balanced, device, process, results, worker

pytestmark = pytest.mark.timeout(300)  # more than all that one of them may wait for

CLIP = ROOT / "models" / "clips" / "street.mp4"
SCHEMA = ROOT / "docs" / "schema" / "info.schema.json"


@pytest.fixture(scope="module")
def broker() -> Iterator[mosquitto.Broker]:
    with mosquitto.broker() as made:
        yield made


def made_by(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(str(one["model"]["accelerator"]) for one in found)


def run(config: Path, *more: object) -> tuple[object, ...]:
    return ("run", "--config", config, "--json", *more)


def test_frames_are_inferred_there_and_every_result_says_where(broker: mosquitto.Broker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, model='fallback = "none"', fps=5)
    with worker(broker.url) as there, process(*run(config, "--jsonl", out, "--frames", 40)) as daemon:
        assert daemon.end(None, 60) == 0, daemon.text
        account = daemon.summary()["streams"]["dock"]
        assert there.end() == 0
    assert balanced(account)
    assert account["published"] >= 20
    assert set(made_by(results(out))) == {"remote:w1"}
    assert max(one["age_ms"] for one in results(out)) <= 1000
    served = there.summary()
    assert served["taken"] == served["answered"] + sum(served["refused"].values()) + served["twice"]
    assert served["answered"] >= account["published"]


def test_it_announces_itself_and_takes_that_back(broker: mosquitto.Broker) -> None:
    with mosquitto.subscriber(broker, "edgerun/w7/#") as seen:
        with worker(broker.url, "w7", "--in-flight", 3) as there:
            told = seen.wait(lambda heard: any(one.topic == "edgerun/w7/info" for one in heard))
            info = json.loads(next(one.payload for one in told if one.topic == "edgerun/w7/info"))
            assert info["models"]["main"]["name"] == "ssd-mobilenet-v2-oid"
            assert len(info["models"]["main"]["sha256"]) == 64
            jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(info)
            assert info["worker"]["in_flight"] == 3
            assert info["worker"]["capacity_fps"] > 0
            assert info["worker"]["topic"] == "$share/edgerun/edgerun/_work/ssd-mobilenet-v2-oid/#"
            assert there.end() == 0
        seen.wait(lambda heard: (heard[-1].topic, heard[-1].payload) == ("edgerun/w7/status", b"offline"))
        assert [one.payload for one in seen.messages if one.topic == "edgerun/w7/info"][-1] == b""


def test_a_killed_worker_costs_frames_but_nothing_hangs(broker: mosquitto.Broker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, model='fallback = "none"')
    with worker(broker.url, "w1") as one, worker(broker.url, "w2"), process(*run(config, "--jsonl", out)) as daemon:
        wait_until(lambda: {"remote:w1", "remote:w2"} <= set(made_by(results(out))), 60)
        one.end(signal.SIGKILL)
        killed = len(results(out))
        wait_until(lambda: made_by(results(out)[killed + 5 :])["remote:w2"] >= 20, 60)
        assert made_by(results(out)[killed + 5 :])["remote:w1"] == 0
        assert daemon.end() == 0
        account = daemon.summary()["streams"]["dock"]
    assert balanced(account)
    assert set(account.get("failed_reasons", {})) <= {"remote_lost"}


def test_a_frozen_worker_is_worked_around(broker: mosquitto.Broker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, model='fallback = "none"')
    with worker(broker.url, "w1") as one, worker(broker.url, "w2"), process(*run(config, "--jsonl", out)) as daemon:
        wait_until(lambda: {"remote:w1", "remote:w2"} <= set(made_by(results(out))), 60)
        one.send(signal.SIGSTOP)
        frozen = len(results(out))
        wait_until(lambda: made_by(results(out)[frozen:])["remote:w2"] >= 20, 60)
        one.send(signal.SIGCONT)
        wait_until(lambda: made_by(results(out)[frozen + 20 :])["remote:w1"] >= 3, 60)
        assert daemon.end() == 0
        assert balanced(daemon.summary()["streams"]["dock"])


def test_without_workers_it_runs_here_and_goes_back(broker: mosquitto.Broker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url)
    with mosquitto.subscriber(broker, "edgerun/dock-7/event") as events:

        def kinds() -> list[str]:
            return [json.loads(one.payload)["kind"] for one in events.messages]

        with process(*run(config, "--jsonl", out)) as daemon:
            wait_until(lambda: made_by(results(out))["cpu"] >= 5, 60)
            with worker(broker.url, "w1") as there:
                wait_until(lambda: made_by(results(out))["remote:w1"] >= 5, 60)
                there.end(signal.SIGKILL)
                before = len(results(out))
                wait_until(lambda: made_by(results(out)[before:])["cpu"] >= 5, 60)
            wait_until(lambda: kinds().count("fell_back") >= 2, 60, "its second fall to the model here")
            assert daemon.end() == 0
            summary = daemon.summary()
        assert balanced(summary["streams"]["dock"])
        assert "recovered" in kinds()
    assert summary["engines"]["detector"]["fallbacks"][0]["accelerator"] == "remote"


def test_what_is_too_much_here_goes_there(broker: mosquitto.Broker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, remote='first = "here"', stream="track = true", fps=300)
    with worker(broker.url, "w1"), process(*run(config, "--jsonl", out)) as daemon:
        wait_until(lambda: min(made_by(results(out)).get(one, 0) for one in ("cpu", "remote:w1")) >= 10, 60)
        assert daemon.end() == 0
        assert balanced(daemon.summary()["streams"]["dock"])
    seqs = [one["seq"] for one in results(out)]
    assert seqs == sorted(seqs), "a stream that remembers its scene gets its results in order"


def test_a_supervisor_may_ask_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    with mosquitto.broker() as own, worker(own.url, "w1") as there:
        wait_until(lambda: asked("ready") == 0, 60)
        assert asked("alive") == 0
        own.kill()
        wait_until(lambda: asked("ready") == 1, 60)
        assert asked("alive") == 0, "a broker that is away is no reason to start it anew"
        own.restart()
        wait_until(lambda: asked("ready") == 0, 90)  # it may wait for half a minute before it tries again
        assert there.end() == 0
    assert not list(tmp_path.iterdir())


def asked(verb: str) -> int:
    """The exit code of `edgerun control`, which finds the socket as the worker does."""
    command = [sys.executable, "-m", "edgerun", "control", verb]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def test_what_the_model_here_is_unsure_of_a_larger_one_there_looks_at_again(
    broker: mosquitto.Broker, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    band = [0.4, 0.45]
    config = device(tmp_path, broker.url, model='fallback = "none"')
    text = config.read_text(encoding="utf-8")
    here = f'[models.small]\npath = "{MODEL}"\nthreads = 1\n[streams.dock]\nsource = "{CLIP}"\nmodel = "small"\n'
    then = f'threshold = 0.4\n[streams.dock.then]\nmodel = "detector"\nscore = {band}\nwhole = true\n'
    config.write_text(text.partition("[streams.dock]")[0] + here + then, encoding="utf-8")
    with worker(broker.url, "w1"), process(*run(config, "--jsonl", out)) as daemon:
        assert daemon.end(None, 60) == 0, daemon.text
        streams = daemon.summary()["streams"]
    assert all(balanced(account) for account in streams.values())
    first = {one["seq"]: one for one in results(out) if "crop" not in one}
    second = [one for one in results(out) if "crop" in one]
    unsure = {
        seq for seq, one in first.items() if any(band[0] <= found["score"] <= band[1] for found in one["detections"])
    }
    assert streams["dock/detector"]["grabbed"] == len(unsure) > 3
    assert streams["dock/detector"]["published"] == len(second) > 0
    assert set(made_by(second)) == {"remote:w1"}
    assert set(made_by(list(first.values()))) == {"cpu"}
    for one in second:
        assert one["crop"] in first[one["seq"]]["detections"]
        again = {found["label"] for found in one["detections"]}
        assert {found["label"] for found in first[one["seq"]]["detections"] if found["score"] > 0.6} <= again


def test_a_worker_that_is_asked_to_end_answers_what_it_holds(broker: mosquitto.Broker, tmp_path: Path) -> None:
    config = device(tmp_path, broker.url, model='fallback = "none"', fps=100)
    with worker(broker.url, "w1") as there, process(*run(config, "--frames", 200)):
        there.says("connected as")
        with mosquitto.subscriber(broker, "edgerun/dock-7/_answers/#") as answers:
            answers.wait(lambda heard: len(heard) >= 10, 60)
            assert there.end() == 0
    served = there.summary()
    assert served["taken"] == served["answered"] + sum(served["refused"].values()) + served["mute"] + served["twice"]


def test_a_frame_for_another_version_is_refused(broker: mosquitto.Broker, tmp_path: Path) -> None:
    config = device(tmp_path, broker.url, model='fallback = "none"\nlabels = "labels.txt"')
    (tmp_path / "labels.txt").write_text("\n".join(f"thing {i}" for i in range(600)), encoding="utf-8")
    labels = MODEL / "labels.txt"
    if labels.exists():
        (tmp_path / "labels.txt").write_text(labels.read_text(encoding="utf-8").upper(), encoding="utf-8")
    with worker(broker.url, "w1") as there, process(*run(config, "--seconds", 8)) as daemon:
        assert daemon.end(None, 60) == 1, daemon.text
        account = daemon.summary()["streams"]["dock"]
        assert there.end() == 0
    assert balanced(account)
    assert account["published"] == 0
    assert account["failed"] == sum(account["failed_reasons"].values()) > 0
    assert "not one of" in daemon.text, "it is no success"
    assert "Give both ends the same" in daemon.text
    assert there.summary()["refused"]["version"] > 0


def test_two_workers_with_one_id_do_not_fight_on(broker: mosquitto.Broker) -> None:
    with worker(broker.url, "twin") as one, worker(broker.url, "twin") as other:
        wait_until(lambda: one.process.poll() is not None or other.process.poll() is not None, 60)
        loser = one if one.process.poll() is not None else other
        assert loser.end(None) == 1
        assert "another client has this worker's id" in loser.text
        assert "--id" in loser.text


def test_a_broker_of_mqtt_3_1_1_is_refused_in_words(broker: mosquitto.Broker) -> None:
    with gate(broker.port, old=REFUSED_BY_5) as old:
        with process("worker", "--broker", old.url, "--model", MODEL, "--id", "w1", "--threads", 1) as there:
            assert there.end(None, 60) == 1
        assert "MQTT 3.1.1 only" in there.text
        assert "MQTT 5: shared subscriptions" in there.text


def test_a_frame_too_large_for_the_broker_is_told_and_inferred_here(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with mosquitto.broker("max_packet_size 20000") as small, worker(small.url):
        config = device(tmp_path, small.url, remote='payload = "tensor"')
        with process(*run(config, "--jsonl", out)) as daemon:
            wait_until(lambda: made_by(results(out))["cpu"] >= 5, 60)
            assert daemon.end() == 0
            assert balanced(daemon.summary()["streams"]["dock"])
        assert "too large for this broker" in daemon.text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--group", "a/b"), "not a group's name"),
        (("--in-flight", "0"), "not a number of frames"),
        (("--id", "a b"), "not an id"),
        (("--prefix", "#"), "not usable"),
        (("--ca-file", "/nowhere.pem"), "no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_mistakes_on_the_command_line(args: tuple[str, ...], words: str) -> None:
    with process("worker", "--broker", "mqtt://127.0.0.1:1", "--model", MODEL, *args) as there:
        assert there.end(None, 60) == 2
    assert words in there.text
