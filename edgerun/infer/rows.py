"""Several pictures in one inference: which models take them, and the proof that they do not disturb each other.

A model's specs state one picture's shape with the leading dimension its file has: 1 (also TensorFlow Lite's open ones,
which are allocated as 1), -1, or N. Each picture of a batch is one row of that dimension, in every input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import EngineError, ModelError
from edgerun.ports import EngineContext
from edgerun.types import Tensor, TensorSpec

_OPEN_SIDE = 64
"""What the proof fills in for an open side that is not the batch: twice the stride of the common detectors."""

_FLOAT_TOLERANCE = {"float16": 1e-2, "float32": 1e-3, "float64": 1e-3}
"""Of the output's largest value: kernels for several rows add up in another order."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Rows:
    """The rows one inference takes: 1 to `most`. `fixed`: the model always computes `most`, so fewer are filled up."""

    def __init__(self, inputs: Sequence[TensorSpec], most: int, fixed: bool, name: str) -> None:
        self.most, self.fixed = most, fixed
        self._inputs, self._name = tuple(inputs), name
        self._full = [np.zeros((most, *spec.shape[1:]), spec.dtype) for spec in inputs] if fixed else []

    def fit(self, inputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], int]:
        """The inputs with as many rows as the model computes, and how many of them were asked for.

        Filled up in kept arrays, whose other rows hold whatever was there: the proof has shown that it does not matter.
        Raises `EngineError` for inputs that are not 1 to `most` rows, all of them alike.
        """
        rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 0
        if not 1 <= rows <= self.most or len(inputs) != len(self._inputs):
            raise self._refused(inputs)
        for tensor in inputs:
            if tensor.shape[:1] != (rows,):
                raise self._refused(inputs)
        if not self.fixed or rows == self.most:
            return inputs, rows
        for full, tensor in zip(self._full, inputs, strict=True):
            if tensor.shape[1:] != full.shape[1:] or tensor.dtype != full.dtype:
                raise self._refused(inputs)
            np.copyto(full[:rows], tensor)
        return self._full, rows

    def _refused(self, inputs: Sequence[Tensor]) -> EngineError:
        return EngineError(
            "the model failed to run",
            where=self._name,
            expected=", ".join(_rows_text(self.most, spec) for spec in self._inputs),
            got=", ".join(f"{_text(tensor.shape)} {tensor.dtype.name}" for tensor in inputs) or "no inputs",
        )


def plan_rows(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch: int, name: str, *, resizable: bool
) -> Rows | None:
    """How a model takes `batch` pictures at once, as far as its shapes tell; None where it is run as it is.

    `resizable`: the runtime can give the leading 1 of the model's inputs another value. A model whose file fixes N > 1
    rows has them whatever the `batch`. Raises `ModelError` when the shapes do not allow `batch`.
    """
    leading = {spec.shape[0] if spec.shape else 0 for spec in inputs}
    count = next(iter(leading)) if len(leading) == 1 else 0
    if count > 1 and all(spec.shape[:1] == (count,) for spec in outputs):
        if batch > count:
            raise _cannot(batch, name, f"a batch of {count} in the model's file", f"open it with batch = {count}")
        stated = all(side > 0 for spec in inputs for side in spec.shape)
        return Rows(inputs, count, True, name) if stated else None
    if batch == 1:
        return None
    for spec in (*inputs, *outputs):
        first = spec.shape[0] if spec.shape else 0
        # A TFLite output may have no shape before it has run; the proof sees the real one.
        unknown = resizable and not spec.shape and spec in outputs
        if first != -1 and not (resizable and first == 1) and not unknown:
            raise _cannot(batch, name, f"{spec.name} {_text(spec.shape) or 'without a dimension'}")
    return Rows(inputs, batch, False, name)


def proven(
    run: Run, rows: Rows | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], context: EngineContext
) -> Rows | None:
    """`rows`, shown to work by `prove`; None where there are none, or where they fail and nobody asked for a batch."""
    if rows is None:
        return None
    try:
        prove(run, rows, inputs, outputs, context.name)
    except ModelError:
        if context.batch > 1:
            raise
        return None
    return rows


