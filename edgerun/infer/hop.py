"""What an engine's child process and its parent say to each other, and the memory in which they pass tensors."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from math import prod

import msgspec
import numpy as np

from edgerun import errors
from edgerun.errors import EdgerunError, EngineError
from edgerun.types import EngineInfo, Tensor, TensorSpec

MOST_BYTES = 1 << 16
"""Of one message; it is a datagram of a SOCK_SEQPACKET socket (unix(7)): whole or not at all."""

_ALIGNED = 64  # bytes: a cache line, and what vector loads like


class Job(msgspec.Struct, frozen=True):
    """What the child is to open. `model` is a file; None: the bytes in the memfd it was given."""

    plug_in: str
    options: msgspec.Raw
    model: str | None
    name: str
    accelerator: str
    accelerator_options: msgspec.Raw
    threads: int
    batch: int


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies in an `Arena`; `dtype` is numpy's name."""

    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def end(self) -> int:
        return self.offset + prod(self.shape) * np.dtype(self.dtype).itemsize


class Fault(msgspec.Struct, frozen=True):
    """An `EdgerunError` on its way through the socket; `kind` is its class."""

    kind: str
    what: str
    where: str | None
    expected: str | None
    got: str | None
    remedy: str | None

    @classmethod
    def of(cls, error: EdgerunError) -> Fault:
        parts = [None if part is None else str(part) for part in (error.where, error.expected, error.got, error.remedy)]
        return cls(type(error).__name__, error.what, *parts)

    def error(self) -> EdgerunError:
        """The error again; a class that is not of edgerun's tree becomes `EngineError`."""
        found = getattr(errors, self.kind, None)
        kind = found if isinstance(found, type) and issubclass(found, EngineError | errors.ModelError) else None
        if self.kind in ("MissingError", "ConfigError"):
            kind = getattr(errors, self.kind)
        made: EdgerunError = (kind or EngineError)(
            self.what, where=self.where, expected=self.expected, got=self.got, remedy=self.remedy
        )
        return made


class Opened(msgspec.Struct, frozen=True):
    """The child's first message: what it opened, or why it could not."""

    fault: Fault | None
    info: EngineInfo | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    delegated: tuple[int, int] | None = None


class Request(msgspec.Struct, frozen=True, array_like=True):
    """Infer what lies in the inputs' arena. `places` None: where the previous request had them."""

    seq: int
    places: tuple[Place, ...] | None


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """To the request of the same `seq`. `places` None: the outputs lie where the previous reply had them."""

    seq: int
    fault: Fault | None
    places: tuple[Place, ...] | None


class Arena:
    """Tensors in a memfd that both processes map: it grows by whoever writes it, and is sealed against shrinking.

    Without that seal (memfd_create(2)) a child gone wild could cut it and the parent would die of SIGBUS.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls, name: str) -> Arena:
        """A new one, empty. Its descriptor is not inherited unless it is passed on."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(fd)

    def place(self, tensors: Sequence[tuple[tuple[int, ...], str]]) -> tuple[Place, ...]:
        """Room for tensors of these shapes and dtypes, one after the other; the memfd grows where it must."""
        places, at = [], 0
        for shape, dtype in tensors:
            place = Place(shape, dtype, at)
            places.append(place)
            at = -(-place.end // _ALIGNED) * _ALIGNED
        if os.fstat(self.fd).st_size < at:
            os.ftruncate(self.fd, at)
        return tuple(places)

    def views(self, places: Sequence[Place]) -> list[Tensor]:
        """The tensors as arrays on the shared memory, which they keep mapped. Raises `ValueError` for a wrong place."""
        size = os.fstat(self.fd).st_size
        for place in places:
            if place.offset < 0 or min(place.shape, default=0) < 0 or place.end > size:
                raise ValueError(f"{place} lies outside the {size} bytes that are shared")
        if size and (self._map is None or len(self._map) < size):
            self._map = mmap.mmap(self.fd, size)  # views of the mapping before keep that alive
        memory = self._map if self._map is not None else b""
        return [np.ndarray(place.shape, place.dtype, memory, place.offset) for place in places]

    def close(self) -> None:
        """Give the descriptor back. Views stay valid. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self._map = None


def model_memfd(model: bytes) -> int:
    """A memfd that holds `model`, for whoever it is passed to to read."""
    fd = os.memfd_create("edgerun-model", os.MFD_CLOEXEC)
    view = memoryview(model)
    while view:
        view = view[os.write(fd, view) :]
    return fd
