"""Small ONNX graphs for the bridge's tests, and what became of them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgerun.convert.bridge import to_tflite
from edgerun.convert.parts import Network
from edgerun.errors import ModelError

Array = NDArray[Any]
DIALECTS = {13: 8, 11: 6, 9: 4, 17: 8, 18: 8, 20: 9}  # opset → IR version


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


class Net:
    """Nodes added one after another; each `add` returns its output's name."""

    def __init__(self, *shape: int | str, opset: int = 18, dtype: int = TensorProto.FLOAT, name: str = "x") -> None:
        self.opset = opset
        self.inputs = [helper.make_tensor_value_info(name, dtype, shape)]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Inputs that are arrays become constants (lists become int64 ones)."""
        names = []
        for value in inputs:
            if isinstance(value, str):
                names.append(value)
            elif isinstance(value, list):
                names.append(self.constant(value, np.int64))
            else:
                names.append(self.constant(value))
        name = f"{op}_{len(self.nodes)}"
        made = [f"{name}_out{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, names, made, f"/{name}", **attributes))
        return made[0] if outputs == 1 else made

    def model(self, *outputs: str, types: Mapping[str, int] | None = None) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), None) for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "net", self.inputs, ends, self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=DIALECTS[self.opset])


def converted(net: Net, *outputs: str, types: Mapping[str, int] | None = None) -> Made:
    """The net through the bridge, which itself compares the two and raises where they differ."""
    with tempfile.TemporaryDirectory(prefix="bridge-") as folder:
        path = Path(folder) / "net.onnx"
        onnx.save(net.model(*outputs, types=types), path)
        made = to_tflite(Network(path, "onnx"), Path(folder))
        return Made(made.path.read_bytes(), made.notes)


def attempted(net: Net, output: str) -> tuple[Made | None, str]:
    """What came out, or why not."""
    try:
        return converted(net, output), ""
    except ModelError as error:
        return None, str(error)


class Made:
    """The TFLite file that came out: its operators and tensors."""

    def __init__(self, content: bytes, notes: Sequence[str]) -> None:
        self.notes = notes
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_content=content)
        self.interpreter.allocate_tensors()
        self.ops = [entry["op_name"] for entry in self.interpreter._get_ops_details() if entry["op_name"] != "DELEGATE"]
        self.names = [entry["name"] for entry in self.interpreter.get_tensor_details()]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.interpreter.get_input_details()[0]["shape"])
