"""A bundle with everything filled in that the model file itself tells; what it does not tell is asked for by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from edgerun.errors import ModelError
from edgerun.models.artifact import Artifact
from edgerun.models.bundle import Bundle
from edgerun.models.facts import Facts, read_facts
from edgerun.models.families import recognise
from edgerun.models.manifest import PictureInput, Signal
from edgerun.models.outputs import TASK_OF, is_decoder, read_by
from edgerun.models.pictures import describe_picture, looks_like_picture
from edgerun.models.recurrent import Recurrence, find_state, plan
from edgerun.models.structure import sides
from edgerun.models.understanding import Ledger
from edgerun.registry import kinds
from edgerun.types import TensorSpec

_log = logging.getLogger(__name__)

DEFAULT_THRESHOLD = {"detect": 0.5, "classify": 0.0}
"""Lowest score reported where nothing says: detectors 0.5; a classification is always its best classes."""


class Given(msgspec.Struct, frozen=True):
    """What its user says of a model; wins over everything that the model says."""

    decoder: str | None = None
    labels: tuple[str, ...] | None = None
    threshold: float | None = None
    top_k: int | None = None
    pixels: str | None = None
    size: tuple[int, int] | None = None


def complete(
    bundle: Bundle,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    decoder: str | None = None,
    labels: Sequence[str] | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    pixels: str | None = None,
    size: tuple[int, int] | None = None,
    pictures: bool = True,
) -> Bundle:
    """`bundle` with its picture input (or signal), decoder, task, labels and threshold known.

    Arguments win over the manifest, the manifest over the file's metadata, that over what a published model is known
    for, that over shapes and types. `inputs` and `outputs` are the engine's specs, without state and constants.
    `pixels` is one of `PIXELS`, `size` (width, height) where the file leaves it open. With `pictures` a model that
    takes something else is an error. What has to be assumed is logged as one warning. Raises `ModelError` that names
    the flag or manifest key to give for what cannot be known.
    """
    given = Given(decoder, tuple(labels) if labels is not None else None, threshold, top_k, pixels, size)
    made, ledger = understand(bundle, inputs, outputs, given)
    if pictures and made.signal is not None:
        raise not_for_pictures(bundle, inputs)
    for need in ledger.needs:
        if not need.optional:
            raise need.error
    if ledger.assumed:
        _log.warning(
            "model %s does not say all of how it wants pictures; assumed: %s (a bundle's manifest.json can say it)",
            bundle.name,
            "; ".join(ledger.assumed),
        )
    if not made.labels and made.task in (None, "detect", "classify", "segment", "keyword"):
        _log.warning("model %s has no label names: classes are reported by number; give --labels FILE", bundle.name)
    if made.calibration is not None:
        _log.warning("model %s has a score calibration, which is not applied: scores are its own", bundle.name)
    return made


def recurrence(bundle: Bundle, artifact: Artifact | None = None) -> Recurrence:
    """How `artifact` (by default the main one) is run: what goes back into it, what stays constant, open sides.

    From the manifest, what the model is known for, or its tensors' names and shapes. Raises `ModelError`.
    """
    chosen = artifact or bundle.main
    if chosen.structure is None:
        return Recurrence()
    layers = _layers(bundle, chosen)
    state = next((one.state for one in layers if one.state is not None), None)
    if state is None:
        state = find_state(chosen.structure)
        if state:
            pairs = ", ".join(f"{out} → {given}" for given, out in state)
            _log.info("model %s: state that goes round, by its names and shapes: %s", bundle.name, pairs)
    constants = next((one.constants for one in layers if one.constants), {})
    shapes = next((one.shapes for one in layers if one.shapes), {})
    return plan(chosen.structure, state, constants or {}, shapes or {}, bundle.name)


def understand(
    bundle: Bundle, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], given: Given
) -> tuple[Bundle, Ledger]:
    """The bundle as far as it is known, and the account: each fact with its origin, assumptions, what is missing.

    Raises `ModelError` only for metadata that contradicts itself or cannot be read.
    """
    ledger = Ledger()
    layers = _layers(bundle, bundle.main)
    signal = _signal(bundle, layers, inputs, ledger)
    picture, size = bundle.picture, (0, 0)
    kind: str | None = None
    if signal is None:
        described = describe_picture(bundle, inputs, layers, given.size, ledger)
        if described is not None:
            size = described.size
            kind = _decoder(bundle, layers, inputs, outputs, size, given, ledger)
            picture = described.finish(kind, given.pixels)
    else:
        _open_sides(bundle, inputs, ledger)
        kind = _decoder(bundle, layers, inputs, outputs, size, given, ledger)
    for one in layers:
        if one.obstacles:  # how pixels are normalised is known then, and is what cannot be done
            ledger.needs = [need for need in ledger.needs if need.flag is None or "--pixels" not in need.flag]
        for obstacle in one.obstacles:
            error = ModelError(
                f"the model wants {obstacle}", where=bundle.name, remedy="edgerun cannot do that yet: use another model"
            )
            ledger.need(obstacle, None, None, error)
    return _filled(bundle, layers, given, kind, picture, signal, ledger), ledger


def not_for_pictures(bundle: Bundle, inputs: Sequence[TensorSpec]) -> ModelError:
    """The error for a model that takes something else, or nothing."""
    return ModelError(
        "this is not a model for pictures",
        where=bundle.name,
        expected="one input 1×height×width×channels or 1×channels×height×width",
        got=", ".join(f"{spec.name} {sides(spec.shape)} {spec.dtype}" for spec in inputs) or "no inputs",
        remedy="its source must be one for sound or sensors",
    )


def _layers(bundle: Bundle, artifact: Artifact) -> tuple[Facts, ...]:
    """Everything that says something, the most trusted first."""
    manifest = Facts(
        picture=bundle.picture,
        signal=bundle.signal,
        labels=bundle.labels,
        task=bundle.task,
        threshold=bundle.threshold,
        decoder=bundle.decoder,
        decoder_options=bundle.decoder_options,
        constants=bundle.constants or None,
        state=bundle.state,
        shapes=bundle.shapes or None,
        origin="manifest.json",
    )
    family = recognise(artifact.structure) if artifact.structure is not None else None
    return (manifest, *read_facts(artifact, bundle.name), *([family] if family is not None else []))


def first(layers: Sequence[Facts], key: str) -> tuple[Any, str]:
    """The first layer's value that is not None, and where it comes from; (None, "") where all are silent."""
    for one in layers:
        value = getattr(one, key)
        if value is not None:
            return value, one.origin
    return None, ""


