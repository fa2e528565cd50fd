"""`edgerun service`: what it writes, what it leaves alone, and what systemd itself says of the units."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.cli import service
from edgerun.cli.parser import Parser
from edgerun.device.machine import Machine
from edgerun.errors import ConfigError, DeviceError, MissingError
from edgerun.service import systemd
from edgerun.service.install import install, uninstall
from edgerun.service.placing import Place, edited, marked
from edgerun.service.plan import Plan
from edgerun.service.units import File, compose, originals
from tests.test_service_machine import tree

ROOT = Path(__file__).parent.parent
UNITS = "etc/systemd/system"
GROUPS = frozenset({"video", "render", "audio", "dialout", "iio", "gpio", "i2c", "spi", "apex", "plugdev"})

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")


def plan(**changes: object) -> Plan:
    known = {"program": ("/bin/true",), "config": "/etc/edgerun/edgerun.toml", "groups": GROUPS}
    return Plan(**{**known, **changes})  # type: ignore[arg-type]


def command(*words: str) -> int:
    parser = Parser(prog="edgerun service")
    service.add_arguments(parser)
    return service.run(parser.parse_args(list(words)))


def texts(wanted: Plan) -> dict[str, str]:
    return {file.path: file.text for file in compose(wanted, originals())}


# what is written


def test_the_template_differs_from_the_unit_by_its_instance_alone() -> None:
    one = (originals() / "edgerun.service").read_text(encoding="utf-8").partition("[Unit]")[2]
    many = (originals() / "edgerun@.service").read_text(encoding="utf-8").partition("[Unit]")[2]
    for kind in ("State", "Cache"):
        one = one.replace(f"{kind}Directory=edgerun", f"{kind}Directory=edgerun/%i")
    why = "# Not within /run/edgerun, which goes when edgerun.service stops.\n"
    one = one.replace("RuntimeDirectory=edgerun", f"{why}RuntimeDirectory=edgerun-%i")
    one = one.replace("/edgerun.toml", "/%i.toml").replace("inference runtime", "inference runtime (%i)")
    assert many == one


def test_an_install_writes_units_user_folders_drop_ins_and_starts_it_at_boot(tmp_path: Path) -> None:
    outcome = install(plan(boards=frozenset({"pi"})), tmp_path)
    assert {deed.did for deed in outcome.files} == {"written"}
    there = {str(path.relative_to(tmp_path)) for path in (tmp_path / "etc").rglob("*") if not path.is_dir()}
    drop_ins = {f"{UNITS}/{unit}.d/{name}" for unit in ("edgerun.service", "edgerun@.service")
                for name in ("20-devices.conf", "25-raspberry-pi.conf")}  # fmt: skip
    assert there >= drop_ins | {f"{UNITS}/edgerun.service", f"{UNITS}/edgerun@.service"}
    assert there >= {"etc/sysusers.d/edgerun.conf", "etc/tmpfiles.d/edgerun.conf"}
    assert (tmp_path / UNITS / "multi-user.target.wants/edgerun.service").readlink() == Path(
        f"/{UNITS}/edgerun.service"
    )
    assert not [path for path in tmp_path.rglob("*") if "new" in path.name]
    assert "no /etc/edgerun/edgerun.toml yet" in outcome.hints[0]


def test_a_second_install_changes_nothing(tmp_path: Path) -> None:
    install(plan(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / UNITS).glob("*.service")}
    assert {deed.did for deed in install(plan(), tmp_path).files} == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_this_install_does_not_want_any_more_is_removed(tmp_path: Path) -> None:
    install(plan(boards=frozenset({"pi"}), strict_wx=True), tmp_path)
    own = tmp_path / UNITS / "edgerun.service.d" / "override.conf"
    own.write_text("[Service]\nNice=5\n")
    removed = {deed.path for deed in install(plan(), tmp_path).files if deed.did == "removed"}
    assert {path.rpartition("/")[2] for path in removed} == {"25-raspberry-pi.conf", "30-strict-wx.conf"}
    assert own.exists()


def test_an_edited_unit_is_not_overwritten_and_nothing_else_is_written(tmp_path: Path) -> None:
    install(plan(), tmp_path)
    unit = tmp_path / UNITS / "edgerun.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=30", "WatchdogSec=99"))
    with pytest.raises(ConfigError, match=r"/etc/systemd/system/edgerun\.service: not overwritten: edited by hand"):
        install(plan(boards=frozenset({"jetson"})), tmp_path)
    assert not (tmp_path / UNITS / "edgerun.service.d" / "25-jetson.conf").exists()
    install(plan(boards=frozenset({"jetson"})), tmp_path, force=True)
    assert "WatchdogSec=30" in unit.read_text()


def test_a_unit_that_somebody_else_wrote_is_an_edited_one(tmp_path: Path) -> None:
    (tmp_path / UNITS).mkdir(parents=True)
    (tmp_path / UNITS / "edgerun.service").write_text("[Service]\nExecStart=/bin/false\n")
    with pytest.raises(ConfigError, match="not written by edgerun"):
        install(plan(), tmp_path)
    assert [deed.did for deed in uninstall(None, tmp_path).files] == ["kept"]


def test_an_older_version_is_updated(tmp_path: Path) -> None:
    (tmp_path / UNITS).mkdir(parents=True)
    (tmp_path / UNITS / "edgerun.service").write_bytes(marked("[Service]\nExecStart=/usr/bin/edgerun\n"))
    deeds = {deed.path: deed.did for deed in install(plan(), tmp_path).files}
    assert deeds[f"{UNITS}/edgerun.service"] == "updated"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    assert {deed.did for deed in install(plan(), tmp_path, dry=True).files} == {"written"}
    assert not list(tmp_path.iterdir())
    install(plan(), tmp_path)
    uninstall(None, tmp_path, dry=True)
    assert (tmp_path / UNITS / "edgerun.service").exists()


def test_uninstall_leaves_config_state_and_what_was_edited(tmp_path: Path) -> None:
    install(plan(), tmp_path)
    install(plan(instance="yard", config="/srv/yard.toml"), tmp_path)
    config = tmp_path / "etc/edgerun/edgerun.toml"
    config.parent.mkdir(exist_ok=True)
    config.touch()
    edited_one = tmp_path / UNITS / "edgerun@.service.d" / "20-devices.conf"
    edited_one.write_text(edited_one.read_text() + "Nice=3\n")
    deeds = {deed.path: deed.did for deed in uninstall(None, tmp_path).files}
    assert deeds[f"{UNITS}/edgerun@.service.d/20-devices.conf"] == "kept"
    left = {str(path.relative_to(tmp_path)) for path in (tmp_path / UNITS).rglob("*") if not path.is_dir()}
    assert left == {f"{UNITS}/edgerun@.service.d/20-devices.conf"}
    assert config.exists()
    uninstall(None, tmp_path, force=True)
    assert not [path for path in (tmp_path / UNITS).rglob("*") if not path.is_dir()]


def test_an_instance_comes_and_goes_without_the_others(tmp_path: Path) -> None:
    install(plan(), tmp_path)
    install(plan(instance="yard", config="/srv/a b.toml", user="root", group="root"), tmp_path)
    own = tmp_path / UNITS / "edgerun@yard.service.d"
    assert 'Environment="EDGERUN_CONFIG=/srv/a b.toml"' in (own / "10-config.conf").read_text()
    assert "User=root" in (own / "10-user.conf").read_text()
    wants = tmp_path / UNITS / "multi-user.target.wants"
    assert (wants / "edgerun@yard.service").readlink() == Path(f"/{UNITS}/edgerun@.service")
    uninstall("yard", tmp_path)
    assert not own.exists()
    assert [path.name for path in wants.iterdir()] == ["edgerun.service"]


def test_the_program_the_config_and_a_home_are_put_in() -> None:
    found = texts(plan(program=("/home/pi/my env/bin/edgerun",), config="/home/pi/100%.toml"))
    assert (
        'ExecStart="/home/pi/my env/bin/edgerun" run --quiet --config ${EDGERUN_CONFIG}\n'
        in found[f"{UNITS}/edgerun.service"]
    )
    assert "Environment=EDGERUN_CONFIG=/home/pi/100%%.toml" in found[f"{UNITS}/edgerun.service.d/10-config.conf"]
    assert "ProtectHome=read-only" in found[f"{UNITS}/edgerun.service.d/10-home.conf"]


def test_groups_that_do_not_exist_are_left_out() -> None:
    found = texts(plan(boards=frozenset({"coral", "pi"}), groups=frozenset({"video", "gpio"})))
    pi = found[f"{UNITS}/edgerun.service.d/25-raspberry-pi.conf"]
    assert "SupplementaryGroups=video gpio\n" in pi
    assert "# not on this system: render i2c spi\n" in pi
    assert "\nSupplementaryGroups" not in found[f"{UNITS}/edgerun.service.d/25-coral.conf"]


@pytest.mark.parametrize(("version", "there"), [(None, False), (253, False), (254, True)])
def test_a_growing_back_off_only_where_systemd_knows_it(version: int | None, there: bool) -> None:
    found = texts(plan(systemd_version=version))
    assert (f"{UNITS}/edgerun.service.d/15-restart-backoff.conf" in found) is there


def test_folders_belong_to_the_user_of_the_service() -> None:
    found = texts(plan(user="pi", group="users"))
    assert "d /etc/edgerun 0750 root users -" in found["etc/tmpfiles.d/edgerun.conf"]
    assert "d /var/lib/edgerun 0750 pi users -" in found["etc/tmpfiles.d/edgerun.conf"]
    assert "etc/sysusers.d/edgerun.conf" not in found


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DeviceError, match=r"cannot be written or read.*run it as root"):
        install(plan(), tmp_path)


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()
    with pytest.raises(DeviceError, match="cannot be written or read"):
        install(plan(), tmp_path)


@given(st.text(), st.integers(min_value=0), st.binary(min_size=1, max_size=3))
def test_any_change_of_a_file_is_seen(text: str, at: int, change: bytes) -> None:
    content = marked(text)
    assert not edited(content)
    at %= len(content)
    assert edited(content[:at] + change + content[at:])
    assert edited(content[:-1])


def test_a_link_in_the_place_of_a_unit_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(marked("mine"))
    (tmp_path / "unit").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="not overwritten"):
        Place(tmp_path).put([File("unit", "yours")])
    Place(tmp_path, force=True).put([File("unit", "yours")])
    assert (tmp_path / "elsewhere").read_bytes() == marked("mine")


# what systemd says of it


@needs_systemd
@pytest.mark.parametrize("boards", [(), ("pi",), ("jetson",), ("coral",), ("pi", "jetson", "coral")])
def test_systemd_finds_nothing_wrong(tmp_path: Path, boards: tuple[str, ...]) -> None:
    """An unknown key is only a warning on standard error: it must be silent."""
    install(plan(boards=frozenset(boards), instance="yard", config="/x y.toml", strict_wx=True), tmp_path)
    folder = tmp_path / UNITS
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(folder / "edgerun.service"), str(folder / "edgerun@.service")],
        capture_output=True, text=True, timeout=60, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )  # fmt: skip
    about = [line for line in done.stderr.splitlines() if "edgerun" in line]
    assert not about
    assert done.returncode == 0, done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", ["edgerun.service", "edgerun@.service"])
@pytest.mark.parametrize("boards", [(), ("pi", "jetson", "coral")])
def test_exposure_is_at_most_2_3(tmp_path: Path, unit: str, boards: tuple[str, ...]) -> None:
    install(plan(boards=frozenset(boards)), tmp_path)
    folder = tmp_path / UNITS
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=23", "--no-pager", str(folder / unit)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exposure level" in done.stdout


# the machine


# the command


def test_the_command_installs_into_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, {"etc/group": "video:x:44:\n", "etc/edgerun/dock.toml": ""})
    words = ["service", "install", "--root", str(tmp_path), "--board", "pi,coral", "--config", "etc/edgerun/dock.toml"]
    assert command(*words[1:], "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {deed["did"] for deed in told["files"]} == {"written"}
    assert told["unit"] == "edgerun.service"
    text = (tmp_path / UNITS / "edgerun.service.d/10-config.conf").read_text()
    assert "EDGERUN_CONFIG=/etc/edgerun/dock.toml" in text
    assert "ExecStart=/opt/edgerun/bin/edgerun run" in (tmp_path / UNITS / "edgerun.service").read_text()
    assert command("uninstall", "--root", str(tmp_path)) == 0
    assert f"removed    {tmp_path}/{UNITS}/edgerun.service\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--board", "jetsn"], 'Did you mean "jetson"'),
        (["--instance", "A"], "not a name for an instance"),
        (["--user", "ghost"], "no such user"),
        (["--config", "/etc/nothing.toml"], "there is no such config"),
        (["--now"], "no config to start with"),
        (["--program", "edgerun"], "absolute paths only"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command("install", "--root", str(tmp_path), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(systemd.is_running(), reason="systemd runs here: it would be asked")
@pytest.mark.parametrize("words", [["install"], ["uninstall"], ["status"]])
def test_without_systemd_it_says_so(words: list[str]) -> None:
    with pytest.raises(MissingError, match="there is no systemd to"):
        command(*words)


SHOWN = """\
Type=notify
Id=edgerun.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
MainPID=812
ExecMainStatus=0
NRestarts=3
StatusText=2 streams = 10.4 results/s
ActiveEnterTimestamp=Sat 2026-11-21 11:20:37 UTC
MemoryCurrent=152043520
CPUUsageNSec=4300000000
TasksCurrent=14

