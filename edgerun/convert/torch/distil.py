"""A smaller or changed model learns to answer as its original does, from inputs without labels.

Scores of classes: the Kullback–Leibler divergence of softened probabilities (G. Hinton et al., "Distilling the
Knowledge in a Neural Network", 2015). Other answers: the squared error of each output, in units of its variance; where
maps are compared, also their attention (S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", 2017), which
does not ask for as many channels in one as in the other.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from edgerun.convert.parts import Progress
from edgerun.convert.torch.cost import check_layers
from edgerun.convert.torch.data import FEWEST, Inputs, augment
from edgerun.convert.torch.extra import Module, TorchTensor, repeatable, torch_
from edgerun.convert.torch.importing import flatten
from edgerun.convert.torch.prune import log_chances
from edgerun.errors import ConfigError, ModelError

_WARMUP = 0.05
_LARGEST_GRADIENT = 5.0
_LOOKS = 10
"""How often in all the held-out inputs are asked."""


class Lesson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long and in which way a model learns. Whichever of `epochs` and `minutes` is over first ends it.

    Only work that ends by `epochs` repeats bit for bit. `held_out`: the share of the inputs kept back to find the best
    state. `answers`: `classes` (one output of N×classes scores) or `values`; `auto` takes one N×C output for classes.
    `attention`: weight of the attention maps, for `values` only. `batch`, `rate`: samples and peak of the learning rate
    (AdamW, one warm-up and a cosine to zero).
    """

    epochs: int = 20
    minutes: float | None = None
    batch: int = 32
    rate: float = 1e-3
    temperature: float = 3.0
    held_out: float = 0.125
    answers: Literal["auto", "classes", "values"] = "auto"
    attention: float = 0.1
    augmented: bool = True


class Learned(msgspec.Struct, frozen=True):
    """What came of it. Agreement is 0..1: of the highest class, or the share of the outputs' variance explained.

    `cut`: the time was over before the epochs, so that another run may end elsewhere.
    """

    measure: str
    before: float
    after: float
    epochs: float
    steps: int
    seconds: float
    held_out: int
    cut: bool


def distil(
    student: Module,
    teacher: Module,
    calibration: Any,
    progress: Progress,
    seed: int = 0,
    lesson: Lesson | None = None,
    names: Sequence[str] = (),
    told: Callable[[Learned], None] | None = None,
) -> Module:
    """`student` (unchanged) as it is after learning from `teacher`: a copy, on the CPU, in evaluation mode.

    `calibration`: see `data.Inputs`, `names` the inputs in it in the order of `forward`. Both models are trained where
    the teacher's weights lie, a GPU for example. The best state on held-out inputs is returned, so never a worse one
    than the student was. `told` gets the figures. Raises `ConfigError` for too few inputs, `ModelError` where the
    answers of the two do not match or the student cannot be trained, and whatever `progress` raises.
    """
    torch = torch_()
    lesson = lesson or Lesson()
    check_layers(student)
    data = calibration if isinstance(calibration, Inputs) else Inputs(calibration, names or [""])
    if not 0 < lesson.held_out < 1 or lesson.epochs < 0 or lesson.batch < 2:
        raise ConfigError("this lesson makes no sense", expected="0 < held_out < 1, batch ≥ 2", got=lesson)
    with repeatable(seed):
        device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
        school = _School(copy.deepcopy(student).to(device), teacher, data, lesson, seed, device)
        figures = school.teach(progress)
    if told is not None:
        told(figures)
    return school.student.to("cpu").eval()


