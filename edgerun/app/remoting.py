"""Models that workers behind the broker run: what of a config, a model and a stream goes there and comes back."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from edgerun.app.picturing import threshold_for
from edgerun.clock import Clock
from edgerun.config import ModelConfig, StreamConfig
from edgerun.config.remote import RemoteConfig
from edgerun.errors import ConfigError, FrameError
from edgerun.infer.fallback import OnChange
from edgerun.infer.remote import LOST, Acquaintance, Remote
from edgerun.infer.work import Ask, Packer, placement_numbers, work_topic
from edgerun.models import Bundle
from edgerun.pipeline.elsewhere import ElsewhereWorker
from edgerun.pipeline.ending import Ending, Job
from edgerun.pipeline.lane import LanePlan
from edgerun.pipeline.others import Landed, Others
from edgerun.pipeline.turns import Turns
from edgerun.ports import Broker, Decoder, Engine
from edgerun.preprocess import PicturePreprocess
from edgerun.types import Answer, Classification, Detection, EngineInfo, Placement, Segment, Tensor, TensorSpec
from edgerun.validate import show

_REMOTE = EngineInfo("remote", "remote", 0)


class Outsourced:
    """`ports.Engine` as the rest of edgerun sees a remote model: its tensors, and what it runs on at the moment.

    `here` is the engine that it falls back to; without one the file was opened for its tensors only, and closed again.
    `info.fallbacks` says why the workers do not run it, while they do not.
    """

    options: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(self, here: Engine, remote: RemoteConfig, on_change: OnChange | None, keep: bool) -> None:
        self.inputs: tuple[TensorSpec, ...] = here.inputs
        self.outputs: tuple[TensorSpec, ...] = here.outputs
        self.here: Engine | None = here if keep else None
        self.remote = remote
        self._on_change = on_change
        self._absent = ""
        self._lock = threading.Lock()
        self.info: EngineInfo = self._informed()
        if not keep:
            here.close()

    @classmethod
    def of(
        cls, config: ModelConfig, bundle: Bundle, engine: Engine, on_change: OnChange | None, *, stateful: bool
    ) -> Outsourced:
        """Raises `ConfigError` for a model that takes more than one picture by itself."""
        if stateful or len(engine.inputs) != 1 or bundle.signal is not None:
            raise ConfigError(
                "only a model that is given one picture, and remembers nothing, runs on other machines",
                where=str(config.path),
                remedy='leave engine = "remote" out',
            )
        remote = config.remote or RemoteConfig()
        return cls(engine, remote, on_change, config.fallback != "none")

    def _informed(self) -> EngineInfo:
        here, absent = self.here, self._absent
        found = _REMOTE if here is None or (self.remote.first == "there" and not absent) else here.info
        return msgspec.structs.replace(found, fallbacks=(("remote", absent),)) if absent else found

    def note(self, absent: str) -> None:
        """Workers are there, or (why) not; told to whoever wants to know. Any thread may call it."""
        with self._lock:
            before, self._absent = self._absent, absent
            self.info = self._informed()
        if bool(before) == bool(absent) or self._on_change is None:
            return
        event = "recovered" if not absent else "lost" if self.here is None else "fell_back"
        self._on_change(event, self.info, absent or "a worker answers")  # type: ignore[arg-type]

    def follow(self, before: Outsourced) -> None:
        """It takes the place of one for the same workers: that these are away, if they are, is no news."""
        with self._lock:
            self._absent = before._absent
            self.info = self._informed()

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """On the engine here. Raises `FrameError` where there is none."""
        if self.here is None:
            raise FrameError("this model runs on workers only", reason=LOST)
        return self.here.infer(inputs)

    def close(self) -> None:
        """See `ports.Engine`."""
        if self.here is not None:
            self.here.close()


class Carried:
    """A decoder that also reads what a worker has decoded already: its outputs are then one `Answer`."""

    options: ClassVar[type[msgspec.Struct]]

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.options = decoder.options  # type: ignore[misc]
        self.labels, self.wants_inputs = decoder.labels, decoder.wants_inputs
        self._known = frozenset(decoder.labels)

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`. Raises `FrameError` for classes that the model does not have."""
        answer: Any = outputs[0] if len(outputs) == 1 else None
        if not isinstance(answer, Answer):
            return self._decoder.decode(outputs, placement)
        found: tuple[Detection | Classification | Segment, ...] = (
            *(answer.detections or ()),
            *(answer.classes or ()),
            *(answer.segments or ()),
        )
        for one in found:
            if one.label not in self._known and (self._known or one.label != str(one.class_id)):
                what = "an answer with a class that the model does not have"
                raise FrameError(what, reason="remote_garbage", got=show(one.label))
        return msgspec.structs.replace(answer, hidden=None)


def reading_of(bundle: Bundle) -> str:
    """A digest of how the model's input is made and its outputs are read: both ends must do it alike."""
    both = bundle.decoder, dict(bundle.decoder_options), bundle.labels, bundle.picture
    return hashlib.sha256(repr(both).encode()).hexdigest()[:16]


