"""One request → its answer, or why there is none."""

from __future__ import annotations

from collections import OrderedDict
from time import perf_counter

import msgspec
import numpy as np

from edgerun.app.opening import LoadedModel, open_decoder
from edgerun.app.remoting import reading_of
from edgerun.capture import opencv
from edgerun.capture.jpeg import read_header
from edgerun.capture.picture import decode_picture
from edgerun.config import StreamConfig
from edgerun.config.structs import SourceConfig
from edgerun.errors import ConfigError, EngineError, FrameError, ModelError
from edgerun.infer.work import Ask, Refusal, Told, Why, as_placement, read_ask, unpack_tensor
from edgerun.ports import Decoder
from edgerun.preprocess import PicturePreprocess
from edgerun.types import Tensor

_DECODERS = 16
_WARM_UP = 2
_MEASURED = 5


class _NoOptions(msgspec.Struct, frozen=True):
    pass


class Answerer:
    """Runs one model for whoever asks. Used by one thread. Raises `ConfigError` for a model that is not given one
    picture, or remembers what came before.
    """

    def __init__(self, model: LoadedModel, by: str) -> None:
        if model.ordered or len(model.engine.inputs) != 1 or not isinstance(model.preprocess, PicturePreprocess):
            raise ConfigError(
                "only a model that is given one picture, and remembers nothing, can serve others",
                where=model.bundle.name,
                remedy="choose another --model",
            )
        self.model, self.by = model, by
        self._cv2 = opencv.load()
        self._preprocess = model.preprocess
        self._reading = reading_of(model.bundle)
        self._spec = model.engine.inputs[0]
        self._shape = model.preprocess.batch(1).shape
        self._decoders: OrderedDict[tuple[float, int], Decoder] = OrderedDict()

    def measure(self) -> float:
        """How many frames a second it can do, roughly: the median of five inferences, after two to warm up."""
        tensor = self._preprocess.batch(1)
        took = []
        for _ in range(_WARM_UP + _MEASURED):
            began = perf_counter()
            self.model.engine.infer((tensor,))
            took.append(perf_counter() - began)
        return 1.0 / max(1e-6, float(np.median(took[_WARM_UP:])))

    def answer(self, payload: bytes, waited_ms: float = 0.0) -> Told:
        """`waited_ms`: since the request arrived here. Raises nothing."""
        try:
            ask = read_ask(payload)
        except FrameError as error:
            return self._refuse("garbage", str(error))
        bundle = self.model.bundle
        if ask.sha256 != bundle.sha256:
            return self._refuse(
                "version",
                f"this worker runs {bundle.name} {bundle.version}, sha256 {bundle.sha256[:12]}…; asked for sha256"
                f" {ask.sha256[:12]}…. Give both ends the same model file",
            )
        if ask.reading != self._reading:
            return self._refuse(
                "version",
                f"this worker reads {bundle.name} in another way. Give both ends the same labels, decoder, pixels and"
                " size",
            )
        if waited_ms >= ask.patience_ms:
            return self._refuse("late", f"it waited {waited_ms:.0f} ms here, and had {ask.patience_ms:.0f}")
        try:
            return self._infer(ask)
        except FrameError as error:
            return self._refuse("garbage" if error.reason == "garbage" else "frame", str(error))
        except (EngineError, ModelError, ConfigError) as error:
            return self._refuse("engine", str(error))

    def _infer(self, ask: Ask) -> Told:
        decoder = self._decoder(ask.threshold, ask.top_k)
        tensor = self._input(ask)
        began = perf_counter()
        outputs = self.model.engine.infer((tensor,))
        infer_ms = (perf_counter() - began) * 1000
        if decoder.wants_inputs:
            outputs = (*outputs, tensor)
        answer = decoder.decode(outputs, as_placement(ask.placement))
        return Told(self.by, self.model.bundle.sha256, answer=answer, infer_ms=round(infer_ms, 3), again=ask.again)

    def _input(self, ask: Ask) -> Tensor:
        """The request's tensor; of a JPEG, only one of the model's own size is decoded."""
        if ask.kind == "tensor":
            return unpack_tensor(ask, self._shape, self._spec.dtype)
        width, height = self._preprocess.size
        header = read_header(ask.data)
        if header is None or (header.width, header.height) != (width, height):
            raise FrameError(
                "not a picture of this model's size",
                reason="garbage",
                expected=f"a JPEG of {width}×{height} pixels",
                got="no JPEG" if header is None else f"{header.width}×{header.height}",
            )
        image, _ = decode_picture(self._cv2, ask.data, None, "request")
        return self._preprocess.prepare(image)[0]

    def _decoder(self, threshold: float, top_k: int) -> Decoder:
        """One for each way of asking, the last few of them kept."""
        key = (threshold, top_k)
        found = self._decoders.pop(key, None)
        if found is None:
            model = msgspec.structs.replace(self.model, bundle=msgspec.structs.replace(self.model.bundle, top_k=top_k))
            stream = StreamConfig(source=SourceConfig("mqtt", _NoOptions()), model="main", threshold=threshold)
            found = open_decoder("request", model, stream)
        self._decoders[key] = found
        if len(self._decoders) > _DECODERS:
            self._decoders.popitem(last=False)
        return found

    def _refuse(self, why: Why, text: str) -> Told:
        return Told(self.by, self.model.bundle.sha256, refusal=Refusal(why, text))
