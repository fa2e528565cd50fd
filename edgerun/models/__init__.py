"""Bundles: what a model says of itself."""

from edgerun.models.bundle import Artifact, Bundle, GoldenCase, find_bundled, golden_cases, load
from edgerun.models.derive import complete
from edgerun.models.labels import read_labels
from edgerun.models.manifest import PictureInput

__all__ = [
    "Artifact",
    "Bundle",
    "GoldenCase",
    "PictureInput",
    "complete",
    "find_bundled",
    "golden_cases",
    "load",
    "read_labels",
]
