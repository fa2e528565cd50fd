"""The architecture on one page: what each kind of plug-in does.

A plug-in is one file: an options struct (`Options`, a `msgspec.Struct` with `forbid_unknown_fields=True`, every field
typed and with its unit in the name) and one class that names it (`options = Options`). Modules import without their
heavy library; the class imports it when it is constructed, which is when it opens what it stands for. Constructors take
exactly `(options, context)`. Whoever constructs closes; `close()` is idempotent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from edgerun.clock import Clock
from edgerun.slot import Slot
from edgerun.types import (
    WHOLE,
    Answer,
    Box,
    EngineInfo,
    Grab,
    GreyImage,
    Image,
    Motion,
    Placement,
    Publication,
    Reading,
    Seen,
    Tensor,
    TensorSpec,
    View,
)
from edgerun.wake import Wake


class SourceContext(msgspec.Struct, frozen=True):
    """What a source is given besides its options; `broker` only where there is one.

    `stop` is set when the stream ends: every wait of the source must end with it. `wake` becomes readable when the
    consumer will not wait for the next frame any longer (and with `stop`): a `grab(until_ns)` of a source that `holds`
    then returns `NOT_YET` at once. The consumer clears it. `as_fast` asks a file to be read without pacing; `loop` to
    begin again at its end.
    """

    stream: str
    clock: Clock
    stop: threading.Event
    as_fast: bool = False
    loop: bool = False
    wake: Wake | None = None
    broker: Broker | None = None


class Source(Protocol):
    """Frames from a camera, stream, file or pattern. One thread (`capture:<stream>`) constructs, uses and closes it.

    `lossless`: it has no deadline and waits for its consumer (a folder; a file read `as_fast`); else it is live and the
    consumer takes what is newest. `holds`: the frame taken hold of stays compressed until it is wanted, so it can wait
    while the source looks out for the next one, and a small or grey view of it costs less than the whole.
    `frame_size` is width and height (pixels) as captured of the frame retrieved last.
    """

    options: ClassVar[type[msgspec.Struct]]
    lossless: bool
    holds: bool

    @property
    def frame_size(self) -> tuple[int, int]: ...

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """Block until the next frame is here and take hold of it, without decoding it where that can be put off.

        None is the end of the data (or `stop` was set). With `until_ns` (monotonic; only sources that `hold` heed it)
        at most until then or until `wake`: then `NOT_YET`, and the frame taken hold of before can still be retrieved.
        Raises `SourceError` when the source is lost; the caller closes it and constructs a new one after a back-off.
        """
        ...

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        """The grabbed frame, decoded, `H×W×3` uint8 BGR (`H×W` when `view.grey`), C-contiguous.

        May be called not at all, or more than once per grab. A source that does not `hold` may give the whole BGR
        picture whatever the view. Written into `out` when that has the right shape (then `out` itself is returned),
        else into a new array, which the caller owns. Raises `FrameError` when this one frame is unusable,
        `SourceError` when the source is lost.
        """
        ...

    def close(self) -> None: ...


class Preprocess(Protocol):
    """Picture, or window of samples, → the model's input tensor, in buffers allocated at construction: one row per
    picture of a batch.
    """

    def prepare(self, image: Image, region: Box | None = None, row: int = 0) -> tuple[Tensor, Placement]:
        """`image` (`H×W×3` uint8 BGR), or its `region` (0..1), resized, converted, normalised and quantised.

        Returns row `row` of the preprocessor's own tensor, shape `1×…`, valid until the next call with that row, and
        where the whole image lies in it. Raises `FrameError` for an empty picture or a region outside it.
        """
        ...

    def batch(self, rows: int, first: int = 0) -> Tensor:
        """`rows` rows of the tensor from row `first` on as one, shape `rows×…`: a view, no copy."""
        ...

    def reset(self) -> None:
        """Forget what went before, where it remembers anything: the next input does not follow the last one."""
        ...


class Gate(Protocol):
    """Whether anything moves in a stream's pictures. Used by one thread."""

    def look(self, grey: GreyImage, captured_ns: int) -> Motion:
        """`grey`: `H×W` uint8, small, not kept; captured at `captured_ns` (not running backwards)."""
        ...


class Scene(Protocol):
    """What a stream remembers between frames: tracks and zones. Used by one thread."""

    def observe(self, answer: Answer, captured_ns: int) -> Seen:
        """The answer to the frame captured at `captured_ns`, with `track` and `zones` of each detection filled in."""
        ...


class EngineContext(msgspec.Struct, frozen=True):
    """What an engine is given: the verified model bytes (or, for very large ones, the file) and where to run it.

    `accelerator` is one name of the declared order; `accelerator_options` its own options.
    """

    model: bytes | Path
    name: str
    accelerator: str = "cpu"
    accelerator_options: dict[str, Any] = {}
    threads: int = 1
    batch: int = 1
    """The most pictures inferred at once; above 1 the engine raises `ModelError` where the model cannot."""