def _signal(bundle: Bundle, layers: Sequence[Facts], inputs: Sequence[TensorSpec], ledger: Ledger) -> Signal | None:
    """What the model listens to; None for a model that looks at pictures, or takes nothing that is known."""
    signal, origin = first(layers, "signal")
    if signal is not None:
        return ledger.note("signal", signal, origin)  # type: ignore[no-any-return]
    if any(one.picture.color or one.picture.layout for one in layers) or bundle.picture != PictureInput():
        return None
    if len(inputs) != 1 or looks_like_picture(inputs[0].shape):
        return None
    long = [side for side in inputs[0].shape[1:] if side != 1]
    samples, channels = (long[0] if long else 1), (long[1] if len(long) > 1 else 1)
    if len(long) > 2 or samples < 1 or channels < 1:
        return None
    made = Signal(samples=samples, channels=channels)
    return ledger.note("signal", made, f"shape {sides(inputs[0].shape)}")  # type: ignore[no-any-return]


def _open_sides(bundle: Bundle, inputs: Sequence[TensorSpec], ledger: Ledger) -> None:
    """A leading open side is the batch, and 1; any other must be given."""
    for spec in inputs:
        if any(side < 0 for side in spec.shape[1:]):
            error = ModelError(
                "the input's size is open",
                where=bundle.name,
                expected=f'"shapes": {{"{spec.name}": […]}} in a manifest.json',
                got=sides(spec.shape),
            )
            ledger.need(f"the size of {spec.name} {sides(spec.shape)}", None, f"shapes.{spec.name}", error)
    for spec in inputs[1:]:
        error = ModelError(
            "the model has several inputs",
            where=bundle.name,
            expected=f'"constants": {{"{spec.name}": …}} in a manifest.json, or a pair in "state"',
            got=", ".join(f"{one.name} {sides(one.shape)} {one.dtype}" for one in inputs),
        )
        ledger.need(f"what {spec.name} {sides(spec.shape)} {spec.dtype} is given", None, "constants or state", error)


