"""Anomaly detection by an autoencoder: what it cannot reconstruct, it has not seen in training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, prod, sqrt
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import class_names
from edgerun.decode.tensors import Buffer, dequantise, describe, not_numbers, wrong_size
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Classification, Placement, Tensor, TensorSpec

_WHERE = "decoder anomaly"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`error`: the mean of the squared ("mse") or absolute ("mae") differences, or the former's root ("rmse").

    `limit`: the error above which a frame is anomalous, in the units of the model's own values (squared for "mse");
    choose it from errors of good data, such as their 99th percentile. Without one only the error itself is told.
    `original`: where the model's input is found again: "input" of the model, or the name of an output that repeats it.
    """

    error: Literal["mse", "mae", "rmse"] = "mse"
    limit: Annotated[float, Meta(gt=0)] | None = None
    original: str = "input"


class AnomalyDecoder:
    """A reconstruction and what it was made of, or one number → `value`, the error; with a `limit` also `classes`.

    One output of one number is the error itself. One output as large as the model's first input is compared with that
    input, both dequantised; the decoder then `wants_inputs`. Two outputs, one named by `original`, are compared with
    each other. That the error tells: Sakurada & Yairi, *Anomaly Detection Using Autoencoders with Nonlinear
    Dimensionality Reduction* (2014). The score of the class "anomaly" is ours: e / (e + limit), ½ at the limit and 1 at
    infinity; of "normal" it is the rest. The more likely is told. `labels` are those two names; the label file may give
    two others, the normal one first.
    """

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._options = options
        self.labels = class_names(context.labels or ("normal", "anomaly"), 2, _WHERE)
        self._outputs = len(context.outputs)
        self._original: TensorSpec | None = None
        self._rebuilt_at, self._original_at = _roles(options, context)
        self.wants_inputs = self._original_at >= self._outputs
        self._rebuilt = context.outputs[self._rebuilt_at]
        if self._original_at >= 0:
            self._original = (*context.outputs, *context.inputs)[self._original_at]
        self._size = _size(self._rebuilt)
        self._real, self._seen, self._difference, self._wide = Buffer(), Buffer(), Buffer(), Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; `outputs` are followed by the inputs where the decoder `wants_inputs`."""
        error = self._error(outputs)
        limit = self._options.limit
        if limit is None:
            return Answer(value=error)
        score = error / (error + limit)
        anomalous = error > limit
        told = Classification(self.labels[anomalous], int(anomalous), score if anomalous else 1 - score)
        return Answer(classes=(told,), value=error)

    def _error(self, outputs: Sequence[Tensor]) -> float:
        rebuilt = self._read(outputs[self._rebuilt_at], self._rebuilt, self._real)
        if self._original is None:
            error = float(rebuilt[0])
        else:
            if self._original_at >= len(outputs):
                raise FrameError(
                    "the model's input was not handed over with its outputs",
                    where=_WHERE,
                    reason="decode",
                    expected=f"{self._outputs} outputs, then the inputs",
                    got=f"{len(outputs)} tensors",
                )
            seen = self._read(outputs[self._original_at], self._original, self._seen)
            narrow = self._difference.of((self._size,), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                np.subtract(rebuilt, seen, out=narrow)
            difference = self._wide.of((self._size,), np.float64)  # squares of large float32 would overflow
            np.copyto(difference, narrow)
            if self._options.error == "mae":
                error = float(np.abs(difference, out=difference).sum()) / self._size
            else:
                # Not a dot product: NumPy's BLAS would wake its threads for it, beside the engine's.
                error = float(np.square(difference, out=difference).sum()) / self._size
            error = sqrt(error) if self._options.error == "rmse" and isfinite(error) else error
        if not isfinite(error):
            raise not_numbers("the reconstruction's values", self._rebuilt, _WHERE)
        if error < 0:
            raise FrameError(
                "a reconstruction's error is below 0",
                where=_WHERE,
                reason="decode",
                expected="0 or more",
                got=f"{error:g}",
                remedy="this output is no error: choose another decoder (regress)",
            )
        return error

    def _read(self, raw: Tensor, spec: TensorSpec, real: Buffer) -> NDArray[np.float32]:
        if raw.size != self._size:
            raise wrong_size(raw, spec, f"{self._size} number{'s' * (self._size > 1)}", _WHERE)
        return dequantise(raw, spec, real).reshape(-1)


def _size(spec: TensorSpec) -> int:
    """How many numbers; open sides count as 1."""
    return prod(side for side in spec.shape if side != -1)


def _roles(options: Options, context: DecoderContext) -> tuple[int, int]:
    """Where the reconstruction is among the outputs, and where its original is among outputs and inputs (-1: none)."""
    outputs, inputs = context.outputs, context.inputs
    if len(outputs) == 1 and options.original == "input":
        if _size(outputs[0]) == 1:
            return 0, -1
        if inputs and _size(inputs[0]) == _size(outputs[0]):
            return 0, 1
    named = [at for at, spec in enumerate(outputs) if spec.name == options.original]
    if len(outputs) == 2 and len(named) == 1 and _size(outputs[0]) == _size(outputs[1]):
        return 1 - named[0], named[0]
    raise ModelError(
        "the outputs are not those of an autoencoder",
        where=_WHERE,
        expected="one number, one output as large as the input, or two outputs of one size, one named by `original`",
        got=f"{describe(outputs)} of the inputs {describe(inputs)}",
        remedy="set original in the decoder's options to the output that repeats the input",
    )
