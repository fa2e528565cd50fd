"""The bundle of a conversion: manifest, model files, labels, golden inputs, licence."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.parts import Measured, Quality
from edgerun.convert.preview import spread
from edgerun.convert.samples import SampleSet
from edgerun.convert.subject import Runner, Subject
from edgerun.errors import DeviceError, FrameError
from edgerun.models import Bundle, load
from edgerun.models.bundle import GOLDEN, MANIFEST
from edgerun.models.manifest import VERSION, Format
from edgerun.types import Tensor

LABELS, LICENSE = "labels.txt", "LICENSE"
_GOLDEN_CASES = 3
_GOLDEN_BYTES = 4 << 20
"""Raw outputs beyond it (of masks) are left out: the answers alone are kept."""
_TASK_OF_PLAIN = "other"


class ModelFile(msgspec.Struct, frozen=True):
    """One model of the bundle. `accelerators`: what it is for, none for a file that only lies beside the others."""

    name: str
    content: bytes
    accelerators: tuple[str, ...] = ("cpu",)


class Origin(msgspec.Struct, frozen=True):
    """Where the model comes from: `text` for people, its SHA-256, the command that made the bundle, its licence."""

    text: str
    sha256: str
    recipe: str
    license: str | None = None
    license_text: bytes | None = None


class Recipe(msgspec.Struct, frozen=True):
    """Everything that a bundle is written from. The first of `models` is judged and gives the golden outputs."""

    name: str
    version: str
    subject: Subject
    models: tuple[ModelFile, ...]
    quality: Quality
    gate: str
    precision: str
    measured: tuple[Measured, ...]
    origin: Origin
    evaluation: SampleSet
    extra: Mapping[str, Any] = {}


def write_bundle(folder: Path, recipe: Recipe) -> Bundle:
    """Write the bundle into `folder`, which is empty, and load it back. Raises `ModelError` where that fails.

    Files that lie in the folder already (a report) become part of it.
    """
    kind: Format = "onnx" if recipe.models[0].name.endswith(".onnx") else "tflite"
    for model in recipe.models:
        put(folder / model.name, model.content)
    bundle = recipe.subject.bundle
    if bundle.labels:
        put(folder / LABELS, ("\n".join(bundle.labels) + "\n").encode())
    if recipe.origin.license_text is not None:
        put(folder / LICENSE, recipe.origin.license_text)
    where = f"{recipe.name} ({recipe.precision})"
    with Runner(recipe.subject, recipe.models[0].content, kind, name=where) as runner:
        cases = golden(runner, recipe)
        if cases:
            with (folder / GOLDEN).open("wb") as file:
                np.savez_compressed(file, **cases)  # type: ignore[arg-type]
        manifest = _manifest(folder, recipe, runner)
    put(folder / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return load(folder)


def seal(folder: Path) -> Bundle:
    """List in the manifest every file that lies in the bundle by now, and load it."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"] = _files(folder)
    put(folder / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return load(folder)


def golden(runner: Runner, recipe: Recipe) -> dict[str, Tensor]:
    """A few pictures with what the result says of them, as `models.golden_cases` reads it; empty for other inputs.

    `input_<i>` H×W×3 uint8 RGB; `<output>_<i>` real raw outputs, float16; `boxes_<i>`, `classes_<i>`, `scores_<i>` as
    decoded at the manifest's threshold, in 0..1 of the picture.
    """
    samples = recipe.evaluation
    arrays: dict[str, Tensor] = {}
    if recipe.subject.kind != "picture" or samples[0].picture is None:
        return arrays
    decoder = runner.decoder() if recipe.subject.bundle.decoder is not None else None
    for case, at in enumerate(spread(len(samples), _GOLDEN_CASES)):
        sample = msgspec.structs.replace(samples[at], placement=type(samples[at].placement)())
        assert sample.picture is not None, "asked above"
        arrays[f"input_{case}"] = sample.picture
        outputs = runner.real(sample)
        if sum(one.size * 2 for one in outputs) <= _GOLDEN_BYTES:
            for name, output in zip(_short_names(runner), outputs, strict=True):
                arrays[f"{name}_{case}"] = _half(output)
        if decoder is None:
            continue
        try:
            answer = runner.answer(sample, decoder)
        except FrameError:
            continue
        found: Sequence[Any] = answer.detections if answer.detections is not None else answer.classes or ()
        if answer.detections is not None:
            arrays[f"boxes_{case}"] = np.array([one.box for one in answer.detections], np.float32).reshape(-1, 4)
        if answer.detections is not None or answer.classes is not None:
            arrays[f"classes_{case}"] = np.array([one.class_id for one in found], np.int32)
            arrays[f"scores_{case}"] = np.array([one.score for one in found], np.float32)
    whole = all(any(key.endswith(f"_{case}") and not key.startswith("input_") for key in arrays) for case in (0,))
    return arrays if whole else {}


def put(path: Path, content: bytes) -> None:
    """Write a file. Raises `DeviceError` with what to do where there is no room for it."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise DeviceError(
            "the bundle cannot be written",
            where=path.parent,
            got=error.strerror or str(error),
            remedy="make room on the disk, or choose another folder with -o",
        ) from error


def created() -> str:
    """Now, in UTC; SOURCE_DATE_EPOCH instead where it is set (reproducible-builds.org/specs/source-date-epoch)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch.isdecimal() else None
    return (moment or datetime.datetime.now(datetime.UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _manifest(folder: Path, recipe: Recipe, runner: Runner) -> dict[str, Any]:
    bundle, subject = recipe.subject.bundle, recipe.subject
    manifest: dict[str, Any] = {
        "v": VERSION,
        "name": recipe.name,
        "version": recipe.version,
        "task": bundle.task or _TASK_OF_PLAIN,
        "files": _files(folder),
        "artifacts": [{"file": one.name, "for": list(one.accelerators)} for one in recipe.models if one.accelerators],
    }
    if subject.kind == "picture":
        picture = runner.picture
        manifest["inputs"] = [{key: value for key, value in msgspec.to_builtins(picture).items() if value is not None}]
    elif subject.kind == "signal":
        signal = msgspec.to_builtins(bundle.signal)
        manifest["signal"] = {key: value for key, value in signal.items() if value is not None}
    if bundle.decoder is not None:
        manifest["decoder"] = {"kind": bundle.decoder, **msgspec.to_builtins(dict(bundle.decoder_options))}
    if bundle.labels:
        manifest["labels"] = LABELS
    if bundle.threshold is not None:
        manifest["threshold"] = bundle.threshold
    for key in ("constants", "shapes"):
        if getattr(bundle, key):
            manifest[key] = msgspec.to_builtins(dict(getattr(bundle, key)))
    manifest["measured"] = _measured(recipe)
    source = {"from": recipe.origin.text, "sha256": recipe.origin.sha256, "recipe": recipe.origin.recipe}
    if recipe.origin.license is not None:
        source["license"] = recipe.origin.license
    return {**manifest, "source": source, "created": created(), "expires": None}


def _measured(recipe: Recipe) -> dict[str, Any]:
    quality = recipe.quality
    accuracy = {
        "metric": quality.metric,
        "value": _rounded(quality.value),
        "original": _rounded(quality.original),
        "kept": _rounded(quality.kept),
        "samples": quality.samples,
        "set": recipe.evaluation.source,
        "gate": recipe.gate,
        **{key: _rounded(value) for key, value in quality.more.items()},
    }
    latencies = [
        {"device": one.device, "accelerator": "cpu", "threads": one.threads, "p50": one.p50_ms, "p99": one.p99_ms}
        for one in recipe.measured[1:]
    ]
    first = [{"device": one.device, "p50": one.p50_ms, "p99": one.p99_ms} for one in recipe.measured[:1]]
    return {"accuracy": accuracy, "latency_ms": latencies, "original_latency_ms": first, **recipe.extra}


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (MANIFEST, "manifest.sig"):
            content = path.read_bytes()
            files[path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return files


def _short_names(runner: Runner) -> list[str]:
    """Names of the outputs that fit into a zip archive: the part behind the last /, made different where they are not.

    None of them may be one of the golden file's own.
    """
    taken = {"input", "boxes", "classes", "scores"}
    found = []
    for at, spec in enumerate(runner.outputs):
        name = re.sub(r"[^A-Za-z0-9]+", "_", re.split(r"[/;:]", spec.name)[-1] or spec.name).strip("_")
        if not name or name in taken:
            name = f"output{at}"
        taken.add(name)
        found.append(name)
    return found


def _half(values: Tensor) -> Tensor:
    """float16 where that holds the values, else float32."""
    largest = float(np.abs(values).max(initial=0.0))
    return values.astype(np.float16 if largest < 6e4 else np.float32)


def _rounded(value: float) -> float | None:
    return round(value, 5) if value == value else None
