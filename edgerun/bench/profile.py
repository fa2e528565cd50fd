"""Where an inference's time goes, op by op, where the runtime tells.

ONNX Runtime writes a trace of every node when asked to (`SessionOptions.enable_profiling`). The Python interpreters of
LiteRT and tflite-runtime offer none: their profiler is reached only from C++ (`benchmark_model`).
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgerun.bench.subject import OpenSubject, Subject
from edgerun.errors import EngineError
from edgerun.types import Tensor

_RUNS = 20


class OpTime(msgspec.Struct, frozen=True):
    """All nodes of one kind: how many, their time in one inference (ms), their share of all nodes' time (0..1)."""

    op: str
    nodes: int
    ms: float
    share: float


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ops by time, the costliest first; or, where the runtime offers no profile, the reason."""

    ops: tuple[OpTime, ...] = ()
    unavailable: str | None = None


def profile(subject: Subject) -> Profile:
    """The per-op profile of a subject. Raises what opening it raises, and `EngineError` when the profile fails."""
    bundle = subject.load()
    kind = subject.engine or bundle.format
    if kind != "onnx":
        return Profile(
            unavailable="no per-op profile: the TFLite interpreter offers none in Python (LiteRT's own benchmark_model "
            "--enable_op_profiling does)"
        )
    opened = OpenSubject(msgspec.structs.replace(subject, stage="invoke"))
    try:
        names = [spec.name for spec in opened.engine.inputs]
        inputs = dict(zip(names, opened.sample_input(), strict=True))
    finally:
        opened.close()
    return Profile(ops=sum_up(_trace(opened.model, inputs, subject.threads, subject.model), _RUNS))


def sum_up(events: Sequence[Mapping[str, Any]], runs: int) -> tuple[OpTime, ...]:
    """ONNX Runtime's trace of `runs` inferences as times of one, by op, the costliest first (ties by name).

    Events are those of the Chrome trace format: `dur` in µs; a node's own time has the category "Node" and a name that
    ends with "_kernel_time".
    """
    total_us: dict[str, float] = defaultdict(float)
    nodes: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            op = str(event.get("args", {}).get("op_name", "?"))
            total_us[op] += float(event.get("dur", 0))
            nodes[op].add(str(event["name"]))
    whole_us = sum(total_us.values()) or 1.0
    ranked = sorted(total_us.items(), key=lambda item: (-item[1], item[0]))
    return tuple(OpTime(op, len(nodes[op]), round(us / 1000 / runs, 4), round(us / whole_us, 4)) for op, us in ranked)


def _trace(model: bytes, inputs: Mapping[str, Tensor], threads: int, name: str) -> list[dict[str, Any]]:
    """The events of `_RUNS` inferences in a session of its own. Raises `EngineError`."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="edgerun-profile-") as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "trace")
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        for _ in range(_RUNS):
            session.run(None, dict(inputs))
        try:
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError("ONNX Runtime's profile cannot be read", where=name, got=error) from error
    return events
