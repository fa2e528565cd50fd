"""Where the time of a model goes, op by op, as far as its runtime tells."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgerun.errors import ConfigError, EngineError, MissingError
from edgerun.infer.content import one_line
from edgerun.ports import EngineContext
from edgerun.types import Tensor

_KERNEL = "_kernel_time"


class OpTime(msgspec.Struct, frozen=True):
    """One op of the graph as the runtime executes it (after fusion): its name, type, runs and their time, ms in all."""

    name: str
    kind: str
    calls: int
    total_ms: float


def op_profile(engine_kind: str, context: EngineContext, inputs: Sequence[Tensor], runs: int) -> list[OpTime]:
    """The ops of `runs` inferences on the CPU, slowest first, in a session of its own; one more run before warms up.

    `inputs` as for `Engine.infer`. ONNX Runtime's own profiler measures, at some µs an op: the total is more than an
    inference without it, and an `If` or `Loop` counts the ops inside it a second time. Raises `MissingError` where the
    runtime has no profiler: neither LiteRT's nor tflite-runtime's Python interface opens theirs (2.3.0 and 2.14.0).
    Raises `ConfigError` for fewer than one run, and as the engine does for a model that does not open or run.
    """
    if runs < 1:
        raise ConfigError("a profile takes one run at least", where=context.name, got=runs)
    if engine_kind != "onnx":
        raise MissingError(
            f"the {engine_kind} engine has no per-op profile",
            where=context.name,
            expected="a runtime whose Python package opens its profiler: ONNX Runtime",
            got="LiteRT and tflite-runtime measure ops only in their C++ tool benchmark_model --enable_op_profiling"
            if engine_kind == "tflite"
            else "another runtime",
        )
    with tempfile.TemporaryDirectory(prefix="edgerun-profile-") as folder:
        events = _events(context, inputs, runs, Path(folder))
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            key = event["name"].removesuffix(_KERNEL), str(event["args"]["op_name"])
            times[key].append(event["dur"] / 1000)
    ops = []
    for key, spent in times.items():
        measured = spent[len(spent) // (runs + 1) :]  # the runs come in order: the first is the warm-up
        ops.append(OpTime(*key, len(measured), sum(measured)))
    return sorted(ops, key=lambda op: -op.total_ms)


def _events(context: EngineContext, inputs: Sequence[Tensor], runs: int, folder: Path) -> list[dict[str, Any]]:
    from edgerun.infer.onnx import OnnxEngine, Options, session_settings

    engine = OnnxEngine(Options(), context)  # a model that does not open says why
    engine.infer(inputs)
    engine.close()
    import onnxruntime

    settings = session_settings(onnxruntime, context)
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "ops")
    model = str(context.model) if isinstance(context.model, Path) else context.model
    try:
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        given = {spec.name: tensor for spec, tensor in zip(engine.inputs, inputs, strict=True)}
        for _ in range(runs + 1):
            session.run(None, given)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
    except (OSError, RuntimeError, json.JSONDecodeError) as error:
        raise EngineError("the profile cannot be made", where=context.name, got=one_line(error)) from error
    return events
