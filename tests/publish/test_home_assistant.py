"""Home Assistant's discovery: the message itself, and what keeps it sent at a real broker."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.broker.connection import Connection
from edgerun.publish.homeassistant import LIMIT_BYTES, Announcer, DescribedDevice, DescribedStream, discovery
from edgerun.publish.homeassistant.discovery import announced
from edgerun.publish.homeassistant.naming import slug, slugs
from tests import mosquitto
from tests.broker.parts import DEVICE, connection

KNOWN = {
    "thermal": {"soc_temp_c": 61.2, "coral_temp_c": 50.0, "throttled": False},
    "power": {"power_w": 4.1, "energy_kwh": 1.02, "source": "rail", "j_per_inference": 0.11},
    "memory": {"rss_mib": 148.0, "available_mib": 800.0},
    "disk": {"/": {"free_bytes": 10}, "/var/lib/edgerun": {"free_bytes": 20}},
    "spool": {"messages": 0, "bytes": 0, "dropped": 0},
    "sensors": {"values": {"pi/firmware/under_voltage": 0.0}},
    "governor": {"level": 0, "levels": 4},
}
DOCK = DescribedStream("dock", ("dock",), labels=("person", "car"), snapshot=True, events=("appeared", "entered"))
YARD = DescribedStream("yard", ("yard/detector", "yard/faces"))
DOOR = DescribedStream("door", ("door",), counted=False, events=("heard",))
VERBS = frozenset({"pause", "resume", "reload", "snapshot", "model/install"})
RICH = DescribedDevice(
    DEVICE, "0.1.0", (DOCK, YARD, DOOR), 30.0, board="Raspberry Pi 5", models=("detector",), verbs=VERBS, known=KNOWN
)
BARE = DescribedDevice(DEVICE, "0.1.0", (DescribedStream("main", ("main",)),), 30.0)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
streams = st.builds(
    DescribedStream,
    name=st.from_regex(r"[a-z0-9-]{1,12}\Z"),
    accounts=st.just(("a",)),
    labels=st.lists(names, max_size=8, unique=True).map(tuple),
    snapshot=st.booleans(),
)


def read(payload: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(payload)
    return told


def components(device: DescribedDevice) -> dict[str, Any]:
    told: dict[str, Any] = read(discovery(device).payload)["cmps"]
    return told


def test_everything_there_is_has_an_entity() -> None:
    told = components(RICH)
    assert {
        "soc_temperature", "coral_temperature", "throttled", "under_voltage", "power", "energy", "inference_energy",
        "memory", "disk_root_free", "spool", "governor", "events", "reload", "model_detector", "dock_state",
        "dock_rate", "dock_age", "dock_input", "dock_objects", "dock_person_occupancy", "dock_person_count",
        "dock_events", "dock_snapshot", "dock_running", "dock_take_snapshot", "yard_detector_rate", "yard_faces_age",
        "yard_occupied", "door_events",
    } <= set(told)  # fmt: skip
    assert told["energy"]["stat_cla"] == "total_increasing"
    assert told["power"]["exp_aft"] == 90
    assert "dock_occupied" not in told
    assert not [key for key in told if key.startswith("door_") and "obj" in key]


def test_what_is_not_known_has_none() -> None:
    assert set(components(BARE)) == {
        "events", "main_state", "main_rate", "main_age", "main_input", "main_objects", "main_occupied",
    }  # fmt: skip
    without = msgspec.structs.replace(RICH, known={"power": {"power_w": None}, "thermal": {}})
    assert not {"power", "soc_temperature", "throttled", "under_voltage"} & set(components(without))


def test_every_entity_has_its_own_lasting_name() -> None:
    told = components(RICH)
    assert len({one["uniq_id"] for one in told.values()}) == len(told)
    assert told["dock_person_count"]["uniq_id"] == f"edgerun_{DEVICE}_dock_person_count"
    assert told["dock_person_count"]["default_entity_id"] == "sensor.dock_7_dock_person_count"


@given(first=streams, second=streams)
@settings(max_examples=40, deadline=None)
def test_what_an_entity_is_does_not_depend_on_its_neighbours(first: DescribedStream, second: DescribedStream) -> None:
    if slug(first.name) == slug(second.name) or slug(second.name).startswith(slug(first.name)):
        return
    alone = components(msgspec.structs.replace(BARE, streams=(first,)))
    both = components(msgspec.structs.replace(BARE, streams=(first, second)))
    assert {key: both[key] for key in alone} == alone


@given(st.lists(names, max_size=30))
@settings(max_examples=60, deadline=None)
def test_labels_become_ids_each_its_own(labels: list[str]) -> None:
    made = slugs(labels)
    assert set(made) == set(labels)
    assert len(set(made.values())) == len(made)
    assert all(
        one and one.replace("_", "a").isalnum() and one.isascii() and one == one.lower() for one in made.values()
    )


@pytest.mark.parametrize(("label", "made"), [("Traffic light", "traffic_light"), ("person", "person")])
def test_plain_labels_stay_readable(label: str, made: str) -> None:
    assert slug(label) == made


@given(st.lists(streams, min_size=1, max_size=6), st.integers(3000, 30_000))
@settings(max_examples=40, deadline=None)
def test_it_is_never_longer_than_its_limit_and_says_what_found_no_room(
    some: list[DescribedStream], limit_bytes: int
) -> None:
    device = msgspec.structs.replace(RICH, streams=tuple(some), known={}, models=(), verbs=frozenset())
    made = discovery(device, limit_bytes=limit_bytes)
    whole = discovery(device, limit_bytes=10**9)
    assert len(made.payload) <= limit_bytes
    assert (made.payload == whole.payload) == (not made.left_out)
    assert set(made.platforms) == set(read(made.payload)["cmps"])


def test_sixteen_cameras_of_eighty_labels_fit_and_keep_all_but_the_labels() -> None:
    many = tuple(
        DescribedStream(f"cam-{i:02d}", (f"cam-{i:02d}",), tuple(f"label {j}" for j in range(80)), snapshot=True)
        for i in range(16)
    )
    made = discovery(msgspec.structs.replace(RICH, streams=many))
    assert len(made.payload) <= LIMIT_BYTES
    told = read(made.payload)["cmps"]
    assert {f"cam_{i:02d}_{what}" for i in range(16) for what in ("state", "objects", "rate", "running")} <= set(told)
    assert made.left_out
    assert all(": label" in one for one in made.left_out)


def test_what_a_message_announced_is_read_back() -> None:
    made = discovery(RICH, removed={"old": "sensor"})
    assert announced(made.payload) == made.platforms
    for garbage in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"cmps":[]}',
        b'{"cmps":{"a":1,"b":{"p":2,"x":1}}}',
        b"\xff",
        b"[" * 9999,
    ):
        assert announced(garbage) == {}


@contextlib.contextmanager
def announcing(broker: mosquitto.Broker, device: DescribedDevice) -> Iterator[tuple[Connection, Announcer]]:
    made: list[Announcer] = []
    with connection(broker.url, birth=lambda: [made[0].birth()], start=False) as link:
        made.append(Announcer(link, device))
        link.start()
        yield link, made[0]
        made[0].close()


def test_it_is_sent_at_every_connection_and_when_home_assistant_comes_up() -> None:
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "homeassistant/#") as seen,
        announcing(broker, RICH) as (_, announcer),
    ):
        topic = announcer.current.topic
        (first,) = seen.wait(lambda ms: len(ms) == 1)
        assert (first.topic, first.qos, first.payload) == (topic, 1, announcer.current.payload)
        publish(broker, "homeassistant/status", b"offline")
        publish(broker, "homeassistant/status", b"online")
        ticking(announcer, lambda: sum(m.topic == topic for m in seen.messages) == 2)
        broker.kill()
        broker.restart()
        ticking(announcer, lambda: sum(m.topic == topic for m in seen.messages) >= 3)


def test_what_an_earlier_run_announced_and_is_gone_is_removed_once() -> None:
    with mosquitto.broker() as broker:
        with announcing(broker, RICH) as (link, _):
            mosquitto.wait_until(lambda: link.stats().sent >= 2, what="the birth message")
        fewer = msgspec.structs.replace(RICH, streams=(DOOR,))
        with mosquitto.subscriber(broker, "homeassistant/#") as seen, announcing(broker, fewer) as (_, announcer):
            ticking(announcer, lambda: len(seen.messages) == 4)
            old, birth, removal, last = [m.payload for m in seen.messages]
            assert old == discovery(RICH).payload
            assert birth == last == announcer.current.payload
            told = read(removal)["cmps"]
            assert told["dock_person_count"] == {"p": "sensor"}
            assert {key for key, one in told.items() if len(one) == 1} == set(announced(old)) - set(announced(birth))


def test_an_update_removes_and_adds_and_an_equal_one_says_nothing() -> None:
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "homeassistant/#") as seen,
        announcing(broker, BARE) as (_, announcer),
    ):
        seen.wait(lambda ms: len(ms) == 1)
        announcer.update(BARE)
        announcer.update(msgspec.structs.replace(BARE, known=KNOWN))
        announcer.update(BARE)
        with pytest.raises(ValueError, match="keeps its id"):
            announcer.update(msgspec.structs.replace(BARE, id="other"))
        told = [read(m.payload)["cmps"] for m in seen.wait(lambda ms: len(ms) == 4)]
    assert ["power" in one for one in told] == [False, True, True, False]
    assert told[2]["power"] == {"p": "sensor"}


def test_withdrawn_it_leaves_nothing_at_the_broker() -> None:
    with mosquitto.broker() as broker:
        with announcing(broker, BARE) as (link, announcer):
            announcer.withdraw()
            assert link.flush(60)
        publish(broker, "homeassistant/last", b"x", retain=True)
        with mosquitto.subscriber(broker, "homeassistant/#") as seen:
            assert [m.topic for m in seen.wait(len)] == ["homeassistant/last"]


def ticking(announcer: Announcer, condition: Any) -> None:
    """Tick as the main thread does until the condition holds."""

    def once() -> bool:
        announcer.tick()
        return bool(condition())

    mosquitto.wait_until(once)


def publish(broker: mosquitto.Broker, topic: str, payload: bytes, *, retain: bool = False) -> None:
    subprocess.run(
        [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", topic, "-s"]
        + ["-r"] * retain,
        input=payload,
        check=True,
    )
