"""Remote models that change while the daemon goes on: real workers, a real mosquitto, SIGHUP."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests import mosquitto
from tests.mosquitto import Broker, Subscriber, wait_until
from tests.rollout.runs import bundle
from tests.worker.parts import MODEL, Process, balanced, device, process, results, worker

pytestmark = pytest.mark.timeout(400)  # more than all that one of them may wait for

AGE = "max_age_ms = 60000"
"""No frame of these streams is lost for being late."""


@pytest.fixture
def site() -> Iterator[tuple[Broker, Subscriber]]:
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/dock-7/event") as events:
        yield broker, events


def told(events: Subscriber, *kinds: str) -> list[str]:
    found = [json.loads(one.payload) for one in events.messages]
    return [one["text"] for one in found if one["kind"] in kinds]


def hang_up(daemon: Process, events: Subscriber) -> str:
    """SIGHUP; what came of it."""
    kinds = ("reloaded", "reload_refused")
    before = len(told(events, *kinds))
    daemon.send(signal.SIGHUP)
    wait_until(lambda: len(told(events, *kinds)) > before or daemon.process.poll() is not None, 60, "a reload")
    assert daemon.process.poll() is None, daemon.text
    return told(events, *kinds)[-1]


def made_by(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(f"{one['model']['accelerator']} {one['model']['version']}" for one in found)


def comes(out: Path, by: str, before: int, count: int = 5) -> None:
    wait_until(lambda: made_by(results(out)[before:])[by] >= count, 60, f"{by} after {before}")


def ended(daemon: Process) -> dict[str, Any]:
    """As it should; no frame failed, and every one is accounted for (a machine that stands still lets some expire)."""
    assert daemon.end() == 0, daemon.text
    account: dict[str, Any] = daemon.summary()["streams"]["dock"]
    assert balanced(account)
    assert account["failed"] == 0, daemon.text
    return account


def test_how_frames_are_sent_changes_between_two_of_them(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, events = site
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, stream=AGE, fps=60)
    with worker(broker.url, "w1"), process("run", "--config", config, "--json", "--jsonl", out) as daemon:
        comes(out, "remote:w1 2", 0)
        device(tmp_path, broker.url, stream=AGE, fps=60, remote="in_flight = 9\nquality = 60")
        assert "model detector" in hang_up(daemon, events)
        comes(out, "remote:w1 2", len(results(out)))
        device(tmp_path, broker.url, stream=AGE, fps=60, remote='first = "here"')
        assert "model detector" in hang_up(daemon, events)
        comes(out, "cpu 2", len(results(out)))
        device(tmp_path, broker.url, stream=AGE, fps=60, model='fallback = "none"')
        assert "model detector" in hang_up(daemon, events)
        comes(out, "remote:w1 2", len(results(out)))
        ended(daemon)
    assert not told(events, "fell_back", "lost"), "nobody was away"


def test_a_model_moves_out_and_home_again(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, events = site
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, stream=AGE, fps=60)
    there = config.read_text()
    here = there.replace('engine = "remote"', "").replace("[models.detector.remote]", "")
    config.write_text(here)
    with worker(broker.url, "w1"), process("run", "--config", config, "--json", "--jsonl", out) as daemon:
        comes(out, "cpu 2", 0)
        for text, by in ((there, "remote:w1 2"), (here, "cpu 2"), (there, "remote:w1 2")):
            config.write_text(text)
            assert "model detector" in hang_up(daemon, events)
            comes(out, by, len(results(out)))
        account = ended(daemon)
    accelerators = [one["model"]["accelerator"] for one in sorted(results(out), key=lambda one: int(one["seq"]))]
    turns = [by for by, _ in groupby(accelerators)]
    assert turns == ["cpu", "remote:w1", "cpu", "remote:w1"], "after a change a frame went to the one before"
    assert account["published"] == len(results(out))


def test_a_new_version_goes_to_the_workers_that_have_it(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, events = site
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, stream=AGE, fps=60)
    after = bundle(tmp_path, "3", labels_txt=(MODEL / "labels.txt").read_bytes().replace(b"person", b"somebody"))
    with worker(broker.url, "w1"), process("run", "--config", config, "--json", "--jsonl", out) as daemon:
        comes(out, "remote:w1 2", 0)
        config.write_text(config.read_text().replace(str(MODEL), str(after)))
        assert "from version 2 to 3" in hang_up(daemon, events)
        comes(out, "cpu 3", len(results(out)))
        assert "Give both ends the same" in daemon.text
        with process(
            "worker", "--broker", broker.url, "--model", after, "--id", "w2", "--threads", 1, "--json"
        ) as other:
            other.says("connected as")
            comes(out, "remote:w2 3", len(results(out)))
            away, before = told(events, "fell_back"), len(results(out))
            comes(out, "remote:w2 3", before, 60)
            assert told(events, "fell_back") == away, "that others have another version is no reason to give up"
            ended(daemon)
    seqs = [(one["seq"], one["model"]["version"]) for one in results(out)]
    assert [version for _, version in sorted(seqs)] == sorted(version for _, version in seqs), "one after the other"


def test_who_has_no_worker_knows_it_after_a_change_too(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, events = site
    out = tmp_path / "out.jsonl"
    config = device(tmp_path, broker.url, stream=AGE)
    with process("run", "--config", config, "--json", "--jsonl", out) as daemon:
        comes(out, "cpu 2", 0)
        lost = told(events, "fell_back")
        device(tmp_path, broker.url, stream=AGE, remote="in_flight = 16")
        hang_up(daemon, events)
        comes(out, "cpu 2", len(results(out)), 20)
        assert told(events, "fell_back") == lost, "it is no news"
        with worker(broker.url, "w1"):
            comes(out, "remote:w1 2", len(results(out)))
        ended(daemon)


def test_frames_without_a_deadline_survive_a_change_and_the_workers(tmp_path: Path) -> None:
    clip = MODEL.parent / "clips" / "street.mp4"
    out = tmp_path / "out.jsonl"
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/dock-7/event") as events:
        config = device(tmp_path, broker.url, remote="in_flight = 6")
        text = config.read_text().partition("[streams.dock]")[0]
        config.write_text(f'{text}[streams.dock]\nsource = "{clip}"\nas_fast = true\nmodel = "detector"\n')
        run = ("run", "--config", config, "--json", "--jsonl", out)
        with worker(broker.url, "w1") as there, process(*run) as daemon:
            comes(out, "remote:w1 2", 0)
            there.send(signal.SIGSTOP)
            config.write_text(config.read_text().replace("in_flight = 6", "in_flight = 5"))
            hang_up(daemon, events)
            assert daemon.end(None, 120) == 0, daemon.text
            account = daemon.summary()["streams"]["dock"]
    assert balanced(account)
    assert (account["published"], account["failed"]) == (100, 0), daemon.text
    assert sorted(one["seq"] for one in results(out)) == list(range(100))
