"""A whole conversion: import, prune, calibrate, choose, prove, measure, bundle and report; or nothing at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgerun.convert import routes
from edgerun.convert.advising import advise, in_words
from edgerun.convert.bundling import ModelFile, Origin, Recipe, put, seal, write_bundle
from edgerun.convert.judge import Judge
from edgerun.convert.order import Job, check
from edgerun.convert.pairs import MOST_CALIBRATION, MOST_EVALUATION, Pair, open_pair
from edgerun.convert.parts import (
    LayerChoice,
    Measured,
    Network,
    Outcome,
    Precision,
    Progress,
    Quality,
    Samples,
    Step,
)
from edgerun.convert.place import Place, report_folder
from edgerun.convert.preview import Preview, draw, look, spread
from edgerun.convert.repeating import repeat
from edgerun.convert.samples import Part
from edgerun.convert.search import Found, find_layers, operators
from edgerun.convert.sources import Source, open_source
from edgerun.convert.subject import Subject, describe, refuse_state
from edgerun.errors import DeviceError

_SENSITIVITY_SAMPLES = 16
_BRIDGED_SAMPLES = 4
_STUDY_SAMPLES = 5000
"""Pruning and distilling learn from as many of the calibration set; quantising takes fewer of them."""
_PREVIEW = "preview.png"


def run(job: Job, progress: Progress) -> Outcome:
    """Convert. The bundle with its report stands at `job.output` when the gate is met; else only the report, at
    `place.report_folder(job.output)`, and `passed` is False.

    Whatever is raised on the way, also by `progress`, leaves nothing behind. Raises `ConfigError`, `ModelError`,
    `DeviceError`, and `MissingError` with the pip command of a converter that is not installed.
    """
    check(job)
    with open_source(job.source) as source, Place(job.output, force=job.force, source_bytes=source.size_bytes) as place:
        try:
            return _Work(job, source, place, progress).run()
        except OSError as error:
            if isinstance(error, DeviceError):
                raise
            raise DeviceError(
                "the work cannot be written to the disk",
                where=job.output,
                got=error.strerror or str(error),
                remedy="make room on the disk, or choose another place with -o",
            ) from error


def preview(job: Job, path: Path, progress: Progress) -> Preview:
    """Only the contact sheet of the calibration set, as PNG at `path`. Raises as `run` does."""
    with open_source(job.source) as source, Place(_beside(path), force=True, source_bytes=source.size_bytes) as place:
        work = _Work(job, source, place, progress)
        original = work.import_source()
        pair = work.open_sets(original)
        try:
            return draw(original, pair.calibration, path)
        finally:
            pair.close()


def _beside(path: Path) -> Path:
    """A name beside `path` that nothing has: the sheet's work is done there."""
    return path.absolute().with_name(f"{path.name}.work")


class _Chosen(msgspec.Struct, frozen=True):
    """What is to be shipped: the file, what it keeps, and of which layers it is made."""

    model: bytes
    quality: Quality
    precision: Precision
    naive: Quality | None = None
    layers: tuple[LayerChoice, ...] = ()
    found: Found | None = None


