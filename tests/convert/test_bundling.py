"""The bundle that a conversion leaves: whole, loadable, and answering what its golden file says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgerun.app.opening import open_model
from edgerun.config import ModelConfig
from edgerun.convert.bundling import ModelFile, Origin, Recipe, created, put, seal, write_bundle
from edgerun.convert.pairs import Pair, open_pair
from edgerun.convert.parts import Measured, Network, Quality
from edgerun.convert.subject import Runner, Said, Subject, describe
from edgerun.errors import DeviceError, ModelError
from edgerun.models import golden_cases, load
from tests.convert.nets import CLASSES, SIZE, colour_net, quiet, write_pictures

QUALITY = Quality("accuracy", 0.98, 0.99, 0.98 / 0.99, 12, {"top1_agreement": 0.97})
ORIGIN = Origin("net.onnx", "ab" * 32, "edgerun convert net.onnx", "Apache-2.0", b"the licence\n")
TIMES = tuple(Measured(name, "a board", 1, p50, 2 * p50, 1000) for name, p50 in (("original", 4.0), ("result", 1.5)))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    network = Network(colour_net(tmp_path_factory.mktemp("net") / "net.onnx"), "onnx")
    return describe(network, None, Said(mean=(10.0, 20.0, 30.0), std=(255.0,) * 3, fit="letterbox", labels=CLASSES))


@pytest.fixture
def pair(subject: Subject, tmp_path: Path) -> Iterator[Pair]:
    found = open_pair(subject, [str(write_pictures(tmp_path / "set", 24, 1))], [], tmp_path, quiet)
    yield found
    found.close()


def recipe(subject: Subject, pair: Pair) -> Recipe:
    model = ModelFile("model.onnx", subject.model)
    return Recipe(
        "colours", "3", subject, (model,), QUALITY, "at least 99 %", "float", TIMES, ORIGIN, pair.evaluation
    )  # fmt: skip


def test_it_loads_and_says_everything(subject: Subject, pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle = write_bundle(folder, recipe(subject, pair))
    assert (bundle.name, bundle.version, bundle.task, bundle.labels) == ("colours", "3", "classify", CLASSES)
    assert bundle.picture.mean == (10.0, 20.0, 30.0)
    assert (bundle.picture.fit, bundle.picture.layout, bundle.picture.size) == ("letterbox", "NCHW", (SIZE, SIZE))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.onnx", "labels.txt", "golden.npz", "LICENSE"}
    assert manifest["source"] == {
        "from": "net.onnx", "sha256": "ab" * 32, "recipe": "edgerun convert net.onnx", "license": "Apache-2.0"
    }  # fmt: skip
    assert manifest["measured"]["accuracy"]["kept"] == pytest.approx(0.9899, abs=1e-4)
    assert manifest["measured"]["latency_ms"] == [
        {"device": "a board", "accelerator": "cpu", "threads": 1, "p50": 1.5, "p99": 3.0}
    ]
    model = open_model(ModelConfig(folder))
    model.engine.close()
    assert model.bundle.decoder == "classify"


def test_its_golden_cases_come_out_again(subject: Subject, pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle = write_bundle(folder, recipe(subject, pair))
    cases = golden_cases(bundle)
    assert len(cases) == 3
    with Runner(subject, bundle.model, "onnx", name="again") as runner:
        for case, at in zip(cases, (0, 6, 11), strict=True):
            assert case.picture.shape == (SIZE, SIZE, 3)
            sample = pair.evaluation[at]
            np.testing.assert_allclose(runner.real(sample)[0], case.expected["output0"], atol=2e-3)
            answer = runner.answer(sample, runner.decoder())
            assert answer.classes is not None
            assert case.expected["classes"].tolist() == [one.class_id for one in answer.classes]


def test_files_added_later_are_sealed_in(subject: Subject, pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder, recipe(subject, pair))
    (folder / "report.html").write_text("told")
    seal(folder)
    assert "report.html" in json.loads((folder / "manifest.json").read_text())["files"]
    (folder / "report.html").write_text("changed")
    with pytest.raises(ModelError, match="not the one its manifest lists"):
        load(folder)


def test_the_same_twice_is_the_same(
    subject: Subject, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795230000")
    assert created() == "2026-11-21T03:00:00Z"
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_bundle(tmp_path / name, recipe(subject, pair))
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


def test_a_full_disk_is_told(make_disk: Callable[[str], Path]) -> None:
    with pytest.raises(DeviceError, match=r"cannot be written.*Make room on the disk"):
        put(make_disk("16k") / "model.onnx", bytes(1 << 20))


def test_run_takes_it(subject: Subject, pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder, recipe(subject, pair))
    command = [sys.executable, "-m", "edgerun", "run", "--model", str(folder), "--source", str(tmp_path / "set")]
    done = subprocess.run([*command, "--jsonl", "-", "--quiet"], capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if '"classes"' in line]
    assert len(results) == 24
    right = sum(one["classes"][0]["class"] == int(Path(one["item"]).stem) % 3 for one in results)
    assert right >= 22
