"""Proof before trust: an accelerator answers golden inputs as the CPU does, or it is not used.

Drivers fail by numbers too: a delegate that takes a model it cannot run, a provider that falls back without a word. The
comparison is made at every opening, also of one that was lost and is back; what the CPU answers, and how fast, is kept
in a cache, for the same model, inputs, runtime and board.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec
import numpy as np

from edgerun.decoding import unpacker
from edgerun.errors import EdgerunError, EngineError
from edgerun.infer.golden import Golden, GoldenFor, Tolerance, Unproven, agreement, golden_inputs, refuse_nonsense
from edgerun.infer.verdicts import write_whole
from edgerun.ports import Engine
from edgerun.types import Tensor, TensorSpec

_log = logging.getLogger(__name__)

_TIMED_RUNS = 5
_TIMED_S = 1.0
_SLOWER = 1.1  # less is noise
_MOST_CACHED = 64 << 20


class Proof(msgspec.Struct, frozen=True):
    """What an accelerator showed. `agreed`: the least share of an output's values within the tolerance; None: there is
    nothing to compare with. `delegated`: ops that it runs, of how many.
    """

    accelerator: str
    agreed: float | None
    accelerator_ms: float
    cpu_ms: float | None
    delegated: tuple[int, int] | None

    @property
    def slower(self) -> bool:
        """Whether the CPU is faster, by more than noise."""
        return self.cpu_ms is not None and self.accelerator_ms > _SLOWER * self.cpu_ms


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    shape: tuple[int, ...]
    dtype: str
    content: bytes


class Reference(msgspec.Struct, frozen=True):
    """What the CPU says to the golden inputs: one tuple of outputs each; its own specs and median time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    answers: tuple[tuple[_Kept, ...], ...]
    cpu_ms: float

    def arrays(self) -> list[list[Tensor]]:
        return [[np.frombuffer(one.content, one.dtype).reshape(one.shape) for one in each] for each in self.answers]


class Prover:
    """Proves the accelerators of one model. Thread-safe: two at once may both ask the CPU.

    `open_cpu` opens the model on the CPU; None (or where it fails) leaves only the look for nonsense. `golden` gives
    the inputs to prove with; where it gives none, or is None, they are made up. `key` names model, runtime and board in
    the cache folder `cache`, or None for no cache. Only the CPU's answers are kept: no driver's answer outlives the
    driver.
    """

    def __init__(
        self,
        name: str,
        open_cpu: Callable[[], Engine] | None,
        golden: GoldenFor | None = None,
        tolerance: Tolerance | None = None,
        cache: Path | None = None,
        key: Sequence[bytes] = (),
    ) -> None:
        self._name = name
        self._open_cpu = open_cpu
        self._golden = golden
        self._tolerance = tolerance or Tolerance()
        self._cache, self._key = cache, key
        self._reference: Reference | None = None

    def prove(self, engine: Engine, delegated: tuple[int, int] | None = None) -> Proof:
        """Raises `Unproven` when its answers are not to be trusted, `EngineError` when it does not answer."""
        where = f"{self._name} on {engine.info.accelerator}"
        golden = self._golden(engine) if self._golden is not None else ()
        if not golden:
            golden = tuple(golden_inputs(engine.inputs, number) for number in (0, 1))
        answers = [[tensor.copy() for tensor in engine.infer(each)] for each in golden]
        reference = self._find_reference(golden, engine, where)
        if reference is None:
            _log.warning("%s: not proved: there is no file of this model that the CPU runs", where)
            agreed = None
            refuse_nonsense(answers, None, engine.outputs, where)
        else:
            refuse_other_tensors(engine, reference, where)
            expected = reference.arrays()
            refuse_nonsense(answers, expected, engine.outputs, where)
            agreed = min(
                agreement(got, want, spec, self._tolerance)
                for each, wanted in zip(answers, expected, strict=True)
                for got, want, spec in zip(each, wanted, engine.outputs, strict=True)
            )
            if agreed < self._tolerance.share:
                raise Unproven(
                    "the accelerator's outputs are not those of the CPU",
                    where=where,
                    expected=f"{self._tolerance.share:.0%} of the values within {self._tolerance.quanta} quanta, "
                    f"or {self._tolerance.relative:.1%} of the largest",
                    got=f"{agreed:.1%}",
                    remedy="update its driver, or leave it out of accelerators",
                )
        own_ms = timed(engine, golden[0])
        cpu_ms = reference.cpu_ms if reference is not None else None
        proof = Proof(engine.info.accelerator, agreed, own_ms, cpu_ms, delegated)
        _tell(proof, where)
        return proof

    def _find_reference(self, golden: Golden, engine: Engine, where: str) -> Reference | None:
        open_cpu = self._open_cpu
        if self._reference is None and open_cpu is not None:
            path = self._path(golden)
            reference = _load(path)
            if reference is None:
                reference = self._make(open_cpu, golden, engine, where)
                if reference is not None:
                    _save(path, reference)
            if reference is not None:
                self._reference = reference
        return self._reference

    def _make(self, open_cpu: Callable[[], Engine], golden: Golden, engine: Engine, where: str) -> Reference | None:
        """The CPU's answers. Raises `Unproven` where `golden` was made for other tensors than the CPU's file has."""
        try:
            cpu = open_cpu()
        except EdgerunError as error:
            _log.warning("%s: no answers of the CPU to compare with: %s", self._name, error)
            self._open_cpu = None
            return None
        try:
            refuse_other_tensors(engine, cpu, where)
            answers = tuple(
                tuple(_Kept(t.shape, t.dtype.name, np.ascontiguousarray(t).tobytes()) for t in cpu.infer(each))
                for each in golden
            )
            return Reference(cpu.inputs, cpu.outputs, answers, timed(cpu, golden[0]))
        except Unproven:
            raise
        except EngineError as error:
            _log.warning("%s: the CPU does not answer the golden inputs: %s", self._name, error)
            self._open_cpu = None
            return None
        finally:
            cpu.close()

    def _path(self, golden: Golden) -> Path | None:
        if self._cache is None:
            return None
        digest = hashlib.sha256()
        for part in (*self._key, *(np.ascontiguousarray(one).tobytes() for each in golden for one in each)):
            digest.update(hashlib.sha256(part).digest())
        return self._cache / "proof" / f"{digest.hexdigest()[:40]}.msgpack"