class _Work:
    """One conversion. Each step leaves a `Step`."""

    def __init__(self, job: Job, source: Source, place: Place, progress: Progress) -> None:
        self._job, self._source, self._place, self._progress = job, source, place, progress
        self._steps: list[Step] = []
        self._tools: dict[str, str] = {}
        self._ratios: Mapping[str, Any] = {}
        self._notes: list[str] = []

    def run(self) -> Outcome:
        original = self.import_source()
        pair = self.open_sets(original)
        try:
            sheet = self._draw_preview(original, pair)
            network = self._prepare(pair)
            candidate = describe(network, self._source.bundle, self._job.said)
            judge = Judge(original, candidate, pair.evaluation, self._progress)
            chosen = self._choose(network, candidate, judge, pair)
            return self._finish(original, candidate, network, chosen, pair, sheet)
        finally:
            pair.close()

    def import_source(self) -> Subject:
        """The original: float, as a file of its own."""
        job = self._job
        if self._source.bundle is not None:
            refuse_state(self._source.bundle)
        with self._step("import") as told:
            self._network = routes.read(self._source.path, self._place.work, self._shapes(), job.seed)
            routes.refuse_bridge(self._network.format, job.format, job.source)
            original = describe(self._network, self._source.bundle, job.said)
            self._tools.update(self._network.tools)
            assumed = [f"{one[:1].upper()}{one[1:]}." for one in original.assumed]
            told(" ".join((*self._network.notes, *assumed)) or "As it is.")
        return original

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of inputs that the source leaves open: as --shape says, else what --size and the manifest make of them."""
        job = self._job
        if job.shapes and routes.is_torch(job.source):
            return dict(job.shapes)
        return {**self._source.shapes(job.said.size, 1 if job.said.color == "GRAY" else 3), **job.shapes}

    def open_sets(self, original: Subject) -> Pair:
        """Calibration and evaluation samples."""
        job = self._job
        most = _STUDY_SAMPLES if job.prune or job.distil else MOST_CALIBRATION
        with self._step("samples") as told:
            pair = open_pair(
                original,
                job.calibrate,
                job.evaluate,
                self._place.work,
                self._progress,
                seed=job.seed,
                most=(most, MOST_EVALUATION),
            )
            counts = f"{len(pair.calibration)} samples to calibrate with, {len(pair.evaluation)} others to judge by"
            told(". ".join((counts, *pair.notes)) + ".")
        return pair

    def _draw_preview(self, original: Subject, pair: Pair) -> Path:
        path = self._place.work / _PREVIEW
        with self._step("preview") as told:
            found = draw(original, pair.calibration, path)
            ranges = "; ".join(f"{one.name} {one.min:.4g}..{one.max:.4g}" for one in found.channels)
            told(" ".join((f"The model sees {ranges}.", *found.warnings)))
        return path

    def _prepare(self, pair: Pair) -> Network:
        """Pruned and distilled where that is asked for, in the wanted format."""
        job, network = self._job, self._network
        if job.prune or job.distil:
            from edgerun.convert.learning import slim

            network, steps = slim(
                job.source,
                self._shapes(),
                pair.calibration,
                self._place.work,
                self._progress,
                share=job.prune,
                minutes=job.time_budget_min,
                original=network,
                seed=job.seed,
            )
            self._steps += steps
        wanted = job.format or ("tflite" if job.target == "edgetpu" else network.format)
        if wanted != network.format:
            with self._step(f"to {wanted}") as told:
                shown = [pair.calibration[at].inputs for at in spread(len(pair.calibration), _BRIDGED_SAMPLES)]
                before = len(network.notes)
                network = routes.bridge(network, wanted, self._place.work, shown)
                told(" ".join(network.notes[before:]) or f"Written as {wanted}.")
        self._tools.update(network.tools)
        return network

    def _choose(self, network: Network, candidate: Subject, judge: Judge, pair: Pair) -> _Chosen:
        job = self._job
        if job.precision in ("float", "fp16"):
            with self._step(job.precision) as told:
                half = job.precision == "fp16"
                model = routes.as_fp16(network, job.target) if half else routes.as_float(network)
                quality = judge(model)
                told(in_words(quality))
            return _Chosen(model, quality, job.precision)
        with self._step("calibrate") as told:
            few = Part(pair.calibration, spread(len(pair.calibration), MOST_CALIBRATION), candidate)
            quantizer = routes.make_quantizer(network, candidate, few, job.calibration, job.target, self._progress)
            text = f"{len(quantizer.layers)} choices in {network.format}, ranges from {len(few)} samples."
            told(" ".join((text, *quantizer.notes)))
        with self._step("choose") as told:
            mixed = job.precision != "int8" and job.target != "edgetpu"
            sample: Samples = Part(pair.calibration, spread(len(pair.calibration), _SENSITIVITY_SAMPLES), candidate)
            found = find_layers(
                quantizer,
                judge,
                job.gate,
                sample,
                self._progress,
                budget_s=60 * job.time_budget_min,
                mixed=mixed,
            )
            text = found.text(quantizer.layers) + f": {in_words(found.quality)}"
            if len(found.trials) > 1:
                text += f" Layers in higher precision and what is kept: {found.tries()}."
                text += " The layers were chosen by this same comparison, which flatters its figures a little."
            told(text)
        self._tools.update(quantizer.tools)
        precisions = quantizer.precisions(found.kept)
        layers = tuple(
            LayerChoice(layer, precisions[layer.name], found.sensitivity.get(layer.name))
            for layer in operators(quantizer.layers, precisions)
        )
        precision: Precision = "mixed" if found.kept else "int8"
        naive = found.naive if found.kept else None
        return _Chosen(found.model, found.quality, precision, naive, layers, found)

    def _measure(self, network: Network, chosen: _Chosen) -> tuple[Measured, ...]:
        from edgerun.convert.measure import Entry, measure

        job = self._job
        if not job.measure:
            return ()
        result = self._place.work / f"result.{network.format}"
        put(result, chosen.model)
        entries = (Entry("original", self._network.path), Entry("result", result))
        with self._step("measure") as told:
            here = measure(entries, progress=self._progress)
            self._ratios, self._notes = here.ratios, list(here.notes)
            measured = here.measured
            if job.on is not None:
                there = measure(entries, on=job.on, progress=self._progress)
                measured += there.measured
                self._notes += there.notes
            told("; ".join(f"{one.name} on {one.device} {one.p50_ms:.2f} ms" for one in measured) + ".")
        if self._source.bundle is None:
            return measured
        # As it was given: what it was unpacked to for the work is no size that anyone ships.
        given = self._source.size_bytes
        return tuple(
            msgspec.structs.replace(one, size_bytes=given) if one.name == "original" else one for one in measured
        )

    def _finish(
        self, original: Subject, candidate: Subject, network: Network, chosen: _Chosen, pair: Pair, sheet: Path
    ) -> Outcome:
        """Measure, report, and bundle where the gate was met."""
        job = self._job
        passed = job.gate.passes(chosen.quality)
        self._analyse(network, candidate, pair)
        models = self._models(network, chosen, passed)
        measured = self._measure(network, chosen)
        outcome = Outcome(
            source=job.source,
            name=job.name or self._source.name,
            task=original.bundle.task or "other",
            format=network.format,
            precision=chosen.precision,
            passed=passed,
            gate=job.gate.text(chosen.quality),
            original=msgspec.structs.replace(self._network, path=Path(self._network.path.name)),
            quality=chosen.quality,
            quality_naive=chosen.naive,
            measured=measured,
            layers=chosen.layers,
            steps=tuple(self._steps),
            repeat=repeat(job, self._source, self._network, self._tools, pair),
            bundle=job.output if passed else None,
        )
        warnings = look(original, pair.calibration).warnings
        calibrated = min(len(pair.calibration), MOST_CALIBRATION)
        outcome = msgspec.structs.replace(outcome, advice=advise(outcome, chosen.found, calibrated, warnings))
        if passed:
            write_bundle(self._place.bundle, self._recipe(candidate, chosen, models, measured, pair))
        self._report(outcome, original, pair, sheet)
        if passed:
            seal(self._place.bundle)
        self._place.deliver(None if passed else report_folder(job.output))
        return outcome

    def _analyse(self, network: Network, candidate: Subject, pair: Pair) -> None:
        """What zeroed or clustered weights would save, where that is asked for."""
        if self._job.compression:
            from edgerun.convert.compress import analyse, steps

            few = Part(pair.calibration, spread(len(pair.calibration), _SENSITIVITY_SAMPLES), candidate)
            self._steps += steps(analyse(network, few, self._progress))

    def _models(self, network: Network, chosen: _Chosen, passed: bool) -> tuple[ModelFile, ...]:
        """The files of the bundle: the model, and what the target makes of it."""
        job = self._job
        for_what = ("cpu", "gpu") if job.target == "gpu" or network.format == "tflite" else ("cpu",)
        models = [ModelFile(f"model.{network.format}", chosen.model, for_what)]
        if job.target == "ort" and network.format == "onnx" and passed:
            models.append(ModelFile("model.ort", routes.as_ort(chosen.model, "model.onnx"), ()))
        if job.target == "edgetpu":
            from edgerun.convert.tflite import edgetpu

            with self._step("edge tpu") as told:
                text = edgetpu.in_words(edgetpu.coverage(chosen.model, "model.tflite"))
                put(self._place.work / "model.tflite", chosen.model)
                compiled = (
                    edgetpu.compile_model(self._place.work / "model.tflite", self._place.work) if passed else None
                )
                if compiled is not None:
                    models.append(ModelFile("model_edgetpu.tflite", compiled.model, ("edgetpu",)))
                    self._tools[edgetpu.COMPILER] = compiled.version
                    text += f". Compiled: {compiled.on_tpu} operators on the Edge TPU, {compiled.on_cpu} on the CPU"
                elif passed:
                    text += f". Not compiled: {edgetpu.COMPILER} is not on PATH"
                told(text + ".")
        return tuple(models)

    def _recipe(
        self,
        candidate: Subject,
        chosen: _Chosen,
        models: tuple[ModelFile, ...],
        measured: tuple[Measured, ...],
        pair: Pair,
    ) -> Recipe:
        job = self._job
        text, licence = self._source.licence(job.licence)
        origin = Origin(self._source.origin, self._source.sha256, job.command or "edgerun convert", licence, text)
        return Recipe(
            name=job.name or self._source.name,
            version=job.version,
            subject=candidate,
            models=models,
            quality=chosen.quality,
            gate=job.gate.text(chosen.quality),
            precision=chosen.precision,
            measured=measured,
            origin=origin,
            evaluation=pair.evaluation,
        )

    def _report(self, outcome: Outcome, original: Subject, pair: Pair, sheet: Path) -> None:
        from edgerun.config import ModelConfig
        from edgerun.convert import report
        from edgerun.convert.explain import Predictor

        openers: dict[str, Any] = {}
        if original.kind == "picture" and original.bundle.decoder is not None:
            write_bundle(self._place.original, self._recipe_of_original(original, outcome, pair))
            openers["original"] = lambda: Predictor(ModelConfig(self._place.original))
            if outcome.passed:
                openers["result"] = lambda: Predictor(ModelConfig(self._place.bundle))
        report.write(
            outcome,
            self._place.bundle,
            pair.evaluation,
            preview=sheet,
            ratios=self._ratios,
            notes=self._notes,
            progress=self._progress,
            **openers,
        )

    def _recipe_of_original(self, original: Subject, outcome: Outcome, pair: Pair) -> Recipe:
        file = ModelFile(f"model.{original.format}", original.model)
        origin = Origin(self._source.origin, self._source.sha256, "as it was")
        return Recipe(
            outcome.name, "0", original, (file,), outcome.quality, outcome.gate, "float", (), origin, pair.evaluation
        )

    @contextmanager
    def _step(self, name: str) -> Iterator[Any]:
        """Notes the step with what `told(text)` was given, and how long it took."""
        began, said = time.monotonic(), [""]
        self._progress(name, 0, 0)

        def told(text: str) -> None:
            said[0] = text

        yield told
        self._steps.append(Step(name, said[0], round(time.monotonic() - began, 3)))
