"""The libraries of the extra `convert-torch`, imported when they are needed, and what makes their work repeatable."""

from __future__ import annotations

import importlib
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgerun.errors import MissingError

REMEDY = (
    "pip install 'edgerun[convert-torch]' (with `--extra-index-url https://download.pytorch.org/whl/cpu` pip takes the "
    "CPU build, a quarter of the download)"
)

Module = Any
"""A `torch.nn.Module`."""
TorchTensor = Any
"""A `torch.Tensor`."""


def need(name: str) -> Any:
    """The module `name` of the extra. Raises `MissingError` with the pip command."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the libraries are theirs
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(
            f"{name} cannot be imported, which a PyTorch model needs", got=error, remedy=REMEDY
        ) from error


def torch_() -> Any:
    """PyTorch. Raises `MissingError`.

    Its threads are told to sleep while they wait for one another (OpenMP 5.2, 21.7 OMP_WAIT_POLICY), unless the user
    says otherwise: spinning, two of them on a busy machine with two cores took thirty times as long for a small model.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when the library is loaded
    return need("torch")


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Inside, random numbers follow from `seed` alone and kernels are chosen that give the same bits every time, where
    PyTorch has such; afterwards everything is as before.

    Holds on one machine with the same versions and number of threads (PyTorch, "Reproducibility").
    """
    torch = torch_()
    numpy = importlib.import_module("numpy")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    states = random.getstate(), numpy.random.get_state()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS before it repeats itself
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % (1 << 32))
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            random.setstate(states[0])
            numpy.random.set_state(states[1])


def versions(*names: str) -> dict[str, str]:
    """Name → version of each of the libraries; those that are not installed are left out."""
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