def cache_folder() -> Path | None:
    """Where edgerun may keep what it can make again: systemd's CacheDirectory=, else the user's (XDG)."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "edgerun"
    home = os.environ.get("HOME")
    return Path(home) / ".cache" / "edgerun" if home else None


def refuse_other_tensors(engine: Engine, cpu: Engine | Reference, where: str) -> None:
    """Raises `Unproven` when the accelerator's file has other inputs or outputs than the CPU's: then neither can stand
    in for the other.
    """
    for own, wanted in ((engine.inputs, cpu.inputs), (engine.outputs, cpu.outputs)):
        if [_face(spec) for spec in own] != [_face(spec) for spec in wanted]:
            raise Unproven(
                "the accelerator's model file has other tensors than the CPU's",
                where=where,
                expected="; ".join(map(_text, wanted)),
                got="; ".join(map(_text, own)),
                remedy="make both files from the same model",
            )


def timed(engine: Engine, inputs: Sequence[Tensor]) -> float:
    """The median time of an inference, ms, of some runs after one that warms up."""
    engine.infer(inputs)
    times: list[float] = []
    began = perf_counter()
    while len(times) < _TIMED_RUNS and perf_counter() - began < _TIMED_S:
        at = perf_counter()
        engine.infer(inputs)
        times.append((perf_counter() - at) * 1000)
    return median(times)


def _tell(proof: Proof, where: str) -> None:
    parts = [f"{proof.accelerator_ms:.2f} ms"]
    if proof.agreed is not None:
        parts.insert(0, f"{proof.agreed:.1%} of its values agree with the CPU's")
    if proof.delegated is not None:
        parts.append("{} of {} ops run on it".format(*proof.delegated))
    _log.info("%s: %s: %s", where, "proved" if proof.agreed is not None else "not compared", ", ".join(parts))
    if proof.slower:
        _log.warning("%s: slower than the CPU: %.2f instead of %.2f ms", where, proof.accelerator_ms, proof.cpu_ms)


def _face(spec: TensorSpec) -> tuple[object, ...]:
    return spec.shape, spec.dtype, tuple(f"{scale:.5g}" for scale in spec.scale), spec.zero_point


def _text(spec: TensorSpec) -> str:
    scale = f" scale {spec.scale[0]:.5g} zero {spec.zero_point[0]}" if spec.scale else ""
    return f"{'×'.join(map(str, spec.shape))} {spec.dtype}{scale}"


def _load(path: Path | None) -> Reference | None:
    if path is None:
        return None
    try:
        return unpacker(Reference)(path.read_bytes())
    except (OSError, msgspec.DecodeError):  # not there, or damaged: made again
        return None


def _save(path: Path | None, reference: Reference) -> None:
    content = msgspec.msgpack.encode(reference)
    if path is None or len(content) > _MOST_CACHED:
        return
    try:
        write_whole(path, content)
    except OSError as error:
        _log.debug("%s: the proof is not kept: %s", path, error)
