"""Errors name the page that helps: the page exists, it is the right one, and programs do not have to read it away."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgerun.cli import docs, flags
from edgerun.cli.docs import page_of
from edgerun.config import load
from edgerun.errors import ConfigError, ConfigErrors, DeviceError, EdgerunError, MissingError
from edgerun.security.signing import decode

ROOT = Path(__file__).parents[2]
BAD = ROOT / "tests" / "configs" / "bad"
PROGRAM = (sys.executable, "-m", "edgerun")


def anchors(page: Path) -> set[str]:
    """Of its headings, as forges make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


NAMED = {
    docs.EXTRAS,
    *(f"{docs.CONFIG}#{anchor}" for anchor in docs.TABLES.values()),
    *docs.ROOMS.values(),
    *(page for _, page in docs.KINDS),
}


@pytest.mark.parametrize("named", sorted(NAMED))
def test_every_page_that_is_named_is_there_with_its_heading(named: str) -> None:
    page, _, anchor = named.partition("#")
    assert (ROOT / "docs" / page).is_file()
    assert not anchor or anchor in anchors(ROOT / "docs" / page)


def test_every_table_of_the_config_has_its_heading_named() -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    headings = {match[1] for match in re.finditer(r"^## \[([^\]]+)\]", text, re.M)}
    named = {name + (".NAME" if name in ("models", "streams", "quiet") else "") for name in docs.TABLES}
    assert {heading.replace(".ZONE", "") for heading in headings} - named == {"governor.temp_c"}, "that is `governor`"


@pytest.mark.parametrize("module", docs.ROOMS)
def test_every_room_that_is_named_is_one(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_every_mistake_in_a_config_that_is_told_with_its_line_has_a_page() -> None:
    for file in sorted(BAD.glob("*.toml")):
        with pytest.raises(ConfigErrors) as caught:
            load(file, flags.options_of, flags.find_model)
        for error in caught.value.errors:
            if re.search(r"\.toml:\d+", str(error.where)):
                page = page_of(error)
                assert page is not None, str(error)
                assert page.startswith("config.md"), str(error)


@pytest.mark.parametrize(
    ("where", "page"),
    [
        ("a.toml:3: mqtt.spool.max_bytes", "config.md#mqttspool"),
        ("mqtt.url", "config.md#mqtt"),
        ("a.toml:9: mqtt.password", "config.md#passwords"),
        ('a.toml:12: streams.dock.zones."The Yard"', "config.md#streamsnamezoneszone"),
        ('a.toml:12: streams."a.b".gate.motion', "config.md#streamsnamegate"),
        ("streams.dock.source.fps", "config.md#sources"),
        ("models.detector.threads", "config.md#modelsname"),
        ("a.toml:2: stream", "config.md"),
        ("a.toml", None),
        ("--threads", None),
        (None, None),
    ],
)
def test_a_config_s_key_leads_to_its_table(where: str | None, page: str | None) -> None:
    assert page_of(ConfigError("wrong", where=where)) == page


def test_where_it_was_raised_counts() -> None:
    with pytest.raises(EdgerunError) as caught:
        decode(b"no signature", "manifest.sig")
    assert page_of(caught.value) == "models.md#signing"
    assert page_of(DeviceError("raised nowhere")) == "troubleshooting.md"
    assert page_of(EdgerunError("raised nowhere")) is None


def test_a_missing_extra_leads_to_how_extras_are_added() -> None:
    assert page_of(MissingError("x", where="--cluster", remedy="pip install 'edgerun[cluster]'")) == "install.md#extras"


def at_a_terminal(*words: object, cwd: Path = ROOT) -> list[str]:
    """What the command says on a standard error that is a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen([*PROGRAM, *map(str, words)], stdout=subprocess.DEVNULL, stderr=its, cwd=cwd)
    os.close(its)
    said = b""
    with contextlib.suppress(OSError):  # Linux: EIO, when the last one that had it has closed it
        while more := os.read(ours, 65536):
            said += more
    os.close(ours)
    assert process.wait(60) != 0
    return said.decode().splitlines()


def test_a_page_is_named_once_below_all_mistakes(tmp_path: Path) -> None:
    one = at_a_terminal("check", "--config", BAD / "threads-zero.toml")
    assert one[1:] == ["docs: docs/config.md#modelsname"]
    two = at_a_terminal("check", "--config", BAD / "web-open.toml")
    assert [line for line in two if line.startswith("docs: ")] == ["docs: docs/config.md#web"]
    several = at_a_terminal("check", "--config", BAD / "stream-name-quoted.toml", cwd=tmp_path)
    assert [line for line in several if line.startswith("docs: ")] == [f"docs: {ROOT}/docs/config.md#streamsname"]


def test_a_broker_that_cannot_be_reached() -> None:
    said = at_a_terminal("watch", "--once", "--broker", "mqtt://127.0.0.1:1")
    assert said[-1] == "docs: docs/operations.md#watch-one-or-many"


def test_who_is_no_person_is_told_the_error_alone() -> None:
    """A journal, a pipe, a program; and what reads JSON has a key of its own."""
    words = [*PROGRAM, "check", "--config", BAD / "threads-zero.toml"]
    assert "docs:" not in subprocess.run(words, capture_output=True, text=True, timeout=60).stderr
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=60)
    (error,) = json.loads(done.stdout)["errors"]
    assert error["docs"] == "config.md#modelsname"
    assert "docs" not in error["message"]
    assert done.stderr == ""


@pytest.mark.parametrize("words", [("run", "--threads", "two"), ("check", "--config", "nowhere.toml"), ("rnu",)])
def test_where_help_is_what_helps_no_page_is_named(words: tuple[str, ...]) -> None:
    said = at_a_terminal(*words)
    assert said
    assert not [line for line in said if line.startswith("docs:")]
