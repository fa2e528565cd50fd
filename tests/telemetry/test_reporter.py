"""What the reporter publishes and when, as a subscriber decodes it, against docs/schema."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import pytest

from edgerun.clock import FakeClock
from edgerun.meter import StreamMeter
from edgerun.telemetry.drift import DriftLane, DriftWatch
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.payload import InstalledModel
from edgerun.telemetry.reporter import EngineReport, ReportedDevice, Reporter
from edgerun.telemetry.states import StateKeeper
from edgerun.types import EngineInfo
from tests.publish.samples import MODEL, publication
from tests.schemas import validate
from tests.telemetry.test_states import seen


class Sent(NamedTuple):
    topic: str
    body: dict[str, Any]
    qos: int
    retain: bool


class ListBroker:
    """Keeps what it is given; every message must be what docs/schema says of its topic."""

    connected = True

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, **how: Any) -> None:
        body = json.loads(payload)
        validate(topic.split("/")[2], body)
        self.sent.append(Sent(topic, body, qos, retain))

    def flush(self, timeout_s: float) -> bool:
        return True

    def take(self) -> list[Sent]:
        sent, self.sent = self.sent, []
        return sent


class Desk:
    """A reporter of one stream on one engine, with everything that it looks at."""

    def __init__(self, interval_s: float = 30.0, drift: DriftWatch | None = None, first_s: float | None = None) -> None:
        self.clock = FakeClock()
        self.states = StateKeeper({"dock": "cpu"}, self.clock)
        self.groups: dict[str, dict[str, Any]] = {}
        self.more: dict[str, dict[str, Any]] = {}
        self.meter = StreamMeter()
        self.busy_ns = 0
        self.load = {"rss_mib": 148.04, "cpu_s": 1.0}
        ledger = Ledger(self.clock)
        ledger.add("dock", self.meter)
        info = EngineInfo("litert 2.3.0", "cpu", 2, fallbacks=(("edgetpu", "no device"),))
        engine = EngineReport(InstalledModel("ssd", "2", "ab" * 32), lambda: info, lambda: self.busy_ns)
        device = ReportedDevice("dock-7", "1f3a9c02", "edgerun", {"dock": ("detector",)}, {"detector": engine})
        self.reporter = Reporter(
            device,
            self.states,
            ledger,
            lambda: self.load,
            self.clock,
            interval_s,
            read_device=lambda: self.groups,
            read_streams=lambda: self.more,
            drift=drift,
            first_s=first_s,
        )
        self.broker = ListBroker()

    def tick_after(self, seconds: float) -> list[Sent]:
        self.clock.advance(seconds)
        self.reporter.tick(self.broker)
        return self.broker.take()


def test_birth_is_the_certificate_and_every_state() -> None:
    desk = Desk()
    (info_topic, info), (state_topic, state) = desk.reporter.birth()
    validate("info", json.loads(info))
    validate("state", json.loads(state))
    assert (info_topic, state_topic) == ("edgerun/dock-7/info", "edgerun/dock-7/state/dock")
    told = json.loads(info)
    assert told["models"] == {"detector": {"name": "ssd", "version": "2", "sha256": "ab" * 32}}
    assert told["streams"] == {"dock": {"model": "detector"}}
    assert told["accelerators"] == {"detector": "cpu"}
    assert json.loads(state) == {
        "v": 1, "state": "stalled", "reason": "no frame has come yet", "accelerator": "cpu",
    }  # fmt: skip


def test_a_state_is_told_when_it_changes_and_retained() -> None:
    desk = Desk()
    assert desk.tick_after(1) == []
    desk.states.set_state("dock", "running", "")
    desk.states.publish(seen("person"))
    (sent,) = desk.tick_after(1)
    assert sent.topic == "edgerun/dock-7/state/dock"
    assert (sent.qos, sent.retain) == (1, True)
    assert sent.body == {"v": 1, "state": "running", "accelerator": "cpu", "counts": {"person": 1}}
    assert desk.tick_after(1) == []


def test_counts_that_change_with_every_frame_are_told_once_a_second() -> None:
    desk = Desk()
    desk.states.set_state("dock", "running", "")
    told = 0
    for frame in range(300):
        desk.states.publish(seen(*["person"] * (frame % 2)))
        told += len(desk.tick_after(1 / 30))
    assert 9 <= told <= 11


def test_events_are_numbered_and_not_retained() -> None:
    desk = Desk()
    desk.reporter.send_event(desk.broker, "stalled", "the camera gave no frame", "dock")
    desk.reporter.send_event(desk.broker, "running", "frames come again", "dock")
    first, second = desk.broker.take()
    assert [first.body["id"], second.body["id"]] == ["1f3a9c02-e0", "1f3a9c02-e1"]
    assert first.topic == "edgerun/dock-7/event"
    assert (first.qos, first.retain) == (1, False)
    assert first.body["kind"] == "stalled"
    assert first.body["stream"] == "dock"


def test_telemetry_comes_when_it_is_due_and_covers_its_interval() -> None:
    desk = Desk(interval_s=10)
    for _ in range(50):
        desk.meter.account.grab()
        desk.meter.account.end("published")
        desk.meter.age.record(40.0)
    desk.busy_ns = 7_000_000_000
    assert desk.tick_after(9.5) == []
    (first,) = desk.tick_after(0.5)
    assert (first.topic, first.qos, first.retain) == ("edgerun/dock-7/telemetry", 0, False)
    assert first.body["id"] == "1f3a9c02-t0"
    assert first.body["interval_s"] == 10
    assert first.body["streams"]["dock"]["fps"] == 5
    assert first.body["engines"]["detector"] == {
        "accelerator": "cpu", "busy": 0.7, "degraded": True,
        "fallbacks": [{"accelerator": "edgetpu", "reason": "no device"}],
    }  # fmt: skip
    assert first.body["memory"] == {"rss_mib": 148.0}
    (second,) = desk.tick_after(10)
    assert second.body["id"] == "1f3a9c02-t1"
    assert second.body["streams"]["dock"]["published"] == 50
    assert second.body["streams"]["dock"]["fps"] == 0
    assert "age_ms" not in second.body["streams"]["dock"]
    assert second.body["engines"]["detector"]["busy"] == 0


def test_what_is_not_known_is_left_out() -> None:
    desk = Desk()
    desk.load = {}
    desk.reporter.send_telemetry(desk.broker)
    (sent,) = desk.broker.take()
    assert "memory" not in sent.body
    assert "busy" not in sent.body["engines"]["detector"]


def test_what_others_know_stands_beside_what_the_meter_knows() -> None:
    drift = DriftWatch([DriftLane("dock", "dock", MODEL.name)])
    desk = Desk(drift=drift)
    drift.publish(publication())
    desk.states.set_state("dock", "stalled", "no frame for 5 s")
    desk.states.set_state("dock", "running", "frames come again")
    desk.states.set_fault("dock", "dark", True)
    desk.groups = {
        "thermal": {"soc_temp_c": 61.2, "throttled": False},
        "memory": {"available_mib": 500.0},
        "disk": {"/": {"free_bytes": 1000}},
        "power": {},
    }
    desk.more = {"dock": {"j_per_inference": 0.11}}
    desk.reporter.send_telemetry(desk.broker)
    (sent,) = desk.broker.take()
    dock = sent.body["streams"]["dock"]
    assert (dock["stalls_1h"], dock["reconnects_1h"], dock["input"]) == (1, 1, ["dark"])
    assert dock["drift"] == {"reference": "learning", "observations": 2}
    assert dock["j_per_inference"] == 0.11
    assert sent.body["memory"] == {"rss_mib": 148.0, "available_mib": 500.0}
    assert sent.body["thermal"]["soc_temp_c"] == 61.2
    assert "power" not in sent.body


def test_memory_that_grows_is_told_after_a_while() -> None:
    desk = Desk(interval_s=60)
    slopes = []
    for minute in range(40):
        desk.load = {"rss_mib": 100.0 + minute / 10}
        (sent,) = desk.tick_after(60)
        slopes.append(sent.body["memory"].get("slope_mib_h"))
    assert slopes[:10] == [None] * 10
    assert slopes[-1] == pytest.approx(6, abs=0.01)


def test_events_of_the_device_name_no_stream() -> None:
    desk = Desk()
    desk.reporter.send_event(desk.broker, "throttled", "the processor is too hot")
    (sent,) = desk.broker.take()
    assert "stream" not in sent.body


@pytest.mark.parametrize("asleep_s", [0.0, 3.0, 1000.0])
def test_after_a_long_sleep_telemetry_comes_once_and_not_for_every_interval_missed(asleep_s: float) -> None:
    desk = Desk(interval_s=5)
    sent = desk.tick_after(5 + asleep_s)
    assert len(sent) == 1
    assert sent[0].body["interval_s"] == 5 + asleep_s
    assert desk.tick_after(4.9) == []
    assert desk.reporter.next_due_ns() > desk.clock.mono_ns()


def test_the_next_turn_is_never_later_than_what_is_due() -> None:
    desk = Desk(interval_s=2.5)
    told = []
    for _ in range(20):
        desk.clock.advance(max(0.0, (desk.reporter.next_due_ns() - desk.clock.mono_ns()) / 1e9))
        desk.reporter.tick(desk.broker)
        told += [desk.clock.mono_ns() for sent in desk.broker.take() if sent.topic.endswith("telemetry")]
    assert {(after - before) / 1e9 for before, after in itertools.pairwise(told)} == {2.5}
