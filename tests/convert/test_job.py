"""Whole conversions of a tiny net: what is delivered, and that nothing is left where it is not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerun.convert.job import Job, preview, run
from edgerun.convert.place import Place, report_folder
from edgerun.convert.subject import Said
from edgerun.errors import ConfigError, DeviceError, ModelError
from edgerun.models import golden_cases, load
from tests.convert.nets import CLASSES, colour_net, quiet, write_pictures

PLAIN = Said(mean=(0.0,), std=(255.0,), labels=CLASSES)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net, one that 8 bits break, and labelled and unlabelled pictures."""
    folder = tmp_path_factory.mktemp("ground")
    colour_net(folder / "net.onnx")
    colour_net(folder / "fragile.onnx", outlier=3000.0)
    write_pictures(folder / "frames", 24, 1)
    write_pictures(folder / "labelled", 60, 2, labelled=True)
    return folder


def job(ground: Path, tmp_path: Path, **changes: Any) -> Job:
    plain = Job(
        source=str(ground / "net.onnx"),
        output=tmp_path / "out" / "bundle",
        calibrate=(str(ground / "frames"),),
        evaluate=(str(ground / "labelled"),),
        said=PLAIN,
        measure=False,
        command="edgerun convert net.onnx",
    )
    return msgspec.structs.replace(plain, **changes)


def left(tmp_path: Path) -> list[str]:
    folder = tmp_path / "out"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_whole_bundle_with_its_report(ground: Path, tmp_path: Path) -> None:
    asked = job(ground, tmp_path, measure=True, licence="MIT")
    outcome = run(asked, quiet)
    assert outcome.passed
    assert (outcome.precision, outcome.format, outcome.task) == ("int8", "onnx", "classify")
    assert (outcome.quality.metric, outcome.quality.samples) == ("accuracy", 60)
    assert [one.name for one in outcome.measured] == ["original", "result"]
    sizes = [(ground / "net.onnx").stat().st_size, (asked.output / "model.onnx").stat().st_size]
    assert [one.size_bytes for one in outcome.measured] == sizes, "the original as it was given"
    assert left(tmp_path) == ["bundle"]
    bundle = load(asked.output)
    assert bundle.labels == CLASSES
    assert len(golden_cases(bundle)) == 3
    told = json.loads((asked.output / "report.json").read_text())
    assert told["repeat"]["source"]["name"] == "net.onnx"
    assert set(told["repeat"]["tools"]) >= {"numpy", "onnx", "onnxruntime"}
    assert told["repeat"]["calibration"]["samples"] == 24
    assert [one["name"] for one in told["steps"]][:4] == ["import", "samples", "preview", "calibrate"]
    manifest = json.loads((asked.output / "manifest.json").read_text())
    assert manifest["source"]["license"] == "MIT"
    assert {"report.html", "report.json"} <= set(manifest["files"])
    assert b"data:image" in (asked.output / "report.html").read_bytes()


