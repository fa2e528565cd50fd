"""A sealed model and whatever opens one: with its key each command works, without it each says what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgerun.cli.main import main
from edgerun.models.sealed import seal_model_file
from edgerun.secret import Secret
from edgerun.security.sealing import SealingKey
from tests.test_end_to_end import CLIP, DETECTOR

KEY = SealingKey(bytes(range(32, 64)))
LOST = SealingKey(bytes(range(33, 65)))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled detector, sealed; `key` and `lost` beside it are files of its key and of another."""
    folder = tmp_path_factory.mktemp("sealed")
    model = folder / "detector"
    shutil.copytree(DETECTOR, model, ignore=shutil.ignore_patterns("clips"))
    for file in model.glob("*.tflite"):
        seal_model_file(file, KEY)
    for name, key in (("key", KEY), ("lost", LOST)):
        (folder / name).write_text(key.text())
        (folder / name).chmod(0o600)
    picture = folder / "picture.png"
    import cv2

    capture = cv2.VideoCapture(str(CLIP))
    cv2.imwrite(str(picture), capture.read()[1])
    capture.release()
    (folder / "edge.toml").write_text(
        f'[models.m]\npath = "{model}"\n[streams.s]\nmodel = "m"\nsource = "synthetic"\nmax_fps = 5\n'
        f'[security]\nmodel_key = {{ file = "{folder / "key"}" }}\n'
    )
    (folder / "keyless.toml").write_text((folder / "edge.toml").read_text().partition("[security]")[0])
    return folder


COMMANDS = {
    "inspect": ("models", "inspect", "MODEL"),
    "bench": ("bench", "MODEL", "--rounds", "1", "--iterations", "2", "--warmup", "1"),
    "bench, all stages": ("bench", "MODEL", "--rounds", "1", "--iterations", "2", "--warmup", "1", "--stage", "all"),
    "bench, by op": ("bench", "MODEL", "--rounds", "1", "--iterations", "2", "--warmup", "1", "--profile"),
    "compare": ("bench", "--compare", "MODEL", "MODEL", "--rounds", "1", "--iterations", "2", "--warmup", "1"),
    "explain": ("explain", "MODEL", "PICTURE", "--inferences", "60", "-o", "OUT"),
    "tune": ("tune", "MODEL", "--budget", "1", "--threads", "1"),
    "run": ("run", "--model", "MODEL", "--source", "synthetic", "--frames", "3", "--as-fast"),
}


def words(command: tuple[str, ...], sealed: Path, tmp_path: Path) -> list[str]:
    named = {"MODEL": sealed / "detector", "PICTURE": sealed / "picture.png", "OUT": tmp_path / "heat.png"}
    return [str(named.get(word, word)) for word in command]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_takes_the_key(
    command: tuple[str, ...], sealed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = words(command, sealed, tmp_path)
    assert main([*given, "--json", "--model-key", str(sealed / "key")]) == 0, capfd.readouterr().err
    said = capfd.readouterr()
    assert json.loads(said.out.splitlines()[-1])
    assert KEY.text() not in said.out + said.err
    assert main([*given, "--json"]) != 0
    said = capfd.readouterr()
    assert "the file is sealed" in said.err
    assert "--model-key FILE" in said.err
    assert main([*given, "--json", "--model-key", str(sealed / "lost")]) != 0
    assert "sealed with another key" in capfd.readouterr().err
    assert main([*given, "--json", "--model-key", str(sealed / "none")]) == 2
    assert "--model-key: no password there" in capfd.readouterr().err


def test_inspect_takes_the_key_of_a_config(sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "inspect", str(sealed / "detector"), "--config", str(sealed / "edge.toml"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["path"] == str(sealed / "detector")


@pytest.mark.parametrize("plain", [False, True])
def test_a_live_bench_takes_the_key_of_its_config(
    plain: bool, sealed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.toml"
    text = (sealed / "edge.toml").read_text()
    file.write_text(text.replace(f'{{ file = "{sealed / "key"}" }}', f'"{KEY.text()}"') if plain else text)
    args = ["bench", "--config", str(file), "--fps", "4", "--duration", "1", "--size", "320x240", "--json"]
    assert main(args) == 0, capfd.readouterr().err
    said = capfd.readouterr()
    assert json.loads(said.out)["live"][0]["account"]
    assert KEY.text() not in said.out + said.err


def test_doctor_takes_the_key_of_its_config(sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, status in (("edge.toml", "green"), ("keyless.toml", "red")):
        main(["doctor", "--config", str(sealed / name), "--json"])
        checks = json.loads(capfd.readouterr().out)["checks"]
        assert [one["status"] for one in checks if one["what"] == "model m"] == [status]
        assert KEY.text() not in json.dumps(checks)


def test_a_key_is_handed_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("credential", "env", "file"):
        secret = Secret(kind, "x")  # type: ignore[arg-type]
        assert secret.handed() == (kind, "x")
    handed = Secret("plain", "planted").handed()
    assert "planted" not in repr(handed)
    assert Secret(*handed).reveal() == "planted"
    monkeypatch.delenv(handed[1])
