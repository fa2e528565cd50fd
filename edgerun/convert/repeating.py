"""What it takes to do a conversion again: versions, hashes, seed and command."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgerun import __version__
from edgerun.convert.bundling import created
from edgerun.convert.order import Job
from edgerun.convert.pairs import Pair
from edgerun.convert.parts import Network
from edgerun.convert.samples import SampleSet
from edgerun.convert.sources import Source

_TOOLS = (
    "numpy", "opencv-python-headless", "onnx", "onnxruntime", "ai-edge-litert", "litert-quantizer",
    "ai-edge-quantizer", "torch", "torch-pruning",
)  # fmt: skip


def repeat(job: Job, source: Source, network: Network, tools: Mapping[str, str], pair: Pair) -> dict[str, Any]:
    """See `parts.Outcome.repeat`. `tools` are those that were used; installed ones that may matter are added.

    The SHA-256 of a set is over what the model sees of it, in order.
    """
    installed = {name: found for name in _TOOLS if (found := _version(name))}
    return {
        "command": job.command,
        "seed": job.seed,
        "edgerun": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "tools": {**installed, **tools},
        "source": {"name": source.origin, "sha256": source.sha256},
        "network_sha256": hashlib.sha256(network.path.read_bytes()).hexdigest(),
        "calibration": _set(pair.calibration),
        "evaluation": _set(pair.evaluation),
        "created": created(),
    }


def _set(samples: SampleSet) -> dict[str, Any]:
    return {"set": samples.source, "samples": len(samples), "sha256": samples.sha256}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
