"""Bundles on disk, made for one test each."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from onnx import TensorProto

from tests.infer.onnx_models import identity

MODEL = identity(TensorProto.FLOAT, (1, 3, 4, 4))


def manifest(contents: dict[str, bytes], /, **changes: Any) -> dict[str, Any]:
    """A right manifest over `contents`, with `changes`; a change to None takes the key away."""
    made: dict[str, Any] = {
        "v": 1,
        "name": "net",
        "version": "3",
        "task": "detect",
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in contents.items()
        },
        "artifacts": [{"file": "model.onnx", "for": ["cpu"]}],
        "inputs": [
            {
                "name": "x",
                "size": [4, 4],
                "layout": "NCHW",
                "color": "BGR",
                "fit": "letterbox",
                "mean": [127.5],
                "std": [127.5],
            }
        ],
        "decoder": {"kind": "yolo", "iou": 0.6},
        "labels": "labels.txt",
        "threshold": 0.4,
        "measured": {"accuracy": {"anything": 1}},
        "expires": None,
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def files() -> dict[str, bytes]:
    return {"model.onnx": MODEL, "labels.txt": b"person\ncar\n"}


def write_folder(path: Path, contents: dict[str, bytes], described: Any) -> Path:
    path.mkdir(parents=True)
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    (path / "manifest.json").write_text(json.dumps(described), encoding="utf-8")
    return path


def write_zip(path: Path, contents: dict[str, bytes], described: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.writestr("manifest.json", json.dumps(described))
    return path
