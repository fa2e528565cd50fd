"""What each board's sensors become in telemetry, against the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.device.evidence import thermal_picture
from edgerun.device.machine import Machine
from edgerun.device.sampler import Sampler
from edgerun.device.site import Site
from edgerun.telemetry.readings import device_groups, name_parts
from edgerun.types import Reading
from tests.boards import tree
from tests.schemas import validate
from tests.telemetry.test_payload import sent, telemetry_of

GOLDEN = Path(__file__).parent / "golden"


def readings_of(board: str, folder: Path) -> tuple[list[Reading], dict[str, str]]:
    machine: Machine = tree.BoardMachine(tree.read(board), folder)
    sampler = Sampler(Site(machine, FakeClock()))
    sampler.sample()
    found = list(sampler.latest.values()), {f"{one.kind}/{one.place}": one.reason for one in sampler.broken}
    sampler.close()
    return found


@pytest.mark.parametrize("board", tree.BOARDS)
def test_each_board_has_its_telemetry(board: str, tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    readings, broken = readings_of(board, tmp_path)
    groups = {"thermal": thermal_picture(readings), **device_groups(readings, broken)}
    message = sent(telemetry_of({}, **groups))
    validate("telemetry", message)
    shown = {key: group for key, group in message.items() if key in groups}
    golden(GOLDEN / f"{board}.json", json.dumps(shown, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def test_of_a_machine_without_sensors_nothing_is_told() -> None:
    assert device_groups([]) == {}
    assert device_groups([Reading("rss_mib", 100.0, 1), Reading("cpu_s", 3.0, 1)]) == {}


@given(st.text(max_size=8), st.text(max_size=8), st.text(alphabet="abc_", min_size=1, max_size=8))
def test_names_come_apart(kind: str, place: str, quantity: str) -> None:
    kind = kind.replace("/", "")
    assert name_parts(f"{kind}/{place}/{quantity}") == (kind, place, quantity)


def test_the_machine_s_memory_stands_beside_the_process_s() -> None:
    groups = device_groups(
        [
            Reading("system/memory/available_bytes", 512 * 2.0**20, 1),
            Reading("disk//var/lib/free_bytes", 1e9, 1),
            Reading("disk//var/lib/read_only", 1.0, 1),
            Reading("thermal/cpu/temp_c", 51.0000000001, 1),
            Reading("thermal/cpu/critical_c", 110.0, 1),
        ],
        {"rapl/package-0": "Permission denied"},
    )
    assert groups == {
        "memory": {"available_mib": 512.0},
        "disk": {"/var/lib": {"free_bytes": 1_000_000_000, "read_only": True}},
        "sensors": {"values": {"thermal/cpu/temp_c": 51.0}, "broken": {"rapl/package-0": "Permission denied"}},
    }
    assert not re.search("critical", json.dumps(groups))
