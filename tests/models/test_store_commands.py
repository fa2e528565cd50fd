"""`edgerun models` as an operator uses it, in processes of their own: keys, trust, store, and what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgerun.models.store import Store
from tests.models.bundles import files
from tests.models.stores import bundle, zipped
from tests.real_models import ROOT

ACTIONS = ("list", "fetch", "add", "activate", "rollback", "verify", "inspect", "prune", "sign", "keygen")
STEPS = ("list", "add", "revoke", "rotate")


class Device:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.trust = folder / "trust"

    def run(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgerun", "models", *map(str, words)]
        return subprocess.run(
            command, cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT), **more},
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def ok(self, *words: object, **more: str) -> dict[str, Any]:
        done = self.run(*words, "--json", **more)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["v"] == 1
        return found

    def refused(self, *words: object, **more: str) -> str:
        done = self.run(*words, **more)
        assert done.returncode in (1, 2, 4), done.stdout + done.stderr  # a model's, the operator's, the device's fault
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return done.stderr

    def here(self) -> tuple[object, ...]:
        return "--store", self.store, "--trust", self.trust


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.mark.parametrize("words", [*((one,) for one in ACTIONS), *(("trust", one) for one in STEPS)])
def test_every_action_has_help_with_an_example(device: Device, words: tuple[str, ...]) -> None:
    done = device.run(*words, "--help")
    assert done.returncode == 0
    assert f"  edgerun models {' '.join(words)}" in done.stdout.partition("example")[2]
    assert "--json" in done.stdout


def test_from_a_key_to_a_signed_model_and_back(device: Device, tmp_path: Path) -> None:
    key = device.ok("keygen", "-o", "release.key", "--comment", "release 2026")
    assert (tmp_path / "release.key").stat().st_mode & 0o777 == 0o600
    assert device.ok("trust", "add", "release.key.pub", "--trust", device.trust)["keys"][0]["state"] == "trusted"
    for version in "123":
        device.ok("sign", bundle(tmp_path, version), "--key", "release.key")
        one = device.ok("add", tmp_path / f"net-{version}", *device.here())
        assert (one["version"], one["trusted"], one["signer"]) == (version, "signed", key["id"])
    assert (Path(one["path"]) / "manifest.sig").exists()
    (model,) = device.ok("list", *device.here())["models"]
    assert (model["active"], model["previous"], model["latest"]) == ("3", "2", "3")
    assert device.ok("rollback", "net", *device.here())["version"] == "2"
    assert "an older version" in device.refused("activate", "net@1", *device.here())
    assert device.ok("activate", "net@1", "--force", *device.here())["version"] == "1"
    assert device.ok("verify", *device.here())["ok"] is True
    assert device.ok("prune", "--keep", "0", *device.here())["freed_bytes"] > 0
    assert [one.version for one in Store.open(device.store).versions("net")] == ["2", "1"]
    device.ok("trust", "revoke", key["id"], "--reason", "laptop lost", "--trust", device.trust)
    done = device.run("verify", "net", "--json", *device.here())
    assert done.returncode == 1
    assert all("laptop lost" in row["error"] for row in json.loads(done.stdout)["models"])
    assert "laptop lost" in device.refused("add", tmp_path / "net-3", *device.here())


def test_keys_rotate(device: Device, tmp_path: Path) -> None:
    for name in ("old", "new"):
        device.ok("keygen", "-o", f"{name}.key")
    device.ok("trust", "add", "old.key.pub", "--trust", device.trust)
    device.ok("sign", "new.key.pub", "--key", "old.key")
    found = device.ok("trust", "rotate", "new.key.pub", "--retire", "2020-01-01", "--trust", device.trust)
    assert sorted(one["state"] for one in found["keys"]) == ["expired", "trusted"]
    device.ok("sign", zipped(tmp_path, "1"), "--key", "old.key")
    assert "was to be used until 2020-01-01" in device.refused("add", "net-1.zip", *device.here())
    device.ok("sign", "net-1.zip", "--key", "new.key", "--more")
    assert device.ok("add", "net-1.zip", *device.here())["trusted"] == "signed"


def test_a_passphrase_comes_from_the_environment(device: Device, tmp_path: Path) -> None:
    assert "no terminal to ask" in device.refused("keygen", "-o", "r.key", "--passphrase")
    device.ok("keygen", "-o", "r.key", "--passphrase", EDGERUN_KEY_PASSPHRASE="planted-secret")
    path = bundle(tmp_path, "1")
    said = device.refused("sign", path, "--key", "r.key", EDGERUN_KEY_PASSPHRASE="another-secret")
    assert "a wrong passphrase" in said
    assert "another-secret" not in said
    device.ok("sign", path, "--key", "r.key", EDGERUN_KEY_PASSPHRASE="planted-secret")


def test_a_bare_file_is_wrapped_and_said_to_be_unsigned(device: Device, tmp_path: Path) -> None:
    (tmp_path / "My Net.onnx").write_bytes(files()["model.onnx"])
    done = device.run("add", "My Net.onnx", *device.here())
    assert done.returncode == 0, done.stderr
    assert done.stdout == "my-net@1: installed\n"
    assert "WARNING: my-net@1 is not signed" in done.stderr
    assert device.ok("add", "My Net.onnx", "--name", "net", "--version", "2.5", *device.here())["version"] == "2.5"
    assert device.ok("inspect", device.store / "net" / "2.5")["path"].endswith("net/2.5")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("page.tflite", b"<html>not found</html>", "page.tflite: not a model of the format that its name says"),
        ("page.onnx", b"<html>not found</html>", "page.onnx: not a model of the format that its name says"),
        ("none.tflite", b"", "none.tflite: not a model; expected 1 to"),
    ],
)
def test_a_file_that_is_no_model_does_not_get_in(
    device: Device, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    told = device.refused("add", name, *device.here())
    assert said in told
    assert ".staging" not in told
    assert device.ok("list", *device.here())["models"] == []


def test_what_is_asked_for_wrongly(device: Device, tmp_path: Path) -> None:
    path = zipped(tmp_path, "1")
    for words, said in (
        (("add", "https://models.example/x.zip"), "that is for edgerun models fetch"),
        (("fetch", path), "that is for edgerun models add"),
        (("fetch", "http://models.example/x.zip"), "not a source of models"),
        (("fetch", "silero-vat"), "edgerun models list --catalog shows its names"),
        (("add", "none.zip"), "no such file"),
        (("add", path, "--sha256", "0" * 64), "not the file that was meant"),
        (("add", path, "--name", "other"), "another model than was asked for; expected other@…; got net@1"),
        (("add", path, "--version", "2"), "another model than was asked for; expected …@2; got net@1"),
        (("activate", "net"), "which version"),
        (("activate", "net@1"), "no such model in the store"),
        (("rollback", "net"), "no such model in the store"),
        (("prune", "--keep", "-1"), "not a number of versions"),
    ):
        assert said in device.refused(*words, *device.here())
    assert "no such key" in device.refused("trust", "revoke", "0" * 16, "--trust", device.trust)


def test_the_config_says_who_is_trusted_and_how_much_room_there_is(device: Device, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        '[store]\nmax_bytes = 1048576\nkeep = 1\n[security]\ntrust = "trust"\n[models.x]\npath = "none"\n'
    )
    path = bundle(tmp_path, "1", more=["x" * 900_000])
    assert device.ok("add", path, "--store", device.store, "--config", config)["version"] == "1"
    second = bundle(tmp_path, "2", more=["x" * 900_000])
    assert "would outgrow its budget" in device.refused("add", second, "--store", device.store, "--config", config)


def test_a_run_takes_its_model_from_the_store(device: Device, tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    device.ok("add", ROOT / "models" / "ssd-mobilenet-v2-oid", **state)
    version = Store.open(tmp_path / "state" / "edgerun" / "models").record("ssd-mobilenet-v2-oid").active
    stream = f'[streams.s]\nmodel = "main"\nsource = "{ROOT / "models" / "clips" / "street.mp4"}"\n'
    text = f'[models.main]\npath = "ssd-mobilenet-v2-oid@{version}"\n{stream}'
    (tmp_path / "edge.toml").write_text(text)
    words = [sys.executable, "-m", "edgerun", "check", "--config", str(tmp_path / "edge.toml"), "--json"]
    done = subprocess.run(words, env={**os.environ, **state}, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert str(tmp_path / "state" / "edgerun" / "models" / "ssd-mobilenet-v2-oid" / str(version)) in done.stdout
    (tmp_path / "edge.toml").write_text(text.replace(f"@{version}", "@77"))
    done = subprocess.run(words, env={**os.environ, **state}, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2
    assert "no such file" in done.stdout + done.stderr
