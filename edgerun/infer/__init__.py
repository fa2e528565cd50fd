"""Engines that run a model."""

from edgerun.infer.accelerators import ACCELERATORS, open_engine

__all__ = ["ACCELERATORS", "open_engine"]