def prove(run: Run, rows: Rows, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], name: str) -> None:
    """Show on two fixed pictures that a row's outputs are those of its picture, whatever the other rows hold.

    Where rows can be counted out, against inference of each picture alone; else against the same picture in another
    row. Tolerated: 1 quantum, or 0.1 % of the largest value (1 % for float16). Raises `ModelError` for a row that
    differs, an output whose leading dimension is not the rows, and a model that cannot run so many.
    """
    pictures = [[_picture(spec, number) for spec in inputs] for number in (0, 1)]
    orders = [[(at + first) % 2 for at in range(rows.most)] for first in (0, 1)]
    try:
        if rows.fixed:
            answers = [_kept(run, _stacked(pictures, order)) for order in orders]
            alone = [[tensor[:1] if tensor.ndim else tensor for tensor in answer] for answer in answers]
        else:
            alone = [_kept(run, picture) for picture in pictures]
            orders = orders[:1]
            answers = [_kept(run, _stacked(pictures, order)) for order in orders]
    except EngineError as error:
        raise _cannot(rows.most, name, error.got) from error
    for order, answer in zip(orders, answers, strict=True):
        for at, (spec, tensor) in enumerate(zip(outputs, answer, strict=True)):
            single = alone[0][at].shape
            if single[:1] != (1,) or tensor.shape != (rows.most, *single[1:]):
                raise _cannot(rows.most, name, f"output {spec.name} {_text(tensor.shape) or 'without a dimension'}")
            for row, picture in enumerate(order):
                if not _same(alone[picture][at][0], tensor[row], spec):
                    raise _cannot(
                        rows.most, name, f"other values of {spec.name} in row {row} than for a single picture"
                    )


def _cannot(batch: int, name: str, got: object, remedy: str | None = None) -> ModelError:
    return ModelError(
        f"the model cannot infer {batch} pictures at once",
        where=name,
        expected="a leading dimension of every input and output that may be the number of pictures, rows apart",
        got=got,
        remedy=remedy
        or "leave batch at 1, or export the model with an open batch dimension: a Reshape to a fixed 1 and "
        "TFLite_Detection_PostProcess allow one picture only",
    )


def _picture(spec: TensorSpec, number: int) -> Tensor:
    """One row of an input, the same each time: noise over the type's range, or over half of it."""
    shape = (1, *(side if side > 0 else _OPEN_SIDE for side in spec.shape[1:]))
    noise = np.random.default_rng(number).random(shape) / (1 + number)
    if spec.dtype.startswith("float"):
        return (2 * noise - 1).astype(spec.dtype)
    if spec.dtype in ("int8", "uint8"):
        limits = np.iinfo(spec.dtype)
        return (limits.min + noise * (limits.max - limits.min)).astype(spec.dtype)
    return (2 * noise).astype(spec.dtype)


def _stacked(pictures: Sequence[Sequence[Tensor]], order: Sequence[int]) -> list[Tensor]:
    return [np.concatenate([pictures[picture][at] for picture in order]) for at in range(len(pictures[0]))]


def _kept(run: Run, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.copy() for tensor in run(inputs)]


def _same(expected: Tensor, got: Tensor, spec: TensorSpec) -> bool:
    if spec.dtype in _FLOAT_TOLERANCE:
        finite: NDArray[np.float64] = np.abs(expected.astype(np.float64))[np.isfinite(expected)]
        slack = _FLOAT_TOLERANCE[spec.dtype] * float(finite.max(initial=0.0))
        return bool(np.isclose(got, expected, rtol=0.0, atol=slack, equal_nan=True).all())
    if spec.scale:
        return bool((np.abs(got.astype(np.int64) - expected.astype(np.int64)) <= 1).all())
    return bool((got == expected).all())


def _rows_text(most: int, spec: TensorSpec) -> str:
    return f"{'×'.join((f'1..{most}', *(_side(side) for side in spec.shape[1:])))} {spec.dtype}"


def _text(shape: Sequence[int]) -> str:
    return "×".join(map(_side, shape))


def _side(side: int) -> str:
    return "?" if side < 0 else str(side)
