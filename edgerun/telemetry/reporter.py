"""What the main thread tells the broker besides results: birth, states, events and telemetry, each when it is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgerun.clock import Clock
from edgerun.ports import Broker
from edgerun.telemetry import payload
from edgerun.telemetry.drift import DriftWatch
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.memory import MemoryTrend
from edgerun.telemetry.states import StateKeeper, StreamState
from edgerun.types import EngineInfo

_STATE_INTERVAL_NS = 1_000_000_000  # counts change with every frame; a subscriber gets at most one state a second


class EngineReport(msgspec.Struct, frozen=True):
    """What is reported of one engine: the model as it is installed, what runs it, for how long it has worked, and how
    its cache of results stands, where it has one.
    """

    model: payload.InstalledModel
    info: Callable[[], EngineInfo]
    busy_ns: Callable[[], int]
    cache: Callable[[], Mapping[str, int] | None] = lambda: None


class ReportedDevice(msgspec.Struct, frozen=True):
    """Who reports: the device and its run, and what it consists of (`streams` maps each to its models' names)."""

    id: str
    run: str
    prefix: str
    streams: Mapping[str, Sequence[str]]
    engines: Mapping[str, EngineReport]
    security: Mapping[str, Any] = {}
    policy: Mapping[str, Any] = {}
    """What leaves the device, and what it keeps."""
    labels: Mapping[str, str] = {}
    """What an operator calls it by: site, rack, ring."""

    def topic(self, rest: str) -> str:
        """`<prefix>/<device>/<rest>`."""
        return f"{self.prefix}/{self.id}/{rest}"


class Reporter:
    """Publishes through `broker` what has changed or is due. Used by one thread; `birth` by any.

    `read_load` gives what the process costs by name (`rss_mib`), `read_device` further groups of telemetry by name, as
    the device knows them now (`thermal`, `power`, `disk`, `spool` …), `read_streams` further keys of streams by account
    (`j_per_inference` …). `first_s`: the first telemetry comes after so long, not after a whole interval.
    """

    def __init__(
        self,
        device: ReportedDevice,
        states: StateKeeper,
        ledger: Ledger,
        read_load: Callable[[], Mapping[str, float]],
        clock: Clock,
        telemetry_interval_s: float,
        *,
        read_device: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        read_streams: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        drift: DriftWatch | None = None,
        first_s: float | None = None,
    ) -> None:
        self._device = device
        self._states = states
        self._ledger = ledger
        self._read_load = read_load
        self._read_device = read_device
        self._read_streams = read_streams
        self._drift = drift
        self._trend = MemoryTrend()
        self._accounts = _accounts(device.streams)
        self._clock = clock
        self._interval_ns = round(telemetry_interval_s * 1e9)
        now_ns = clock.mono_ns()
        self._next_state_ns = now_ns
        self._next_telemetry_ns = now_ns + (self._interval_ns if first_s is None else round(first_s * 1e9))
        self._events = self._telemetries = 0
        self.latest: Mapping[str, Any] = {}
        """The telemetry that was sent last."""
        self._busy_before_ns = dict.fromkeys(device.engines, 0)

    @property
    def device(self) -> ReportedDevice:
        """Who reports, and what it consists of."""
        return self._device

    def renew(self, device: ReportedDevice) -> None:
        """The device consists of something else from now on; its id and its run stay."""
        self._busy_before_ns = {name: self._busy_before_ns.get(name, 0) for name in device.engines}
        self._device, self._accounts = device, _accounts(device.streams)

    def clear_state(self, broker: Broker, stream: str) -> None:
        """Have the broker forget a stream that is no longer there."""
        broker.publish(self._device.topic(f"state/{stream}"), b"", qos=1, retain=True)

    @property
    def engines(self) -> Mapping[str, EngineReport]:
        """What is reported of each engine."""
        return self._device.engines

    def next_due_ns(self) -> int:
        """When `tick` has something to do next (monotonic ns)."""
        return min(self._next_state_ns, self._next_telemetry_ns)

    def tick(self, broker: Broker) -> bool:
        """Publish the states that changed and telemetry, where due; whether telemetry was."""
        now_ns = self._clock.mono_ns()
        if now_ns >= self._next_state_ns:
            self._next_state_ns = now_ns + _STATE_INTERVAL_NS
            self.send_states(broker)
        if now_ns < self._next_telemetry_ns:
            return False
        self._next_telemetry_ns = now_ns + self._interval_ns
        self.send_telemetry(broker)
        return True

    def birth(self) -> list[tuple[str, bytes]]:
        """Topics and payloads that a broker should hold of us, retained, after every connection."""
        engines = self._device.engines
        info = payload.info(
            device=self._device.id,
            run=self._device.run,
            ts=self._clock.unix_s(),
            runtimes=[engine.info().runtime for engine in engines.values()],
            models={name: engine.model for name, engine in engines.items()},
            streams=self._device.streams,
            accelerators={name: engine.info().accelerator for name, engine in engines.items()},
            security=self._device.security,
            policy=self._device.policy,
            labels=self._device.labels,
        )
        states = [self._state(name, state) for name, state in self._states.all().items()]
        return [(self._device.topic("info"), msgspec.json.encode(info)), *states]

    def send_states(self, broker: Broker) -> None:
        """Publish every state that changed since the last time."""
        for name, state in self._states.take_changed().items():
            topic, body = self._state(name, state)
            broker.publish(topic, body, qos=1, retain=True)

    def send_event(self, broker: Broker, kind: str, text: str, stream: str | None = None) -> None:
        """Publish something an operator wants to know, of one stream or of the whole device."""
        body = payload.event(
            run=self._device.run, number=self._events, ts=self._clock.unix_s(), kind=kind, text=text, stream=stream
        )
        self._events += 1
        broker.publish(self._device.topic("event"), msgspec.json.encode(body), qos=1, keep="event")

    def send_telemetry(self, broker: Broker) -> None:
        """Publish what the meters say of the time since the last telemetry."""
        lasts_s = max(1, round(3 * self._interval_ns / 1e9))
        broker.publish(self._device.topic("telemetry"), msgspec.json.encode(self.telemetry()), expires_s=lasts_s)

    def telemetry(self) -> dict[str, Any]:
        """The next telemetry; the interval that it covers ends with it."""
        seconds, streams = self._ledger.interval()
        groups, more = dict(self._read_device()), self._read_streams()
        rss_mib = self._read_load().get("rss_mib")
        if rss_mib is not None:
            self._trend.add(self._clock.mono_ns(), rss_mib)
        groups["memory"] = {**self._trend.group(rss_mib), **groups.get("memory", {})}
        body = payload.telemetry(
            run=self._device.run,
            number=self._telemetries,
            ts=self._clock.unix_s(),
            interval_s=seconds,
            streams={
                name: {**stream, **self._known_of(name), **more.get(name, {})} for name, stream in streams.items()
            },
            engines={name: self._engine(name, engine, seconds) for name, engine in self._device.engines.items()},
            **groups,
        )
        self._telemetries += 1
        self.latest = body
        return body

    def _known_of(self, account: str) -> dict[str, Any]:
        """What others than its meter know of an account; that of crops has no source of its own."""
        out: dict[str, Any] = {}
        stream = self._accounts.get(account)
        if stream is not None:
            out |= self._states.interruptions(stream)
            if faults := self._states.faults(stream):
                out["input"] = list(faults)
        drift = self._drift.report(account) if self._drift is not None else None
        return out if drift is None else out | {"drift": drift}

    def _engine(self, name: str, engine: EngineReport, seconds: float) -> dict[str, Any]:
        busy_ns = engine.busy_ns()
        spent_ns, self._busy_before_ns[name] = busy_ns - self._busy_before_ns[name], busy_ns
        busy = spent_ns / 1e9 / seconds if seconds > 0 else None
        return payload.engine_telemetry(engine.info(), busy=busy, cache=engine.cache())

    def _state(self, stream: str, state: StreamState) -> tuple[str, bytes]:
        body = payload.state(
            state.state, reason=state.reason or None, accelerator=state.accelerator, counts=state.counts
        )
        return self._device.topic(f"state/{stream}"), msgspec.json.encode(body)


def _accounts(streams: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The stream of each account that a source feeds, by the name that the ledger knows it under."""
    return {
        stream if len(models) == 1 else f"{stream}/{model}": stream
        for stream, models in streams.items()
        for model in models
    }
