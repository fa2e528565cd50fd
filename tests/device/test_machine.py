"""Reading a machine's files: absent, broken and empty are three things."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.device import board, groups, inventory, kernel_clock, mounts, usb
from edgerun.device.groups import Identity
from edgerun.device.machine import Machine, Owner
from edgerun.errors import DeviceError
from tests.boards import tree


def machine(text: str, folder: Path) -> tree.BoardMachine:
    return tree.BoardMachine(tree.parse(text), folder)


def test_absent_broken_and_empty(tmp_path: Path) -> None:
    board = machine(
        "== sys/broken !EIO\n== sys/empty\n== sys/word = hot\n== sys/number = 0x1f apples\n== sys/loop -> loop\n",
        tmp_path,
    )
    assert board.number("sys/nothing") is None
    assert board.number("sys/empty/below") is None
    assert board.text("sys/empty") == ""
    with pytest.raises(DeviceError, match="/sys/broken: cannot be read; got Input/output error"):
        board.number("sys/broken")
    with pytest.raises(DeviceError, match="is not a number"):
        board.number("sys/empty")
    with pytest.raises(DeviceError, match="got 'hot'"):
        board.number("sys/word")
    with pytest.raises(DeviceError, match="/sys/loop: cannot be read; got Too many levels"):
        board.number("sys/loop")
    assert board.number("sys/number", 16) == 31


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    board = machine("== dev/video10 0660 0:44\n== dev/video2 0660 0:44\n== dev/null 0666 0:0\n", tmp_path)
    assert board.names("dev") == ["null", "video2", "video10"]
    assert board.names("nowhere") == []


def test_this_machine_answers() -> None:
    here = Machine()
    assert here.architecture() == os.uname().machine
    assert here.package("numpy")
    assert here.package("no-such-package") is None
    assert here.owner("dev/null") == Owner(0o666, 0, 0)
    space = here.space("/")
    assert space is not None
    assert 0 <= space.free_bytes <= space.total_bytes
    assert here.names("proc/self/task")
    count, _ = board.processors(here)
    assert count == os.cpu_count()


def test_the_kernels_clock_says_what_adjtimex_of_another_program_says() -> None:
    state = kernel_clock.read()
    assert 0 <= state.max_error_ms <= 16_000.0 + 1  # NTP_PHASE_LIMIT: the kernel lets it grow to 16 s
    done = subprocess.run(["adjtimex", "--print"], capture_output=True, text=True, check=False) if _has() else None
    if done is not None and done.returncode == 0:
        status = int(next(line.split()[-1] for line in done.stdout.splitlines() if "status:" in line))
        assert state.synchronised == (not status & 0x40)


def _has() -> bool:
    return any(Path(folder, "adjtimex").exists() for folder in ("/sbin", "/usr/sbin", "/bin", "/usr/bin"))


@pytest.mark.parametrize(
    ("mode", "me", "may"),
    [
        (0o660, Identity(1000, frozenset({44}), False), True),
        (0o660, Identity(1000, frozenset({1000}), False), False),
        (0o666, Identity(1000, frozenset({1000}), False), True),
        (0o640, Identity(1000, frozenset({44}), False), False),
        (0o060, Identity(0, frozenset({44}), False), False),  # the owner's bits count for the owner
        (0o000, Identity(0, frozenset({0}), True), True),
    ],
)
def test_permission(mode: int, me: Identity, may: bool) -> None:
    assert me.may_use(Owner(mode, 0, 44)) is may


def test_this_process_may_use_what_it_can_open(tmp_path: Path) -> None:
    here = Machine()
    me = groups.identity(here)
    assert me is not None
    assert me.uid == os.geteuid()
    owner = here.owner("dev/null")
    assert owner is not None
    assert me.may_use(owner)
    assert groups.user_name(here, 0) == "root"
    assert groups.group_name(here, 4_000_000) == "4000000"


def test_the_narrowest_limit_counts(tmp_path: Path) -> None:
    text = (
        "== proc/self/cgroup\n0::/a.slice/b.service\n== sys/fs/cgroup/cgroup.controllers = memory cpu\n"
        "== sys/fs/cgroup/a.slice/memory.max = 1000\n== sys/fs/cgroup/a.slice/b.service/memory.max = 5000\n"
        "== sys/fs/cgroup/a.slice/cpu.max = max 100000\n== sys/fs/cgroup/a.slice/b.service/cpu.max = 50000 100000\n"
    )
    assert board.limits(machine(text, tmp_path)) == board.Limits(1000, 0.5, True)


def test_a_mount_below_another_covers_it(tmp_path: Path) -> None:
    text = "== proc/self/mounts\n/dev/a / ext4 rw 0 0\n/dev/b /mnt/my\\\\040disk ext4 ro 0 0\nt /run tmpfs rw 0 0\n"
    board = machine(text, tmp_path)
    assert mounts.mount_of(board, "/mnt/my disk/state") == mounts.Mount("/dev/b", "/mnt/my disk", "ext4", True)
    assert mounts.mount_of(board, "/mnt/my") == mounts.Mount("/dev/a", "/", "ext4", False)
    assert mounts.mount_of(board, "/running") == mounts.Mount("/dev/a", "/", "ext4", False)


def test_a_usb_device_that_goes_while_it_is_looked_at_is_left_out(tmp_path: Path) -> None:
    text = "== sys/bus/usb/devices/1-1/idVendor = 1a6e\n== sys/bus/usb/devices/usb1/\n"
    assert usb.usb_devices(machine(text, tmp_path)) == []


@given(st.integers(0, 0xFFFFF))
def test_every_throttle_flag_is_told_once(flags: int) -> None:
    words = {0: "under-voltage", 1: "Arm frequency capped", 2: "throttled", 3: "soft temperature limit"}
    board = Flags(flags)
    found = inventory.throttling(board)
    assert found.now == tuple(word for bit, word in words.items() if flags >> bit & 1)
    assert found.since_boot == tuple(word for bit, word in words.items() if flags >> (16 + bit) & 1)


class Flags(Machine):
    """A machine that has the firmware's flags and nothing else."""

    def __init__(self, flags: int) -> None:
        super().__init__(Path("/nowhere"), {})
        self._flags = flags

    def names(self, folder: str) -> list[str]:
        return {"sys/devices/platform": ["soc"], "sys/devices/platform/soc": ["soc:firmware"]}.get(folder, [])

    def exists(self, name: str) -> bool:
        return name.endswith("get_throttled")

    def read(self, name: str) -> bytes | None:
        return f"{self._flags:x}\n".encode() if name.endswith("get_throttled") else None
