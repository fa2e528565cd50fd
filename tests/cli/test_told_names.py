"""A mistake is told by the name that it was made under, and at a length that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.cli.main import main
from edgerun.errors import ConfigError

MODEL = ("--model", "ssd-mobilenet-v2-oid")
LONG = "x" * 5000


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["doctor", "--broker", "localhost"], "--broker: not usable; got 'localhost': no scheme"),
        (["doctor", "--broker", "http://me:s3cret@host"], "--broker: not usable; got 'http://"),
        (["batch", "{folder}", *MODEL, "-o", "{folder}/out", "--labels", "nowhere.txt"], "--labels: no such file"),
        (["batch", "{folder}", *MODEL, "-o", "{folder}/out", "--decoder", "nosuch"], "--decoder: unknown decoder kind"),
        (["batch", "{folder}", *MODEL, "-o", "{folder}/out", "--threshold", "3"], "--threshold: out of range"),
        (["batch", "{folder}", *MODEL, "-o", "{folder}/out", "--threads", "0"], "--threads: out of range"),
        (["init", "--yes", "-o", "{folder}/a", "--broker", "none", "--source", "nonsense"], "--source: not a source"),
        (["init", "--yes", "-o", "{folder}/a", "--source", "synthetic", "--broker", "foo"], "--broker: no scheme"),
        (
            ["init", "--yes", "-o", "{folder}/a", "--source", "synthetic", "--broker", "none", "--device", "A/B"],
            "--device: ",
        ),
    ],
)
def test_a_flag_is_called_what_it_is_called(
    words: list[str], flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert main([word.format(folder=tmp_path) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"edgerun: {flag}")
    assert "s3cret" not in err


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--model", LONG, "--source", "synthetic"],
        ["run", *MODEL, "--source", LONG + ".mp4"],
        ["run", *MODEL, "--source", "synthetic", "--decoder", LONG],
        ["run", *MODEL, "--source", "synthetic", "--broker", LONG],
        ["run", "--config", LONG],
        ["models", "inspect", LONG],
        ["control", "ready", "--socket", LONG],
    ],
)
def test_a_value_of_any_length_leaves_the_message_readable(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (2, 4)
    err = capsys.readouterr().err
    assert "x" * 40 in err
    assert len(err) < 1200


def test_only_what_is_too_long_is_cut() -> None:
    path = "/" + "y" * 299
    assert str(ConfigError("no such file", got=path)) == f"no such file; got {path}"
    assert str(ConfigError("no such file", got=path + "z")) == f"no such file; got {path[:150]}…{path[-149:]}z"
    many = "word " * 500
    assert str(ConfigError("no such file", got=many)) == f"no such file; got {many}"