class _School:
    """One run of learning. The teacher stays as it is."""

    def __init__(self, student: Module, teacher: Module, data: Inputs, lesson: Lesson, seed: int, device: Any) -> None:
        torch = torch_()
        self.student, self._teacher, self._data, self._lesson, self._device = student, teacher, data, lesson, device
        self._generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=self._generator).tolist()
        kept = max(FEWEST // 4, min(int(len(data) * lesson.held_out), 2000))
        self._held, self._lessons = order[:kept], order[kept:]
        self._was_training = teacher.training
        self._classes = self._of_classes()
        self._hints = () if self._classes or not lesson.attention else _hints(student, teacher, self._take(order[:2]))

    def teach(self, progress: Progress) -> Learned:
        torch = torch_()
        lesson, began = self._lesson, time.monotonic()
        per_epoch = max(1, len(self._lessons) // lesson.batch)
        total = per_epoch * lesson.epochs
        looks = {round(total * (i + 1) / _LOOKS) for i in range(_LOOKS)}
        for parameter in self.student.parameters():
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(self.student.parameters(), lr=lesson.rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate(total))
        before = best = self._look()
        state = copy.deepcopy(self.student.state_dict())
        cut, step = False, 0
        what = "learning from the original"
        while step < total and not cut:
            for batch in self._epoch(per_epoch):
                progress(what, step, total)
                self._learn(batch, optimiser)
                schedule.step()
                step += 1
                cut = lesson.minutes is not None and time.monotonic() - began > 60 * lesson.minutes
                if step in looks or cut:
                    now = self._look()
                    if now > best:
                        best, state = now, copy.deepcopy(self.student.state_dict())
                if cut:
                    break
        progress(what, total, total)
        self.student.load_state_dict(state)
        name = "same highest class" if self._classes else "variance of the outputs explained"
        seconds = time.monotonic() - began
        return Learned(name, before[0], best[0], step / per_epoch, step, seconds, len(self._held), cut and step < total)

    def _epoch(self, batches: int) -> list[list[int]]:
        order = torch_().randperm(len(self._lessons), generator=self._generator).tolist()
        size = min(self._lesson.batch, len(order))
        return [[self._lessons[i] for i in order[at * size : (at + 1) * size]] for at in range(batches)]

    def _take(self, indices: Sequence[int]) -> tuple[TorchTensor, ...]:
        return tuple(tensor.to(self._device) for tensor in self._data.take(indices))

    def _of_classes(self) -> bool:
        torch = torch_()
        with torch.no_grad():
            self._teacher.eval(), self.student.eval()
            answers = [flatten(model(*self._take(self._held[:2]))) for model in (self._teacher, self.student)]
        shapes = [[tuple(tensor.shape) for tensor in answer] for answer in answers]
        if shapes[0] != shapes[1]:
            raise ModelError("the two models do not answer alike", expected=shapes[0], got=shapes[1])
        alone = len(shapes[0]) == 1 and len(shapes[0][0]) == 2 and shapes[0][0][1] > 1
        if self._lesson.answers == "classes" and not alone:
            raise ConfigError("scores of classes are one output of N×classes", got=shapes[0])
        return alone and self._lesson.answers != "values"

    def _learn(self, indices: list[int], optimiser: Any) -> None:
        torch = torch_()
        batch = self._take(indices)
        if self._lesson.augmented:
            batch = tuple(t.to(self._device) for t in augment([t.cpu() for t in batch], self._generator))
        self.student.train()
        optimiser.zero_grad(set_to_none=True)
        with _Watched(self._teacher, [pair[1] for pair in self._hints]) as seen, torch.no_grad():
            wanted = flatten(self._teacher(*batch))
        with _Watched(self.student, [pair[0] for pair in self._hints]) as tried:
            loss = self._loss(flatten(self.student(*batch)), wanted)
            if self._hints:
                loss = loss + self._lesson.attention * _attention(tried, seen)
        if not bool(torch.isfinite(loss)):
            raise ModelError("learning went astray: the answers are no longer numbers", remedy="lower the rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), _LARGEST_GRADIENT)
        optimiser.step()

    def _loss(self, got: list[TorchTensor], wanted: list[TorchTensor]) -> TorchTensor:
        torch = torch_()
        if self._classes:
            warm = self._lesson.temperature
            wish = log_chances(wanted[0], warm)
            return warm**2 * torch.nn.functional.kl_div(log_chances(got[0], warm), wish, reduction="batchmean",
                                                        log_target=True)  # fmt: skip
        pairs = [(g, w) for g, w in zip(got, wanted, strict=True) if w.is_floating_point()]
        return sum((g - w).square().mean() / w.var().clamp_min(1e-8) for g, w in pairs) / len(pairs)

    def _look(self) -> tuple[float, float]:
        """Agreement with the teacher on the held-out inputs as they are, and, to break ties, minus the loss."""
        torch = torch_()
        self.student.eval()
        same, loss, batches = 0.0, 0.0, 0
        errors: list[tuple[float, float]] = []
        with torch.no_grad():
            for at in range(0, len(self._held), 4 * self._lesson.batch):
                batch = self._take(self._held[at : at + 4 * self._lesson.batch])
                wanted, got = flatten(self._teacher(*batch)), flatten(self.student(*batch))
                loss += float(self._loss(got, wanted))
                batches += 1
                if self._classes:
                    same += float((got[0].argmax(1) == wanted[0].argmax(1)).sum())
                else:
                    errors += [_explained(g, w) for g, w in zip(got, wanted, strict=True) if w.is_floating_point()]
        if self._classes:
            return same / len(self._held), -loss / batches
        gap, spread = sum(pair[0] for pair in errors), sum(pair[1] for pair in errors)
        return 1 - gap / max(spread, 1e-12), -loss / batches


def _explained(got: TorchTensor, wanted: TorchTensor) -> tuple[float, float]:
    """Squared error and variance of one output, both in units of the variance, weighted by its size."""
    spread = float(wanted.var().clamp_min(1e-8))
    return float((got - wanted).square().mean()) / spread * len(wanted), float(len(wanted))


def _rate(total: int) -> Callable[[int], float]:
    import math

    warm = max(1, int(total * _WARMUP))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    return factor


def _hints(student: Module, teacher: Module, inputs: Sequence[TorchTensor]) -> tuple[tuple[Any, Any], ...]:
    """Pairs of layers of one name whose maps are compared: the last convolution of each resolution."""
    torch = torch_()
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    theirs = dict(teacher.named_modules())
    layers = {name: layer for name, layer in student.named_modules() if isinstance(layer, kinds)}
    shared = [(layer, theirs[name]) for name, layer in layers.items() if isinstance(theirs.get(name), kinds)]
    with _Watched(student, [pair[0] for pair in shared]) as maps, torch.no_grad():
        student(*inputs)
    last = {}
    for pair, map_ in zip(shared, maps, strict=False):
        if map_ is not None and map_.shape[2] * map_.shape[3] > 1:
            last[tuple(map_.shape[2:])] = pair
    return tuple(last.values())


class _Watched:
    """Inside, the list that it gives holds what each of `layers` last answered, None for one that did not run."""

    def __init__(self, model: Module, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._seen: list[Any] = [None] * len(layers)
        self._hooks: list[Any] = []

    def __enter__(self) -> list[Any]:
        for index, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._note(index)))
        return self._seen

    def __exit__(self, *what: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, index: int) -> Callable[[Any, Any, Any], None]:
        def note(layer: Any, given: Any, answer: Any) -> None:
            self._seen[index] = answer

        return note


def _attention(tried: list[Any], seen: list[Any]) -> TorchTensor:
    """Squared distance of where the two models' maps are strong: channels' mean square, each map of norm 1."""
    torch = torch_()

    def strength(map_: TorchTensor) -> TorchTensor:
        return torch.nn.functional.normalize(map_.square().mean(1).flatten(1), dim=1)

    pairs = [(a, b) for a, b in zip(tried, seen, strict=True) if a is not None and b is not None]
    distances = [(strength(a) - strength(b)).square().sum(1).mean() for a, b in pairs if a.shape[2:] == b.shape[2:]]
    return sum(distances) / max(1, len(distances))
