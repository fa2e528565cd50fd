"""Model files: what each is made for, and what is refused before a runtime sees it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgerun.errors import ModelError
from edgerun.models.manifest import Format
from edgerun.models.onnx_structure import read_onnx
from edgerun.models.structure import Structure, shown
from edgerun.models.tflite_structure import read_tflite

COMPILED = ("edgetpu",)
"""Accelerators that take only files compiled for them; any other takes what the CPU takes."""

_EDGE_TPU_REMEDY = (
    "give the model it was compiled from: as a file of the same name without _edgetpu beside it, or as a second "
    'artifact "for": ["cpu"] of a bundle'
)


class Artifact(msgspec.Struct, frozen=True):
    """One model file: for which accelerators it is made, its verified bytes and their SHA-256.

    `structure` is None where the bytes are no model of this format at all; the runtime will say so.
    """

    file: str
    format: Format
    accelerators: tuple[str, ...]
    model: bytes
    sha256: str
    structure: Structure | None = None


def make_artifact(
    file: str, kind: Format, accelerators: Sequence[str] | None, model: bytes, sha256: str, where: str
) -> Artifact:
    """An artifact whose file has been looked through; None as `accelerators`: what its structure says.

    Raises `ModelError` for a damaged file, for one that declares a tensor beyond the stated limit, and for one that is
    compiled for the Edge TPU and said to be for another device.
    """
    structure = read_structure(model, kind, where)
    if structure is not None and structure.external:
        raise ModelError(
            "the model keeps constants in another file, in a place where they are not read from",
            where=where,
            expected="other files only for the weights of the main graph",
            got=", ".join(map(shown, structure.external)),
            remedy='save it as one file: onnx.save(onnx.load("model.onnx"), "one.onnx")',
        )
    compiled = structure is not None and structure.edge_tpu
    if accelerators is None:
        accelerators = ("edgetpu",) if compiled else ("cpu",)
    wrong = [name for name in accelerators if name != "edgetpu"] if compiled else []
    if wrong:
        raise ModelError(
            f"compiled for the Edge TPU: cannot run on {_named(wrong[0])}",
            where=where,
            expected='"for": ["edgetpu"]',
            got=", ".join(accelerators),
            remedy=_EDGE_TPU_REMEDY,
        )
    return Artifact(file, kind, tuple(accelerators), model, sha256, structure)


def read_structure(model: bytes, kind: Format, where: str) -> Structure | None:
    """The structure of a file of this kind, or None where it is plainly something else. Raises `ModelError`."""
    if kind == "tflite":
        return read_tflite(model, where) if model[4:8] == b"TFL3" else None
    return read_onnx(model, where) if _maybe_onnx(model) else None


def choose(artifacts: Sequence[Artifact], accelerator: str, kind: Format | None, name: str) -> Artifact:
    """The artifact to run on `accelerator`: the first made for it, else, where it takes plain files, the CPU's.

    `kind` limits the choice to files of one format. Raises `ModelError` when there is none.
    """
    fitting = [one for one in artifacts if kind in (None, one.format)]
    wanted = (accelerator,) if accelerator in (*COMPILED, "cpu") else (accelerator, "cpu")
    for target in wanted:
        for artifact in fitting:
            if target in artifact.accelerators:
                return artifact
    if fitting and accelerator not in COMPILED and all(one.structure and one.structure.edge_tpu for one in fitting):
        raise ModelError(
            f"compiled for the Edge TPU: cannot run on {_named(accelerator)}",
            where=f"{name}: {fitting[0].file}",
            remedy=_EDGE_TPU_REMEDY,
        )
    have = ", ".join(f"{one.file} for {' and '.join(one.accelerators)}" for one in artifacts)
    what = f"the bundle has no {'model' if kind is None else f'.{kind} file'} for {accelerator}"
    remedy = "name another accelerator, or make the bundle for this one"
    if accelerator == "edgetpu":
        remedy = "compile the int8 model with edgetpu_compiler and put its …_edgetpu.tflite beside it"
    elif kind is not None and not fitting:
        remedy = "leave engine out, or add the model in that format to the bundle"
    raise ModelError(what, where=name, expected=f"one of {have}", got=accelerator, remedy=remedy)


def _named(accelerator: str) -> str:
    return "the CPU" if accelerator == "cpu" else accelerator


def _maybe_onnx(model: bytes) -> bool:
    """ONNX has no mark of its own. Its first field is ir_version (tag 8) in what exporters write, and what other files
    begin with (text, zip, HDF5) is no field of a ModelProto.
    """
    return model[:1] in (b"\x08", b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42", b"\x72")