def _decoder(
    bundle: Bundle,
    layers: Sequence[Facts],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    size: tuple[int, int],
    given: Given,
    ledger: Ledger,
) -> str | None:
    kind, origin = (given.decoder, "--decoder") if given.decoder is not None else first(layers, "decoder")
    task, _ = first(layers, "task")
    if kind is None:
        own = None if given.labels is not None else first(layers, "labels")[0]
        kind = read_by(inputs, outputs, size, task, len(own) if own is not None else None)
        origin = f"outputs {', '.join(sides(spec.shape) for spec in outputs)}"
    if kind is not None:
        ledger.note("decoder", kind, origin)
        if is_decoder(kind) or origin in ("--decoder", "manifest.json"):
            return kind
    told = f"this model's task is {task}" if task else None
    if kind is not None:
        told = f"it needs a decoder {kind}, which this version lacks"
    error = ModelError(
        "how to read the outputs cannot be told from the model",
        where=bundle.name,
        expected=f"--decoder KIND, or decoder in the config: {', '.join(kinds('decoder'))}",
        got=", ".join(f"{spec.name} {sides(spec.shape)} {spec.dtype}" for spec in outputs),
        remedy=f"pass --decoder with the kind that fits; {told}" if told else None,
    )
    what = "a decoder for its outputs" if kind is None else f"a decoder {kind}, which this version lacks"
    ledger.need(what, "--decoder KIND", "decoder.kind", error)
    return None


def _filled(
    bundle: Bundle,
    layers: Sequence[Facts],
    given: Given,
    kind: str | None,
    picture: Any,
    signal: Signal | None,
    ledger: Ledger,
) -> Bundle:
    """The bundle with what was found, noting the rest of it."""
    task, origin = first(layers, "task")
    if task is None and kind in TASK_OF:
        task, origin = TASK_OF[kind], f"decoder {kind}"
    if task is not None:
        ledger.note("task", task, origin)
    labels, origin = (given.labels, "--labels") if given.labels is not None else first(layers, "labels")
    if labels is not None:
        ledger.note("labels", labels, origin)
    elif task in (None, "detect", "classify", "segment", "keyword"):
        error = ModelError("the model has no label names", where=bundle.name, expected="--labels FILE")
        ledger.need("names for its classes", "--labels FILE", "labels", error, optional=True)
    threshold, origin = (given.threshold, "--threshold") if given.threshold is not None else first(layers, "threshold")
    if threshold is None:
        threshold, origin = DEFAULT_THRESHOLD.get(task or "", 0.5), "default"
    ledger.note("threshold", threshold, origin)
    calibration, origin = first(layers, "calibration")
    if calibration is not None:
        ledger.note("calibration", calibration, origin)
    for one in layers:
        for at, meaning in enumerate(one.outputs):
            ledger.note(f"output {at}", meaning, one.origin)
    options: Any = next((one.decoder_options for one in layers if one.decoder == kind and one.decoder_options), {})
    return msgspec.structs.replace(
        bundle,
        task=task,
        picture=picture,
        signal=signal,
        decoder=kind,
        decoder_options=options,
        labels=labels or (),
        threshold=threshold,
        calibration=calibration,
        top_k=bundle.top_k if given.top_k is None else given.top_k,
    )
