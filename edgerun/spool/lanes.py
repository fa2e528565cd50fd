"""The memory of the spool: what is live, what waits to be written, what was read and waits to be sent."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Literal

import msgspec

from edgerun.broker.message import KINDS, Kind, Message
from edgerun.broker.outgoing import SUSPECT, Entry, Outgoing, OutgoingStats
from edgerun.spool.notices import Notices
from edgerun.spool.options import SpoolOptions

STALLED_NS = 1_000_000_000
"""A disk that takes longer holds nobody up: what waits for it is sent without it."""
AHEAD = 256
"""Messages read ahead of their sending."""
BATCH = 512
"""Messages, or acknowledgements, written at once."""
END = 1 << 63

_BURST = 10  # replayed messages that make good for a pause


class Lanes(Outgoing):
    """`Outgoing` with a backlog on disk, whose thread a subclass is: what the connection sees of a `Spool`.

    Three more places for a message that is kept, besides the lane of live ones and what is in flight: `_away` was put
    without a link and waits to be written, `_backlog` counts what is on disk only, `_ahead` was read and waits to be
    sent. Everything here is done under the lock of `Outgoing`, and touches no disk.
    """

    def __init__(self, options: SpoolOptions, max_messages: int, max_bytes: int) -> None:
        super().__init__(max_messages, max_bytes)
        self._options = options
        self._always = options.durability == "always"
        self._notices = Notices(options.folder)
        self._nudge: Callable[[], None] = lambda: None
        self._work, self._hurry = threading.Event(), threading.Event()
        self._disk: Literal["off", "opening", "works", "broken"] = "off"
        self._stalled = False
        self._window = 0  # 0: no link
        self._away: deque[Entry] = deque()
        self._away_bytes = 0
        self._ahead: deque[Entry] = deque()
        self._backlog = 0
        self._live_from: dict[Kind, int] = dict.fromkeys(KINDS, END)
        self._overtaken: set[tuple[Kind, int]] = set()  # live, and the reader of the backlog is past them
        self._acks: list[tuple[Kind, int]] = []
        self._replaying = self._replayed = 0
        self._ticket, self._front_ticket = -END, -END
        self._next_replay_ns = self._late_ns = 0
        self._lost: Counter[str] = Counter()
        self._uncertain: OrderedDict[int, None] = OrderedDict()
        self._highest: int | None = None
        self._again = 0  # what a folder that was taken anew gives, and was counted before
        self._no_copies = False  # the disk is full: live ones go without

    def opened(self, window: int) -> None:
        with self._changed:
            self._window = window
            if self._disk == "broken":
                self._bring_back()
        self._work.set()

    def put(self, message: Message, now_ns: int) -> int:
        if message.keep is None or self._disk == "off":
            return super().put(message, now_ns)
        with self._changed:
            if message.weight > self._max_bytes:
                self._put += 1
                self._count_lost(message.keep, "full", 1)
                return 1
            if message.number is not None:
                self._uncertain[message.number] = None
                self._highest = message.number
            # What was put without a link is written first: else the order on disk would not be that of `put`.
            if self._window and not self._away:
                victims = super().put(message, now_ns)
                lane = self._lanes[1]
            else:
                victims = self._put_away(message, now_ns)
                lane = self._away
            if self._always or not self._window or self._is_pressed():
                self._work.set()
            if len(self._away) * 4 > self._max_messages or self._away_bytes * 4 > self._max_bytes:
                self._hurry.set()
            entry = lane[-1] if lane else None
            if self._always and entry is not None and entry.message is message and not self._stalled:
                self._stalled = not self._changed.wait_for(lambda: self._is_safe(entry), self._options.written_s)
        return victims

    def _is_pressed(self) -> bool:
        """Whether memory is half full."""
        return len(self._lanes[1]) * 2 > self._max_messages or self._bytes * 2 > self._max_bytes

    def _is_safe(self, entry: Entry) -> bool:
        return entry.place is not None or self._no_copies or self._disk == "broken"

    def _put_away(self, message: Message, now_ns: int) -> int:
        self._put += 1
        self._away.append(Entry(self._put, message, now_ns))
        self._away_bytes += message.weight
        return self._trim_away()

    def _trim_away(self) -> int:
        """While the disk takes nothing, memory is the bound: the oldest of the lowest class gives way."""
        victims = 0
        while self._away and (len(self._away) > self._max_messages or self._away_bytes > self._max_bytes):
            lowest = min(self._away, key=lambda entry: (KINDS.index(entry.message.keep or KINDS[0]), entry.ticket))
            self._away.remove(lowest)
            self._away_bytes -= lowest.message.weight
            self._lose(lowest, "full")
            victims += 1
        if victims:
            self._changed.notify_all()
        return victims

    def _bring_back(self) -> None:
        """The disk does not take them: what waits for it is live again, as long as there is a link."""
        lasting = self._lanes[1]
        for entry in self._away:
            self._bytes += entry.message.weight
        merged = sorted((*self._away, *lasting), key=lambda entry: entry.ticket)
        lasting.clear()
        lasting.extend(merged)
        self._away.clear()
        self._away_bytes = 0
        self._trim()

    def _take(self, durable: bool, now_ns: int) -> Entry | None:
        if self._away and self._window and now_ns - self._away[0].put_ns > STALLED_NS:
            self._bring_back()
        self._late_ns = now_ns - STALLED_NS
        entry = super()._take(durable, now_ns)
        if entry is not None or not durable or not self._replay_due(now_ns):
            return entry
        entry = self._ahead.popleft()
        entry.put_ns = now_ns
        self._bytes -= entry.message.weight
        self._in_flight[entry.ticket] = entry
        self._replaying += 1
        step_ns = round(1e9 / self._options.replay_rate)
        self._next_replay_ns = max(self._next_replay_ns, now_ns - _BURST * step_ns) + step_ns
        if len(self._ahead) < AHEAD // 4 and self._backlog:
            self._work.set()
        return entry

    def _may_go(self, entry: Entry) -> bool:
        """With "always", what is not on disk yet waits for it, unless the disk stalls."""
        return (
            not self._always
            or entry.message.keep is None
            or entry.place is not None
            or self._disk in ("off", "broken")
            or self._no_copies
            or entry.put_ns < self._late_ns
        )

    def _replay_due(self, now_ns: int) -> bool:
        return bool(self._ahead) and self._replaying < self._replay_window() and now_ns >= self._next_replay_ns

    def _replay_window(self) -> int:
        return max(1, self._window // 2)

    def waits(self, durable: bool, now_ns: int) -> bool:
        passing, lasting = self._lanes
        if passing or (durable and self._replay_due(now_ns)):
            return True
        try:
            return durable and bool(lasting) and self._may_go(lasting[0])
        except IndexError:  # taken by the thread "spool" in the meantime
            return False

    def due_ns(self, durable: bool) -> int | None:
        if not durable or not self._ahead or self._replaying >= self._replay_window():
            return None
        return self._next_replay_ns

    def ack(self, ticket: int) -> None:
        with self._changed:
            self._replayed += ticket < 0 and ticket in self._in_flight
            super().ack(ticket)

    def drop(self, entry: Entry, reason: str) -> None:
        with self._changed:
            super().drop(entry, reason)
            if entry.message.keep is not None:
                self._lost[entry.message.keep] += 1

    def _settled(self, entry: Entry) -> None:
        super()._settled(entry)
        self._forget_number(entry.message)
        if entry.place is not None:
            self._overtaken.discard(entry.place)
            self._acks.append(entry.place)
            if len(self._acks) == 1 or len(self._acks) >= BATCH:
                self._work.set()
        if entry.ticket < 0:
            self._replaying -= 1

    def _poisoned(self, entry: Entry) -> None:
        if entry.message.keep is not None:
            self._lost[entry.message.keep] += 1
        self._notices.add("spool_poison", f"the broker hangs up on a message to {entry.message.topic}: it is dropped")

    def _return(self) -> None:
        """What is on disk is backlog from here on, what is not goes there; the rest waits in memory as ever."""
        if self._disk == "off":
            super()._return()
            return
        lasting = self._lanes[1]
        self._bytes -= sum(entry.message.weight for entry in (*lasting, *self._ahead))
        entries = [*sorted(self._in_flight.values(), key=lambda entry: entry.ticket), *lasting]
        self._in_flight.clear()
        lasting.clear()
        replays, away = [], []
        torn: set[Kind] = set()  # an older one has no copy: who follows is written again, behind it
        for entry in entries:
            kind = entry.message.keep
            if kind is not None and entry.ticket > 0 and entry.place not in self._overtaken:
                if entry.place is None:
                    torn.add(kind)
                elif kind in torn:
                    self._acks.append(entry.place)
                    entry.place = None
            if entry.ticket < 0:
                replays.append(entry)
            elif entry.message.keep is None:
                lasting.append(entry)
            elif entry.place is None:
                away.append(entry)
            else:
                self._forget_number(entry.message)
                if entry.place in self._overtaken:
                    replays.append(msgspec.structs.replace(entry, message=as_replayed(entry.message)))
                else:
                    self._absolve(entry)
                    self._backlog += 1
        for entry in reversed(replays):
            if entry.ticket > 0:
                self._front_ticket -= 1
                entry.ticket = self._front_ticket
            self._ahead.appendleft(entry)
        self._away.extendleft(reversed(away))
        self._away_bytes += sum(entry.message.weight for entry in away)
        self._bytes += sum(entry.message.weight for entry in (*lasting, *self._ahead))
        self._window = self._replaying = 0
        self._live_from = dict.fromkeys(KINDS, END)
        self._overtaken.clear()
        self._trim_away()
        self._work.set()

    def _give_way(self, entry: Entry) -> int:
        """A live message that is on disk has its turn later, with the backlog."""
        if entry.place is None:
            self._forget_number(entry.message)
            if entry.message.keep is not None:
                self._lost[entry.message.keep] += 1
                self._notices.lose(entry.message.keep, "full", 1)
            return super()._give_way(entry)
        self._absolve(entry)
        kind, n = entry.place
        self._live_from[kind] = max(n + 1, self._live_from[kind] if self._live_from[kind] != END else 0)
        self._backlog += 1
        return 0

    def _stats(self) -> OutgoingStats:
        stats = super()._stats()
        waiting = stats.waiting + len(self._away) + len(self._ahead) + self._backlog
        in_memory = self._bytes + self._away_bytes
        return msgspec.structs.replace(stats, put=stats.put - self._again, waiting=waiting, waiting_bytes=in_memory)

    def _oldest(self) -> Entry | None:
        candidates = [entry for entry in (super()._oldest(),) if entry is not None]
        candidates += [lane[0] for lane in (self._away, self._ahead) if lane]
        return min(candidates, key=lambda entry: entry.ticket, default=None)

    def _oldest_ticket(self) -> float:
        return -END if self._backlog else super()._oldest_ticket()

    def _live(self) -> list[Entry]:
        """Live messages that are kept, oldest first."""
        live = (e for e in (*self._in_flight.values(), *self._lanes[1]) if e.ticket > 0 and e.message.keep is not None)
        return sorted(live, key=lambda entry: entry.ticket)

    def _uncopy(self, kind: Kind, first: int, behind: int) -> list[tuple[Kind, int]]:
        """The file of these n goes: what of it is in memory has no copy any more. Returns whom the disk need not keep
        for us: these, and what the broker has. Called with the lock.
        """
        done, self._acks = self._acks, []
        for entry in (*self._ahead, *self._in_flight.values(), *self._lanes[1]):
            if entry.place is not None and entry.place[0] == kind and first <= entry.place[1] < behind:
                done.append(entry.place)
                self._overtaken.discard(entry.place)
                entry.place = None
        return done

    def _lose_disk(self) -> None:
        """What is on it is found by whoever opens it again; the rest goes on in memory. Called with the lock."""
        self._disk = "broken"
        again = [entry for entry in self._ahead if entry.place is not None]
        only = [entry for entry in self._ahead if entry.place is None]
        self._again += self._backlog + len(again)
        self._backlog = 0
        self._bytes -= sum(entry.message.weight for entry in again)
        for entry in again:
            self._absolve(entry)
        self._ahead.clear()
        self._ahead.extend(only)
        for entry in (*self._in_flight.values(), *self._lanes[1]):
            entry.place = None
        self._live_from = dict.fromkeys(self._live_from, END)
        self._overtaken.clear()
        self._acks.clear()
        if self._window:
            self._bring_back()

    def _certain(self) -> int | None:
        """Up to which number every result is acknowledged, on disk, or counted as dropped."""
        if not self._uncertain:
            return self._highest
        first = next(iter(self._uncertain))
        return first - 1 if first > 0 else None

    def _forget_number(self, message: Message) -> None:
        if message.number is not None:
            self._uncertain.pop(message.number, None)

    def _absolve(self, entry: Entry) -> None:
        """Read again from the disk, it will be nobody's suspect."""
        if entry.tries >= SUSPECT:
            self._suspects -= 1

    def _lose(self, entry: Entry, reason: str) -> None:
        self._count_lost(entry.message.keep, reason, 1)
        self._forget_number(entry.message)
        self._absolve(entry)

    def _count_lost(self, kind: Kind | None, reason: str, count: int) -> None:
        self._dropped[reason] += count
        if kind is not None:
            self._lost[kind] += count
            self._notices.lose(kind, reason, count)


def as_replayed(message: Message) -> Message:
    """With `"replayed":true` put in front of a JSON object's members; another payload stays as it is."""
    payload = message.payload
    if payload[:1] != b"{":
        return message
    rest = payload[1:]
    comma = b"" if rest.lstrip()[:1] == b"}" else b","
    return msgspec.structs.replace(message, payload=b'{"replayed":true' + comma + rest)
