"""Engines that run a model."""

from edgerun.infer.accelerators import ACCELERATORS, Accelerator
from edgerun.infer.opening import open_engine

__all__ = ["ACCELERATORS", "Accelerator", "open_engine"]
