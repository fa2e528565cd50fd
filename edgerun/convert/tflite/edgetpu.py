"""The Edge TPU: which operators of an int8 model it takes, and Google's compiler, where that is installed.

Source of the rules: coral.ai/docs/edgetpu/models-intro, "Model requirements" and "Supported operations" (table for
compiler version 16, runtime 14), checked against the copy at developer.axis.com (ARTPEC-7, supported ops). The compiler
has the last word: it also leaves out operators for reasons it does not state. It cuts a model once: the first operator
it cannot map and everything after it run on the CPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.tflite.graph import Graph
from edgerun.errors import DeviceError, ModelError

COMPILER = "edgetpu_compiler"
TIMEOUT_S = 600
SOURCE = "coral.ai/docs/edgetpu/models-intro, Supported operations"

_Rule = Callable[[Graph, Any], str | None]
_SOFTMAX_MOST = 16_000


class Coverage(msgspec.Struct, frozen=True):
    """One operator: `reason` None where the Edge TPU takes it, else why it does not.

    `on_tpu`: whether it runs there in the end: False also for what comes after the first that does not.
    """

    layer: str
    op: str
    reason: str | None
    on_tpu: bool


class Compiled(msgspec.Struct, frozen=True):
    """What the compiler made: the model, how many operators it put on the Edge TPU and on the CPU, and what it said."""

    model: bytes
    on_tpu: int
    on_cpu: int
    log: str
    version: str


def coverage(content: bytes, where: object) -> tuple[Coverage, ...]:
    """Each operator of an int8 model in the order of execution, by the published table. Raises `ModelError`."""
    graph = Graph(content, where)
    found, mapped = [], True
    for op in graph.ops:
        reason = _reason(graph, op)
        # Quantising at the input and unpacking at the output are left to the CPU and cut nothing off.
        at_the_edge = reason is not None and graph.kind(op) in ("QUANTIZE", "DEQUANTIZE") and _is_edge(graph, op)
        mapped = mapped and (reason is None or at_the_edge)
        found.append(Coverage(graph.layer(op), graph.kind(op), reason, mapped and reason is None))
    return tuple(found)


def in_words(found: tuple[Coverage, ...]) -> str:
    """The coverage in a sentence for the report."""
    on = sum(one.on_tpu for one in found)
    text = f"{on} of {len(found)} operators fit the Edge TPU by the published table ({SOURCE})"
    first = next((one for one in found if one.reason is not None and not one.on_tpu), None)
    return text if first is None else f"{text}; the first that does not is {first.layer} ({first.op}): {first.reason}"


def _reason(graph: Graph, op: Any) -> str | None:
    kind = graph.kind(op)
    if graph.is_custom(op) or kind not in _RULES:
        return "no such operator on the Edge TPU"
    for tensor in map(int, (*op.inputs, *op.outputs)):
        if tensor < 0:
            continue
        if graph.dtype(tensor) not in ("int8", "uint8", "int32", "int64", "bool"):
            return f"{graph.name(tensor)} is {graph.dtype(tensor)}, not int8"
        sides = graph.shape(tensor)
        if len(sides) > 3 and any(side > 1 for side in sides[:-3]) and not graph.is_constant(tensor):
            return f"{graph.name(tensor)} is {'×'.join(map(str, sides))}: only the last three sides may be above 1"
    return _RULES[kind](graph, op)


def _is_edge(graph: Graph, op: Any) -> bool:
    return int(op.inputs[0]) in set(map(int, graph.main.inputs)) or int(op.outputs[0]) in set(
        map(int, graph.main.outputs)
    )


def _free(graph: Graph, op: Any) -> str | None:
    return None


def _no_activation(graph: Graph, op: Any) -> str | None:
    fused = getattr(op.builtinOptions, "fusedActivationFunction", 0)
    return "it has a fused activation" if fused else None


def _concatenation(graph: Graph, op: Any) -> str | None:
    constant = [int(t) for t in op.inputs if graph.is_constant(int(t))]
    if constant and len(op.inputs) != 2:
        return "a constant is joined to more than one other input"
    return _no_activation(graph, op)


def _same_dilation(graph: Graph, op: Any) -> str | None:
    options = op.builtinOptions
    same = options.dilationWFactor == options.dilationHFactor
    return None if same else "its dilations in x and y differ"


def _fully_connected(graph: Graph, op: Any) -> str | None:
    if getattr(op.builtinOptions, "weightsFormat", 0):
        return "its weights are in a shuffled format"
    sides = graph.shape(int(op.outputs[0]))
    return None if int(np.prod(sides)) == sides[-1] else "its output has more than one dimension"


def _not_over_batch(graph: Graph, op: Any) -> str | None:
    axes = graph.constant(int(op.inputs[1]))
    rank = len(graph.shape(int(op.inputs[0])))
    if axes is None:
        return "its axes are computed"
    return "it reduces the batch" if 0 in {int(a) % max(rank, 1) for a in axes.reshape(-1)} else None


def _mean(graph: Graph, op: Any) -> str | None:
    reason, sides = _not_over_batch(graph, op), graph.shape(int(op.inputs[0]))
    axes = graph.constant(int(op.inputs[1]))
    if reason is None and axes is not None and len(sides) - 1 in {int(a) % len(sides) for a in axes.reshape(-1)}:
        return None if sides[-1] % 4 == 0 else "it reduces channels that are not a multiple of 4"
    return reason


def _pad(graph: Graph, op: Any) -> str | None:
    amounts = graph.constant(int(op.inputs[1]))
    if amounts is None:
        return "its amounts are computed"
    return "it pads the batch" if len(amounts) > 3 and amounts[0].any() else None


def _softmax(graph: Graph, op: Any) -> str | None:
    sides = graph.shape(int(op.inputs[0]))
    if int(np.prod(sides)) != sides[-1]:
        return "its input has more than one dimension"
    return None if sides[-1] <= _SOFTMAX_MOST else f"its input has more than {_SOFTMAX_MOST} elements"


def _resize(graph: Graph, op: Any) -> str | None:
    return None if len(graph.shape(int(op.inputs[0]))) <= 4 else "its input has more than three dimensions"


def _squeeze(graph: Graph, op: Any) -> str | None:
    sides, out = graph.shape(int(op.inputs[0])), graph.shape(int(op.outputs[0]))
    return None if sides[len(sides) - len(out) :] == out else "it removes sides that are not leading ones"


def _strided_slice(graph: Graph, op: Any) -> str | None:
    strides = graph.constant(int(op.inputs[3]))
    options = op.builtinOptions
    if strides is None or (strides != 1).any():
        return "its strides are not all 1"
    return "it has an ellipsis or a new axis" if options.ellipsisMask or options.newAxisMask else None


def _pack(graph: Graph, op: Any) -> str | None:
    return "it packs along the batch" if int(op.builtinOptions.axis) == 0 else None


def _split(graph: Graph, op: Any) -> str | None:
    axis = graph.constant(int(op.inputs[0]))
    return "it splits the batch" if axis is not None and int(axis.reshape(-1)[0]) == 0 else None


def _prelu(graph: Graph, op: Any) -> str | None:
    alpha = graph.shape(int(op.inputs[1]))
    return None if int(np.prod(alpha)) == alpha[-1] else "its slopes differ from place to place"


_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(
        (
            "ADD",
            "EXPAND_DIMS",
            "L2_NORMALIZATION",
            "LOGISTIC",
            "MAXIMUM",
            "MINIMUM",
            "MUL",
            "QUANTIZE",
            "RELU",
            "RELU6",
            "RELU_N1_TO_1",
            "RESHAPE",
            "RSQRT",
            "SLICE",
            "SPACE_TO_DEPTH",
            "SQUARED_DIFFERENCE",
            "SUB",
            "TANH",
            "TRANSPOSE",
            "TRANSPOSE_CONV",
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
        ),
        _free,
    ),
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _same_dilation,
    "DEPTHWISE_CONV_2D": _same_dilation,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _mean,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "REDUCE_MAX": _not_over_batch,
    "REDUCE_MIN": _not_over_batch,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _not_over_batch,
}


def compile_model(path: Path, workdir: Path, compiler: str = COMPILER) -> Compiled | None:
    """`path` compiled by Google's compiler into `workdir`; None where the compiler is not on PATH.

    Raises `ModelError` where the compiler refuses the model or maps nothing, `DeviceError` where it does not end within
    ten minutes or cannot be started. It exists for x86-64 Debian only.
    """
    program = shutil.which(compiler)
    if program is None:
        return None
    version = _call([program, "--version"], path).strip().splitlines()
    log = _call([program, "--show_operations", "--out_dir", str(workdir), str(path)], path)
    target = workdir / f"{path.stem}_edgetpu.tflite"
    if not target.exists():
        raise ModelError("the Edge TPU compiler made no model", where=path, got=_end_of(log))
    counts = [_count(log, f"Number of operations that will run on {place}") for place in ("Edge TPU", "CPU")]
    if counts[0] == 0:
        raise ModelError(
            "the Edge TPU compiler mapped no operator",
            where=path,
            got=_end_of(log),
            remedy="look at the operators it names; the first it cannot map stops it",
        )
    return Compiled(target.read_bytes(), counts[0] or 0, counts[1] or 0, log, version[0] if version else "")


def _call(command: list[str], path: Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError("the Edge TPU compiler did not run", where=command[0], got=error) from error
    if done.returncode:
        raise ModelError(
            "the Edge TPU compiler refuses the model",
            where=path,
            got=_end_of(done.stdout + done.stderr),
            remedy="look at the operators that the coverage names",
        )
    return done.stdout


def _count(log: str, text: str) -> int | None:
    found = re.search(re.escape(text) + r":\s*(\d+)", log)
    return int(found[1]) if found else None


def _end_of(log: str) -> str:
    return " ".join(log.split())[-400:]
