"""LiteRT's `CompiledModel`, its way to the GPU: WebGPU on Vulkan, where its package brings the accelerator."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.errors import EngineError, MissingError
from edgerun.infer import vulkan
from edgerun.infer.content import one_line
from edgerun.types import Tensor

_PARTLY = "Some ops are not accelerated"
_SHARE = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
_INSTALL = 'pip install "ai-edge-litert>=2.1", whose CompiledModel runs on GPUs'
_DRIVER = "install a Vulkan driver for this GPU (Debian: mesa-vulkan-drivers 23 or newer) and join the group render"


class GpuSettings(msgspec.Struct, frozen=True):
    """`exact`: compute in float32 where the GPU would take half precision. `software`: a driver that computes on the
    CPU will do too. `cpu_ops`: ops that the GPU does not know may run on the CPU.
    """

    exact: bool = False
    software: bool = False
    cpu_ops: bool = True


class Compiled:
    """A model on the GPU, with as much of `Interpreter`'s face as `TfliteEngine` uses.

    `delegated`: ops that run on the GPU, of all; None where the runtime does not tell. LiteRT only enqueues the run:
    the outputs are waited for when they are read. Raises `MissingError` where there is no GPU that it can use,
    `EngineError` for a model that it refuses.
    """

    def __init__(self, module: Any, model: bytes | Path, settings: GpuSettings, threads: int, where: str) -> None:
        self._where = where
        library = _library(where)
        _refuse_software(settings, where)
        plain = module.Interpreter(
            **({"model_path": str(model)} if isinstance(model, Path) else {"model_content": model})
        )
        self._inputs: list[dict[str, Any]] = plain.get_input_details()
        self._outputs: list[dict[str, Any]] = plain.get_output_details()
        self._tensors: list[dict[str, Any]] = plain.get_tensor_details()
        ops = len(plain._get_ops_details())
        del plain
        try:
            self._compiled, self.delegated = _compile(library, model, settings, threads, ops)
        except RuntimeError as error:
            raise _refused(error, where) from error
        signature = next(iter(self._compiled.get_signature_list()))
        self._given = self._buffers(self._compiled.get_input_tensor_details(signature), "input")
        self._made = self._buffers(self._compiled.get_output_tensor_details(signature), "output")
        self._shapes = {int(one["index"]): tuple(map(int, one["shape"])) for one in (*self._inputs, *self._outputs)}
        self._dtypes = {int(one["index"]): np.dtype(one["dtype"]) for one in (*self._inputs, *self._outputs)}
        missing = [one["name"] for one in self._inputs if one["index"] not in self._given]
        missing += [one["name"] for one in self._outputs if one["index"] not in self._made]
        if missing:
            raise EngineError(
                "the model's first signature leaves tensors out", where=where, expected=", ".join(missing)
            )

    def get_input_details(self) -> list[dict[str, Any]]:
        return self._inputs

    def get_output_details(self) -> list[dict[str, Any]]:
        return self._outputs

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return self._tensors

    def set_tensor(self, index: int, tensor: Tensor) -> None:
        """Copy an input in. Raises `ValueError` for one of another shape or type, which the runtime would take."""
        if tensor.shape != self._shapes[index] or tensor.dtype != self._dtypes[index]:
            raise ValueError(f"expected {self._shapes[index]} {self._dtypes[index]}, got {tensor.shape} {tensor.dtype}")
        self._given[index].write(tensor)

    def invoke(self) -> None:
        """Enqueue the run. Raises `RuntimeError`."""
        self._compiled.run_by_index(0, list(self._given.values()), list(self._made.values()))

    def tensor(self, index: int) -> Callable[[], Tensor]:
        """What reads an output, once it is there."""
        buffer, shape, dtype = self._made[index], self._shapes[index], self._dtypes[index]
        count = int(np.prod(shape))

        def read() -> Tensor:
            found: Tensor = np.asarray(buffer.read(count, dtype.type)).reshape(shape)
            return found

        return read

    def _buffers(self, details: dict[str, dict[str, Any]], side: str) -> dict[int, Any]:
        """Tensor index → its buffer, in the signature's order."""
        made = getattr(self._compiled, f"create_{side}_buffers")(0)
        listed = self._compiled.get_signature_by_index(0)[f"{side}s"]
        return {int(details[name]["index"]): buffer for name, buffer in zip(listed, made, strict=True)}


def _library(where: str) -> Any:
    try:
        return importlib.import_module("ai_edge_litert.compiled_model")
    except ImportError as error:
        raise MissingError("this runtime has no CompiledModel", where=where, got=error, remedy=_INSTALL) from error


def _refuse_software(settings: GpuSettings, where: str) -> None:
    """Raises `MissingError` where Vulkan has nothing but a driver that computes on the CPU, unless that will do."""
    seen, _ = vulkan.adapters()
    if seen and not settings.software and all(one.software for one in seen):
        raise MissingError(
            "no GPU: the only Vulkan driver computes on the CPU",
            where=where,
            got=", ".join(map(str, seen)),
            remedy=f"{_DRIVER}, or set software = true to try it all the same",
        )


def _compile(
    library: Any, model: bytes | Path, settings: GpuSettings, threads: int, ops: int
) -> tuple[Any, tuple[int, int] | None]:
    """The compiled model and its share. Raises `RuntimeError`.

    First without the CPU: only then the runtime says whether every op runs on the GPU (`is_fully_accelerated()` is
    true also where an accelerator was left out).
    """
    flags = library.HardwareAccelerator
    try:
        return _create(library, model, flags.GPU, settings, threads), (ops, ops)
    except RuntimeError as error:
        if _PARTLY not in str(error) or not settings.cpu_ops:
            raise
    with overheard() as said:
        made = _create(library, model, flags.GPU | flags.CPU, settings, threads)
        first = _SHARE.search(said())  # the main graph is looked at first
    return made, (int(first[1]), int(first[1]) + int(first[2])) if first else None


def _create(library: Any, model: bytes | Path, flags: Any, settings: GpuSettings, threads: int) -> Any:
    options = library.Options(
        hardware_accelerators=flags,
        cpu_options=library.CpuOptions(num_threads=threads),
        gpu_options=library.GpuOptions(enforce_f32=settings.exact),
    )
    if isinstance(model, Path):
        return library.CompiledModel.from_file(str(model), options=options)
    return library.CompiledModel.from_buffer(model, options=options)


def _refused(error: RuntimeError, where: str) -> EngineError | MissingError:
    text = one_line(error)
    seen, why_none = vulkan.adapters()
    if _PARTLY in text:
        remedy = "set cpu_ops = true, or leave gpu out of accelerators for this model; the log names the ops"
        return EngineError("the GPU does not run every op of the model", where=where, remedy=remedy)
    got = f"Vulkan shows {', '.join(map(str, seen))}" if seen else why_none
    return MissingError("LiteRT's GPU accelerator finds no GPU that it can use", where=where, got=got, remedy=_DRIVER)


@contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """What is written to the process's stderr meanwhile, on top of reaching it: runtimes say some things only there.

    It reaches it at the end; when the process is killed before, it is lost.
    """
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+b", buffering=0) as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            return os.pread(file.fileno(), 1 << 20, 0).decode("utf-8", "replace")

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            with open(kept, "wb", buffering=0) as out:
                out.write(os.pread(file.fileno(), 1 << 20, 0))