def test_the_same_job_gives_the_same_model(ground: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        asked = job(ground, tmp_path, output=tmp_path / name)
        run(asked, quiet)
        made.append(((asked.output / "model.onnx").read_bytes(), (asked.output / "golden.npz").read_bytes()))
    assert made[0] == made[1]


def test_where_int8_breaks_it_layers_stay(ground: Path, tmp_path: Path) -> None:
    outcome = run(job(ground, tmp_path, source=str(ground / "fragile.onnx")), quiet)
    assert outcome.passed
    assert outcome.precision == "mixed"
    assert outcome.quality_naive is not None
    assert outcome.quality_naive.kept < 0.9
    assert any(one.precision != "int8" for one in outcome.layers)
    text = next(one.text for one in outcome.steps if one.name == "choose")
    assert "of the MACs" in text
    assert "flatters" in text


def test_a_gate_missed_leaves_the_report_alone(ground: Path, tmp_path: Path) -> None:
    asked = job(ground, tmp_path, source=str(ground / "fragile.onnx"), precision="int8")
    outcome = run(asked, quiet)
    assert not outcome.passed
    assert outcome.bundle is None
    assert left(tmp_path) == ["bundle-report"]
    assert sorted(one.name for one in report_folder(asked.output).iterdir()) == ["report.html", "report.json"]
    advice = " ".join(outcome.advice)
    assert "The classes that lose most" in advice
    assert "--precision mixed" in advice
    run(asked, quiet)  # a second report takes the first one's place
    assert left(tmp_path) == ["bundle-report"]


@pytest.mark.parametrize("precision", ["fp16", "float"])
def test_without_integers(ground: Path, tmp_path: Path, precision: str) -> None:
    outcome = run(job(ground, tmp_path, precision=precision), quiet)
    assert outcome.passed
    assert outcome.precision == precision
    assert outcome.layers == ()


def test_onnx_in_tflite_out(ground: Path, tmp_path: Path) -> None:
    pytest.importorskip("litert_quantizer", reason="TFLite is quantised by the extra `convert`")
    asked = job(ground, tmp_path, source=str(ground / "fragile.onnx"), format="tflite")
    outcome = run(asked, quiet)
    assert outcome.passed
    assert outcome.quality_naive is not None
    assert all(one.layer.weights > 0 for one in outcome.layers if one.layer.op == "CONV_2D")
    bundle = load(asked.output)
    assert (bundle.format, bundle.picture.layout, bundle.picture.size) == ("tflite", "NHWC", (16, 16))
    assert [one.name for one in outcome.steps][3] == "to tflite"
    assert outcome.quality.samples == 60


def test_for_the_edge_tpu_with_its_coverage_and_its_compiler(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litert_quantizer", reason="TFLite is quantised by the extra `convert`")
    asked = job(ground, tmp_path, target="edgetpu", compression=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run(asked, quiet)
    assert (outcome.passed, outcome.precision, outcome.format) == (True, "int8", "tflite")
    said = {one.name: one.text for one in outcome.steps}
    assert "operators fit the Edge TPU by the published table" in said["edge tpu"]
    assert "edgetpu_compiler is not on PATH" in said["edge tpu"]
    assert "no faster, and no smaller in memory" in said["weights"]
    assert [one.accelerators for one in load(asked.output).artifacts] == [("cpu", "gpu")]


@pytest.mark.parametrize("made", ["onnx", "tflite"])
def test_raw_outputs_are_compared_where_no_decoder_is_known(ground: Path, tmp_path: Path, made: Any) -> None:
    import onnx

    if made == "tflite":
        pytest.importorskip("litert_quantizer", reason="TFLite is quantised by the extra `convert`")

    model = onnx.load(str(ground / "net.onnx"))
    del model.graph.node[-1:]
    model.graph.output[0].name = "p"
    model.graph.output[0].type.tensor_type.shape.Clear()
    for side in (1, 3, 1, 1):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = side
    twice = onnx.helper.make_node("Identity", ["c2"], ["map"], name="map")
    model.graph.node.append(twice)
    model.graph.output.append(onnx.helper.make_tensor_value_info("map", 1, [1, 3, 16, 16]))
    onnx.save(model, str(tmp_path / "raw.onnx"))
    said = msgspec.structs.replace(PLAIN, labels=None)
    frames = str(write_pictures(tmp_path / "more", 24, 3))
    source = str(tmp_path / "raw.onnx")
    asked = job(ground, tmp_path, source=source, said=said, min_quality=0.95, evaluate=(frames,), format=made)
    outcome = run(asked, quiet)
    assert outcome.quality.metric == "cosine"
    assert outcome.quality.value > 0.95
    assert "sqnr_db map" in outcome.quality.more


def test_a_bundle_is_converted_with_what_its_manifest_says(ground: Path, tmp_path: Path) -> None:
    first = job(ground, tmp_path, precision="float", name="colours", licence="Apache-2.0", output=tmp_path / "float")
    run(first, quiet)
    again = job(ground, tmp_path, source=str(tmp_path / "float"), said=Said())
    outcome = run(again, quiet)
    assert outcome.passed
    bundle = load(again.output)
    assert (bundle.name, bundle.labels, bundle.picture.std) == ("colours", CLASSES, (255.0,))
    source = json.loads((again.output / "manifest.json").read_text())["source"]
    assert (source["from"], source["license"]) == ("net.onnx", "Apache-2.0"), "where it first came from"


def test_arrays_and_one_set(ground: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", image=rng.random((40, 3, 16, 16), np.float32))
    asked = job(ground, tmp_path, calibrate=(str(tmp_path / "rows.npz"),), evaluate=(), min_quality=0.5)
    outcome = run(asked, quiet)
    assert outcome.quality.metric == "top1_agreement"
    assert any("was split: 20 items" in one.text for one in outcome.steps)
    assert golden_cases(load(asked.output)) == []


class Interrupted(Exception):
    pass


def test_ended_at_any_moment_it_leaves_nothing(ground: Path, tmp_path: Path) -> None:
    calls = 0

    def count(step: str, done: int, of: int) -> None:
        nonlocal calls
        calls += 1

    run(job(ground, tmp_path, output=tmp_path / "whole"), count)
    for stop_at in range(1, calls, max(1, calls // 12)):
        seen = 0

        def stop(step: str, done: int, of: int, at: int = stop_at) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Interrupted(step)

        with pytest.raises(Interrupted):
            run(job(ground, tmp_path), stop)
        assert left(tmp_path) == []


def test_an_existing_target(ground: Path, tmp_path: Path) -> None:
    asked = job(ground, tmp_path)
    asked.output.mkdir(parents=True)
    with pytest.raises(ConfigError, match="the target is there already"):
        run(asked, quiet)
    (asked.output / "holiday.jpg").write_bytes(b"dear to someone")
    forced = msgspec.structs.replace(asked, force=True)
    with pytest.raises(ConfigError, match="no bundle, so it is not replaced"):
        run(forced, quiet)
    assert (asked.output / "holiday.jpg").exists()
    (asked.output / "holiday.jpg").unlink()
    for _ in range(2):  # an empty folder, then a bundle
        assert run(forced, quiet).passed
    assert left(tmp_path) == ["bundle"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "nowhere.onnx"}, "no such model"),
        ({"target": "edgetpu", "precision": "mixed"}, "Edge TPU takes int8 TFLite only"),
        ({"target": "ort", "format": "tflite"}, "made of ONNX"),
        ({"prune": 0.5}, "only PyTorch models can be pruned"),
        ({"distil": True}, "only PyTorch models can be pruned"),
        ({"min_quality": 0.0}, "not a share"),
        ({"said": Said(mean=(0.0,))}, "--mean without --std"),
        ({"calibrate": (), "evaluate": ()}, "nothing to calibrate"),
    ],
)
def test_what_cannot_be_asked_for(ground: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(job(ground, tmp_path, **changes), quiet)
    assert left(tmp_path) == []


def test_an_original_that_finds_nothing_proves_nothing(ground: Path, tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "models" / "ssd-mobilenet-v2-oid"
    with pytest.raises(ModelError, match=r"quantised|int8"):
        run(job(ground, tmp_path, source=str(shipped), said=Said()), quiet)
    assert left(tmp_path) == []


def test_a_full_disk_leaves_nothing(ground: Path, tmp_path: Path, make_disk: Callable[[str], Path]) -> None:
    disk = make_disk("4m")
    with pytest.raises(DeviceError, match="no room on the disk for the work"):
        run(job(ground, tmp_path, output=disk / "bundle"), quiet)
    assert list(disk.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way(ground: Path, tmp_path: Path, make_disk: Callable[[str], Path]) -> None:
    disk = make_disk("80m")

    def fill(step: str, done: int, of: int) -> None:
        if step == "choose":
            with suppress(OSError), (disk / "other").open("wb", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass

    with pytest.raises((DeviceError, ConfigError), match=r"cannot be written|No space"):
        run(job(ground, tmp_path, output=disk / "bundle"), fill)
    assert [one.name for one in disk.iterdir()] == ["other"]


def test_a_place_that_cannot_be_made_is_the_operators_mistake() -> None:
    with pytest.raises(ConfigError, match="cannot be written to") as caught:
        Place(Path("/proc/nowhere/bundle"), force=False, source_bytes=0)
    assert "choose another place with -o" in str(caught.value).lower()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = tmp_path / f".bundle.convert-{gone.pid}-abc"
    alive = tmp_path / f".bundle.convert-{os.getppid()}-abc"
    for folder in (stale, alive):
        (folder / "work").mkdir(parents=True)
    with Place(tmp_path / "bundle", force=False, source_bytes=0) as place:
        assert place.work.is_dir()
        assert not stale.exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == [alive.name]


def test_the_preview_alone(ground: Path, tmp_path: Path) -> None:
    found = preview(job(ground, tmp_path), tmp_path / "out.png", quiet)
    assert found.samples == 24
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert [one.name for one in tmp_path.iterdir()] == ["out.png"]
