"""A calibration or evaluation set as the model will see it, and what makes one unfit."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.parts import Progress
from edgerun.convert.sets import Item
from edgerun.convert.subject import SeenSample, Subject, in_layout, make_preprocess
from edgerun.errors import ConfigError, FrameError, did_you_mean
from edgerun.models import PictureInput
from edgerun.preprocess import PicturePreprocess
from edgerun.types import Box, Placement, Tensor, TensorSpec

CLASS_TASKS = frozenset(("classify", "keyword", "vad"))
"""Tasks whose answer is one class for a whole item, which sets may be labelled with."""
_BLANK = 2.0
"""Standard deviation of the pixels below which a picture shows nothing (a covered lens has about 1)."""


class SampleSet:
    """`parts.Samples`: read and checked once, pictures kept in the size of the input in a file of their own.

    `notes` are sentences for the report. Whoever opens it closes it; iterating twice gives the same.
    """

    def __init__(
        self, subject: Subject, source: str, items: Sequence[Item], workdir: Path, progress: Progress, what: str
    ) -> None:
        self.source = source
        self.notes: tuple[str, ...] = ()
        self._subject, self._items = subject, tuple(items)
        self._labels = [_class_of(item, subject, source) for item in self._items]
        self._objects = [_objects_of(item, subject, source) for item in self._items]
        self._pictures: Tensor | None = None
        self._places: list[tuple[Placement, tuple[int, int]]] = []
        self._values: list[dict[str, Tensor]] = []
        if subject.kind == "picture":
            picture = subject.bundle.picture
            self._resizer = _resizer(picture)
            # From pictures in the size of the input nothing is cut or padded any more.
            self._in_size = make_preprocess(subject.inputs[0], msgspec.structs.replace(picture, fit="stretch"))
        self._read(workdir, progress, what)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[SeenSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> SeenSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        item = self._items[index]
        if self._pictures is None:
            return SeenSample(item.origin, self._values[index], label=self._labels[index])
        picture = np.array(self._pictures[index])
        tensor, _ = self._in_size.prepare(np.ascontiguousarray(picture[..., ::-1]))
        placement, size = self._places[index]
        inputs = {self._subject.inputs[0].name: np.array(tensor)}
        return SeenSample(
            item.origin, inputs, picture, self._labels[index], placement, size, _scaled(self._objects[index], size)
        )

    def brief(self) -> list[SeenSample]:
        """Every sample without its inputs and picture: what a metric needs to know of it."""
        places = self._places or [(Placement(), (1, 1))] * len(self)
        return [
            SeenSample(item.origin, {}, None, label, placement, size, _scaled(objects, size))
            for item, label, objects, (placement, size) in zip(
                self._items, self._labels, self._objects, places, strict=True
            )
        ]

    @property
    def items(self) -> tuple[Item, ...]:
        return self._items

    @property
    def labelled(self) -> bool:
        """Whether every item has a class, or its objects."""
        return all(label is not None for label in self._labels) or all(one is not None for one in self._objects)

    @property
    def keys(self) -> set[bytes]:
        """Digests of what the model sees of each: two that are equal are the same sample."""
        return {_digest(self._pictures[at]) for at in range(len(self))} if self._pictures is not None else self._keys

    @property
    def sha256(self) -> str:
        """Over everything the model sees, in order."""
        state = hashlib.sha256()
        for sample in self:
            for name, tensor in sample.inputs.items():
                state.update(name.encode() + b"\0" + tensor.tobytes())
        return state.hexdigest()

    def close(self) -> None:
        """Let go of the pictures."""
        self._pictures, self._places, self._values = None, [], []

    def _read(self, workdir: Path, progress: Progress, what: str) -> None:
        """Everything once. Raises `ConfigError` that names what cannot be used."""
        bad: list[str] = []
        self._keys: set[bytes] = set()
        whole: Tensor | None = None
        for at, item in enumerate(self._items):
            progress(f"reading the {what} set", at, len(self._items))
            try:
                value = item.read()
                if isinstance(value, np.ndarray) and self._subject.kind == "picture":
                    whole = whole if whole is not None else self._allocate(workdir)
                    tensor, placement = self._resizer.prepare(value)
                    whole[at] = tensor[0]
                    self._places.append((placement, (value.shape[1], value.shape[0])))
                else:
                    self._values.append(self._tensors(value))
                    self._keys.add(_digest(*self._values[-1].values()))
            except (FrameError, OSError) as error:
                bad.append(f"{item.origin} ({getattr(error, 'got', None) or getattr(error, 'what', error)})")
        if self._values and whole is not None:
            raise ConfigError(
                "the set mixes pictures with arrays", where=self.source, expected="one or the other in both sets"
            )
        self._pictures = whole
        if bad:
            raise ConfigError(
                f"{len(bad)} of {len(self._items)} items of the {what} set cannot be used",
                where=self.source,
                got="; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else ""),
                remedy="take them out, or name only the others with PATH[start:stop:step]",
            )
        self._refuse_blank(what)

    def _allocate(self, workdir: Path) -> Tensor:
        width, height = self._resizer.size
        with tempfile.TemporaryFile(dir=workdir) as file:  # gone with the mapping, which outlives the descriptor
            return np.memmap(file, np.uint8, "w+", shape=(len(self._items), height, width, 3))

    def _tensors(self, value: Any) -> dict[str, Tensor]:
        """A window or a row of arrays as the model's inputs."""
        specs = self._subject.inputs
        if isinstance(value, dict):
            return {spec.name: np.ascontiguousarray(value[spec.name]) for spec in specs}
        if not hasattr(self, "_signal"):
            self._signal = _signal_input(self._subject)
        tensor, _ = self._signal.prepare(value)
        return {specs[0].name: np.array(tensor)}

    def _refuse_blank(self, what: str) -> None:
        """Raises `ConfigError` when every item is blank, or the same."""
        if self._pictures is not None:
            blank = [float(self._pictures[at].std()) < _BLANK for at in range(len(self))]
        else:
            blank = [all(float(np.ptp(one)) == 0 for one in values.values()) for values in self._values]
        same = len(self.keys) == 1 and len(self) > 1
        if all(blank) or same:
            mean = float(self._pictures[0].mean()) if self._pictures is not None else 0.0
            shade = ("black" if mean < 16 else "white" if mean > 239 else "of one shade") if all(blank) else "the same"
            raise ConfigError(
                f"every item of the {what} set is {shade}",
                where=self.source,
                expected="what the device will really see, varied",
                remedy="check that the lens was uncovered and the files are the right ones",
            )
        if sum(blank):
            self.notes = (*self.notes, f"{sum(blank)} of {len(self)} items of the {what} set show nothing")


