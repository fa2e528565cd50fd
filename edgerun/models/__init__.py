"""Models: bundles and bare files, and what they say of themselves."""

from edgerun.models.artifact import Artifact
from edgerun.models.bundle import Bundle, GoldenCase, find_bundled, golden_cases, load
from edgerun.models.calibration import Calibration
from edgerun.models.derive import Given, complete, recurrence, understand
from edgerun.models.inspection import Inspection, inspect
from edgerun.models.labels import read_labels
from edgerun.models.manifest import PictureInput, Signal
from edgerun.models.pictures import PIXELS
from edgerun.models.recurrent import Recurrence
from edgerun.models.sizes import fix_sizes
from edgerun.models.understanding import Known, Ledger, Need

__all__ = [
    "PIXELS",
    "Artifact",
    "Bundle",
    "Calibration",
    "Given",
    "GoldenCase",
    "Inspection",
    "Known",
    "Ledger",
    "Need",
    "PictureInput",
    "Recurrence",
    "Signal",
    "complete",
    "find_bundled",
    "fix_sizes",
    "golden_cases",
    "inspect",
    "load",
    "read_labels",
    "recurrence",
    "understand",
]
