"""The values that flow through the pipeline: frozen, with units in their names.

Shapes: an image is `H×W×3` uint8 in BGR order (OpenCV's), boxes are `(x0, y0, x1, y1)` in 0..1 of the frame as
captured, a tensor has the shape its `TensorSpec` says. Times are monotonic nanoseconds
(`*_ns`) unless the name says otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
GreyImage = NDArray[np.uint8]
Tensor = NDArray[Any]
Box = tuple[float, float, float, float]
Keypoints = tuple[tuple[float, float, float], ...]
"""Points (x, y, score) in the model's own order, x and y in 0..1 of the frame; the score of one outside it is 0."""
Polygon = tuple[tuple[float, float], ...]
"""Corners (x, y) in 0..1 of the frame; closed by itself."""


class Reply(msgspec.Struct, frozen=True):
    """Where the answer to a request is awaited: MQTT 5's response topic and correlation data."""

    topic: str
    correlation: bytes | None = None


class Stamp(msgspec.Struct, frozen=True):
    """Identity and moment of one frame; rides unchanged from capture to result.

    `seq` counts the stream's grabbed frames from 0; `captured_ns` is monotonic, `captured_unix_s` wall time: the
    driver's timestamp where it can be trusted, else the arrival of the frame's last byte. `item` is the file name or
    position when the source is a file or a folder. `reply`: the frame is a request, and this is where its answer goes.
    `recorded_ns`: when it was taken on the clock of the recording that it comes from, where that is read faster than it
    was made.
    """

    stream: str
    seq: int
    captured_ns: int
    captured_unix_s: float
    item: str | None = None
    reply: Reply | None = None
    recorded_ns: int | None = None

    @property
    def moment_ns(self) -> int:
        """Its time for what remembers frames: how long things take in the scene, not how fast they are read."""
        return self.captured_ns if self.recorded_ns is None else self.recorded_ns


class Grab(msgspec.Struct, frozen=True):
    """What a source says of the frame it has just taken hold of, not decoded yet.

    `key` identifies the payload byte for byte (a digest), where the source has it as a whole: equal keys, equal frames.
    `gap`: samples are missing between the window before and this one. `reply`, `recorded_ns`: as in `Stamp`.
    """

    captured_ns: int
    item: str | None = None
    key: bytes | None = None
    gap: bool = False
    reply: Reply | None = None
    recorded_ns: int | None = None


NOT_YET = Grab(-1)
"""What `Source.grab(until_ns)` returns when no new frame has come: the frame taken hold of before is still there."""


class View(msgspec.Struct, frozen=True):
    """What is wanted of a grabbed frame.

    `enough` (width, height): a smaller picture than the frame will do if both its sides are at least these, so a JPEG
    may be decoded at a reduced scale; None: the whole picture. `grey`: one channel, `H×W` uint8, for looking at motion.
    """

    enough: tuple[int, int] | None = None
    grey: bool = False


WHOLE = View()


class Lease:
    """A frame's pixel buffer, lent: shared by `share()`, given back to its owner by as many `release()` as holders.

    `image` is valid only between the two. Thread-safe; releasing more often than shared is an error.
    """

    __slots__ = ("_give_back", "_holders", "_lock", "image")

    def __init__(self, image: Image, give_back: Callable[[Image], None] | None = None) -> None:
        self.image = image
        self._give_back = give_back
        self._holders = 1
        self._lock = threading.Lock()

    def share(self) -> Lease:
        with self._lock:
            if self._holders <= 0:
                raise RuntimeError("a lease was shared after its last holder released it")
            self._holders += 1
        return self

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            left = self._holders
        if left < 0:
            raise RuntimeError("a lease was released more often than it was shared")
        if left == 0 and self._give_back is not None:
            self._give_back(self.image)


