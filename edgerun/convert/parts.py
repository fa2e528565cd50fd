"""What the steps of a conversion hand to one another.

    importers  source file → Network (float, one file, .tflite or .onnx)
    samples    a folder, video, .npz or .csv → Samples (the model's inputs as the model will see them)
    quantizer  Network + calibration Samples → layers, their sensitivity, and the bytes for any choice of layers
    search     which layers stay in higher precision, so that the judge's gate is met
    judge      float and candidate over evaluation Samples → Quality
    measure    both, side by side → Measured
    report     Outcome → report.html, report.json

Nothing here imports a converter: each is imported by the step that needs it, and its absence is a `MissingError` with
the pip command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from edgerun.models.manifest import Format
from edgerun.types import Image, Tensor

Precision = Literal["int8", "mixed", "fp16", "float"]
Target = Literal["cpu", "edgetpu", "gpu", "ort"]

Progress = Callable[[str, int, int], None]
"""Told (step in words, done, of how many; 0 where it is not known); raises whatever is to end the work."""


class Network(msgspec.Struct, frozen=True):
    """A float model as one file that its runtime runs: weights float32, .tflite with a signature, .onnx self-contained.

    `notes` say what was changed on the way, one sentence each, for the report. `tools`: what was used → its version.
    """

    path: Path
    format: Format
    notes: tuple[str, ...] = ()
    tools: Mapping[str, str] = {}


class Layer(msgspec.Struct, frozen=True):
    """One operator that carries weights or may be quantised. `name` is unique in the network and stable over runs.

    `macs`: multiply-accumulates for one input; `weights`: number of constants it holds.
    """

    name: str
    op: str
    macs: int
    weights: int


class Sample(msgspec.Struct, frozen=True):
    """One input of the model as the model sees it, after preprocessing, before any quantisation.

    `inputs`: by input name, batch dimension included, dtype float32 (or the integer type of an integer input).
    `picture`: H×W×3 uint8 RGB in the size of the input, for pictures. `origin`: file name, or clip and frame number.
    `label`: index of its class, where the set is labelled.
    """

    origin: str
    inputs: Mapping[str, Tensor]
    picture: Image | None = None
    label: int | None = None


class Samples(Protocol):
    """Calibration or evaluation inputs, read when asked for; iterating twice gives the same, in the same order."""

    source: str
    """As the user named it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Quantizer(Protocol):
    """One route from a float network to a quantised one. Constructed with (network, calibration, options, progress).

    `tools`: what it is made with → its version; `notes`: what it did to the network, one sentence each.
    """

    @property
    def tools(self) -> Mapping[str, str]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def layers(self) -> Sequence[Layer]:
        """In the order of execution."""
        ...

    def sensitivity(self, samples: Samples, progress: Progress) -> Mapping[str, float]:
        """By layer name: SQNR (dB) of the network's outputs with that layer alone quantised; low is sensitive."""
        ...

    def ranked(self, sensitivity: Mapping[str, float]) -> Sequence[str]:
        """Names of layers, the one first that is best left in higher precision."""
        ...

    def build(self, kept: frozenset[str]) -> bytes:
        """The model file with the layers named in `kept` left in higher precision, everything else int8."""
        ...

    def precisions(self, kept: frozenset[str]) -> Mapping[str, str]:
        """The precision of each layer in `build(kept)`, by name."""
        ...


class ClassQuality(msgspec.Struct, frozen=True):
    """One class: how many the reference has, how many of them the candidate has too, and how many it adds."""

    name: str
    reference: int
    kept: int
    extra: int


class Worst(msgspec.Struct, frozen=True):
    """A sample on which candidate and original differ most. `reference` and `candidate` are texts for a reader."""

    origin: str
    score: float
    reference: str
    candidate: str
    index: int
    """Its place in the evaluation Samples."""


class Quality(msgspec.Struct, frozen=True):
    """How much of the original a candidate keeps, on data not used for calibration.

    `metric` names what is compared (`recall`, `top1_agreement`, `accuracy`, `miou`, `oks`, `cosine`, …), `value` is the
    candidate's, `original` the float model's own (1.0 where it is the reference itself), and `kept` their ratio, which
    the gate holds against `--min-quality`. `more` holds further figures of the same comparison by name.
    """

    metric: str
    value: float
    original: float
    kept: float
    samples: int
    more: Mapping[str, float] = {}
    classes: tuple[ClassQuality, ...] = ()
    worst: tuple[Worst, ...] = ()


class Measured(msgspec.Struct, frozen=True):
    """One model on one device, one thread unless said; None where it cannot be known."""

    name: str
    device: str
    threads: int
    p50_ms: float
    p99_ms: float
    size_bytes: int
    peak_rss_mib: float | None = None
    energy_j: float | None = None


class Step(msgspec.Struct, frozen=True):
    """One step of the work as it went: what was tried, how it came out, and how long it took."""

    name: str
    text: str
    seconds: float


class LayerChoice(msgspec.Struct, frozen=True):
    """A layer of the result: its sensitivity where it was measured, and the precision it has."""

    layer: Layer
    precision: str
    sqnr_db: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """Everything a conversion found out: what the report shows and report.json holds.

    `passed` False: no bundle was written. `advice`: what to try next, one sentence each. `repeat`: versions, SHA-256 of
    every input, seeds and the command, which together repeat the work.
    """

    source: str
    name: str
    task: str
    format: Format
    precision: Precision
    passed: bool
    gate: str
    original: Network
    quality: Quality
    quality_naive: Quality | None
    """Of the first try, everything int8, where a better one had to be found."""
    measured: tuple[Measured, ...]
    """The original first."""
    layers: tuple[LayerChoice, ...]
    steps: tuple[Step, ...]
    repeat: Mapping[str, Any]
    advice: tuple[str, ...] = ()
    bundle: Path | None = None
