"""Every command in the documents is one: what can be run here is run, of the rest the flags are looked at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerun.cli import flags
from edgerun.cli.main import COMMANDS, make_parser
from edgerun.config import build
from edgerun.errors import EdgerunError
from tests import emulators, mosquitto
from tests.docs import pages

ELSEWHERE = {"sudo", "apt", "apt-get", "pip", "pipx", "docker", "systemctl", "journalctl", "ssh", "scp", "git", "dpkg",
             "curl", "kubectl", "mkdir", "cd", "buildah", "python", "systemd-creds", "jq", "nvpmodel",
             "v4l2-ctl", "openssl", "mosquitto_sub", "mosquitto_passwd", "cp", "source", ".",
             "npm", "npx", "influx"}  # fmt: skip
"""Other programs: that they do what the page says is not for us to test, and some would change this machine."""
ENDLESS = {"run", "demo", "watch", "worker"}
ENDS = {"run": "edgerun run --seconds 2", "demo": "edgerun demo --seconds 2", "watch": "edgerun watch --once"}


def commands(page: Path) -> list[pages.Command]:
    return [step for step in pages.steps(page) if isinstance(step, pages.Command)]


ALL = [command for page in pages.PAGES for command in commands(page)]


def edgerun_words(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words behind each `edgerun` that is called in a line."""
    between = ("|", "||", "&&", ";", ">", ">>", "<", "2>")
    starts = [at for at, word in enumerate(words) if word == "edgerun" or word.endswith("/bin/edgerun")]
    for at in starts:
        before = words[at - 1] if at else ";"
        if before in between[:4] or before == "sudo" or before.partition("=")[0].isupper():
            behind = words[at + 1 :]
            yield behind[: next((k for k, word in enumerate(behind) if word in between), len(behind))]


_SETTING = re.compile(r"[A-Z_]+=")


@pytest.mark.parametrize("command", ALL, ids=lambda command: f"{command.page}: {command.line[:60]}")
def test_it_is_a_command(command: pages.Command) -> None:
    program = next(word for word in command.words if not _SETTING.match(word))
    if program.startswith("tools/"):
        path = pages.ROOT / program
        assert path.is_file(), command.line
        assert path.stat().st_mode & 0o111
    elif program not in ("edgerun",) and not program.startswith("mosquitto_"):
        name = program.rpartition("/")[2]
        assert {name, name.rstrip(".0123456789")} & ELSEWHERE or program.endswith("/bin/edgerun"), (
            f"{command.page}: {command.line}"
        )
    if program in ("docker", "kubectl", "systemctl", "journalctl", "pip", "pipx", "apt", "apt-get"):
        return
    for words in edgerun_words(command.words):
        if not words or words[0].startswith("-") or words[0] not in COMMANDS:
            assert words in ((), ("--help",), ("--version",)), f"{command.page}: {command.line}"
            continue
        args, unknown = make_parser(words[0]).parse_known_args([word for word in words if word != "--help"])
        assert not unknown, f"{command.page}: {command.line}: {unknown}"
        assert args.command == words[0]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_every_toml_is_read(page: Path) -> None:
    """A whole config is built; a part of one must be TOML, and its tables ours."""
    for kind, body in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        if kind == "toml":
            raw = tomllib.loads(body)
            assert set(raw) <= {"device", "mqtt", "models", "streams", "governor", "sensors", "quiet", "metrics", "web",
                                "security", "rollout", "store"} or "project" in raw, body  # fmt: skip


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the pages' placeholders stand for here."""
    folder = tmp_path_factory.mktemp("docs")
    film = folder / "film.mp4"
    shutil.copy(pages.ROOT / "models" / "clips" / "street.mp4", film)
    with mosquitto.broker() as broker, emulators.start("mjpeg", "--fps", 10, "--size", "640x480") as camera:
        yield {
            r"mqtts?://[\w.-]*(broker|localhost)[\w.-]*(:\d+)?": f"mqtt://127.0.0.1:{broker.port}",
            r"rtsps?://[^\s\"']+": camera.url,
            r"https?://cam[^\s\"']+": camera.url,
            r"/dev/(video|v4l/by-id/)[\w.-]+": "synthetic",
            r"/etc/edgerun/": "",
            "PORT": str(broker.port),
        }


def replaced(text: str, surroundings: dict[str, str]) -> str:
    for pattern, value in surroundings.items():
        if pattern != "PORT":
            text = re.sub(pattern, lambda _, value=value: value, text)
    return text


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_the_commands_of_a_page_work(page: Path, surroundings: dict[str, str], tmp_path: Path) -> None:
    ran = 0
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "100"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for step in pages.steps(page):
        if isinstance(step, pages.File):
            (tmp_path / step.name).write_text(replaced(step.text, surroundings))
            continue
        if step.why_not or step.words[0] not in ("edgerun", "mosquitto_pub"):
            continue
        line = replaced(step.line, surroundings)
        verb = step.words[1] if len(step.words) > 1 else ""
        if verb in ENDLESS and not {"--seconds", "--frames", "--help"} & set(step.words):
            assert verb in ENDS, f"{step.line}: say `<!-- not run: why -->` above it"
            line = line.replace(f"edgerun {verb}", ENDS[verb], 1)
        line = line.replace("mosquitto_pub", f"mosquitto_pub -p {surroundings['PORT']}")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=100,
        )  # fmt: skip
        assert done.returncode in (0, 141), f"{step.page}: {line}\n{done.stdout[-600:]}{done.stderr[-1500:]}"
        ran += 1
    for file in tmp_path.glob("*.toml"):
        raw = tomllib.loads(file.read_text())
        try:
            build(raw, flags.options_of, folder=tmp_path, find_model=flags.find_model)
        except EdgerunError as error:
            told = str(error)
        else:
            continue
        assert "no such file" in told, f"{page.name}: {file.name}: {told}"  # a model of the reader's