class Engine(Protocol):
    """A model, loaded. Used by one thread at a time."""

    options: ClassVar[type[msgspec.Struct]]
    info: EngineInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Raw outputs (as quantised as the model leaves them), in the order of `outputs`, valid until the next call.

        `inputs` in the order, shape and dtype of the `inputs` specs; where it was opened with a `batch` above 1, the
        first dimension may be anything from 1 to `batch`, and is that of the outputs too. Raises `EngineError`.
        """
        ...

    def close(self) -> None: ...


class DecoderContext(msgspec.Struct, frozen=True):
    """What a decoder knows of its model. `labels[i]` names class i; `threshold` is the lowest score to report."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    threshold: float = 0.5
    top_k: int = 5
    input_size: tuple[int, int] = (0, 0)
    """Width and height of the picture input, pixels."""


class Decoder(Protocol):
    """A model's raw outputs → an `Answer`. An answer depends on its own frame alone; what a decoder may keep is how the
    model lays its outputs out, once the values have told.

    `labels[i]` names class i; empty when classes are reported by their number. The constructor raises `ModelError` when
    the model's outputs are not of the kind it decodes (stating expected and got shapes) or when the labels are not one
    per class.
    """

    options: ClassVar[type[msgspec.Struct]]
    labels: tuple[str, ...]
    wants_inputs: bool
    """Whether `decode` gets the model's inputs behind its outputs."""

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """`outputs` as the engine gave them; boxes in the answer lie in 0..1 of the frame, highest score first.

        Raises `FrameError(reason="decode")` when the numbers are not numbers (NaN scores).
        """
        ...


class Incoming(msgspec.Struct, frozen=True):
    """One message from the broker. Response topic, correlation and expiry are MQTT 5's, None where the sender or the
    link has none.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    expires_in_s: int | None = None
    packet: tuple[int, int] | None = None
    """The link it came by and its packet id there, where whoever takes it is to acknowledge it."""
    came_ns: int = 0
    """When it arrived here (monotonic)."""


class Broker(Protocol):
    """The one MQTT connection, as its users see it. Thread-safe; nothing in it blocks but `flush`."""

    @property
    def connected(self) -> bool:
        """Whether a CONNACK was accepted and the link has not been seen to fail since."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation: bytes | None = None,
        keep: Literal["telemetry", "detection", "event"] | None = None,
        number: int | None = None,
        expires_s: int | None = None,
        response_topic: str | None = None,
    ) -> None:
        """Queue one message. While the link is down QoS 1 waits (bounded, oldest dropped and counted), QoS 0 is dropped
        and counted.

        `correlation`: of the request that this answers (MQTT 5). `keep`: it outlives what the spool's durability
        covers, and is the more dear the later its class stands; None: it need not. `number`: the result's, of the run.
        `expires_s`: after so long nobody wants it any more. `response_topic`: where its answer is awaited (MQTT 5).
        """
        ...

    def subscribe(self, topic_filter: str, inbox: Slot[Incoming], qos: int = 1, *, as_published: bool = False) -> None:
        """Messages that match go to `inbox`, now and after every reconnect, until the inbox is closed.

        `retain` of a message that comes live is False, or with `as_published` what its sender said (MQTT 5 only).
        """
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until every QoS 1 message is acknowledged; False when `timeout_s` passed first."""
        ...


Seal = Callable[[bytes, str, str], bytes]
"""(content, purpose, file name) → what is to be written instead of the content, under that name and `.sealed`."""


class SinkContext(msgspec.Struct, frozen=True):
    """What a sink is given besides its options; `broker` only where there is one."""

    device: str
    clock: Clock
    broker: Broker | None = None
    seal: Seal | None = None
    """What seals the files that a sink keeps, where the config has a key for that."""


class Sink(Protocol):
    """Where results go. One thread (`publish`) uses it; `publish` must not block on a slow consumer.

    `wants_picture`: its publications must carry `result.lease`.
    """

    wants_picture: bool

    @property
    def broken(self) -> bool:
        """Whether its reader has gone for good, so that nothing it is given arrives anywhere."""
        ...

    def publish(self, publication: Publication) -> None:
        """Take one result. The lease in it is valid only during the call."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Return when everything taken is where it belongs, or after `timeout_s`."""
        ...

    def close(self) -> None: ...


class Sensor(Protocol):
    """Something the device knows of itself. `read` returns nothing for what the board lacks and raises what broke."""

    def read(self) -> Sequence[Reading]: ...

    def close(self) -> None: ...
