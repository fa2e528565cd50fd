"""What the command "service" learns of a machine: board, systemd, users, names and words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgerun.device.machine import Machine
from edgerun.errors import ConfigError
from edgerun.service import plan as plans
from edgerun.service.install import check_access
from edgerun.service.plan import Plan, quoted


def tree(root: Path, files: dict[str, str]) -> Machine:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Machine(root)


def test_the_board_is_found(tmp_path: Path) -> None:
    assert plans.boards_of(tree(tmp_path / "pc", {})) == frozenset()
    pi = {"proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0"}
    usb = {"sys/bus/usb/devices/1-1/idVendor": "1a6e", "sys/bus/usb/devices/1-1/idProduct": "089a"}
    assert plans.boards_of(tree(tmp_path / "pi", pi)) == {"pi"}
    assert plans.boards_of(tree(tmp_path / "both", {**pi, **usb})) == {"pi", "coral"}
    assert plans.boards_of(tree(tmp_path / "m2", {"dev/apex_0": ""})) == {"coral"}


def test_the_version_of_systemd_is_read_without_running_it(tmp_path: Path) -> None:
    assert plans.systemd_version(tree(tmp_path, {})) is None
    names = {"usr/lib/aarch64-linux-gnu/systemd/libsystemd-shared-254.so": ""}
    assert plans.systemd_version(tree(tmp_path, names)) == 254


def test_users_and_groups_of_an_image(tmp_path: Path) -> None:
    machine = tree(tmp_path, {
        "etc/passwd": "root:x:0:0::/root:/bin/sh\npi:x:1000:100::/home/pi:/bin/sh\nbad\n",
        "etc/group": "root:x:0:\nusers:x:100:\nvideo:x:44:pi\n",
    })  # fmt: skip
    assert plans.groups_of(machine) == {"root", "users", "video"}
    assert plans.group_of(machine, "pi") == "users"
    with pytest.raises(ConfigError, match="no such user"):
        plans.group_of(machine, "ghost")


def test_a_path_that_the_user_cannot_reach_is_named(tmp_path: Path) -> None:
    machine = tree(tmp_path, {"etc/passwd": "pi:x:4242:4242::/:/bin/sh\n", "etc/group": "", "srv/x/config.toml": ""})
    for folder in (tmp_path, tmp_path / "srv"):
        folder.chmod(0o755)
    (tmp_path / "srv/x").chmod(0o750)
    (tmp_path / "srv/x/config.toml").chmod(0o644)
    assert plans.closed_to(machine, "pi", "/srv/x/config.toml") == "/srv/x"
    (tmp_path / "srv/x").chmod(0o751)
    assert plans.closed_to(machine, "pi", "/srv/x/config.toml") is None
    (tmp_path / "srv/x/config.toml").chmod(0o600)
    assert plans.closed_to(machine, "pi", "/srv/x/config.toml") == "/srv/x/config.toml"
    assert plans.closed_to(machine, "edgerun", "/srv/nowhere") is None


def test_what_is_to_be_done_for_a_user_who_is_not_there_yet_can_be_done(tmp_path: Path) -> None:
    machine = tree(tmp_path, {"etc/passwd": "pi:x:4242:4242::/:/bin/sh\n", "etc/group": "", "srv/config.toml": ""})
    for place, mode in ((tmp_path, 0o755), (tmp_path / "srv", 0o755), (tmp_path / "srv/config.toml", 0o640)):
        place.chmod(mode)
    opened = "chgrp {0} /srv/config.toml; chmod g+rX /srv/config.toml`"
    for user, first in (("pi", ""), ("edgerun", "useradd --system --user-group --shell /usr/sbin/nologin edgerun; ")):
        plan = Plan(("/nowhere",), "/srv/config.toml", user=user, group=user)
        with pytest.raises(ConfigError, match=re.escape(f"`{first}{opened.format(user)}")):
            check_access(plan, machine, Path("/srv/config.toml"))


@pytest.mark.parametrize("name", ["", "Yard", "a/b", "../x", "a b", "é", "-x", "x" * 65, "a%n"])
def test_a_name_that_systemd_would_escape_is_no_instance(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name for an instance"):
        plans.check_instance(name)


@pytest.mark.parametrize(
    ("word", "written"),
    [("/opt/x", "/opt/x"), ("/a b", '"/a b"'), ("50%", "50%%"), ("$HOME", "$$HOME"), ('a"b', '"a\\"b"')],
)
def test_words_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert quoted(word) == written
