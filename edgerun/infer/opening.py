"""Opening a model's engine on its declared accelerators: where each runs, with which file, and its proof."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgerun.clock import Clock, SystemClock
from edgerun.errors import ConfigError, EdgerunError, EngineError, MissingError, ModelError
from edgerun.infer.accelerators import Accelerator, declared, engine_kind, expand, plug_in
from edgerun.infer.board import Board
from edgerun.infer.fallback import Fallback, OnChange
from edgerun.infer.golden import GoldenFor, Tolerance, TooSlow, Unproven
from edgerun.infer.host import HostedEngine, Limits
from edgerun.infer.proof import Proof, Prover, cache_folder
from edgerun.infer.verdicts import Verdicts
from edgerun.ports import Engine, EngineContext

_log = logging.getLogger(__name__)

Model = bytes | Path


def open_engine(
    engine_class: Any,
    options: msgspec.Struct,
    context: EngineContext,
    accelerators: Sequence[str | Mapping[str, Any] | Accelerator],
    *,
    model_for: Callable[[str], Model] | None = None,
    golden: GoldenFor | None = None,
    tolerance: Tolerance | None = None,
    on_change: OnChange | None = None,
    clock: Clock | None = None,
    board: Board | None = None,
    cache: Path | None = None,
    hang_s: float | None = None,
) -> Engine:
    """`engine_class(options, context)` on the first of `accelerators` that opens and proves itself.

    An accelerator is a name, or a table with its `kind` and options; `auto` is what the board has and what is faster
    than the CPU, then `cpu`. `cpu` first gives the engine itself, in this process; anything else a `Fallback`, which
    runs accelerators in processes of their own and calls `on_change`. `model_for(kind)` gives the model file made for
    that accelerator, or raises `ModelError`; without it all get `context.model`. `golden` gives inputs for the proof,
    by default (and where it gives none) they are made up. `cache`: where the CPU's answers to them are kept, by default
    `proof.cache_folder()`. `hang_s`: how long an inference on an accelerator may take before its process is killed, by
    default learned (see `host.Limits`).

    Each refusal is logged as a warning and kept, with its reason, in the engine's `info.fallbacks`. Raises
    `ConfigError` for an empty order, `ModelError` when the model itself is at fault, `MissingError` when the runtime is
    not installed, `EngineError` with every refusal when no accelerator opens: without `cpu` in the order that is wanted
    rather than running slowly.
    """
    board = board or Board()
    order = expand(declared(accelerators), engine_kind(engine_class), context.name, board)
    if not order:
        raise ConfigError("no accelerator is declared", where=context.name, expected="at least one name, such as cpu")
    opener = ModelOpener(engine_class, options, context, model_for, board, golden, tolerance, cache, hang_s)
    fallback = Fallback(context.name, opener, order, clock or SystemClock(), on_change)
    if order[0].kind == "cpu" and not fallback.degraded:
        assert fallback.engine is not None
        return fallback.engine
    return fallback


class ModelOpener:
    """Opens one model on one accelerator after the other: `fallback.Opener`."""

    def __init__(
        self,
        engine_class: Any,
        options: msgspec.Struct,
        context: EngineContext,
        model_for: Callable[[str], Model] | None,
        board: Board,
        golden: GoldenFor | None = None,
        tolerance: Tolerance | None = None,
        cache: Path | None = None,
        hang_s: float | None = None,
    ) -> None:
        self._hang_s = hang_s
        self._class, self._options, self._context = engine_class, options, context
        self._model_for = model_for or (lambda _: context.model)
        self._board = board
        self._kind = engine_kind(engine_class)
        self._lock = threading.Lock()
        self._under_way: list[HostedEngine] = []
        self._aborted = False
        self._prover, self._verdicts = self._make_prover(
            golden, tolerance, cache if cache is not None else cache_folder()
        )
        self.proofs: dict[str, Proof] = {}
        """What each accelerator showed when it was opened last."""

    def open(self, accelerator: Accelerator) -> Engine:
        """The CPU in this process, without a proof; anything else in one of its own, proved.

        One whose answers are not the CPU's is tried a second time where it can be made more exact.
        """
        if accelerator.kind == "cpu":
            return self._open_cpu()
        open_s, careful = self._refuse_or_limit(accelerator)
        if not accelerator.chosen:
            return self._open_carefully(accelerator, open_s, careful)
        if (why := self._verdicts.why_not(accelerator.kind)) is not None:
            raise Unproven(
                "left out of auto since it was tried",
                where=self._context.name,
                got=why,
                remedy=f'accelerators = ["{accelerator.kind}", "cpu"] insists on it; so does a new driver or model',
            )
        try:
            return self._open_carefully(accelerator, open_s, careful)
        except Unproven as error:
            if accelerator.kind not in self.proofs:  # one that was right before is lost now, not left out
                self._verdicts.keep(accelerator.kind, f"{error.what}: {error.got}")
            raise

    def _open_carefully(self, accelerator: Accelerator, open_s: float, careful: dict[str, Any]) -> Engine:
        try:
            return self._open_hosted(accelerator, open_s)
        except Unproven as error:
            if not careful or isinstance(error, TooSlow):
                raise
            _log.warning("%s; tried again with %s", error, careful)
        exact = msgspec.structs.replace(accelerator, options={**accelerator.options, **careful})
        return self._open_hosted(exact, open_s)

    def _open_hosted(self, accelerator: Accelerator, open_s: float) -> Engine:
        context = msgspec.structs.replace(
            self._context,
            model=self._model_for(accelerator.kind),
            accelerator=accelerator.kind,
            accelerator_options=accelerator.options,
        )
        mine: list[HostedEngine] = []

        def started(engine: HostedEngine) -> None:
            mine.append(engine)
            with self._lock:
                self._under_way.append(engine)
                if self._aborted:
                    engine.abort()

        try:
            limits = Limits(open_s=open_s, hang_s=self._hang_s)
            engine = HostedEngine(self._class, self._options, context, limits, started)
            self._prove(engine, accelerator)
        finally:
            with self._lock:
                self._under_way = [engine for engine in self._under_way if engine not in mine]
        return engine

    def abort(self) -> None:
        """Kill what is being opened and open nothing more."""
        with self._lock:
            self._aborted = True
            for engine in self._under_way:
                engine.abort()

    def _make_prover(
        self, golden: GoldenFor | None, tolerance: Tolerance | None, cache: Path | None
    ) -> tuple[Prover, Verdicts]:
        """The prover of this model; its reference runs on the CPU, on the file made for the CPU where there is one."""
        try:
            model = self._model_for("cpu")
            content = model if isinstance(model, bytes) else str(model.absolute()).encode() + _stamp(model)
        except ModelError:
            return Prover(self._context.name, None, golden, tolerance), Verdicts(None, (), self._board)
        runs = f"{self._class.__module__} {self._options} {self._context.threads} threads"
        about = f"{runs} {_versions()} {self._board.identity()}"
        key = (content, about.encode())
        # No method of this object: that would be a circle, which keeps the model's bytes until the collector comes by.
        open_cpu = partial(_open_on_cpu, self._class, self._options, self._context, self._model_for)
        prover = Prover(self._context.name, open_cpu, golden, tolerance, cache, key)
        return prover, Verdicts(cache, key, self._board)

    def _open_cpu(self) -> Engine:
        return _open_on_cpu(self._class, self._options, self._context, self._model_for)

    def _refuse_or_limit(self, accelerator: Accelerator) -> tuple[float, dict[str, Any]]:
        """How long it may take to open, seconds, and options that make it more exact.

        Raises `ConfigError` or `DeviceError` for one that cannot open.
        """
        if self._kind is None:
            return Limits().open_s, {}
        found = plug_in(self._kind, accelerator, self._board)
        if (reason := found.refusal()) is not None:
            raise EngineError(reason) if found.pluggable else MissingError(reason)
        return found.open_s, found.careful()

    def _prove(self, engine: HostedEngine, accelerator: Accelerator) -> None:
        """Raises `TooSlow` for one that nobody asked for and that is slower than the CPU; once it was fast it stays."""
        try:
            proof = self._prover.prove(engine, engine.delegated)
            if accelerator.chosen and proof.slower and accelerator.kind not in self.proofs:
                raise TooSlow(
                    "slower than the CPU",
                    where=self._context.name,
                    got=f"{proof.accelerator_ms:.2f} instead of {proof.cpu_ms:.2f} ms an inference",
                    remedy=f'name it to use it all the same: accelerators = ["{accelerator.kind}", "cpu"]',
                )
            self.proofs[accelerator.kind] = proof
        except EdgerunError:
            engine.close()
            raise


def _stamp(path: Path) -> bytes:
    try:
        state = path.stat()
    except OSError:
        return b""
    return f"{state.st_size} {state.st_mtime_ns}".encode()


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("ai-edge-litert", "tflite-runtime", "onnxruntime", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _open_on_cpu(
    engine_class: Any, options: msgspec.Struct, context: EngineContext, model_for: Callable[[str], Model]
) -> Engine:
    engine: Engine = engine_class(
        options, msgspec.structs.replace(context, model=model_for("cpu"), accelerator="cpu", accelerator_options={})
    )
    return engine
