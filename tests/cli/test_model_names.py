"""What the commands take for a model: a path, or a name in the store or beside edgerun; and what is none of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerun.cli.main import main
from edgerun.errors import ConfigError
from edgerun.models.bundle import bundled_names
from edgerun.models.finding import model_path
from edgerun.models.store import stored_names
from tests.real_models import model_file

MODEL = "ssd-mobilenet-v2-oid"


@pytest.fixture
def stored() -> str:
    """A model in this device's store."""
    file = str(model_file("efficientnet_lite0_int8.tflite"))
    assert main(["models", "add", file, "--name", "flowers", "--version", "3"]) == 0
    return "flowers"


def test_a_name_of_the_store_and_one_of_edgerun(stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_path(stored).is_dir()
    assert model_path(f"{stored}@3").samefile(model_path(stored))
    assert model_path(MODEL).name == MODEL
    assert (MODEL in bundled_names(), stored in stored_names()) == (True, True)
    (tmp_path / stored).mkdir()
    assert model_path(stored) == Path(stored), "a path goes before a name"
    with pytest.raises(ConfigError, match=r"no such model; .*; got 'flower'\. Did you mean \"flowers\""):
        model_path("flower")


def test_the_commands_find_what_is_in_the_store(stored: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", stored, "--duration", "0.05", "--rounds", "1", "--warmup", "1", "--json"]) == 0
    assert main(["models", "inspect", stored]) == 0
    assert f"/{stored}/" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "nosuch"],
        ["bench", "nosuch", "--live"],
        ["tune", "nosuch"],
        ["explain", "nosuch", "{picture}"],
        ["batch", "{picture}", "--model", "nosuch", "-o", "{folder}/out"],
        ["models", "inspect", "nosuch"],
        ["run", "--model", "nosuch", "--source", "synthetic"],
        ["init", "--model", "nosuch", "--source", "synthetic", "--broker", "none", "--yes", "-o", "{folder}/a.toml"],
    ],
)
def test_an_unknown_model_is_the_operators_mistake(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    if words[0] == "batch":
        picture = picture.with_suffix(".csv")
        picture.write_text("a,b\n1,2\n")
    assert main([word.format(picture=picture, folder=tmp_path) for word in words]) == 2
    err = capsys.readouterr().err
    assert "nosuch" in err
    assert "edgerun: " in err
