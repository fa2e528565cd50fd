"""Messages of devices → what is known of them now. Anybody may publish anything: what makes no sense is counted."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from edgerun.clock import Clock, SystemClock
from edgerun.decoding import decode
from edgerun.meter import FATES

STATES = ("running", "stalled", "paused", "degraded", "ended")
DROPS = tuple(fate for fate in FATES if fate != "published")

_LONGEST_BYTES = 1 << 20
_LONGEST_TEXT = 200
_LONGEST_NAME = 64
_MOST_DEVICES = 1000
_MOST_STREAMS = 200
_MOST_EVENTS = 100
_QUICK_S, _SLOW_S = 5, 30
_NS = 1_000_000_000
_REPLAYED = b'{"replayed":true'


class Arrivals:
    """How many came in each of the last 30 whole seconds. Not for two threads at once."""

    def __init__(self, since_ns: int) -> None:
        self._counts = [0] * (_SLOW_S + 1)
        self._first = self._second = since_ns // _NS

    def add(self, at_ns: int) -> None:
        """One came now."""
        self._forget(at_ns)
        self._counts[self._second % len(self._counts)] += 1

    def rate(self, now_ns: int) -> float | None:
        """A second: over the last five where so many came in them, else over the last 30; None at first."""
        self._forget(now_ns)
        known = min(_SLOW_S, self._second - self._first)
        if known < _QUICK_S:
            return None
        newest = [self._counts[(self._second - 1 - back) % len(self._counts)] for back in range(known)]
        quick = sum(newest[:_QUICK_S])
        return quick / _QUICK_S if quick >= _QUICK_S else sum(newest) / known

    def _forget(self, now_ns: int) -> None:
        now = now_ns // _NS
        for second in range(self._second + 1, min(now, self._second + len(self._counts)) + 1):
            self._counts[second % len(self._counts)] = 0
        self._second = max(self._second, now)


class Picture:
    """Everything collected. Thread-safe; `take` raises nothing, whatever it is given.

    `prefix` is the first levels of every topic. Bounded: 1000 devices, 200 streams each, the 100 newest events; what is
    beyond, and what is not what the schemas of docs/schema say, is counted in `refused`.
    """

    def __init__(self, prefix: str = "edgerun", clock: Clock | None = None) -> None:
        self._root = prefix + "/"
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._devices: dict[str, dict[str, Any]] = {}
        self._told_ns: dict[str, int] = {}
        self._live_since_ns: int | None = None
        self._arrivals: dict[tuple[str, str], Arrivals] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=_MOST_EVENTS)
        self._refused = 0
        self._version = 0

    def live(self) -> None:
        """Results come, too, from now on: `live_fps` is known of streams of which some did."""
        self._live_since_ns = self._clock.mono_ns()

    @property
    def version(self) -> int:
        """Grows with every message that was taken."""
        return self._version

    def take(self, topic: str, payload: bytes) -> None:
        """One message."""
        device, _, rest = topic.removeprefix(self._root).partition("/")
        kind, _, name = rest.partition("/")
        with self._lock:
            known = topic.startswith(self._root) and self._taken(clean(device, _LONGEST_NAME), kind, name, payload)
            self._refused += not known
            self._version += 1

    def waits_for(self) -> list[str]:
        """Devices that are online and have sent no telemetry yet."""
        with self._lock:
            return [
                name
                for name, one in self._devices.items()
                if one.get("status", "online") == "online" and name not in self._told_ns
            ]

    def as_dict(self) -> dict[str, Any]:
        """The whole as plain values for JSON: `devices` by id, `events` newest first, `refused` messages.

        What a device has not said is left out. A device's `streams` are by account (`stream`, or `stream/model` of
        several models); `telemetry_age_s` is how long ago it told. `fps` is telemetry's; `live_fps`, of streams with
        one model, what comes here now.
        """
        with self._lock:
            now_ns = self._clock.mono_ns()
            devices = {}
            for name in sorted(self._devices):
                one = self._devices[name]
                out = {key: value for key, value in one.items() if key not in ("states", "accounts")}
                if name in self._told_ns:
                    out["telemetry_age_s"] = round((now_ns - self._told_ns[name]) / 1e9, 1)
                out["streams"] = streams = _joined(one.get("states", {}), one.get("accounts", {}))
                for stream in streams:
                    arrivals = self._arrivals.get((name, stream))
                    if arrivals is not None and (live_fps := arrivals.rate(now_ns)) is not None:
                        streams[stream] = {**streams[stream], "live_fps": live_fps}
                devices[name] = out
            return {"v": 1, "devices": devices, "events": list(self._events), "refused": self._refused}

    def _taken(self, device: str, kind: str, name: str, payload: bytes) -> bool:
        """Call it with the lock held. False for what cannot be used."""
        if not device or (device not in self._devices and len(self._devices) >= _MOST_DEVICES):
            return False
        if kind == "status" and not name:
            if payload not in (b"online", b"offline"):
                return False
            self._of(device)["status"] = payload.decode()
            return True
        if kind == "detections" and name:
            return self._result(device, clean(name, _LONGEST_NAME), payload)
        told = _object(payload)
        if told is None:
            return False
        if kind == "info":
            self._of(device).update(_known(board=text(told.get("board")), version=_version_of(told)))
        elif kind == "state" and name:
            return self._state(device, clean(name, _LONGEST_NAME), told)
        elif kind == "telemetry":
            self._telemetry(device, told)
        elif kind == "event":
            return self._event(device, told)
        else:
            return False
        return True

    def _of(self, device: str) -> dict[str, Any]:
        return self._devices.setdefault(device, {})

    def _result(self, device: str, stream: str, payload: bytes) -> bool:
        """Counted, not read: there may be thousands a second. One from the spool is no news."""
        arrivals = self._arrivals.get((device, stream))
        if arrivals is None:
            states = self._of(device).get("states", {})
            if self._live_since_ns is None or stream not in states:  # bounded as these are
                return True
            arrivals = self._arrivals[device, stream] = Arrivals(self._live_since_ns)
        if not payload.startswith(_REPLAYED):
            arrivals.add(self._clock.mono_ns())
        return True

    def _state(self, device: str, stream: str, told: Mapping[str, Any]) -> bool:
        states = self._of(device).setdefault("states", {})
        if told.get("state") not in STATES or (stream not in states and len(states) >= _MOST_STREAMS):
            return False
        states[stream] = {
            "state": told["state"],
            **_known(
                reason=text(told.get("reason")),
                accelerator=text(told.get("accelerator")),
                counts=_numbers(told.get("counts")),
            ),
        }
        return True

    def _telemetry(self, device: str, told: Mapping[str, Any]) -> None:
        self._told_ns[device] = self._clock.mono_ns()
        thermal, power, memory = (_table(told.get(key)) for key in ("thermal", "power", "memory"))
        throttled = thermal.get("throttled")
        one = self._of(device)
        for key in ("temp_c", "throttled", "reasons", "power_w", "energy_kwh", "rss_mib"):
            one.pop(key, None)  # what is no longer told is no longer known
        reasons = thermal.get("reasons")
        one |= _known(
            temp_c=number(thermal.get("soc_temp_c")),
            throttled=throttled if isinstance(throttled, bool) else None,
            reasons=[clean(str(word)) for word in reasons[:8]] if isinstance(reasons, list) and reasons else None,
            power_w=number(power.get("power_w")),
            energy_kwh=number(power.get("energy_kwh")),
            rss_mib=number(memory.get("rss_mib")),
        )
        accounts = list(_table(told.get("streams")).items())[:_MOST_STREAMS]
        one["accounts"] = {clean(name, 2 * _LONGEST_NAME): _account(_table(told)) for name, told in accounts}

    def _event(self, device: str, told: Mapping[str, Any]) -> bool:
        kind, said = text(told.get("kind")), text(told.get("text"))
        if kind is None or said is None:
            return False
        known = _known(ts=number(told.get("ts")), stream=text(told.get("stream")))
        self._events.appendleft({"device": device, "kind": kind, **known, "text": said})
        self._of(device)
        return True


def clean(value: str, longest: int = _LONGEST_TEXT) -> str:
    """`value` without what would steer a terminal (controls, escapes, directions of writing), cut to `longest`."""
    value = value[:longest]
    return value if value.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in value)


def text(value: Any) -> str | None:
    """A text that is none is not known."""
    return clean(value) if isinstance(value, str) and value else None


def number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def _object(payload: bytes) -> dict[str, Any] | None:
    if len(payload) > _LONGEST_BYTES:
        return None
    try:
        return decode(payload, dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(value: Any) -> dict[str, float] | None:
    if not isinstance(value, dict):
        return None
    pairs = ((clean(key, _LONGEST_NAME), number(one)) for key, one in list(value.items())[:_MOST_STREAMS])
    return {key: one for key, one in pairs if one is not None}


def _account(told: Mapping[str, Any]) -> dict[str, Any]:
    ages = {key: one for key, one in (_numbers(told.get("age_ms")) or {}).items() if key in ("p50", "p95", "p99")}
    drops = {fate: round(one) for fate in DROPS if (one := number(told.get(fate))) is not None and one >= 0}
    return _known(fps=number(told.get("fps")), age_ms=ages or None, dropped=drops or None)


def _version_of(info: Mapping[str, Any]) -> str | None:
    return text(_table(info.get("versions")).get("edgerun"))


def _joined(states: Mapping[str, Any], accounts: Mapping[str, Any]) -> dict[str, Any]:
    """Every account with the state of its stream; streams of which only the state is known, too."""
    out = {name: {**states.get(name.partition("/")[0], {}), **account} for name, account in accounts.items()}
    told = {name.partition("/")[0] for name in accounts}
    return {**out, **{name: state for name, state in states.items() if name not in told}}


def _known(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
