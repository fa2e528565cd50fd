"""What happens to a site: a table of faults, and who lets them happen at moments drawn from a seed."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import NamedTuple

from tools.soak_parts.cameras import Camera
from tools.soak_parts.site import COOL_C, STREAMS, Site

End = Callable[[], None]
_ANSWER_S = 5.0
"""A command that has no answer after this time is sent again."""


class Fault(NamedTuple):
    """`begin(site, chance)` returns what ends it. Of those with one `target` only one is on at a time."""

    name: str
    target: str
    seconds: tuple[float, float]
    begin: Callable[[Site, random.Random], End]


def _nothing() -> None:
    return None


def _freeze(site: Site, chance: random.Random) -> End:
    site.broker.freeze()
    return site.broker.thaw


def _kill(site: Site, chance: random.Random) -> End:
    site.line.locked.set()
    site.broker.kill()
    return site.restart_broker


def _cut(site: Site, chance: random.Random) -> End:
    site.line.cut()
    return _nothing


def _half_close(site: Site, chance: random.Random) -> End:
    site.line.half_close()
    return site.line.cut


def _lock(site: Site, chance: random.Random) -> End:
    site.line.locked.set()
    site.line.cut()
    return site.line.heal


def _swallow(site: Site, chance: random.Random) -> End:
    up, down = chance.choice([(True, True), (True, False), (False, True)])
    site.line.swallow(up=up, down=down)
    return site.line.heal


def _delay(site: Site, chance: random.Random) -> End:
    site.line.delay(chance.uniform(0.1, 1.5))
    return site.line.heal


def _hush(pick: Callable[[Site], Camera]) -> Callable[[Site, random.Random], End]:
    def begin(site: Site, chance: random.Random) -> End:
        pick(site).hush()
        return pick(site).speak

    return begin


def _vanish(pick: Callable[[Site], Camera]) -> Callable[[Site, random.Random], End]:
    def begin(site: Site, chance: random.Random) -> End:
        pick(site).vanish()
        return pick(site).restart

    return begin


def _misbehave(*flags: object) -> Callable[[Site, random.Random], End]:
    def begin(site: Site, chance: random.Random) -> End:
        site.street.restart(*flags)
        return site.street.restart

    return begin


def _heat(site: Site, chance: random.Random) -> End:
    site.warm(chance.choice([75.0, 83.0, 97.0]))
    return lambda: site.warm(COOL_C)


def _garbage(site: Site, chance: random.Random) -> End:
    """Retained and other commands that are none, up to 200 kB. The retained ones stay: every reconnect brings them."""
    for _ in range(3):
        verb = chance.choice(["reload", "pause", "resume", "no-such", "Über", "a/b", "a/b/c"])
        bodies = [b'{"stream":' * 5000, b"x" * 200_000, b'{"stream": "nobody"}', b"[]"]
        body = chance.choice([chance.randbytes(chance.randrange(1, 2000)), *bodies])
        site.listener.send(verb, body, retain=chance.random() < 0.5)
    return _nothing


def _reload(site: Site, chance: random.Random) -> End:
    """SIGHUP with the file as it is, changed, or broken."""
    what = chance.choice(["same", "changed", "broken"])
    if what == "changed":
        site.write_config(max_fps=chance.choice([5.0, 8.0]))
    elif what == "broken":
        site.write_config(more='[streams.street.gaet]\nmotion = "much"\n')
    _hang_up(site)

    def end() -> None:
        site.write_config()
        _hang_up(site)

    return end


def _hang_up(site: Site) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, which the verdict tells
        os.kill(site.pid, signal.SIGHUP)


def _street(site: Site) -> Camera:
    return site.street


def _yard(site: Site) -> Camera:
    return site.yard


FAULTS = (
    Fault("broker frozen", "line", (2, 45), _freeze),
    Fault("broker killed", "line", (1, 60), _kill),
    Fault("line cut", "line", (0, 0), _cut),
    Fault("line half closed", "line", (1, 5), _half_close),
    Fault("line locked", "line", (2, 60), _lock),
    Fault("line swallows", "line", (2, 45), _swallow),
    Fault("line slow", "line", (5, 20), _delay),
    Fault("MJPEG camera silent", "street", (2, 30), _hush(_street)),
    Fault("MJPEG camera gone", "street", (1, 30), _vanish(_street)),
    Fault("MJPEG camera answers 404", "street", (5, 30), _misbehave("--status", 404)),
    Fault("MJPEG camera tears frames", "street", (5, 20), _misbehave("--half-frame-at", 7)),
    Fault("MJPEG camera sends garbage", "street", (5, 15), _misbehave("--garbage")),
    Fault("RTSP camera silent", "yard", (2, 30), _hush(_yard)),
    Fault("RTSP camera gone", "yard", (1, 30), _vanish(_yard)),
    Fault("heat", "board", (5, 40), _heat),
    Fault("garbage commands", "garbage", (0, 0), _garbage),
    Fault("SIGHUP", "config", (2, 10), _reload),
)
PAUSE = "paused by a command"


class Director:
    """Lets faults happen, on average every `every_s` seconds, from `next` calls of one thread."""

    def __init__(self, site: Site, seed: int, every_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self.lasted_s: dict[str, float] = defaultdict(float)
        self.on: dict[str, str] = {}
        """What is wrong now, by target."""
        self._site, self._every_s = site, every_s
        self._chance = random.Random(seed)
        self._ends: list[tuple[float, int, str, End]] = []
        self._order = itertools.count()
        self._next_s = time.monotonic()
        self._unanswered: dict[str, tuple[float, str, bytes]] = {}

    def turn(self) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        self._end_due(now_s)
        self._ask_again(now_s)
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._chance.expovariate(1 / self._every_s)
        fault = self._chance.choice([*FAULTS, None])
        if fault is None:
            self._pause(now_s)
        elif fault.target not in self.on:
            self._begin(fault.name, fault.target, self._chance.uniform(*fault.seconds), now_s, fault.begin)

    def heal(self) -> None:
        """End everything at once."""
        while self._ends:
            _, _, target, end = heapq.heappop(self._ends)
            end()
            self.on.pop(target, None)

    def settled(self) -> bool:
        """Whether every command was answered; asks again where not."""
        self._ask_again(time.monotonic())
        return not self._unanswered

    def _begin(
        self, name: str, target: str, seconds: float, now_s: float, begin: Callable[[Site, random.Random], End]
    ) -> None:
        end = begin(self._site, self._chance)
        self.counts[name] += 1
        self.lasted_s[name] += seconds
        self.on[target] = name
        heapq.heappush(self._ends, (now_s + seconds, next(self._order), target, end))

    def _end_due(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            _, _, target, end = heapq.heappop(self._ends)
            end()
            self.on.pop(target, None)

    def _pause(self, now_s: float) -> None:
        stream = self._chance.choice(STREAMS)
        if PAUSE in self.on:
            return

        def begin(site: Site, chance: random.Random) -> End:
            self._ask("pause", stream)
            return lambda: self._ask("resume", stream)

        self._begin(PAUSE, PAUSE, self._chance.uniform(2, 20), now_s, begin)

    def _ask(self, verb: str, stream: str) -> None:
        mark = f"{verb}-{next(self._order)}"
        for other in [one for one, (_, _, body) in self._unanswered.items() if json.loads(body)["stream"] == stream]:
            del self._unanswered[other]  # a later wish for the same stream stands
        self._unanswered[mark] = (0.0, verb, json.dumps({"stream": stream, "id": mark}).encode())
        self._ask_again(time.monotonic())

    def _ask_again(self, now_s: float) -> None:
        for mark, (asked_s, verb, body) in list(self._unanswered.items()):
            if mark in self._site.account.answers:
                del self._unanswered[mark]
            elif now_s - asked_s > _ANSWER_S:
                self._unanswered[mark] = (now_s, verb, body)
                self._site.listener.send(verb, body)
