"""Where commands are to write: places that cannot be, disks without room, and what is there before."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from pathlib import Path

import pytest

from edgerun.cli.main import main
from edgerun.cli.writing import write_text
from edgerun.errors import ConfigError, EdgerunError
from edgerun.telemetry.trace import check_target
from tests.cli.test_commands import edgerun

FRIGATE = "cameras:\n  dock:\n    ffmpeg:\n      inputs:\n        - path: rtsp://cam.example/1\n"
INIT = ("init", "--source", "synthetic", "--broker", "none", "--yes")


def _no_room() -> None:
    """A disk that takes no byte: EFBIG, where a full one says ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.fixture
def frigate(tmp_path: Path) -> Path:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "frigate.yml").write_text(FRIGATE)
    return tmp_path / "frigate.yml"


def test_a_full_disk_leaves_nothing_behind(frigate: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "edge.toml"
    target.parent.mkdir()
    for words in (INIT, ("import-frigate", frigate)):
        done = edgerun(*words, "-o", target, preexec_fn=_no_room)
        assert done.returncode == 1
        assert f"edgerun: {target}: cannot be written; got File too large. Make room on the disk.\n" in done.stderr
        assert list(target.parent.iterdir()) == []


def test_a_target_that_cannot_be_is_the_operators_mistake(frigate: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "edge"
    model = ("--model", "ssd-mobilenet-v2-oid", "--source", "synthetic", "--frames", 1, "--no-page", "--quiet")
    for words in (
        (*INIT, "-o", target),
        ("import-frigate", frigate, "-o", target),
        ("run", *model, "--trace", target),
        ("run", *model, "--save", f"{target}.mp4"),
        ("run", *model, "--jsonl", target),
    ):
        done = edgerun(*words)
        assert (done.returncode, "No such file or directory" in done.stderr) == (2, True), done.stderr


def test_what_is_replaced_stays_until_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "edge.toml"
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "link.toml").symlink_to(target)
    done = edgerun(*INIT, "-o", target, "--force", preexec_fn=_no_room)
    assert (done.returncode, target.read_text()) == (1, "old")
    write_text(tmp_path / "link.toml", "new")
    assert (target.read_text(), (tmp_path / "link.toml").is_symlink()) == ("new", True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_text(tmp_path / "edge.toml", "text")
    assert (tmp_path / "edge.toml").stat().st_mode == (tmp_path / "other").stat().st_mode
    with pytest.raises(ConfigError, match="cannot be written; got Is a directory"):
        write_text(tmp_path, "text")
    with pytest.raises(EdgerunError, match=os.strerror(errno.ENOSPC)):
        write_text(Path("/dev/full"), "text")


def test_a_trace_that_finds_no_room_at_the_end(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    model = ("--model", "ssd-mobilenet-v2-oid", "--source", "synthetic", "--frames", 2, "--as-fast", "--no-page")
    done = edgerun("run", *model, "--quiet", "--json", "--trace", trace, preexec_fn=_no_room)
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert summary["streams"]["main"]["published"] == 2
    (one,) = summary["incomplete"]
    assert one.startswith(f"{trace}: the trace cannot be written there; got File too large")


def test_where_a_trace_can_be(tmp_path: Path) -> None:
    check_target(tmp_path / "trace.json")
    assert list(tmp_path.iterdir()) == []
    for wrong in (tmp_path, tmp_path / "nowhere" / "trace.json"):
        with pytest.raises(ConfigError, match="cannot write a trace there"):
            check_target(wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML; got "),
        ("- 1\n- 2\n", "not a config of Frigate; expected a mapping with `cameras`"),
        ("- 1\n- 2\n", "got a list of 2."),
        ("mqtt: {}\nfoo: 1\n", "got the keys 'mqtt', 'foo'."),
        ("cameras: {}\n", "cameras: not a config of Frigate; expected a mapping with `cameras`"),
        ("cameras: [1]\n", "got a list of 1."),
        ("cameras:\n  dock: 7\n", "cameras.dock: not a mapping; got 7."),
    ],
)
def test_a_file_that_is_no_config_of_frigate(
    text: str, said: str, frigate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frigate.write_text(text)
    assert main(["import-frigate", str(frigate)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"edgerun: {frigate}: ")
    assert said in err


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_an_image_that_is_not_there(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["service", action, "--root", str(tmp_path / "image"), "--dry-run"])
    assert code == 2
    assert "edgerun: --root: no such folder; expected the root of a mounted image" in capsys.readouterr().err