Id=edgerun@yard.service
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=
Result=watchdog
MainPID=0
ExecMainStatus=6
NRestarts=0
StatusText=
ActiveEnterTimestamp=
MemoryCurrent=[not set]
CPUUsageNSec=18446744073709551615
TasksCurrent=[not set]

Id=edgerun@gone.service
LoadState=not-found
ActiveState=inactive
SubState=dead
"""


def test_what_systemctl_shows_is_read() -> None:
    dock, yard, gone = systemd.read_show(SHOWN)
    assert (dock.active, dock.pid, dock.restarts, dock.memory_mib, dock.cpu_s) == ("active", 812, 3, 145.0, 4.3)
    assert dock.text == "2 streams = 10.4 results/s"
    assert (yard.result, yard.exit_code, yard.pid, yard.memory_mib, yard.cpu_s) == ("watchdog", 6, None, None, None)
    assert not gone.loaded
    lines = [line for unit in (dock, yard, gone) for line in service.as_lines(unit)]
    assert lines[0] == "edgerun.service  active (running) since Sat 2026-11-21 11:20:37 UTC"
    assert "edgerun@yard.service  failed (failed, watchdog, exit code 6)" in lines
    assert lines[-1] == "edgerun@gone.service  not installed (edgerun service install)"


@given(st.text())
def test_no_answer_of_systemctl_breaks_it(text: str) -> None:
    for unit in systemd.read_show(text):
        assert list(service.as_lines(unit))


def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(DeviceError, match=r"sh -c .*: failed; got no such unit"):
        systemd.run(["sh", "-c", "echo no such unit >&2; exit 5"])
    with pytest.raises(MissingError, match="no there-is-no-such-program here"):
        systemd.run(["there-is-no-such-program"])
    assert systemd.run(["sh", "-c", "echo told; exit 5"], may_fail=True) == "told\n"


def test_the_flags_make_the_plan(tmp_path: Path) -> None:
    tree(tmp_path, {"etc/group": "video:x:44:\n"})
    words = argparse.Namespace(
        instance="yard", user="edgerun", config=None, board="none", strict_wx=True, program="/usr/bin/edgerun"
    )
    made = service.make_plan(words, Machine(tmp_path))
    assert made == Plan(
        ("/usr/bin/edgerun",), "/etc/edgerun/yard.toml", instance="yard", groups=frozenset({"video"}), strict_wx=True
    )
