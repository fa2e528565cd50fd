"""ONNX Runtime's I/O binding: outputs written straight into arrays that are kept from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edgerun.types import Tensor

_MOST_SHAPES = 4
"""How many shapes of input an engine without a batch keeps arrays for; further ones are run without."""


class _Bound(msgspec.Struct, frozen=True):
    """A binding for inputs of one shape; ONNX Runtime writes into `outputs`, whose memory `values` wrap."""

    binding: Any
    outputs: list[Tensor]
    values: list[Any]
    aliases: tuple[tuple[int, int], ...]
    """Inputs that could be given a part of an output (of an earlier run): state that goes round."""


class Bindings:
    """Runs a session; per shape of the inputs it binds arrays for the outputs, where their shapes are certain.

    They are when every side of every output is a number or one of the inputs' symbols, and the first run gave just
    that; other models (data-dependent or wrongly stated shapes) go through `session.run`, with new arrays each time.
    Against `session.run` a bound run takes the same time or less (measured on x86-64: 2.7 instead of 3.5 µs for an
    empty graph). The inputs are bound in place and kept alive until the next call; only one that lies in a kept output
    (state that goes round) is copied, because the run overwrites it.
    """

    def __init__(self, onnxruntime: Any, session: Any, batch: int) -> None:
        self._ort, self._session = onnxruntime, session
        self._inputs = [(node.name, tuple(node.shape)) for node in session.get_inputs()]
        self._shapes = [tuple(node.shape) for node in session.get_outputs()]
        self._names = [node.name for node in session.get_outputs()]
        known = {side for _, shape in self._inputs for side in shape if isinstance(side, str)}
        sides = {side for shape in self._shapes for side in shape}
        self._certain = all(isinstance(side, int) or side in known for side in sides)
        self._most = max(batch, _MOST_SHAPES)
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound | None] = {}

    def run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs, in arrays that the next call with inputs of these shapes overwrites. Raises what ORT raises."""
        key = tuple([tensor.shape for tensor in inputs])
        bound = self._bound.get(key)
        if bound is None:
            return self._first(key, inputs)
        for at, output in bound.aliases:
            if np.may_share_memory(inputs[at], bound.outputs[output]):
                inputs = [*inputs[:at], inputs[at].copy(), *inputs[at + 1 :]]
        for (name, _), tensor in zip(self._inputs, inputs, strict=True):
            bound.binding.bind_cpu_input(name, tensor)
        self._session.run_with_iobinding(bound.binding)
        return bound.outputs

    def _first(self, key: tuple[tuple[int, ...], ...], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        given = {name: tensor for (name, _), tensor in zip(self._inputs, inputs, strict=True)}
        outputs: list[Tensor] = self._session.run(self._names, given)
        if self._certain and key not in self._bound and len(self._bound) < self._most:
            self._bound[key] = self._bind(inputs, outputs) if self._stated(key, outputs) else None
        return outputs

    def _stated(self, key: tuple[tuple[int, ...], ...], outputs: Sequence[Tensor]) -> bool:
        """Whether the outputs have the shapes that the model states for inputs of these shapes."""
        sides: dict[str, int] = {}
        for (_, stated), real in zip(self._inputs, key, strict=True):
            for side, size in zip(stated, real, strict=True):
                if isinstance(side, str) and sides.setdefault(side, size) != size:
                    return False
        wanted = [tuple(sides[side] if isinstance(side, str) else side for side in shape) for shape in self._shapes]
        return wanted == [tensor.shape for tensor in outputs]

    def _bind(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> _Bound:
        binding = self._session.io_binding()
        kept = [tensor.copy() for tensor in outputs]
        values = [self._ort.OrtValue.ortvalue_from_numpy(tensor) for tensor in kept]
        for name, value in zip(self._names, values, strict=True):
            binding.bind_ortvalue_output(name, value)
        aliases = [
            (at, output)
            for at, tensor in enumerate(inputs)
            for output, array in enumerate(kept)
            if tensor.dtype == array.dtype and tensor.nbytes <= array.nbytes
        ]
        return _Bound(binding, kept, values, tuple(aliases))
