"""Pictures or samples that arrive as MQTT messages: each is a request, and is answered."""

from __future__ import annotations

import hashlib
import logging
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.broker.message import check_topic
from edgerun.capture import opencv
from edgerun.capture.picture import decode_picture
from edgerun.capture.samples import Channels, Dtype, RawNumbers, check_finite
from edgerun.errors import Closed, ConfigError, FrameError, SourceError
from edgerun.ports import Incoming, SourceContext
from edgerun.slot import Slot
from edgerun.types import WHOLE, Grab, Reply, View
from edgerun.validate import show

_log = logging.getLogger("edgerun.capture")

_SLICE_S = 0.25
_KEY_BYTES = 16
_ITEM_CHARS = 64


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`topic`: the filter to subscribe to (`$share/group/…` shares the work with other devices). `waiting`: how many
    requests may wait; the oldest gives way.

    `payload` picture: a JPEG, PNG, … . `payload` samples: `window_samples` times `channels` interleaved numbers of
    `dtype`; a value is number·`scale` + `offset`.
    """

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=65535)]
    payload: Literal["picture", "samples"] = "picture"
    waiting: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16
    qos: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1
    window_samples: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    channels: Channels = 1
    dtype: Dtype = "float32"
    byte_order: Literal["little", "big"] = "little"
    scale: float = 1.0
    offset: float = 0.0

    @property
    def known_channels(self) -> int:
        """See `WindowOptions`."""
        return self.channels

    def __post_init__(self) -> None:
        _check_filter(self.topic)
        check_finite(self.scale, "scale")
        check_finite(self.offset, "offset")
        if (self.payload == "samples") != (self.window_samples is not None):
            raise ConfigError(
                "window_samples says how many samples a request holds",
                expected='it with payload = "samples", and only there',
            )


class MqttRequestSource:
    """Requests in the order they came. They have no deadline of ours: they wait, `waiting` of them at most.

    `lossless`: a request once taken is inferred, and answered unless it cannot be used. `item` is the request's
    correlation data where that is short text (at most 64 bytes), else its topic; `reply` its response topic and
    correlation data. Requests that gave way make a gap.
    Retained messages are not requests: every reconnect would bring them again. An absent broker is no error; requests
    come when it is there. The time of a request is when it was taken from those waiting. Raises a final `SourceError`
    when this device has no broker.
    """

    options = Options
    lossless = True
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        broker = context.broker
        if broker is None:
            raise SourceError(
                "requests come through a broker, and there is none",
                where=f"stream {context.stream}",
                remedy="add [mqtt] with an url, or --broker",
                final=True,
            )
        self._cv2 = opencv.load() if options.payload == "picture" else None
        self._options, self._context = options, context
        self._where = f"stream {context.stream}: {options.topic}"
        self._numbers = RawNumbers(options.dtype, options.channels, options.byte_order, options.scale, options.offset)
        self._inbox: Slot[Incoming] = Slot(options.waiting)
        self._payload = b""
        self._known_dropped = self._told_dropped = 0
        self.frame_size = (options.channels, options.window_samples or 0) if options.window_samples else (0, 0)
        broker.subscribe(options.topic, self._inbox, options.qos)

    @property
    def dropped(self) -> int:
        """Requests that gave way because too many waited."""
        return self._inbox.stats().victims

    def grab(self, until_ns: int | None = None) -> Grab | None:
        """See `ports.Source`."""
        while not self._context.stop.is_set():
            before = self.dropped
            try:
                request = self._inbox.take(_SLICE_S)
            except Closed:
                return None
            if request is not None and not request.retain:
                break
        else:
            return None
        self._payload = request.payload
        gap = self._lost_some(before)
        key = hashlib.blake2b(request.payload, digest_size=_KEY_BYTES).digest()
        return Grab(self._context.clock.mono_ns(), _item(request), key, reply=self._reply(request), gap=gap)

    def retrieve(self, out: NDArray[Any] | None, view: View = WHOLE) -> NDArray[Any]:
        """The picture, or the samples×channels float32 of the request, in `out` if they fit."""
        if self._cv2 is not None:
            image, self.frame_size = decode_picture(self._cv2, self._payload, out, self._where, view)
            return image
        return self._samples(out)

    def close(self) -> None:
        """Take no more requests; those that wait are answered to nobody."""
        if not self._inbox.stats().closed and len(self._inbox):
            _log.warning("%s: %d requests still waited and are not answered", self._where, len(self._inbox))
        self._inbox.close()

    def _reply(self, request: Incoming) -> Reply | None:
        topic = request.response_topic
        if topic is None:
            return None
        try:
            check_topic(topic)
        except ValueError as error:
            _log.warning("%s: the request is answered to nobody: %s", self._where, error)
            return None
        return Reply(topic, request.correlation)

    def _lost_some(self, before: int) -> bool:
        """Whether requests gave way before this one; told with the first and whenever they have doubled.

        Of any since there were `before`, nobody knows whether it was before this or behind it: the next says so too.
        """
        dropped = self.dropped
        lost, self._known_dropped = dropped > self._known_dropped, before
        if dropped > 2 * self._told_dropped:
            self._told_dropped = dropped
            _log.warning(
                "%s: %d requests gave way so far, more than %d waited", self._where, dropped, self._options.waiting
            )
        return lost

    def _samples(self, out: NDArray[Any] | None) -> NDArray[Any]:
        wanted = (self._options.window_samples or 0) * self._numbers.sample_bytes
        if len(self._payload) != wanted:
            raise FrameError(
                "the request does not hold one window",
                where=self._where,
                expected=f"{wanted} bytes: {self._options.window_samples} samples of {self._options.channels}"
                f" {self._options.dtype}",
                got=f"{len(self._payload)} bytes",
                reason="decode",
            )
        window = self._numbers.feed(self._payload)
        if out is None or out.shape != window.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            return window
        out[...] = window
        return out


def _check_filter(text: str) -> None:
    """Raises `ConfigError` unless `text` can be subscribed to (MQTT 5.0, 4.7 and 4.8.2)."""
    shared, levels = text.startswith("$share/"), text.split("/")
    if shared:
        group, levels = levels[1], levels[2:]
    bad = shared and (not group or "+" in group or "#" in group or levels in ([], [""]))
    bad = bad or any(("+" in level or "#" in level) and len(level) > 1 for level in levels)
    if bad or "#" in levels[:-1] or "\0" in text or len(text.encode("utf-8")) > 65535:
        raise ConfigError(
            "not a topic filter",
            expected="topic levels, of which + stands for any one and # for all at the end; $share/GROUP/ before them",
            got=show(text),
        )


def _item(request: Incoming) -> str:
    correlation = request.correlation
    if correlation and len(correlation) <= _ITEM_CHARS:
        try:
            text = correlation.decode("utf-8")
        except UnicodeDecodeError:
            return request.topic
        if text.isprintable():
            return text
    return request.topic
