"""Bundles are verified before they are parsed, and nothing in them leads outside."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.models import complete, find_bundled, golden_cases, load
from edgerun.ports import EngineContext
from edgerun.preprocess import PicturePreprocess
from tests.models.bundles import MODEL, files, manifest, write_folder, write_zip
from tests.real_models import ROOT, model_file

Writer = Callable[[Path, dict[str, bytes], Any], Path]


@pytest.fixture(params=["folder", "zip"])
def write(request: pytest.FixtureRequest) -> Writer:
    if request.param == "folder":
        return lambda path, contents, described: write_folder(path, contents, described)
    return lambda path, contents, described: write_zip(path.with_suffix(".zip"), contents, described)


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_everything_a_manifest_says_is_there(write: Writer, tmp_path: Path) -> None:
    bundle = load(write(tmp_path / "b", files(), manifest(files())))
    assert (bundle.name, bundle.version, bundle.task, bundle.format) == ("net", "3", "detect", "onnx")
    assert bundle.model == MODEL
    assert bundle.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert (bundle.decoder, bundle.decoder_options) == ("yolo", {"iou": 0.6})
    assert (bundle.labels, bundle.threshold, bundle.bare) == (("person", "car"), 0.4, False)
    picture = bundle.picture
    assert (picture.name, picture.size, picture.layout) == ("x", (4, 4), "NCHW")
    assert (picture.color, picture.fit, picture.mean, picture.std) == ("BGR", "letterbox", (127.5,), (127.5,))
    assert golden_cases(bundle) == []


def test_a_manifest_may_leave_out_what_the_file_tells(write: Writer, tmp_path: Path) -> None:
    less = manifest(files(), inputs=None, decoder=None, labels=None, threshold=None, task=None)
    bundle = load(write(tmp_path / "b", files(), less))
    assert (bundle.decoder, bundle.labels, bundle.threshold, bundle.task) == (None, None, None, None)
    assert bundle.picture.size is None


def test_the_artifact_for_an_accelerator(write: Writer, tmp_path: Path) -> None:
    contents = {**files(), "tpu/model_edgetpu.tflite": b"compiled"}
    artifacts = [
        {"file": "tpu/model_edgetpu.tflite", "for": ["edgetpu"]},
        {"file": "model.onnx", "for": ["gpu", "cpu"]},
    ]
    bundle = load(write(tmp_path / "b", contents, manifest(contents, artifacts=artifacts)))
    assert bundle.artifact_for("edgetpu").model == b"compiled"
    assert bundle.artifact_for("edgetpu").format == "tflite"
    assert bundle.artifact_for("gpu") is bundle.artifact_for("cpu") is bundle.main
    assert bundle.artifact_for("npu") is bundle.main  # a plain file, like the CPU's
    assert bundle.artifact_for("edgetpu", "tflite").model == b"compiled"
    for accelerator, kind in (("cpu", "tflite"), ("edgetpu", "onnx")):
        with pytest.raises(ModelError, match=f"has no .{kind} file for {accelerator}; expected one of tpu/model_edge"):
            bundle.artifact_for(accelerator, kind)  # type: ignore[arg-type]


def test_a_changed_file_is_refused_before_it_is_parsed(write: Writer, tmp_path: Path) -> None:
    described = manifest(files())
    original = files()["labels.txt"]
    contents = {**files(), "labels.txt": b"\xff" * len(original)}
    message = refused(write(tmp_path / "b", contents, described))
    assert "labels.txt: a file of the bundle is not the one its manifest lists; expected sha256 " in message
    assert "fetch the bundle again" in message.lower()


def test_a_file_of_another_size_is_refused(write: Writer, tmp_path: Path) -> None:
    described = manifest(files())
    described["files"]["labels.txt"]["bytes"] += 1
    assert f"expected sha256 {described['files']['labels.txt']['sha256']}, 12 bytes; got" in refused(
        write(tmp_path / "b", files(), described)
    )


@pytest.mark.parametrize(
    "name", ["../up.onnx", "/etc/hostname", "a/../../b.onnx", "a\\b.onnx", "C:x.onnx", "./m.onnx", ""]
)
def test_names_that_lead_outside_are_refused(write: Writer, tmp_path: Path, name: str) -> None:
    (tmp_path / "up.onnx").write_bytes(MODEL)
    described = manifest(files())
    described["files"][name] = {"sha256": hashlib.sha256(MODEL).hexdigest()}
    described["artifacts"] = [{"file": name, "for": ["cpu"]}] if name else described["artifacts"]
    assert "names a file outside itself or in no plain way" in refused(write(tmp_path / "b", files(), described))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(MODEL)
    described = manifest(files())
    path = write_folder(tmp_path / "b", {"labels.txt": files()["labels.txt"]}, described)
    (path / "model.onnx").symlink_to("../secret")
    assert "a link leads out of the bundle" in refused(path)


def test_links_inside_the_folder_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "b", {"v3.onnx": MODEL, "labels.txt": files()["labels.txt"]}, manifest(files()))
    (path / "model.onnx").symlink_to("v3.onnx")
    assert load(path).model == MODEL
    (path / "model.onnx").unlink()
    (path / "model.onnx").symlink_to("model.onnx")
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize("entry", ["../../evil", "/evil", "a/../../evil"])
def test_a_zip_with_an_entry_outside_is_refused_even_if_nothing_names_it(tmp_path: Path, entry: str) -> None:
    path = write_zip(tmp_path / "b.zip", {**files(), entry: b"x"}, manifest(files()))
    assert "names a file outside itself" in refused(path)


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "b.zip", files(), manifest(files()))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/hostname")
    assert "a link in the bundle" in refused(path)


def test_a_zip_whose_contents_were_damaged_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "b.zip", files(), manifest(files()))
    content = bytearray(path.read_bytes())
    at = content.index(b"model.onnx") + 20
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))
    assert "a file of the bundle cannot be unpacked" in refused(path)
    path.write_bytes(bytes(content[:100]))
    refused(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v": 2}, 'expected "v": 1; got 2'),
        ({"v": "1"}, "the manifest is not valid"),
        ({"name": None}, "missing required field `name`"),
        ({"artifacts": []}, "the manifest is not valid"),
        ({"artifacts": [{"file": "other.onnx", "for": ["cpu"]}]}, "names a file that the manifest does not list"),
        ({"artifacts": [{"file": "labels.txt", "for": ["cpu"]}]}, "a model file of an unknown kind"),
        ({"labels": "names.txt"}, "labels names a file that the manifest does not list"),
        ({"decoder": {"iou": 1}}, "the decoder has no kind"),
        ({"inputs": [{"layout": "CHW"}]}, "Invalid enum value 'CHW'"),
        ({"inputs": [{"size": [0, 4]}]}, "the manifest is not valid"),
        ({"inputs": [{}, {}]}, "several inputs"),
        ({"threshold": 7}, "the manifest is not valid"),
        ({"files": {"model.onnx": {"sha256": "short"}}}, "the manifest is not valid"),
        ({"files": {"absent.onnx": {"sha256": "0" * 64}}}, "absent.onnx"),
    ],
)
def test_a_wrong_manifest(write: Writer, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(write(tmp_path / "b", files(), manifest(files(), **changes)))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"v": 1}', b"[" * 100_000])
def test_a_manifest_that_is_no_manifest(tmp_path: Path, text: bytes) -> None:
    path = write_folder(tmp_path / "b", files(), {})
    (path / "manifest.json").write_bytes(text)
    assert "the manifest is not valid" in refused(path)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    assert "no manifest, so not a bundle; expected manifest.json at the top" in refused(tmp_path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "absent.tflite")
    (tmp_path / "empty.tflite").write_bytes(b"")
    assert "got an empty file" in refused(tmp_path / "empty.tflite")
    (tmp_path / "model.pt").write_bytes(b"x")
    assert "got a file of kind .pt" in refused(tmp_path / "model.pt")
    (tmp_path / "directory.tflite").mkdir()
    assert "no manifest" in refused(tmp_path / "directory.tflite")
    (tmp_path / "text.zip").write_text("x")
    assert "not a model" in refused(tmp_path / "text.zip")


def test_a_bare_file_is_named_by_its_name_and_hash() -> None:
    path = model_file("efficientnet_lite0_int8.tflite")  # a zip as well, because of its metadata
    bundle = load(path)
    assert (bundle.name, bundle.format, bundle.bare) == ("efficientnet_lite0_int8", "tflite", True)
    assert bundle.model == path.read_bytes()
    assert bundle.version == hashlib.sha256(bundle.model).hexdigest()[:12]
    assert bundle.picture.mean is None


def golden_file(**arrays: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_golden_cases(write: Writer, tmp_path: Path) -> None:
    picture, boxes = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), np.ones((1, 4))
    arrays = {"input_0": picture, "raw_boxes_0": boxes, "input_1": picture + 1, "raw_boxes_1": boxes * 2}
    contents = {**files(), "golden.npz": golden_file(**arrays)}
    cases = golden_cases(load(write(tmp_path / "b", contents, manifest(contents))))
    assert [case.picture.tolist() for case in cases] == [picture.tolist(), (picture + 1).tolist()]
    assert [{name: array.tolist() for name, array in case.expected.items()} for case in cases] == [
        {"raw_boxes": [[1] * 4]},
        {"raw_boxes": [[2] * 4]},
    ]


PICTURE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        b"not a zip",
        golden_file(),
        golden_file(input_0=PICTURE),
        golden_file(boxes_0=np.zeros(4)),
        golden_file(input_0=PICTURE, boxes_1=np.zeros(4)),
        golden_file(input_0=PICTURE, input_2=PICTURE, boxes_0=np.zeros(4)),
        golden_file(input_0=PICTURE, boxes=np.zeros(4)),
        golden_file(input_0=PICTURE.astype(np.float32), boxes_0=np.zeros(4)),
        golden_file(input_0=PICTURE, boxes_0=np.array([{}], object)),
    ],
)
def test_a_golden_file_that_holds_no_cases(tmp_path: Path, content: bytes) -> None:
    contents = {**files(), "golden.npz": content}
    bundle = load(write_folder(tmp_path / "b", contents, manifest(contents)))
    with pytest.raises(ModelError, match=r"net: golden\.npz: the golden file"):
        golden_cases(bundle)


def test_the_detector_that_ships_does_what_its_golden_cases_say() -> None:
    """Within half a quantum of a score's logit and a little, because kernels differ between processors."""
    path = find_bundled("ssd-mobilenet-v2-oid")
    assert path is not None
    bundle = load(path)
    engine = TfliteEngine(Options(), EngineContext(bundle.model, bundle.name))
    bundle = complete(bundle, engine.inputs, engine.outputs)
    assert (bundle.decoder, bundle.task, len(bundle.labels or ())) == ("ssd-anchors", "detect", 24)
    picture = bundle.picture
    assert picture.layout is not None
    assert picture.color is not None
    assert picture.fit is not None
    assert picture.mean is not None
    assert picture.std is not None
    preprocess = PicturePreprocess(
        engine.inputs[0],
        size=picture.size,
        layout=picture.layout,
        color=picture.color,
        fit=picture.fit,
        mean=picture.mean,
        std=picture.std,
    )
    cases = golden_cases(bundle)
    assert len(cases) >= 3
    for case in cases:
        tensor, _ = preprocess.prepare(np.ascontiguousarray(case.picture[:, :, ::-1]))
        expected = {
            tuple(array.shape[1:]): array[0] for array in case.expected.values() if array.shape[:2] == (1, 1917)
        }
        assert len(expected) == 2
        for spec, raw in zip(engine.outputs, engine.infer((tensor,)), strict=True):
            real = raw.astype(np.float32)
            if spec.scale:
                real = (real - spec.zero_point[0]) * spec.scale[0]
            off = np.abs(real[0] - expected[real.shape[1:]].astype(np.float32))
            assert np.quantile(off, 0.99) <= 0.25


def test_models_that_ship_are_found_by_name_and_nothing_else_is() -> None:
    for name in ("", ".", "..", "../edgerun", "/etc", "no-such-model", "clips"):
        assert find_bundled(name) is None
    for path in (ROOT / "models").glob("*/manifest.json"):
        assert find_bundled(path.parent.name) == path.parent
        assert load(path.parent).name == json.loads(path.read_text())["name"]
