"""What a device and a worker say to each other through the broker: one picture, ready for a model, and its answer.

A request is what the model is to look at, made on the device that has the frame: its input tensor as it is, or the
picture that the tensor is made of as a JPEG, both of the model's own size. An answer is what the model's decoder read:
a few hundred bytes, where raw outputs would be up to megabytes. Both are MessagePack maps. No time of day is in them:
`patience_ms` counts from the request's arrival.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np

from edgerun.decoding import unpacker
from edgerun.errors import FrameError
from edgerun.types import Answer, Image, Placement, Tensor

VERSION = 1
MOST_ANSWER_BYTES = 1 << 20
"""Of an answer: a mask of a large picture has some 100 KiB."""

_FIRST_LOOKS = 8
_LOSSLESS_WORTH = 1.5
_EDGE = 1e-3

Payload = Literal["auto", "jpeg", "tensor"]
Why = Literal["version", "late", "garbage", "frame", "engine"]


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request. `shape` and `dtype` of a tensor, (height, width) of a JPEG.

    `sha256` names the model file, `reading` is a digest of how it is used (input, decoder, labels), `threshold` and
    `top_k` say how its outputs are to be read, `placement` where the frame lies in the picture (`types.Placement`, its
    fields in their order).
    """

    sha256: str
    reading: str
    kind: Literal["jpeg", "tensor"]
    shape: tuple[int, ...]
    dtype: str
    data: bytes
    threshold: float
    top_k: int
    placement: tuple[float, float, float, float]
    patience_ms: float
    """After so long nobody waits for the answer any more."""
    again: int = 0
    """How often it was sent before, with the same correlation data."""
    v: int = VERSION


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no answer: `version` another model, `late`, `garbage` in the request, `frame` this picture cannot be
    used, `engine` a fault of the worker's.
    """

    why: Why
    text: str


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer, or a refusal, of the worker `by`; `infer_ms` is what the model took there."""

    by: str
    sha256: str
    answer: Answer | None = None
    refusal: Refusal | None = None
    infer_ms: float = 0.0
    again: int = 0
    """As in the request: which of several copies was answered."""
    v: int = VERSION


_encode = msgspec.msgpack.Encoder().encode
_read_ask = unpacker(Ask)
_read_told = unpacker(Told)


