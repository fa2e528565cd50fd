"""Models that remember from call to call, or want more than one input: run as if they had only what is new.

State contract. A stateful engine serves one stream: its answers depend on everything that went in before. Whoever joins
lanes to engines gives it one lane only, takes no batch, cache, still-scene reuse or cascade for it, feeds it in order
from a bounded ordered slot, and calls `reset` before the first input after a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from edgerun.errors import EdgerunError, EngineError, FrameError, ModelError
from edgerun.ports import Engine
from edgerun.types import EngineInfo, Tensor, TensorSpec

MAX_INPUT_BYTES = 512 << 20
"""Largest input that is allocated here; a shape beyond it is a mistake."""


class StatefulEngine:
    """`engine` with some of its inputs filled in: state that goes round, constants, fixed shapes for open sides.

    `inputs` and `outputs` are what is left, in the order of the engine's own; positions below count among all of them.
    `state`: (input, output) whose value goes back into it before the next call, zeros first. `constants`: input →
    number, or list of the input's shape. `shapes`: input → its shape. State is copied into arrays of this object's own,
    so the engine may reuse its outputs, and no array is allocated per call. `reopen` opens the model anew: it is needed
    where the model keeps state inside (`variables`), because no call of LiteRT 2.3 clears TFLite resource variables
    (`reset_all_variables` leaves them; opening a wake word anew takes half a millisecond).

    The engine is run once with zeros, to see that the shapes fit and to learn those of its outputs. Raises `ModelError`
    where they do not, `EngineError` as the engine does. Closing this closes the engine. Used by one thread at a time.
    """

    options: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        state: Sequence[tuple[int, int]] = (),
        constants: Mapping[int, Any] = {},
        shapes: Mapping[int, Sequence[int]] = {},
        variables: bool = False,
        reopen: Callable[[], Engine] | None = None,
    ) -> None:
        if variables and reopen is None:
            raise ModelError(
                "the model keeps state inside, which only opening it anew clears",
                where=name,
                expected="a way to reopen",
            )
        self._engine, self._name = engine, name
        self._reopen = reopen if variables else None
        self.info: EngineInfo = engine.info
        self.stateful = bool(state) or variables
        """Whether the contract above holds; else it only fills in constants or shapes."""
        self._state = tuple(state)
        fed = {at for at, _ in state} | set(constants)
        specs = [_fixed(spec, shapes.get(at), at in fed, name) for at, spec in enumerate(engine.inputs)]
        self._free = [at for at in range(len(specs)) if at not in fed]
        self._shown = [at for at in range(len(engine.outputs)) if at not in {out for _, out in state}]
        if not self._free or not self._shown:
            raise ModelError("state and constants leave no input or no output", where=name)
        # What every call passes; the free places are taken by the caller's tensors.
        self._tensors: list[Tensor] = [_filled(spec, constants.get(at), name) for at, spec in enumerate(specs)]
        self._kept = [self._tensors[at] for at, _ in state]
        self.inputs: tuple[TensorSpec, ...] = tuple(specs[at] for at in self._free)
        self._used = False
        self.outputs: tuple[TensorSpec, ...] = self._learn()
        self._begin_anew()

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `ports.Engine`: the outputs that are not state, valid until the next call. One row at a time."""
        if len(inputs) != len(self._free):
            raise EngineError(
                "the model failed to run",
                where=self._name,
                expected=", ".join(f"{spec.name} {_text(spec.shape)} {spec.dtype}" for spec in self.inputs),
                got=f"{len(inputs)} inputs",
            )
        for at, tensor in zip(self._free, inputs, strict=True):
            self._tensors[at] = tensor
        self._used = True
        try:
            outputs = self._engine.infer(self._tensors)
        finally:
            self.info = self._engine.info  # another accelerator may have taken over
        for kept, (_, out) in zip(self._kept, self._state, strict=True):
            np.copyto(kept, outputs[out])
        return [outputs[at] for at in self._shown]

    def reset(self) -> None:
        """Forget everything that went in. Raises `FrameError` (reason `engine`) where the model cannot be reopened now:
        the frame that asked for it is lost, and the next may ask again.
        """
        try:
            self._begin_anew()
        except (EngineError, ModelError) as error:
            raise FrameError("the model cannot begin anew", reason="engine", where=self._name, got=error) from error

    def _begin_anew(self) -> None:
        for kept in self._kept:
            kept.fill(0)
        if self._reopen is None or not self._used:
            return
        self._engine.close()
        self._engine = self._reopen()
        self.info = self._engine.info
        self._used = False

    @property
    def delegated(self) -> tuple[int, int] | None:
        """As of `host.HostedEngine`."""
        found: tuple[int, int] | None = getattr(self._engine, "delegated", None)
        return found

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _learn(self) -> tuple[TensorSpec, ...]:
        """One run with zeros: the outputs' real shapes."""
        outputs = self._engine.infer(self._tensors)
        self._used = True
        for kept, (given, out) in zip(self._kept, self._state, strict=True):
            if outputs[out].shape != kept.shape or outputs[out].dtype != kept.dtype:
                raise ModelError(
                    "a state that goes round does not fit where it goes",
                    where=self._name,
                    expected=f"{self._engine.inputs[given].name} {_text(kept.shape)} {kept.dtype.name}",
                    got=f"{self._engine.outputs[out].name} {_text(outputs[out].shape)} {outputs[out].dtype.name}",
                    remedy='give the right pairs as "state", and open sides as "shapes", in a manifest.json',
                )
        specs = self._engine.outputs
        return tuple(msgspec.structs.replace(specs[at], shape=outputs[at].shape) for at in self._shown)