def carrying(decoder: Decoder, outsourced: Outsourced | None) -> Decoder:
    """`decoder`, able to read answers of workers where the model has some."""
    return decoder if outsourced is None else Carried(decoder)


def asked(stream: StreamConfig, bundle: Bundle) -> float:
    """The threshold that the stream's decoder of this model is opened with."""
    threshold = stream.threshold if stream.threshold is not None else bundle.threshold
    return threshold_for(stream, bundle, 0.5 if threshold is None else threshold)


class Workers:
    """`pipeline.elsewhere.Others`: the workers for one model, through the broker."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        address: tuple[str, str],
        bundle: Bundle,
        outsourced: Outsourced,
        preprocess: PicturePreprocess,
    ) -> None:
        prefix, device = address
        self._broker, self._clock, self._bundle = broker, clock, bundle
        self._topic = work_topic(prefix, bundle.name, device=device)
        self._answers = f"{prefix}/{device}/_answers"
        self._outsourced, self._preprocess = outsourced, preprocess
        self._reading = reading_of(bundle)
        self._packer = Packer(outsourced.remote.payload, outsourced.remote.quality)
        self._remote: Remote | None = None
        self._known: Acquaintance | None = None

    def inherit(self, before: Others) -> None:
        """Go on with what `before`, which is closed, knew of the workers, where they are the same."""
        asks = (self._topic, self._bundle.sha256, self._reading)
        if isinstance(before, Workers) and asks == (before._topic, before._bundle.sha256, before._reading):
            self._known = before._known
            self._outsourced.follow(before._outsourced)

    def open(self, landed: Callable[[], None]) -> None:
        """Begin to listen for answers; a thread of its own calls `landed`."""

        def tell() -> None:
            self._outsourced.note(self.absent)
            landed()

        window = self._outsourced.remote.in_flight
        self._remote = Remote(self._broker, self._clock, self._topic, self._answers, window, tell, self._known)

    @property
    def absent(self) -> str:
        """Why nobody is expected to answer; empty while somebody is."""
        return self._opened.absent

    @property
    def has_room(self) -> bool:
        """Whether another frame may be sent."""
        return self._opened.has_room

    @property
    def waiting(self) -> bool:
        """Whether `take` has something."""
        return self._opened.waiting

    @property
    def usual_ns(self) -> int:
        """How long answers take, on average."""
        return self._opened.usual_ns

    @property
    def patience_ns(self) -> int:
        """After so long one is overdue."""
        return self._opened.patience_ns

    def probe_due(self, now_ns: int) -> bool:
        """Whether it is time to see if somebody answers again."""
        return self._opened.probe_due(now_ns)

    def send(self, plan: LanePlan, job: Job, deadline_ns: int, *, probe: bool = False) -> int:
        """The prepared frame of `job` goes out; its pixels are copied. Raises `FrameError`."""
        kind, shape, data = self._packer.pack(job.tensor, self._preprocess.picture(job.row))
        ask = Ask(
            sha256=self._bundle.sha256,
            reading=self._reading,
            kind=kind,
            shape=tuple(shape),
            dtype=job.tensor.dtype.name if kind == "tensor" else "uint8",
            data=data,
            threshold=plan.threshold,
            top_k=self._bundle.top_k,
            placement=placement_numbers(job.placement),
            patience_ms=0.0,
        )
        return self._opened.send(ask, deadline_ns, probe=probe)

    def take(self) -> list[Landed]:
        """What has come back since."""
        return [
            Landed(one.ticket, None, "", one.reason, one.text)
            if one.told is None
            else Landed(one.ticket, one.told.answer, one.told.by)
            for one in self._opened.take()
        ]

    def hurry(self, within_ns: int) -> None:
        """What is on the way has so long left at most."""
        self._opened.hurry(within_ns)

    def recall(self) -> None:
        """What is on the way is to be done here."""
        self._opened.recall()

    def close(self) -> None:
        """Listen no more."""
        remote, self._remote = self._remote, None
        if remote is not None:
            self._known = remote.close()

    @property
    def _opened(self) -> Remote:
        assert self._remote is not None, "between open and close"
        return self._remote


def make_remote_worker(
    name: str,
    bundle: Bundle,
    outsourced: Outsourced,
    preprocess: PicturePreprocess,
    turns: Turns,
    ending: Ending,
    clock: Clock,
    broker: Broker | None,
    address: tuple[str, str],
) -> ElsewhereWorker:
    """What serves lanes with a remote model, not running. Raises `ConfigError` without a broker."""
    if broker is None:
        raise ConfigError(
            "workers are reached through a broker, and there is none",
            where=f"models.{name}",
            remedy="add [mqtt] with an url, or --broker",
        )
    others = Workers(broker, clock, address, bundle, outsourced, preprocess)
    return ElsewhereWorker(
        name, outsourced, preprocess, turns, ending, clock, others, outsourced.here, outsourced.remote.first
    )
