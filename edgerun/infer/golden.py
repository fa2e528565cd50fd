"""Golden inputs, and whether two sets of outputs for them are the same answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.errors import EngineError
from edgerun.ports import Engine
from edgerun.types import Tensor, TensorSpec

_OPEN_SIDE = 64  # as the proof of a batch fills in

Golden = tuple[tuple[Tensor, ...], ...]
"""For each golden picture, the model's inputs."""
GoldenFor = Callable[[Engine], Golden]
"""The golden inputs as an open engine's specs want them; empty where there are none for it."""


class Unproven(EngineError):
    """It opens and runs, but its answers are not those of the CPU."""


class TooSlow(Unproven):
    """Its answers are right, but the CPU's are there earlier."""


class Tolerance(msgspec.Struct, frozen=True):
    """By how much an accelerator's outputs may differ from the CPU's, and for what `share` of their values.

    Quantised integers: `quanta` steps (measured: LiteRT's WebGPU differs by up to 5). Floats: `relative` to the largest
    value of that output (half precision has 11 bits, so some layers later about 1 %). Other integers, such as a class
    or a count: not at all. The share leaves room for an NMS that orders equals in another way.
    """

    quanta: int = 6
    relative: float = 0.02
    share: float = 0.98


def golden_inputs(inputs: Sequence[TensorSpec], number: int) -> tuple[Tensor, ...]:
    """Inputs that are the same each time: for a picture shades, discs and noise over the whole range of its type.

    `number` gives another one. Open sides are 1 (the first) and 64; integers that are not quantised are 0 and 1.
    """
    return tuple(_golden(spec, number) for spec in inputs)


def agreement(got: Tensor, want: Tensor, spec: TensorSpec, tolerance: Tolerance) -> float:
    """The share of values (0..1) of `got` that lie within the tolerance of `want`; 0 for another shape."""
    if got.shape != want.shape:
        return 0.0
    if not got.size:
        return 1.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    if got.dtype.kind == "f":
        finite: NDArray[np.float64] = np.abs(b[np.isfinite(b)])
        near = np.isclose(a, b, rtol=0.0, atol=tolerance.relative * float(finite.max(initial=0.0)), equal_nan=True)
    else:
        near = np.abs(a - b) <= (tolerance.quanta if spec.scale else 0)
    return float(near.mean())


def refuse_nonsense(
    answers: Sequence[Sequence[Tensor]],
    expected: Sequence[Sequence[Tensor]] | None,
    outputs: Sequence[TensorSpec],
    where: str,
) -> None:
    """Raises `Unproven` for outputs that are NaN, or all the same value, where the CPU's are not.

    Without `expected`: NaN anywhere, or every output constant for all of the golden inputs.
    """
    constant = []
    for number, each in enumerate(answers):
        for at, (tensor, spec) in enumerate(zip(each, outputs, strict=True)):
            wanted = None if expected is None else expected[number][at]
            if tensor.dtype.kind == "f" and np.isnan(tensor).any() and (wanted is None or not np.isnan(wanted).any()):
                raise _nonsense(spec, "NaN", where)
            flat = tensor.size > 1 and bool((tensor == tensor.flat[0]).all())
            if flat and wanted is not None and not (wanted == wanted.flat[0]).all():
                raise _nonsense(spec, "zeros only" if not tensor.any() else f"{tensor.flat[0]} everywhere", where)
            constant.append(flat)
    if expected is None and constant and all(constant):
        raise _nonsense(outputs[0], "one value everywhere", where)


def _golden(spec: TensorSpec, number: int) -> Tensor:
    shape = tuple(side if side > 0 else (1 if at == 0 else _OPEN_SIDE) for at, side in enumerate(spec.shape))
    rng = np.random.default_rng(number)
    values = rng.random(shape)
    if len(shape) == 4:
        first = shape[1] in (1, 3, 4)  # NCHW
        high, wide = shape[2:] if first else shape[1:3]
        y, x = np.mgrid[0:high, 0:wide] / max(high, wide)
        plain = (x + y) / 2 if number == 0 else (1 - x) * y
        for cy, cx, radius in rng.random((6, 3)):
            plain[(y - cy) ** 2 + (x - cx) ** 2 < (radius / 4) ** 2] = cx
        values = 0.8 * (plain if first else plain[..., None]) + 0.2 * values
    if spec.dtype.startswith("float"):
        return (2 * values - 1).astype(spec.dtype)
    if spec.dtype in ("int8", "uint8", "int16", "uint16") and (spec.scale or len(shape) == 4):
        limits = np.iinfo(spec.dtype)
        return (limits.min + values * (int(limits.max) - int(limits.min))).astype(spec.dtype)
    return (2 * values).astype(spec.dtype)


def _nonsense(spec: TensorSpec, got: str, where: str) -> Unproven:
    return Unproven(
        "the accelerator answers nonsense",
        where=where,
        expected=f"values in {spec.name} that depend on the picture, as the CPU's do",
        got=got,
        remedy="update its driver, or leave it out of accelerators",
    )
