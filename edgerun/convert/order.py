"""What a conversion is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgerun.convert import routes
from edgerun.convert.judge import Gate
from edgerun.convert.judge.gate import MIN_QUALITY
from edgerun.convert.parts import Precision, Target
from edgerun.convert.subject import Said
from edgerun.errors import ConfigError
from edgerun.models.manifest import Format


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `edgerun convert SRC -o DIR` may be told.

    `calibrate` and `evaluate` are sets as `sets` names them; either alone is split. `precision` None: int8, and mixed
    where int8 misses the gate. `shapes`: input → its sides, batch included, where the source leaves them open (for
    PyTorch in the order of `forward`). `prune`: share of the MACs to go (0..1). `time_budget_min`: for distilling, and
    for choosing layers. `calibration`: how activation ranges are chosen, None for the converter's own default.
    `licence`: text such as Apache-2.0, or a file. `on`: measure on this host (ssh) too. `compression`: tell what zeroed
    or clustered weights would save. `command`: as typed, for the report.
    """

    source: str
    output: Path
    format: Format | None = None
    precision: Precision | None = None
    target: Target = "cpu"
    calibrate: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    said: Said = Said()
    shapes: Mapping[str, tuple[int, ...]] = {}
    min_quality: float = MIN_QUALITY
    max_drop: float | None = None
    prune: float | None = None
    distil: bool = False
    time_budget_min: float = 20.0
    seed: int = 0
    calibration: routes.Method | None = None
    name: str | None = None
    version: str = "1"
    licence: str | None = None
    on: str | None = None
    measure: bool = True
    compression: bool = False
    force: bool = False
    command: str = ""

    @property
    def gate(self) -> Gate:
        return Gate(self.min_quality, self.max_drop)


def check(job: Job) -> None:
    """Raises `ConfigError` for options that contradict each other."""
    what, expected = "", ""
    if job.target == "edgetpu" and (job.precision not in (None, "int8") or job.format == "onnx"):
        what, expected = "the Edge TPU takes int8 TFLite only", "--precision int8 and --format tflite, or neither"
    elif job.target == "ort" and job.format == "tflite":
        what, expected = "ONNX Runtime's format is made of ONNX", "--format onnx"
    elif job.prune is not None and not 0 < job.prune < 1:
        what, expected = "not a share of the MACs", "--prune above 0 and below 1"
    elif (job.prune or job.distil) and not routes.is_torch(job.source):
        what, expected = "only PyTorch models can be pruned and distilled", "a .pt2 program or module:factory"
    elif not 0 < job.min_quality <= 1:
        what, expected = "not a share of the original's quality", "--min-quality above 0, up to 1"
    elif (job.said.mean is None) != (job.said.std is None):
        what, expected = "--mean without --std, or the other way round", "both"
    if what:
        raise ConfigError(what, where=job.source, expected=expected)
