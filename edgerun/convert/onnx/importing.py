"""Reading an `.onnx` file: whatever exporters write, made one float32 file of fixed shapes that the quantiser takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.onnx.calibration import dtype_of
from edgerun.convert.onnx.graph import array, tools
from edgerun.convert.onnx.sessions import open_session
from edgerun.convert.parts import Network
from edgerun.errors import ConfigError, EngineError, ModelError
from edgerun.models.onnx_external import MAX_MODEL_BYTES, join_weights
from edgerun.models.onnx_structure import read_onnx
from edgerun.models.structure import damaged, shown, sides

MIN_OPSET = 13
"""The first in which QuantizeLinear and DequantizeLinear have an axis, hence scales per channel (onnx/Operators.md)."""
_QUANTISED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "com.microsoft:QGemm", "com.microsoft:MatMulNBits", "com.microsoft:DynamicQuantizeMatMul",
    "com.microsoft:MatMulIntegerToFloat", "com.microsoft:QLinearAdd", "com.microsoft:QLinearMul",
)  # fmt: skip
_TOLERANCE = 1e-3
"""Largest difference from the original that simplification may make, as a share of the output's largest value."""


_NAMED = 5


class ImportOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shapes`: input name → its sides, batch included, for inputs whose sides beyond the batch are left open."""

    shapes: Mapping[str, tuple[int, ...]] = {}


def read(path: Path, workdir: Path, options: ImportOptions | None = None) -> Network:
    """`path` as a float32 network in `workdir`, with one batch, fixed shapes and everything in one file.

    Weights in other files are joined, float16 is widened, constants that are listed as inputs are taken off that list,
    an old opset is raised, and ONNX Runtime's own basic optimisations fold what can be folded; the result is compared
    with the original on noise. Raises `ModelError` for what cannot be used, `ConfigError` for shapes that do not fit,
    `MissingError` without the `onnx` package.
    """
    onnx = tools()
    content = _content(path)
    structure = read_onnx(content, str(path))
    _check_ops(structure.ops, path)
    model = _load(content, path)
    _check_custom(model, structure.custom_ops, path)
    notes = []
    notes += _drop_listed_constants(model)
    notes += _widen(model)
    notes += _fix_shapes(model, options.shapes if options else {}, path)
    original = _open(model, path)
    notes += _raise_opset(model, path)
    model, simplified = _simplify(model, workdir, path)
    notes += simplified + _compare(original, model, path)
    _name_nodes(model.graph)
    target = workdir / "network.onnx"
    target.write_bytes(model.SerializeToString())
    import onnxruntime

    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return Network(target, "onnx", tuple(notes), versions)


def _content(path: Path) -> bytes:
    if path.suffix == ".tflite":
        raise ModelError(
            "a .tflite model is not converted to ONNX",
            where=path,
            expected="an .onnx file, for int8 ONNX",
            got="a TFLite file",
            remedy="convert it to int8 TFLite instead (--format tflite), which runs as fast or faster on CPUs and is "
            "quantised without a change of format, or start from the .onnx export of the same training",
        )
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(
                "the model is larger than one ONNX file can be",
                where=path,
                expected=f"≤ {MAX_MODEL_BYTES} bytes (Protocol Buffers' limit of a message)",
                got=f"{size} bytes",
                remedy="a model of this size is not for the devices edgerun serves: choose a smaller variant",
            )
        return join_weights(path.read_bytes(), lambda name: _beside(path, name), str(path))
    except OSError as error:
        raise ModelError("the model cannot be read", where=path, got=error.strerror or error) from error


def _beside(path: Path, name: str) -> bytes:
    """A file of weights; its name comes out of the model, so it must not lead out of the folder."""
    inside = Path(name)
    if inside.is_absolute() or ".." in inside.parts or not name:
        raise ModelError("the name leads out of the model's folder", where=path, got=shown(name))
    try:
        target = path.parent / inside
        if target.stat().st_size > MAX_MODEL_BYTES:
            raise ModelError("too large", where=target, expected=f"≤ {MAX_MODEL_BYTES} bytes")
        return target.read_bytes()
    except OSError as error:
        raise ModelError("it cannot be read", where=path.parent / inside, got=error.strerror or error) from error


def _check_ops(ops: Mapping[str, int], path: Path) -> None:
    quantised = {name: count for name, count in ops.items() if name in _QUANTISED or name.startswith("QLinear")}
    if quantised:
        raise ModelError(
            "the model is quantised already, so there is no float original to calibrate and to judge by",
            where=path,
            expected="float weights and operators",
            got=", ".join(f"{count} {name}" for name, count in sorted(quantised.items())),
            remedy="convert the float export it was made from; `edgerun bench` measures this one as it is",
        )


def _check_custom(model: Any, custom: tuple[str, ...], path: Path) -> None:
    """Raises `ModelError` that names the nodes of operators (`domain:kind`) which no runtime here has."""
    if not custom:
        return
    nodes = [node for node in model.graph.node if f"{node.domain}:{node.op_type}" in custom]
    named = [f"{shown(node.op_type)} {shown(node.name or node.output[0])}" for node in nodes]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    raise ModelError(
        "the model needs operators that ONNX Runtime does not have",
        where=path,
        expected="operators of the ONNX standard",
        got=f"{', '.join(map(shown, custom))}: {', '.join(named[:_NAMED]) or 'in an inner graph'}{more}",
        remedy="export it without them: post-processing such as NMS belongs behind the model, edgerun brings it",
    )


def _load(content: bytes, path: Path) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return tools().load_model_from_string(content)
    except DecodeError as error:
        raise damaged("ONNX", path, error) from error


def _open(model: Any, path: Path) -> Any:
    """A session of the model; ONNX Runtime's own checks are the ones that count, for it will have to run the result."""
    try:
        return open_session(model.SerializeToString(), path)
    except EngineError as error:
        raise ModelError(
            "ONNX Runtime cannot run the model",
            where=path,
            got=error.got,
            remedy="export it again with a current exporter, and try the file with onnx.checker",
        ) from error


def _drop_listed_constants(model: Any) -> list[str]:
    """ONNX before IR version 4 listed constants as inputs, which keeps runtimes from folding them."""
    held = {one.name for one in model.graph.initializer}
    free = [one for one in model.graph.input if one.name not in held]
    dropped = len(model.graph.input) - len(free)
    if dropped:
        del model.graph.input[:]
        model.graph.input.extend(free)
    model.ir_version = max(model.ir_version, 7)  # 4 lets constants be no inputs; 7 goes with opset 13
    return [f"{dropped} constants were listed as inputs and are constants only now."] if dropped else []


def _widen(model: Any) -> list[str]:
    """Make every float16 of the model float32: constants, declared types, the targets of Cast."""
    onnx = tools()
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    widened = 0

    def widen_tensor(tensor: Any) -> None:
        nonlocal widened
        if tensor.data_type == half:
            values = array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            widened += 1

    def widen_graph(graph: Any) -> None:
        for tensor in graph.initializer:
            widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == half:
                value.type.tensor_type.elem_type = single
        for node in graph.node:
            for one in node.attribute:
                if node.op_type == "Cast" and one.name == "to" and one.i == half:
                    one.i = single
                for tensor in (*([one.t] if one.HasField("t") else []), *one.tensors):
                    widen_tensor(tensor)
                for inner in (*([one.g] if one.HasField("g") else []), *one.graphs):
                    widen_graph(inner)

    widen_graph(model.graph)
    return [f"{widened} constants were float16 and are float32 now, with the same values."] if widened else []


def _fix_shapes(model: Any, given: Mapping[str, tuple[int, ...]], path: Path) -> list[str]:
    """One batch, and the sides that are given; every side fixed, or a `ModelError` that names the open ones."""
    names = [one.name for one in model.graph.input]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ConfigError(
            "no such input", where=path, expected=" or ".join(map(shown, names)), got=", ".join(map(shown, unknown))
        )
    notes, symbols = [], {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        was = tuple(one.dim_value if one.dim_value > 0 else -1 for one in dims)
        shape = _fixed(value, was, given.get(value.name), path)
        for dim, side in zip(dims, shape, strict=True):
            if dim.dim_param:
                symbols[dim.dim_param] = side
            dim.dim_value = side
        if shape != was:
            notes.append(f"The input {shown(value.name)!r} was {sides(was)} and is {sides(shape)} now.")
    if notes:
        del model.graph.value_info[:]  # stated for the open shapes; inferred anew
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in symbols:
                    dim.dim_value = symbols[dim.dim_param]
    return notes


def _fixed(value: Any, was: tuple[int, ...], given: tuple[int, ...] | None, path: Path) -> tuple[int, ...]:
    if given is not None:
        fits = len(given) == len(was) and all(a in (-1, b) and b > 0 for a, b in zip(was, given, strict=True))
        if not fits:
            raise ConfigError(
                f"the shape given for the input {shown(value.name)!r} does not fit the model",
                where=path,
                expected=sides(was),
                got=sides(given),
            )
        return given
    shape = (1, *was[1:]) if len(was) > 1 and was[0] == -1 else was
    if -1 in shape:
        open_sides = [value.type.tensor_type.shape.dim[i].dim_param or str(i) for i, n in enumerate(shape) if n == -1]
        raise ModelError(
            f"the input {shown(value.name)!r} has sides that are left open: {', '.join(map(shown, open_sides))}",
            where=path,
            expected="fixed sides, the batch excepted",
            got=sides(was),
            remedy=f"say what they are with --shape {shown(value.name)}="
            f"{','.join('?' if side < 0 else str(side) for side in shape)}, or export with fixed shapes",
        )
    return shape


def _raise_opset(model: Any, path: Path) -> list[str]:
    onnx = tools()
    standard = next((one for one in model.opset_import if one.domain in ("", "ai.onnx")), None)
    if standard is None or standard.version >= MIN_OPSET:
        return []
    was = standard.version
    try:
        model.CopyFrom(onnx.version_converter.convert_version(model, MIN_OPSET))
    except (RuntimeError, ValueError) as error:  # the converter has no adapter for some ops
        raise ModelError(
            f"the model is written for opset {was} and cannot be raised to {MIN_OPSET}",
            where=path,
            got=str(error).splitlines()[0],
            remedy=f"export it again with opset {MIN_OPSET} or later",
        ) from error
    return [f"The opset was {was} and is {MIN_OPSET} now, which scales per channel need."]


def _simplify(model: Any, workdir: Path, path: Path) -> tuple[Any, list[str]]:
    """ONNX Runtime's basic optimisations, which hold for every provider (constants folded, batch normalisation joined
    to convolutions), and shapes inferred: what its quant_pre_process does, with errors instead of prints."""
    onnx = tools()
    target = workdir / "simplified.onnx"
    open_session(model.SerializeToString(), path, saved=(target, "ONNX"))
    result = onnx.load_model(str(target))
    target.unlink()
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    result = onnx.shape_inference.infer_shapes(result)
    before, after = len(model.graph.node), len(result.graph.node)
    return result, [f"{before} operators became {after} by folding constants."] if after < before else []


def _compare(first: Any, model: Any, path: Path) -> list[str]:
    """Run both on the same noise; a difference beyond rounding is a fault of the tools and ends the work."""
    second = _open(model, path)
    chance = np.random.default_rng(0)
    feeds = {}
    for one in first.get_inputs():
        shape = tuple(int(side) for side in one.shape)
        feeds[one.name] = (chance.uniform(-1, 1, shape) if one.type == "tensor(float)" else np.zeros(shape)).astype(
            dtype_of(one)
        )
    worst = 0.0
    for was, now in zip(first.run(None, feeds), second.run(None, feeds), strict=True):
        if isinstance(was, np.ndarray) and was.dtype.kind == "f" and was.size and np.isfinite(was).all():
            gap = float(np.abs(was - now).max() / max(np.abs(was).max(), 1e-6))
            worst = max(worst, gap if np.isfinite(gap) else np.inf)
    if worst > _TOLERANCE:
        raise ModelError(
            "the simplified model does not give what the original gives",
            where=path,
            expected=f"a difference of ≤ {_TOLERANCE:g} of the largest output on noise",
            got=f"{worst:.2g}",
            remedy="simplify it yourself before converting (onnxslim, onnxsim), or export it again",
        )
    return [f"Compared with the file as given on noise: largest difference {worst:.1g} of the largest output."]


def _name_nodes(graph: Any) -> None:
    """Every node gets a name of its own; those that have one keep it."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name += "_"
        node.name = name
        taken.add(name)
