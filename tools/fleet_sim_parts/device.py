"""One simulated device: what it says, and what it does about a new version of its model.

Payloads are made by the functions that make them on a device (`telemetry.payload`, `publish.wire`,
`publish.homeassistant.models`); commands are read by the real desk; the rollout is the real state machine of
`models.rollout`, given a comparison and a health that somebody decided on before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgerun.app.fetching import read_wish
from edgerun.app.rollout_telling import told
from edgerun.broker.message import Message
from edgerun.config import RolloutConfig
from edgerun.control.desk import Desk, Origin
from edgerun.meter import StreamMeter
from edgerun.models.rollout import (
    Began,
    Compared,
    Comparison,
    Event,
    Failed,
    Health,
    Looked,
    Placed,
    Rollout,
    Verified,
    step,
)
from edgerun.publish.homeassistant.models import ModelVersions, encode_versions
from edgerun.publish.wire import encode_result
from edgerun.telemetry import payload
from edgerun.telemetry.phase import phase_s
from edgerun.types import Answer, Detection, EngineInfo, ModelInfo, Publication, Result, Stamp

RULES = RolloutConfig(shadow_frames=200, canary_minutes=1.0, canary_frames=100, watch_minutes=1440.0)
BAD_SHARE_OF_DISAGREEMENT, GOOD_SHARE = 0.6, 0.05
_LATENCY_NS = {"capture": 4_000_000, "wait": 6_200_000, "preprocess": 1_900_000, "infer": 24_800_000, "decode": 400_000}
_ENGINE = EngineInfo("litert 2.3.0", "cpu", 2)


class Habits(msgspec.Struct, frozen=True):
    """What all devices of a run do: seconds between telemetry, results a second, seconds that a rollout's step takes,
    whether their telemetry is spread over its interval.
    """

    telemetry_s: float = 30.0
    results_per_s: float = 0.0
    rollout_step_s: float = 1.0
    spread: bool = True
    bad_versions: tuple[str, ...] = ()
    bad_share: float = 0.0
    """Of the devices, those on which a bad version disagrees."""


class SimDevice:
    """Without a clock of its own: `now` is monotonic seconds."""

    def __init__(self, name: str, habits: Habits, prefix: str, now: float) -> None:
        self.name, self._habits, self._root = name, habits, f"{prefix}/{name}"
        self._run = hashlib.sha256(name.encode()).hexdigest()[:8]
        self._meter, self._numbers = StreamMeter(), [0, 0]
        first_s = phase_s(name, habits.telemetry_s) if habits.spread else habits.telemetry_s
        self._telemetry_at = now + first_s
        self._result_at = now + first_s / max(habits.telemetry_s * habits.results_per_s, 1e-9)
        self._version, self._latest = "2", "2"
        self._rollout: Rollout | None = None
        self._step_at = 0.0
        self._desk = Desk({"model/install": self._install, "model/rollback": self._back})
        self._answers: list[Message] = []
        self.asked = 0

    @property
    def commands(self) -> tuple[str, ...]:
        """What it subscribes to."""
        return (f"{self._root}/cmd/+", f"{self._root}/cmd/+/+")

    @property
    def status(self) -> str:
        return f"{self._root}/status"

    @property
    def version(self) -> str:
        """That serves."""
        return self._version

    @property
    def rollout(self) -> Rollout | None:
        return self._rollout

    def birth(self) -> list[Message]:
        """What follows every CONNACK, retained."""
        models = {"detector": payload.InstalledModel("ssd-mobilenet-v2-oid", self._version, "ab" * 32)}
        info = payload.info(
            device=self.name, run=self._run, ts=time.time(), runtimes=["litert 2.3.0"], models=models,
            streams={"dock": ("detector",)}, accelerators={"detector": "cpu"},
            labels={"site": f"site-{int(self._run, 16) % 20:02d}"},
        )  # fmt: skip
        state = payload.state("running", accelerator="cpu", counts={"person": 1})
        topics = {"status": b"online", "info": msgspec.json.encode(info), "state/dock": msgspec.json.encode(state)}
        births = [Message(f"{self._root}/{topic}", body, 1, True) for topic, body in topics.items()]
        return [*births, self._models()]

    def due(self, now: float) -> list[Message]:
        """What it says now."""
        out, self._answers = self._answers, []
        habits = self._habits
        if now >= self._telemetry_at:
            self._telemetry_at += habits.telemetry_s
            out.append(self._telemetry())
        if habits.results_per_s and now >= self._result_at:
            self._result_at += 1 / habits.results_per_s
            out.append(self._result())
        if self._rollout is not None and not self._rollout.ended and now >= self._step_at:
            out += self._turn(now)
        return out

    def next_at(self) -> float:
        """When `due` has something."""
        times = [self._telemetry_at] + ([self._result_at] if self._habits.results_per_s else [])
        if self._rollout is not None and not self._rollout.ended:
            times.append(self._step_at)
        return min(times)

    def take(self, topic: str, body: bytes, now: float) -> list[Message]:
        """A command, and its answers."""
        verb = topic.removeprefix(f"{self._root}/cmd/")
        reply: Callable[[bytes], None] = lambda answer: self._answers.append(  # noqa: E731
            Message(f"{self._root}/cmd/{verb}/result", answer, 1)
        )
        self._step_at = now + self._habits.rollout_step_s
        command = self._desk.read(verb, body, Origin("mqtt"), reply)
        if command is not None:
            self._desk.do(command)
        out, self._answers = self._answers, []
        return [*out, self._models()]

    def _install(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked += 1
        wish = read_wish(arguments)
        self._rollout = Rollout(
            id=wish.rollout or "r", device=self.name, model="ssd-mobilenet-v2-oid", name=wish.name, share=wish.share,
            wanted=wish.version,
        )  # fmt: skip
        return {}

    def _back(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._rollout is not None:
            self._go(Failed(str(arguments.get("reason", ""))))
        return {}

    def _turn(self, now: float) -> list[Message]:
        """One step of the rollout further: the event that its state waits for."""
        rollout = self._rollout
        assert rollout is not None
        self._step_at = now + self._habits.rollout_step_s
        bad = rollout.wanted in self._habits.bad_versions and self._is_bad()
        match rollout.state:
            case "staged":
                event: Event = Verified(rollout.wanted or "3", self._version)
            case "verified":
                event = Began(25.0, 0.0)
            case "shadow":
                apart = BAD_SHARE_OF_DISAGREEMENT if bad else GOOD_SHARE
                event = Compared(Comparison(400, 200, apart, 0), over=True)
            case _ if not rollout.placed:
                event = Placed(there=True)
            case _:
                event = Looked(Health(minutes=2.0, results=200, frames=200, failures=0, p95_ms=25.0))
        self._go(event)
        return [self._models()]

    def _go(self, event: Event) -> None:
        assert self._rollout is not None
        after = step(self._rollout, event, RULES, time.time())
        self._rollout = after
        serves = after.version if after.placed and after.wants_placed else after.previous
        self._version = serves or self._version
        self._latest = after.version or self._version

    def _is_bad(self) -> bool:
        return int.from_bytes(hashlib.sha256(f"bad\0{self.name}".encode()).digest()[:4], "big") < (
            self._habits.bad_share * 2**32
        )

    def _models(self) -> Message:
        rollout = None if self._rollout is None else {"id": self._rollout.id, **told(self._rollout)}
        body = encode_versions(ModelVersions(self._version, latest=self._latest, rollout=rollout))
        return Message(f"{self._root}/models/detector", body, 1, True)

    def _telemetry(self) -> Message:
        for _ in range(10):
            self._meter.account.grab()
            self._meter.account.end("published")
            self._meter.age.record(58.1)
        body = payload.telemetry(
            run=self._run, number=self._count(0), ts=time.time(), interval_s=self._habits.telemetry_s,
            streams={"dock": payload.stream_summary(self._meter, self._habits.telemetry_s, grabbed_before=0)},
            engines={"detector": payload.engine_telemetry(_ENGINE, busy=0.4)},
            thermal={"soc_temp_c": 61.2, "throttled": False}, power={"power_w": 4.1, "energy_kwh": 1.02},
            memory={"rss_mib": 148.0}, spool={"messages": 0, "bytes": 0, "dropped": 0},
        )  # fmt: skip
        return Message(
            f"{self._root}/telemetry", msgspec.json.encode(body), expires_s=round(3 * self._habits.telemetry_s)
        )

    def _result(self) -> Message:
        number = self._count(1)
        stamp = Stamp("dock", number, time.monotonic_ns(), time.time())
        answer = Answer(detections=(Detection("person", 4, 0.81, (0.41, 0.22, 0.47, 0.51), track=17),))
        model = ModelInfo("ssd-mobilenet-v2-oid", self._version, "cpu")
        result = Result(stamp, answer, model, (768, 576), _LATENCY_NS, {"skipped": 3, "superseded": 0})
        body = encode_result(Publication(result, f"{self._run}-{number:06d}", 58.1), self.name)
        return Message(f"{self._root}/detections/dock", body, 1)

    def _count(self, which: int) -> int:
        self._numbers[which] += 1
        return self._numbers[which] - 1
