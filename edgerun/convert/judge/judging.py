"""Running original and candidate over the evaluation set and holding one against the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.convert.judge.boxes import judge_boxes
from edgerun.convert.judge.classes import judge_classes
from edgerun.convert.judge.masks import judge_masks
from edgerun.convert.judge.points import judge_points
from edgerun.convert.judge.values import Vectors, judge_quantities
from edgerun.convert.parts import Progress, Quality
from edgerun.convert.samples import SampleSet
from edgerun.convert.subject import Runner, Subject
from edgerun.errors import FrameError, ModelError
from edgerun.models.manifest import Format
from edgerun.ports import Decoder
from edgerun.types import Answer, Keypoints, Tensor

_KEEP_BYTES = 64 << 20
"""Raw outputs of the original are kept up to here, beyond it computed again for each candidate."""
_NOTHING = Answer()


class Judge:
    """Model bytes in, `Quality` out. The original's answers are computed once, when this is made.

    Detections are read at the manifest's own threshold; classes are ranked without one. Raises `ModelError` when the
    original finds nothing in the whole set, or fails on a sample. Candidates are files of `kind`.
    """

    def __init__(self, original: Subject, candidate: Subject, samples: SampleSet, progress: Progress) -> None:
        self._original, self._candidate, self._samples = original, candidate, samples
        self._progress = progress
        self.tried = 0
        self._answers: list[Answer] | None = None
        self._raw: list[list[Tensor]] | None = []
        with Runner(original, original.model, original.format, name=f"{original.bundle.name} (original)") as runner:
            decoder = _decoder(runner, original)
            if decoder is None:
                self._keep_raw(runner)
            else:
                self._answers = self._all_answers(runner, decoder, strict=True)
        if self._answers is not None:
            self._refuse_empty(self._answers)

    def __call__(self, model: bytes, kind: Format | None = None) -> Quality:
        """How much of the original this file keeps. Raises `ModelError` for one that does not run."""
        self.tried += 1
        name = f"{self._candidate.bundle.name} (candidate {self.tried})"
        with Runner(self._candidate, model, kind or self._candidate.format, name=name) as runner:
            if self._answers is None:
                return self._judge_raw(runner)
            decoder = _decoder(runner, self._candidate)
            assert decoder is not None, "both are of one model"
            answers = self._all_answers(runner, decoder, strict=False)
        return self._compare(self._answers, answers)

    def _compare(self, reference: list[Answer], candidate: list[Answer]) -> Quality:
        samples, first = self._samples, reference[0]
        meta = samples.brief()
        if first.classes is not None:
            threshold = self._original.bundle.threshold or 0.0
            ranked = [[one.classes or () for one in answers] for answers in (reference, candidate)]
            return judge_classes(ranked[0], ranked[1], meta, threshold)
        if first.segments is not None:
            parts = [[one.segments or () for one in answers] for answers in (reference, candidate)]
            return judge_masks(parts[0], parts[1], meta)
        if first.keypoints is not None or any(d.keypoints for one in reference for d in one.detections or ()):
            return judge_points(_figures(reference), _figures(candidate), meta)
        if first.detections is not None:
            found = [[one.detections or () for one in answers] for answers in (reference, candidate)]
            return judge_boxes(found[0], found[1], meta)
        if first.embedding is not None:
            vectors = Vectors(("embedding",))
            for one, other in zip(reference, candidate, strict=True):
                got = [np.array(other.embedding)] if other.embedding is not None else None
                vectors.add([np.array(one.embedding)], got)
            return vectors.quality(meta)
        names, numbers = _quantities(first), len(_numbers(first, 1))
        tables = [[_numbers(one, numbers) for one in answers] for answers in (reference, candidate)]
        return judge_quantities(tables[0], tables[1], names, meta)

    def _all_answers(self, runner: Runner, decoder: Decoder, *, strict: bool) -> list[Answer]:
        answers = []
        for at, sample in enumerate(self._samples):
            self._progress("original" if strict else "judging", at, len(self._samples))
            try:
                answers.append(runner.answer(sample, decoder))
            except FrameError as error:
                if strict:
                    raise ModelError(
                        "the original itself fails",
                        where=sample.origin,
                        got=error,
                        remedy="check how pixels go into it",
                    ) from error
                answers.append(_NOTHING)
        return answers

    def _keep_raw(self, runner: Runner) -> None:
        kept: list[list[Tensor]] | None = []
        for at, sample in enumerate(self._samples):
            self._progress("original", at, len(self._samples))
            outputs = runner.real(sample)
            if not all(np.isfinite(one).all() for one in outputs):
                raise ModelError("the original's outputs are not numbers", where=sample.origin)
            if sum(one.nbytes for one in outputs) * len(self._samples) > _KEEP_BYTES:
                kept = None
                break
            assert kept is not None
            kept.append(outputs)
        self._raw = kept

    def _judge_raw(self, runner: Runner) -> Quality:
        """Raw outputs: the original's are taken in the candidate's order, by name or else by shape."""
        order = match_outputs(self._original, runner)
        vectors = Vectors([self._original.outputs[at].name for at in range(len(order))])
        again = None
        if self._raw is None:
            again = Runner(self._original, self._original.model, self._original.format, name="original")
        try:
            for at, sample in enumerate(self._samples):
                self._progress("judging", at, len(self._samples))
                wanted = again.real(sample) if again is not None else (self._raw or [])[at]
                got = runner.real(sample)
                vectors.add(wanted, [_like(got[place], one) for place, one in zip(order, wanted, strict=True)])
        finally:
            if again is not None:
                again.close()
        return vectors.quality(self._samples.brief())

    def _refuse_empty(self, answers: list[Answer]) -> None:
        """An original that finds nothing gives nothing to hold a candidate against."""
        first = answers[0]
        found = [one.detections or one.segments or one.keypoints or one.classes or one.embedding for one in answers]
        if first.value is not None or first.values is not None or any(found):
            return
        raise ModelError(
            "the original finds nothing in the whole evaluation set: there is nothing to hold a candidate against",
            where=self._samples.source,
            expected=f"results that reach the threshold of {self._original.bundle.threshold}",
            remedy="use pictures of what the model is for, check --mean, --std and --color with --preview, or lower "
            "--threshold",
        )


def match_outputs(original: Subject, runner: Runner) -> list[int]:
    """For each output of the original its place in the candidate. Raises `ModelError` where they cannot be paired."""
    theirs = [spec.name for spec in runner.outputs]
    names = [spec.name for spec in original.outputs]
    if set(names) <= set(theirs):
        return [theirs.index(name) for name in names]
    sizes = [sorted(spec.shape) for spec in runner.outputs]
    wanted = [sorted(spec.shape) for spec in original.outputs]
    if sizes == wanted:
        return list(range(len(wanted)))
    if sorted(sizes) == sorted(wanted) and len({tuple(one) for one in sizes}) == len(sizes):
        return [sizes.index(one) for one in wanted]
    raise ModelError(
        "the candidate's outputs are not those of the original",
        where=original.bundle.name,
        expected=", ".join(f"{spec.name} {spec.shape}" for spec in original.outputs),
        got=", ".join(f"{spec.name} {spec.shape}" for spec in runner.outputs),
    )


def _like(got: Tensor, wanted: Tensor) -> Tensor:
    """`got` in the layout of `wanted`, where one keeps its channels last and the other second."""
    if got.shape == wanted.shape or got.ndim != 4:
        return got
    for axes in ((0, 3, 1, 2), (0, 2, 3, 1)):
        if got.transpose(axes).shape == wanted.shape:
            return got.transpose(axes)
    return got


def _decoder(runner: Runner, subject: Subject) -> Decoder | None:
    """The bundle's decoder: classes without a threshold, so that they can be ranked; masks with their pixels."""
    if subject.bundle.decoder is None:
        return None
    ranked = subject.bundle.task in ("classify", "keyword", "vad")
    return runner.decoder(0.0 if ranked else None, runs=True, polygons=0, min_share=0.0)


def _figures(answers: Sequence[Answer]) -> list[list[Keypoints]]:
    found = []
    for one in answers:
        figures = [d.keypoints for d in one.detections or () if d.keypoints]
        found.append(figures or ([one.keypoints] if one.keypoints else []))
    return found


def _numbers(answer: Answer, count: int) -> list[float]:
    if answer.values is not None:
        return [one.value for one in answer.values]
    return [answer.value] if answer.value is not None else [float("nan")] * count


def _quantities(answer: Answer) -> list[str]:
    return [one.name for one in answer.values] if answer.values is not None else ["value"]