class Part:
    """Some of the samples of another set, by their places, as the inputs of `subject`: `parts.Samples`.

    The set was read for the original; another file of the model may have other names, and its channels elsewhere.
    """

    def __init__(self, samples: SampleSet, places: Sequence[int], subject: Subject) -> None:
        self.source, self._samples, self._places, self._subject = samples.source, samples, tuple(places), subject
        self._preprocess: PicturePreprocess | None = None
        if subject.kind == "picture":
            plain = msgspec.structs.replace(subject.bundle.picture, fit="stretch")
            self._preprocess = make_preprocess(subject.inputs[0], plain)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> SeenSample:
        sample = self._samples[self._places[index]]
        specs = self._subject.inputs
        if self._preprocess is not None and sample.picture is not None:
            tensor, _ = self._preprocess.prepare(np.ascontiguousarray(sample.picture[..., ::-1]))
            inputs = {specs[0].name: np.array(tensor)}
        else:
            inputs = {
                spec.name: in_layout(value, spec) for spec, value in zip(specs, sample.inputs.values(), strict=True)
            }
        return msgspec.structs.replace(sample, inputs=inputs)


def _resizer(picture: PictureInput) -> PicturePreprocess:
    """Makes of a picture what lies in the input before normalisation: 1×H×W×3 uint8 RGB."""
    assert picture.size is not None, "a picture subject has a size"
    width, height = picture.size
    plain = msgspec.structs.replace(picture, layout="NHWC", color="RGB", mean=(0.0,), std=(1.0,))
    return make_preprocess(TensorSpec("picture", (1, height, width, 3), "uint8"), plain)


def _signal_input(subject: Subject) -> Any:
    from edgerun.preprocess.signal import SignalPreprocess

    signal, picture = subject.bundle.signal, subject.bundle.picture
    assert signal is not None, "only signal subjects read windows"
    normal: dict[str, Any] = {}
    if picture.mean is not None and picture.std is not None:
        normal = {"mean": picture.mean, "std": picture.std}
    return SignalPreprocess(subject.inputs[0], samples=signal.samples, channels=signal.channels or 1, **normal)


def _class_of(item: Item, subject: Subject, source: str) -> int | None:
    """The class of the whole item, where the model's task is to tell it; a detector does not care."""
    if item.label.name is None or subject.bundle.task not in CLASS_TASKS:
        return None
    return _index(item.label.name, item, subject, source)


def _objects_of(item: Item, subject: Subject, source: str) -> tuple[tuple[int, Box], ...] | None:
    if item.label.objects is None:
        return None
    return tuple((_index(name, item, subject, source), box) for name, box in item.label.objects)


def _scaled(objects: tuple[tuple[int, Box], ...] | None, size: tuple[int, int]) -> tuple[tuple[int, Box], ...] | None:
    """Boxes in 0..1 of the frame, whether the set gives them so or in pixels."""
    if objects is None:
        return None
    width, height = size
    pixels = any(max(box) > 1 for _, box in objects)
    by = (width, height, width, height) if pixels else (1, 1, 1, 1)
    scaled = []
    for index, box in objects:
        x0, y0, x1, y1 = (side / unit for side, unit in zip(box, by, strict=True))
        scaled.append((index, (x0, y0, x1, y1)))
    return tuple(scaled)


def _index(name: str, item: Item, subject: Subject, source: str) -> int:
    """The class that a set calls `name`: a label of the model, or a class number. Raises `ConfigError`."""
    labels = subject.bundle.labels or ()
    folded = [label.casefold() for label in labels]
    matches = folded.count(name.casefold())
    if matches == 1:
        return folded.index(name.casefold())
    if matches == 0 and name.isdecimal() and (not labels or int(name) < len(labels)):
        return int(name)
    raise ConfigError(
        "the set's labels are not those of the model" if not matches else "two of the model's classes have this name",
        where=f"{source}: {item.origin}",
        expected=f"one of {len(labels)} labels or a number below {len(labels)}" if labels else "a class number",
        got=repr(name),
        remedy=did_you_mean(name, labels) or "give --labels, or put pictures without labels into one folder",
    )


def _digest(*arrays: Tensor) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return state.digest()
