"""What the main thread tells the broker besides results: birth, states, events and telemetry, each when it is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgerun.clock import Clock
from edgerun.ports import Broker
from edgerun.telemetry import payload
from edgerun.telemetry.ledger import Ledger
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

    def topic(self, rest: str) -> str:
        """`<prefix>/<device>/<rest>`."""
        return f"{self.prefix}/{self.id}/{rest}"


class Reporter:
    """Publishes through `broker` what has changed or is due. Used by one thread; `birth` by any.

    `read_load` gives what the process costs by name (`rss_mib`).
    """

    def __init__(
        self,
        device: ReportedDevice,
        states: StateKeeper,
        ledger: Ledger,
        read_load: Callable[[], Mapping[str, float]],
        clock: Clock,
        telemetry_interval_s: float,
    ) -> None:
        self._device = device
        self._states = states
        self._ledger = ledger
        self._read_load = read_load
        self._clock = clock
        self._interval_ns = round(telemetry_interval_s * 1e9)
        now_ns = clock.mono_ns()
        self._next_state_ns = now_ns
        self._next_telemetry_ns = now_ns + self._interval_ns
        self._events = self._telemetries = 0
        self._busy_before_ns = dict.fromkeys(device.engines, 0)

    def next_due_ns(self) -> int:
        """When `tick` has something to do next (monotonic ns)."""
        return min(self._next_state_ns, self._next_telemetry_ns)

    def tick(self, broker: Broker) -> None:
        """Publish the states that changed and telemetry, where due."""
        now_ns = self._clock.mono_ns()
        if now_ns >= self._next_state_ns:
            self._next_state_ns = now_ns + _STATE_INTERVAL_NS
            self.send_states(broker)
        if now_ns >= self._next_telemetry_ns:
            self._next_telemetry_ns = now_ns + self._interval_ns
            self.send_telemetry(broker)

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
        )
        states = [self._state(name, state) for name, state in self._states.all().items()]
        return [(self._device.topic("info"), msgspec.json.encode(info)), *states]

    def send_states(self, broker: Broker) -> None:
        """Publish every state that changed since the last time."""
        for name, state in self._states.take_changed().items():
            topic, body = self._state(name, state)
            broker.publish(topic, body, qos=1, retain=True)

    def send_event(self, broker: Broker, kind: str, text: str, stream: str) -> None:
        """Publish something an operator wants to know."""
        body = payload.event(
            run=self._device.run, number=self._events, ts=self._clock.unix_s(), kind=kind, text=text, stream=stream
        )
        self._events += 1
        broker.publish(self._device.topic("event"), msgspec.json.encode(body), qos=1)

    def send_telemetry(self, broker: Broker) -> None:
        """Publish what the meters say of the time since the last telemetry."""
        seconds, streams = self._ledger.interval()
        body = payload.telemetry(
            run=self._device.run,
            number=self._telemetries,
            ts=self._clock.unix_s(),
            interval_s=seconds,
            streams=streams,
            engines={name: self._engine(name, engine, seconds) for name, engine in self._device.engines.items()},
            rss_mib=self._read_load().get("rss_mib"),
        )
        self._telemetries += 1
        broker.publish(self._device.topic("telemetry"), msgspec.json.encode(body))

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