class Frame(msgspec.Struct, frozen=True):
    """A decoded picture, or a window of samples, on its way to the worker. Whoever takes it from the Slot releases
    `lease`.
    """

    stamp: Stamp
    lease: Lease
    ready_ns: int
    """When it was handed to the Slot: capture latency = `ready_ns - stamp.captured_ns`."""
    size: tuple[int, int]
    """Width and height of the frame as captured, pixels; the picture in `lease` may be smaller."""
    lossy: bool = True
    """False where the source has no deadline: then it is neither expired nor dropped on the way."""
    region: Box | None = None
    """The part the model is to look at, in 0..1 of the frame; None: all of it."""
    reuse: Reuse | None = None
    """The answer is known already: the worker does not infer."""
    key: bytes | None = None
    """As in `Grab`."""
    crop: Detection | None = None
    """In a cascade: the detection of the first model that this frame is cut to."""
    gap: bool = False
    """Something that the source had is missing before it."""

    @property
    def image(self) -> Image:
        return self.lease.image


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model as its file states it.

    `shape` holds -1 where the model leaves a dimension open. `scale`/`zero_point` are empty for tensors that are not
    quantised, hold one value per tensor, or one per slice along `quantized_axis`: real = scale · (q − zero_point)
    (TensorFlow Lite 8-bit quantisation specification).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    quantized_axis: int = 0


class Placement(msgspec.Struct, frozen=True):
    """Where the picture lies in the model's input: `frame = tensor · scale + shift`, both in 0..1, per axis.

    Stretching is the identity. Letterboxing a picture that fills the middle 75 % of the height has
    `scale_y = 1/0.75`, `shift_y = -0.125/0.75`.
    """

    scale_x: float = 1.0
    shift_x: float = 0.0
    scale_y: float = 1.0
    shift_y: float = 0.0


class Detection(msgspec.Struct, frozen=True, omit_defaults=True, rename={"class_id": "class"}):
    """One object: `box` is `(x0, y0, x1, y1)` in 0..1 of the frame as captured, `score` in 0..1."""

    label: str
    class_id: int
    score: float
    box: Box
    track: int | None = None
    zones: tuple[str, ...] = ()
    """Names of the zones it stands in."""
    keypoints: Keypoints = ()


class Classification(msgspec.Struct, frozen=True, rename={"class_id": "class"}):
    """One class with its score (a probability where the model gives one)."""

    label: str
    class_id: int
    score: float


class Runs(msgspec.Struct, frozen=True):
    """A mask, run-length encoded as COCO's uncompressed RLE: `size` is (height, width), `counts` the lengths of runs of
    pixels outside and inside in turn, beginning with outside (0 when the first pixel is inside), column by column.

    `box` is the part of the frame that the mask covers.
    """

    size: tuple[int, int]
    counts: tuple[int, ...]
    box: Box


class Segment(msgspec.Struct, frozen=True, omit_defaults=True, rename={"class_id": "class"}):
    """The pixels of one class: `share` (0..1) of the picture that the model saw, their outlines, largest first."""

    label: str
    class_id: int
    share: float
    polygons: tuple[Polygon, ...] = ()
    runs: Runs | None = None
    """Only where the decoder is asked for it."""


class Quantity(msgspec.Struct, frozen=True, omit_defaults=True):
    """One number that a model estimates, with its unit (`°C`, `people`) where that is known."""

    name: str
    value: float
    unit: str = ""


class Hidden(msgspec.Struct, frozen=True):
    """What of a picture nobody may be shown: `boxes`, where objects with one of `labels` are, and all outside `seen`,
    the part that the model looked at (0..1 of the frame).
    """

    labels: frozenset[str]
    boxes: tuple[Box, ...]
    seen: Box = (0.0, 0.0, 1.0, 1.0)