def with_state(
    engine: Engine,
    name: str,
    *,
    state: Sequence[tuple[int, int]] = (),
    constants: Mapping[int, Any] = {},
    shapes: Mapping[int, Sequence[int]] = {},
    variables: bool = False,
    reopen: Callable[[], Engine] | None = None,
) -> Engine:
    """`engine` itself where there is nothing to fill in, else a `StatefulEngine`. Closes it when that fails."""
    if not (state or constants or shapes or variables):
        return engine
    try:
        return StatefulEngine(
            engine, name, state=state, constants=constants, shapes=shapes, variables=variables, reopen=reopen
        )
    except EdgerunError:
        engine.close()
        raise


def reset(engine: Engine) -> None:
    """Forget what went into `engine`, where it remembers anything."""
    if isinstance(engine, StatefulEngine):
        engine.reset()


def _fixed(spec: TensorSpec, shape: Sequence[int] | None, fed: bool, name: str) -> TensorSpec:
    """`spec` with no side open: those given, else 1 for a leading one (the batch), and for any of an input fed here."""
    sides = tuple(shape) if shape is not None else spec.shape
    fits = len(sides) == len(spec.shape) and all(a == b or a == -1 for a, b in zip(spec.shape, sides, strict=False))
    if shape is not None and not fits:
        raise ModelError(
            "an input was given a shape it cannot have",
            where=name,
            expected=f"{spec.name} {_text(spec.shape)}",
            got=_text(sides),
        )
    if shape is None and not fed and any(side < 0 for side in sides[1:]):
        raise ModelError(
            "the input's size is open",
            where=name,
            expected=f'"shapes": {{"{spec.name}": […]}} in a manifest.json',
            got=f"{spec.name} {_text(spec.shape)}",
        )
    sides = tuple(1 if side < 0 else side for side in sides)
    size = int(np.prod(sides, dtype=object)) * np.dtype(spec.dtype).itemsize
    if size > MAX_INPUT_BYTES:
        raise ModelError(
            "an input is too large",
            where=name,
            expected=f"≤ {MAX_INPUT_BYTES >> 20} MiB",
            got=f"{spec.name} {_text(sides)} {spec.dtype}",
        )
    return msgspec.structs.replace(spec, shape=sides)


def _filled(spec: TensorSpec, value: Any, name: str) -> Tensor:
    """An array of the input's shape: zeros, or the constant. Raises `ModelError` for a value that does not fit."""
    if value is None:
        return np.zeros(spec.shape, spec.dtype)
    try:
        given = np.array(value)
        if given.dtype.kind not in "biuf":
            raise ValueError("not numbers")
        made = np.broadcast_to(given, spec.shape).astype(spec.dtype)
        if not np.array_equal(made, np.broadcast_to(given, spec.shape)) and made.dtype.kind != "f":
            raise ValueError("it would be rounded")
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(
            "a constant does not fit its input",
            where=name,
            expected=f"{spec.name} {_text(spec.shape)} {spec.dtype}",
            got=f"{value!r} ({error})",
        ) from error
    return np.array(made, order="C")  # ascontiguousarray would make a scalar one-dimensional


def _text(shape: Sequence[int]) -> str:
    return "×".join("?" if side < 0 else str(side) for side in shape) or "scalar"
