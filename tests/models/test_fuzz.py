"""Damaged models: whatever the bytes, loading and inspecting ends soon, with a `ModelError` at worst."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from edgerun.errors import ModelError
from edgerun.models import Bundle, Given, golden_cases, inspect, load
from edgerun.models.artifact import make_artifact
from edgerun.models.facts import read_facts
from tests.infer.onnx_models import quantised_convolution
from tests.models.bundles import files, manifest, write_zip
from tests.models.tflite_files import compiled_for_edge_tpu, flatbuffer, with_metadata
from tests.real_models import ROOT, model_file

ROUNDS = 150
_LARGE = 1 << 19


def _small(name: str) -> bytes:
    return model_file(name).read_bytes()


def _seeds() -> dict[str, tuple[str, bytes]]:
    """Name → (format, content): every reader has a file that it finds something in."""
    wand = _small("tflite_micro_magic_wand.tflite")
    return {
        "mltk": ("tflite", wand),
        "edge tpu": ("tflite", compiled_for_edge_tpu(wand)),
        "face": ("tflite", _small("face_detection_short_range.tflite")),
        "metadata": ("tflite", _small("efficientnet_lite0_int8.tflite")),
        "attached": (
            "tflite",
            with_metadata(wand, flatbuffer({0: "net"}), {"metadata.json": b"{'names': {0: 'a'}, 'imgsz': 64}"}),
        ),
        "ships": ("tflite", (ROOT / "models" / "ssd-mobilenet-v2-oid" / "model.tflite").read_bytes()),
        "silero": ("onnx", _small("silero_vad.onnx")),
        "small onnx": ("onnx", quantised_convolution()),
    }


SEEDS = _seeds()


def mutated(content: bytes, luck: random.Random) -> bytes:
    """One of: bits turned over, a run overwritten, a part cut out or doubled, the end gone, a count made huge.

    Where a file is large, its structure is (TFLite: at both ends; ONNX: everywhere), so that is where it is hit.
    """
    out = bytearray(content)
    for _ in range(luck.choice((1, 1, 2, 8))):
        reach = luck.choice((256, 4096, len(out)))
        at = luck.randrange(min(reach, len(out)))
        at = at if luck.random() < 0.6 else len(out) - 1 - at
        kind = luck.randrange(6)
        if kind == 0:
            out[at] ^= 1 << luck.randrange(8)
        elif kind == 1:
            out[at : at + 4] = luck.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        elif kind == 2:
            size = luck.randrange(1, 64)
            out[at : at + size] = luck.randbytes(size)
        elif kind == 3:
            del out[at : at + luck.randrange(1, 64)]
        elif kind == 4:
            out[at:at] = out[max(0, at - luck.randrange(1, 4096)) : at]
        else:
            del out[at:]
        if not out:
            return b"\0"
    return bytes(out)


def try_file(kind: str, content: bytes) -> bool:
    """Everything that is done with a file before a runtime sees it; False where it was refused."""
    try:
        artifact = make_artifact(f"m.{kind}", kind, None, content, "0" * 64, "m")  # type: ignore[arg-type]
        read_facts(artifact, "m")
        if artifact.structure is not None:
            inspect(Bundle("m", "1", (artifact,), bare=True), Given())
    except ModelError as error:
        return one_paragraph(error)
    return True


def one_paragraph(error: ModelError) -> bool:
    """False, which says refused; fails the test where the error cannot be shown on a line."""
    assert "\n" not in str(error)
    return False


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_models(name: str) -> None:
    kind, content = SEEDS[name]
    assert try_file(kind, content)
    luck = random.Random(name)
    rounds = ROUNDS if len(content) < _LARGE else ROUNDS // 5
    outcomes = [try_file(kind, mutated(content, luck)) for _ in range(rounds)]
    assert not all(outcomes)


@pytest.mark.parametrize("name", ["mltk", "small onnx"])
def test_every_byte_turned_over_in_the_first_kilobyte(name: str) -> None:
    kind, content = SEEDS[name]
    for at in range(min(1024, len(content))):
        try_file(kind, content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])


@pytest.mark.parametrize("name", ["mltk", "small onnx"])
def test_every_length(name: str) -> None:
    kind, content = SEEDS[name]
    for size in range(0, min(len(content), 4096), 3):
        try_file(kind, content[:size])


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_mutated_models_at_length(name: str) -> None:
    kind, content = SEEDS[name]
    luck = random.Random(f"long {name}")
    for _ in range(ROUNDS * 20):
        try_file(kind, mutated(content, luck))


def test_mutated_bundles(tmp_path: Path) -> None:
    described = manifest(files())
    path = write_zip(tmp_path / "b.zip", files(), described)
    content = path.read_bytes()
    luck = random.Random("bundle")
    refused = 0
    for _ in range(ROUNDS):
        path.write_bytes(mutated(content, luck))
        try:
            golden_cases(load(path))
        except ModelError as error:
            refused += not one_paragraph(error)
    assert refused > ROUNDS // 2


def test_a_bomb_in_a_bundle_is_not_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte, with a true and with a lying size in its entry."""
    contents = files()
    described = manifest(contents)
    described["files"]["bomb"] = {"sha256": "0" * 64}
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        with archive.open("manifest.json", "w", force_zip64=True) as entry:
            for _ in range(80):
                entry.write(bytes(1 << 20))
    with pytest.raises(ModelError, match="too large"):
        load(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02", raw.rindex(b"manifest.json") - 200)
    raw[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(ModelError):
        load(path)


def test_a_bomb_behind_a_model_is_not_unpacked() -> None:
    tail = io.BytesIO()
    with zipfile.ZipFile(tail, "w", zipfile.ZIP_DEFLATED) as archive:
        for at in range(8):
            archive.writestr(f"labels{at}.txt", bytes(15 << 20))
    content = SEEDS["mltk"][1] + tail.getvalue()
    artifact = make_artifact("m.tflite", "tflite", None, content, "0" * 64, "m")
    assert read_facts(artifact, "m")


def test_a_message_of_millions_of_fields_is_given_up() -> None:
    assert not try_file("onnx", b"\x08\x01" * (5 << 20))


@pytest.mark.parametrize(
    "props",
    [
        {"names": "{" * 5000, "imgsz": "[64, 64]"},
        {"names": "{0: 'a'}", "imgsz": "[0, -3]"},
        {"names": "{0: 'a'}", "imgsz": str(10**400)},
        {"names": "{" + "9" * 6000 + ": 'a'}", "imgsz": "64"},
        {"names": "['" + "x" * 100_000 + "']", "imgsz": "64"},
        {"names": "['a\\0b']", "imgsz": "64"},
        {"names": "(" * 100 + "1" + ")" * 100, "imgsz": "nan", "task": "['x']", "kpt_shape": "[1e9, 3]"},
    ],
)
def test_hostile_properties(props: dict[str, str]) -> None:
    from onnx import TensorProto

    from tests.infer.onnx_models import identity

    try_file("onnx", identity(TensorProto.FLOAT, (1, 3, 64, 64), props))
