"""Reading every sensor of the board, again and again, whatever any one of them does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import msgspec

from edgerun.device.reader import Blocked, PatientReader
from edgerun.device.sensors import builtin_kinds, find_sensors
from edgerun.device.site import Found, PartlyBroken, SensorKind, Site
from edgerun.types import Reading

log = logging.getLogger(__name__)

_READ_LIMIT_S = 2.0
_LOOK_EVERY_S = 60.0
"""How often it looks which sensors there are: drivers come late at boot, and go."""


class Broken(msgspec.Struct, frozen=True):
    """A sensor that is there and cannot be read, or a kind (`place` is empty) that cannot be looked for."""

    kind: str
    place: str
    reason: str
    blocked: bool = False


class Sample(msgspec.Struct, frozen=True):
    """One look at the sensors: what was read now, what is broken, when it began and ended (monotonic ns)."""

    readings: tuple[Reading, ...]
    broken: tuple[Broken, ...]
    began_ns: int
    ended_ns: int

    def values(self) -> dict[str, float]:
        """Value by name."""
        return {one.name: one.value for one in self.readings}


class Sampler:
    """Reads all sensors in turn; used by one thread, `latest` and `broken` by any.

    A sensor that raises or blocks longer than `read_limit_s` is in the sample's `broken` and stops no other; one that
    blocks is not touched again before it has come back. What the board lacks is in neither. A sensor is named in the
    log when it breaks and when it is well again, not each time.
    """

    def __init__(
        self,
        site: Site,
        kinds: Mapping[str, SensorKind] | None = None,
        *,
        read_limit_s: float = _READ_LIMIT_S,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._site, self._given_kinds = site, kinds
        self._kinds: Mapping[str, SensorKind] | None = kinds
        self._reader = PatientReader(read_limit_s)
        self._look_every_ns = round(look_every_s * 1e9)
        self._looked_ns: int | None = None
        self._sensors: dict[tuple[str, str, str], Found] = {}
        self._due_ns: dict[tuple[str, str, str], int] = {}
        self._unfound: tuple[Broken, ...] = ()
        self._lasting: dict[tuple[str, str, str], Broken] = {}
        self._latest: dict[tuple[str, str, str], tuple[Reading, ...]] = {}
        self._shown: tuple[Mapping[str, Reading], tuple[Broken, ...]] = ({}, ())
        self._told: dict[tuple[str, str], str] = {}

    @property
    def latest(self) -> Mapping[str, Reading]:
        """The newest reading of everything by name, those of sensors that are read seldom included."""
        return self._shown[0]

    @property
    def broken(self) -> tuple[Broken, ...]:
        """What was broken when it was last tried."""
        return self._shown[1]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which there are any here."""
        return tuple(dict.fromkeys(kind for kind, _, _ in self._sensors))

    def sample(self) -> Sample:
        """Read every sensor that is due. Raises nothing."""
        began_ns = self._site.clock.mono_ns()
        if self._looked_ns is None or began_ns - self._looked_ns >= self._look_every_ns:
            self._look()
            self._looked_ns = began_ns
        fresh: list[Reading] = []
        for key, found in self._sensors.items():
            if self._due_ns.get(key, began_ns) <= began_ns:
                self._due_ns[key] = began_ns + round(found.every_s * 1e9)
                readings = self._read(key, found)
                self._latest[key] = readings
                fresh += readings
        broken = (*self._unfound, *self._lasting.values())
        latest = {one.name: one for readings in self._latest.values() for one in readings}
        self._shown = (latest, broken)
        self._tell(broken)
        return Sample(tuple(fresh), broken, began_ns, self._site.clock.mono_ns())

    def run(self, stop: threading.Event, interval_s: float, tell: Callable[[Sample], None]) -> None:
        """The body of the thread `sensors`: a sample at once and every `interval_s`, given to `tell`, until `stop`.

        A time that was missed is not made up for.
        """
        clock, due_ns = self._site.clock, self._site.clock.mono_ns()
        try:
            while not stop.is_set():
                tell(self.sample())
                now_ns = clock.mono_ns()
                due_ns = max(due_ns + round(interval_s * 1e9), now_ns)
                if clock.wait(stop, (due_ns - now_ns) / 1e9):
                    break
        finally:
            self.close()

    def close(self) -> None:
        """Close every sensor that does not hang. Idempotent."""
        blocked = self._reader.blocked
        for key, found in self._sensors.items():
            if key not in blocked:
                found.sensor.close()
        self._sensors.clear()
        self._reader.close()
        self._looked_ns = None

    def _look(self) -> None:
        """Find what is there; sensors that are known stay as they are."""
        if self._kinds is None:
            self._kinds = builtin_kinds()
        sought = find_sensors(self._site, self._kinds, self._reader)
        found = {(kind, one.place, one.where): one for kind, one in sought.sensors}
        unsure = {kind for kind, _ in sought.broken}
        self._unfound = tuple(Broken(kind, "", reason) for kind, reason in sought.broken)
        for key in [key for key in self._sensors if key not in found and key[0] not in unsure]:
            gone = self._sensors.pop(key)
            for known in (self._due_ns, self._lasting, self._latest):
                known.pop(key, None)
            if key not in self._reader.blocked:
                gone.sensor.close()
        self._sensors = {key: self._sensors.get(key, one) for key, one in found.items()} | self._sensors

    def _read(self, key: tuple[str, str, str], found: Found) -> tuple[Reading, ...]:
        """What it says; whatever it raises is kept as its `Broken`."""
        self._lasting.pop(key, None)
        try:
            return tuple(self._reader.run(key, found.sensor.read))
        except PartlyBroken as error:
            self._lasting[key] = Broken(key[0], found.place, str(error))
            return error.readings
        except Blocked as error:
            self._lasting[key] = Broken(key[0], found.place, str(error), blocked=True)
        except Exception as error:  # noqa: BLE001 - part of a thread's body: a plug-in of others' may raise anything
            self._lasting[key] = Broken(key[0], found.place, str(error) or type(error).__name__)
        return ()

    def _tell(self, broken: tuple[Broken, ...]) -> None:
        """Log what broke since the last time, and what is well again."""
        now = {(one.kind, one.place): one.reason for one in broken}
        for place, reason in now.items():
            if place not in self._told:
                log.warning("sensor %s cannot be read, it has no reading: %s", " ".join(place).strip(), reason)
        for place in self._told.keys() - now.keys():
            log.info("sensor %s is well again, or gone", " ".join(place).strip())
        self._told = now