class Answer(msgspec.Struct, frozen=True):
    """What a decoder read out of a model's outputs; only the fields that the task has are set."""

    detections: tuple[Detection, ...] | None = None
    classes: tuple[Classification, ...] | None = None
    keypoints: Keypoints | None = None
    """Of a model that looks for one figure in the whole picture; empty when there is none."""
    value: float | None = None
    segments: tuple[Segment, ...] | None = None
    """Largest share first."""
    embedding: tuple[float, ...] | None = None
    values: tuple[Quantity, ...] | None = None
    hidden: Hidden | None = None
    """Only where pictures are to be blurred; never published."""


class Reuse(msgspec.Struct, frozen=True):
    """An answer that stands for another frame too: of a scene that has not changed, or of the very same payload."""

    why: Literal["still", "cache"]
    answer: Answer


class Motion(msgspec.Struct, frozen=True):
    """What a gate saw: `share` of the pixels it watches that changed (0..1), `moving` its verdict, `box` where."""

    share: float
    moving: bool
    box: Box | None = None


class SceneEvent(msgspec.Struct, frozen=True, omit_defaults=True, rename={"class_id": "class"}):
    """Something that happened in a scene; `zone` and `seconds` (how long it was there) where they apply.

    `appeared`, `lost`, `entered`, `left` and `dwelled` are of one tracked object. `heard` (once), `began` and `ended`
    are of a class: a wake word, speech; these have no `track` and no `box`, and a `score`.
    """

    kind: Literal["appeared", "lost", "entered", "left", "dwelled", "heard", "began", "ended"]
    track: int | None
    label: str
    class_id: int
    box: Box | None
    zone: str | None = None
    seconds: float | None = None
    score: float | None = None


class Seen(msgspec.Struct, frozen=True):
    """An answer as a stream's memory of its scene completes it: detections with `track` and `zones`, and events."""

    answer: Answer
    events: tuple[SceneEvent, ...] = ()


class EngineInfo(msgspec.Struct, frozen=True):
    """What really runs: `runtime` with its version ("litert 2.3.0"), the accelerator in use, CPU threads.

    `fallbacks` names each accelerator that was tried before this one, with the reason it was refused. `delegated`: how
    many of the model's operators the accelerator took, and of how many, where the runtime tells.
    """

    runtime: str
    accelerator: str
    threads: int
    fallbacks: tuple[tuple[str, str], ...] = ()
    delegated: tuple[int, int] | None = None


class ModelInfo(msgspec.Struct, frozen=True):
    """Which model made a result; written into every message."""

    name: str
    version: str
    accelerator: str


class Result(msgspec.Struct, frozen=True):
    """An answer with its account: who, when, how long each stage took (ns), what was dropped since the last one.

    `max_age_ns` is 0 where the stream has no deadline. `lease` keeps the picture for sinks that draw; the publish
    thread releases it.
    """

    stamp: Stamp
    answer: Answer
    model: ModelInfo
    frame_size: tuple[int, int]
    """Width and height of the frame as captured, pixels; channels and samples of a window."""
    latency_ns: Mapping[str, int]
    """capture, wait, preprocess, infer, decode."""
    dropped: Mapping[str, int]
    """Frames of this stream skipped and superseded since its previous result."""
    max_age_ns: int = 0
    lease: Lease | None = None
    events: tuple[SceneEvent, ...] = ()
    reused: Literal["still", "cache"] | None = None
    """Why the answer was not inferred from this frame itself; None: it was."""
    crop: Detection | None = None
    """In a cascade: the detection of the first model that this is about."""
    window: bool = False
    """The model was given samples, not a picture."""
    gap: bool = False
    """The model began anew here, because something before this is missing."""


class Publication(msgspec.Struct, frozen=True):
    """A result at the moment the publish thread took it: every sink gets this one value."""

    result: Result
    id: str
    """`<run>-<n>`: 8 random hex digits drawn at process start, and the device's result number."""
    age_ms: float


class Reading(msgspec.Struct, frozen=True):
    """One sensor value. A sensor the board lacks has no reading; a broken one raises. `name` carries the unit."""

    name: str
    value: float
    at_ns: int