def level(name: str) -> str:
    """A model's name as a level of a topic."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def work_topic(prefix: str, model: str, *, device: str) -> str:
    """Where requests for `model` go."""
    return f"{prefix}/_work/{level(model)}/{device}"


def shared_filter(prefix: str, model: str, group: str) -> str:
    """What the workers of a group subscribe to: each request goes to one of them (MQTT 5.0, 4.8.2)."""
    return f"$share/{group}/{prefix}/_work/{level(model)}/#"


def encode(said: Ask | Told) -> bytes:
    """The payload of a message."""
    return _encode(said)


def read_ask(payload: bytes) -> Ask:
    """Raises `FrameError` for what is no request of this version."""
    try:
        ask = _read_ask(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("not a request", reason="garbage", got=str(error)) from error
    if ask.v != VERSION:
        raise FrameError("a request of another version", reason="garbage", expected=VERSION, got=ask.v)
    numbers = (ask.threshold, ask.patience_ms, *ask.placement)
    if not all(map(math.isfinite, numbers)) or not 1 <= ask.top_k <= 1000 or not 0 <= ask.threshold <= 1:
        raise FrameError("a request with senseless numbers", reason="garbage", got=(*numbers, ask.top_k))
    return ask


def read_told(payload: bytes) -> Told:
    """Raises `FrameError` for what is no answer, or one with numbers that no model gives: whoever may publish to the
    response topic can say what they like.
    """
    if len(payload) > MOST_ANSWER_BYTES:
        raise FrameError("an answer too long", reason="remote_garbage", got=f"{len(payload)} bytes")
    try:
        told = _read_told(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("not an answer", reason="remote_garbage", got=str(error)) from error
    if (
        told.v != VERSION
        or (told.answer is None) == (told.refusal is None)
        or not re.fullmatch(r"[\w.-]{1,64}", told.by)
    ):
        raise FrameError("not an answer", reason="remote_garbage", got=f"v {told.v} by {told.by[:64]!r}")
    if told.answer is not None:
        _check(told.answer)
    return told


def _check(answer: Answer) -> None:
    """Raises `FrameError` for numbers that would not come out of a decoder."""
    if not all(map(math.isfinite, _floats(msgspec.to_builtins(answer)))):
        raise FrameError("an answer with numbers that are none", reason="remote_garbage")
    for one in answer.detections or ():
        x0, y0, x1, y1 = one.box
        inside = -_EDGE <= x0 <= x1 <= 1 + _EDGE and -_EDGE <= y0 <= y1 <= 1 + _EDGE
        if not inside or not 0 <= one.score <= 1 or one.class_id < 0:
            raise FrameError("an answer with a box outside the frame", reason="remote_garbage", got=one)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floats(item)


def as_placement(numbers: tuple[float, float, float, float]) -> Placement:
    """`Ask.placement` again."""
    return Placement(*numbers)


def placement_numbers(placement: Placement) -> tuple[float, float, float, float]:
    """For `Ask.placement`."""
    return (placement.scale_x, placement.shift_x, placement.scale_y, placement.shift_y)


class Packer:
    """Makes what is sent of a frame: the tensor, or a JPEG of the picture that it is made of.

    `auto` looks at the first eight frames both ways and takes the tensor, which loses nothing, where the JPEG does not
    make the message smaller by a third at least: for inputs of some 3 KiB and less. For a 300×300 picture the JPEG is
    a tenth (docs/workers.md has the measurements). Used by one thread.
    """

    def __init__(self, payload: Payload = "auto", quality: int = 90) -> None:
        self._wanted, self._quality = payload, quality
        self._looks: list[float] = []

    @property
    def settled(self) -> Literal["jpeg", "tensor"] | None:
        """What is sent from now on; None while `auto` still looks."""
        if self._wanted != "auto":
            return self._wanted
        if len(self._looks) < _FIRST_LOOKS:
            return None
        self._wanted = "tensor" if sorted(self._looks)[_FIRST_LOOKS // 2] <= _LOSSLESS_WORTH else "jpeg"
        return self._wanted

    def pack(self, tensor: Tensor, picture: Image | None) -> tuple[Literal["jpeg", "tensor"], tuple[int, ...], bytes]:
        """Kind, shape and bytes; `tensor` `1×…`, `picture` `H×W×3` uint8 BGR, None where there is none to send."""
        settled = self.settled
        if picture is None or settled == "tensor":
            return "tensor", tensor.shape, tensor.tobytes()
        import cv2

        done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        if not done:
            raise FrameError("OpenCV cannot encode this picture", reason="preprocess")
        if settled is None:
            self._looks.append(tensor.nbytes / len(jpeg))
            if tensor.nbytes <= _LOSSLESS_WORTH * len(jpeg):
                return "tensor", tensor.shape, tensor.tobytes()
        return "jpeg", picture.shape[:2], jpeg.tobytes()


def unpack_tensor(ask: Ask, shape: tuple[int, ...], dtype: str) -> Tensor:
    """The tensor in a request, read-only. Raises `FrameError` when it is not of this shape and dtype."""
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if ask.shape != shape or ask.dtype != dtype or len(ask.data) != expected:
        raise FrameError(
            "not this model's input",
            reason="garbage",
            expected=f"{'×'.join(map(str, shape))} {dtype}, {expected} bytes",
            got=f"{'×'.join(map(str, ask.shape[:8]))} {ask.dtype[:16]}, {len(ask.data)} bytes",
        )
    return np.frombuffer(ask.data, dtype).reshape(shape)
