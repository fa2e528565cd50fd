"""Embeddings: a vector that stands for the picture or the sound, to be compared with others."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, prod, sqrt
from typing import ClassVar

import msgspec
import numpy as np

from edgerun.decode.tensors import Buffer, dequantise, describe, not_numbers, wrong_size
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder embedding"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`normalise`: to length 1 (L2), so that a dot product is the cosine of the angle between two embeddings.
    `output`: the tensor's name, where the model has several of more than one number.
    """

    normalise: bool = True
    output: str = ""


class EmbeddingDecoder:
    """A vector `1×N` (sides of 1 anywhere) → `embedding`, N numbers. Labels and threshold have no meaning here."""

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False
    labels: tuple[str, ...] = ()

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._normalise = options.normalise

        def fits(spec: TensorSpec) -> bool:
            long = [side for side in spec.shape if side not in (1, -1)]
            return len(long) == 1 and long[0] > 1 and options.output in ("", spec.name)

        found = [at for at, spec in enumerate(context.outputs) if fits(spec)]
        if len(found) != 1:
            raise ModelError(
                "several outputs could be the embedding" if found else "the outputs are not those of an embedding",
                where=_WHERE,
                expected=f"one output 1×N{f' called {options.output}' if options.output else ''}",
                got=describe(context.outputs),
                remedy="name it in the decoder's options: output" if found else "choose another decoder for this model",
            )
        self._at = found[0]
        self._spec = context.outputs[self._at]
        self._length = prod(side for side in self._spec.shape if side != -1)
        self._real, self._out = Buffer(), Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; also raises `FrameError` for a vector of length 0, which has no direction."""
        raw = outputs[self._at]
        if raw.size != self._length:
            raise wrong_size(raw, self._spec, f"{self._length} numbers", _WHERE)
        wide = self._out.of((self._length,), np.float64)  # squares of large float32 would overflow
        np.copyto(wide, dequantise(raw, self._spec, self._real).reshape(-1))
        length = sqrt(float(wide @ wide))
        if not isfinite(length):
            raise not_numbers("the embedding's numbers", self._spec, _WHERE)
        if self._normalise:
            if length == 0:
                raise FrameError(
                    "an embedding of length 0 has no direction",
                    where=_WHERE,
                    reason="decode",
                    expected="a vector that can be normalised",
                    got=f"{self._length} zeros in output {self._spec.name}",
                )
            np.divide(wide, length, out=wide)
        return Answer(embedding=tuple(wide.tolist()))
