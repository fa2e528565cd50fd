"""The queue in front of the network with a disk behind it."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

import msgspec

from edgerun.broker.message import KINDS, Kind, Message
from edgerun.broker.outgoing import Entry, Outgoing, OutgoingStats
from edgerun.clock import Clock
from edgerun.errors import DeviceError, EdgerunError
from edgerun.spool.files import Files
from edgerun.spool.notices import Notice, Notices
from edgerun.spool.options import SpoolOptions
from edgerun.spool.record import Record
from edgerun.spool.store import Dropped, Mark, New, Opened, Store

_log = logging.getLogger(__name__)

_LATE_NS = 1_000_000_000  # durability "outage": the oldest unacknowledged message is written when it is this old
_MARK_NS = 1_000_000_000
_ROOM_NS = 10_000_000_000
_RETRY_NS = 10_000_000_000
_GATHER_S = 0.02  # a flood is written in batches; a kill takes at most this and the time of one write
_WRITTEN_S = 0.25  # how long a publisher waits for a disk that stalls
_CLOSE_S = 2.0
_AHEAD = 256
_BATCH = 512
_END = 1 << 63


class SpoolStats(msgspec.Struct, frozen=True):
    """How the spool stands."""

    messages: int
    """Waiting on disk, not in memory."""
    bytes: int
    """Of all files."""
    dropped: dict[str, int]
    """By class, for want of room, for age and for damage, since the process started."""
    replayed: int
    """Acknowledged since the process started."""
    broken: str | None
    """Why nothing is written at the moment."""


class Spool(Outgoing):
    """`Outgoing` whose messages of a class (`Message.keep`) outlive an outage, a restart, a kill and a power cut.

    A message is *live* or belongs to the *backlog*. Live: put while there was a link, in memory, and on disk as well
    with durability "always" or once the oldest unacknowledged is a second old. Backlog: everything else, on disk. It is
    read ahead a little, in its order, and sent behind live messages, marked as replayed, at most `replay_rate` a second
    and with at most half of the window of unacknowledged messages, so that a live one always finds room. A link that is
    lost makes a backlog of what was live.

    All disk work is done by one thread, "spool": neither whoever publishes nor the thread "mqtt" waits for a disk that
    stalls. (With "always", whoever publishes waits for its message's write, a quarter of a second at most.) What the
    disk refuses stays in memory within the bounds of `Outgoing`, is told, and is written as soon as the disk takes it.
    """

    def __init__(
        self,
        options: SpoolOptions,
        clock: Clock,
        run: str,
        *,
        max_messages: int = 1000,
        max_bytes: int = 16 << 20,
        files: Files | None = None,
    ) -> None:
        super().__init__(max_messages, max_bytes)
        self._options, self._clock, self._run, self._files = options, clock, run, files
        self._always = options.durability == "always"
        self._store: Store | None = None
        self._notices = Notices(options.folder)
        self._nudge: Callable[[], None] = lambda: None
        self._work = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._opened = threading.Event()
        self._window = 0  # 0: no link
        self._away: deque[Entry] = deque()  # put without a link, to be written
        self._away_bytes = 0
        self._ahead: deque[Entry] = deque()  # read from the disk, to be sent
        self._live_from: dict[Kind, int] = dict.fromkeys(KINDS, _END)
        self._backlog = 0  # on disk only
        self._acks: list[tuple[Kind, int]] = []
        self._replaying = 0
        self._replayed = 0
        self._ticket = -_END
        self._next_replay_ns = 0
        self._lost: Counter[str] = Counter()
        self._uncertain: OrderedDict[int, None] = OrderedDict()
        self._highest: int | None = None
        self._size = 0
        self._unsynced_ns: int | None = None
        self._mark_ns = self._room_ns = self._acks_ns = self._retry_ns = self._turned_ns = clock.mono_ns()

    # What the connection calls

    def start(self, nudge: Callable[[], None]) -> None:
        """Start the thread. It opens the folder; until then messages wait in memory."""
        self._nudge = nudge
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_thread, name="spool", daemon=True)
            self._thread.start()

    def opened(self, window: int) -> None:
        with self._changed:
            self._window = window
        self._work.set()

    def put(self, message: Message, now_ns: int) -> int:
        if message.keep is None or self._thread is None:
            return super().put(message, now_ns)
        with self._changed:
            if message.number is not None:
                self._uncertain[message.number] = None
                self._highest = message.number
            if self._window and self._may_be_live(message):
                victims = super().put(message, now_ns)
                entry = self._lanes[1][-1] if self._lanes[1] else None
            else:
                victims = self._put_away(message, now_ns)
                entry = self._away[-1] if self._away else None
            if self._always or not self._window or len(self._lanes[1]) * 4 > self._max_messages:
                self._work.set()
            if self._always and entry is not None and entry.message is message and self._thread.is_alive():
                self._changed.wait_for(lambda: self._is_safe(entry), _WRITTEN_S)
        return victims

    def _may_be_live(self, message: Message) -> bool:
        """What was put without a link is written first: else the log's order would not be that of `put`."""
        return not self._away and message.weight <= self._max_bytes

    def _is_safe(self, entry: Entry) -> bool:
        return entry.place is not None or self._store is None or self._window < 0

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
            self._lose(lowest.message.keep, "full", 1)
            self._forget_number(lowest.message)
            victims += 1
        if victims:
            self._changed.notify_all()
        return victims

    def _take(self, durable: bool, now_ns: int) -> Entry | None:
        entry = super()._take(durable, now_ns)
        if entry is not None or not durable or not self._replay_due(now_ns):
            return entry
        entry = self._ahead.popleft()
        entry.put_ns = now_ns
        self._bytes -= entry.message.weight
        self._in_flight[entry.ticket] = entry
        self._replaying += 1
        step_ns = round(1e9 / self._options.replay_rate)
        self._next_replay_ns = max(self._next_replay_ns, now_ns - 10 * step_ns) + step_ns
        if len(self._ahead) < _AHEAD // 4 and self._backlog:
            self._work.set()
        return entry

    def _may_go(self, entry: Entry) -> bool:
        return not self._always or entry.message.keep is None or entry.place is not None or self._store is None

    def _replay_due(self, now_ns: int) -> bool:
        half = max(1, self._window // 2)
        return bool(self._ahead) and self._replaying < half and now_ns >= self._next_replay_ns

    def waits(self, durable: bool, now_ns: int) -> bool:
        passing, lasting = self._lanes
        if passing or (durable and self._replay_due(now_ns)):
            return True
        try:
            return durable and bool(lasting) and self._may_go(lasting[0])
        except IndexError:  # taken by the thread "spool" in the meantime
            return False

    def due_ns(self, durable: bool) -> int | None:
        if not durable or not self._ahead or self._replaying >= max(1, self._window // 2):
            return None
        return self._next_replay_ns

    def _settled(self, entry: Entry) -> None:
        super()._settled(entry)
        self._forget_number(entry.message)
        if entry.place is not None:
            self._acks.append(entry.place)
            if len(self._acks) >= _BATCH:
                self._work.set()
        if entry.ticket < 0:
            self._replaying -= 1
            self._replayed += 1

    def _poisoned(self, entry: Entry) -> None:
        self._notices.add("spool_poison", f"the broker hangs up on a message to {entry.message.topic}: dropped")

    def _return(self) -> None:
        """What is on disk is backlog from here on, what is not goes there; the rest waits in memory as ever."""
        self._window = 0
        lasting = self._lanes[1]
        back = sorted(self._in_flight.values(), key=lambda entry: entry.ticket)
        self._in_flight.clear()
        self._replaying = 0
        self._bytes -= sum(entry.message.weight for entry in lasting)
        entries = [*back, *lasting]
        lasting.clear()
        self._bytes -= sum(entry.message.weight for entry in self._ahead)
        ahead = [entry for entry in entries if entry.ticket < 0]
        self._ahead.extendleft(reversed(ahead))
        away = []
        for entry in entries:
            if entry.ticket < 0:
                continue
            if entry.message.keep is None or self._thread is None:
                lasting.append(entry)
                self._bytes += entry.message.weight
            elif entry.place is not None:
                self._backlog += 1
                self._absolve(entry)
            else:
                away.append(entry)
                self._away_bytes += entry.message.weight
        self._away.extendleft(reversed(away))
        self._bytes += sum(entry.message.weight for entry in self._ahead)
        self._live_from = dict.fromkeys(KINDS, _END)
        self._trim_away()
        self._work.set()

    def _give_way(self, entry: Entry) -> int:
        """A live message on disk has its turn later, with the backlog."""
        if entry.place is None:
            self._forget_number(entry.message)
            if entry.message.keep is not None:
                self._lost[entry.message.keep] += 1
            return super()._give_way(entry)
        self._absolve(entry)
        self._live_from[entry.place[0]] = entry.place[1] + 1
        self._backlog += 1
        return 0

    def drop_waiting(self) -> int:
        """The end of the process: what the disk has is kept, the rest is lost, counted as `stopped`."""
        thread = self._thread
        if thread is None:
            return super().drop_waiting()
        self.rewind()
        self._ending.set()
        self._work.set()
        thread.join(_CLOSE_S)
        if thread.is_alive():
            _log.error("%s: the disk does not answer; what was not written yet may be lost", self._options.folder)
        with self._changed:
            left = len(self._lanes[1]) + len(self._away)
            self._backlog += len(self._ahead)
            self._bytes -= sum(entry.message.weight for entry in (*self._lanes[1], *self._ahead))
            self._away_bytes = 0
            for lane in (self._lanes[1], self._away, self._ahead):
                lane.clear()
            if left:
                self._dropped["stopped"] += left
            self._changed.notify_all()
        return left

    def _stats(self) -> OutgoingStats:
        stats = super()._stats()
        waiting = stats.waiting + len(self._away) + len(self._ahead) + self._backlog
        return msgspec.structs.replace(stats, waiting=waiting, waiting_bytes=self._bytes + self._away_bytes)

    def _oldest(self) -> Entry | None:
        candidates = [entry for entry in (super()._oldest(),) if entry is not None]
        candidates += [lane[0] for lane in (self._away, self._ahead) if lane]
        return min(candidates, key=lambda entry: entry.ticket, default=None)

    def _oldest_ticket(self) -> float:
        return -_END if self._backlog else super()._oldest_ticket()

    # What the application calls

    def spool_stats(self) -> SpoolStats:
        with self._changed:
            waiting = self._backlog + len(self._ahead) + self._replaying
            lost = {kind: n for kind, n in self._lost.items() if n}
            return SpoolStats(waiting, self._size, lost, self._replayed, self._notices.broken)

    def take_notices(self) -> list[Notice]:
        """What an operator wants to know of since the last call: each is an event to publish."""
        return self._notices.take()

    def wait_opened(self, timeout_s: float) -> bool:
        """Whether the folder was opened, or refused, within that time: `take_notices` then knows of the run before."""
        return self._opened.wait(timeout_s)

    @property
    def turned_ns(self) -> int:
        """When the thread "spool" was last seen at work (monotonic ns); it turns at least once a second."""
        return self._turned_ns

    # The thread "spool"

    def _run_thread(self) -> None:
        while not self._ending.is_set():
            self._turned_ns = now_ns = self._clock.mono_ns()
            try:
                self._turn(now_ns)
            except (OSError, EdgerunError) as error:
                self._break(error)
            except Exception as error:  # noqa: BLE001  a thread's body; memory takes over
                _log.exception("in the thread spool")
                self._break(error)
            self._opened.set()
            busy = self._work.is_set()
            self._work.wait(self._wait_s(now_ns))
            if busy and not self._always:
                self._ending.wait(_GATHER_S)
            self._work.clear()
        self._end()

    def _wait_s(self, now_ns: int) -> float:
        """Until something is due, a second at most."""
        due = [now_ns + 1_000_000_000]
        with self._changed:
            if self._unsynced_ns is not None:
                due.append(self._unsynced_ns + self._options.sync_ms * 1_000_000)
            if self._store is not None and not self._always:
                oldest = next((e for e in (*self._in_flight.values(), *self._lanes[1]) if e.message.keep), None)
                if oldest is not None and oldest.place is None:
                    due.append(max(oldest.put_ns + _LATE_NS, now_ns + 100_000_000))
        return max(0.0, (min(due) - self._clock.mono_ns()) / 1e9)

    def _turn(self, now_ns: int) -> None:
        store = self._store
        if store is None:
            if self._notices.broken is not None and now_ns < self._retry_ns:
                return
            store = self._open()
        self._write(store, now_ns)
        if now_ns >= self._acks_ns or len(self._acks) >= _BATCH:
            self._acks_ns = now_ns + _MARK_NS
            self._settle(store)
        if self._options.sync_ms and self._unsynced_ns is not None:
            if now_ns - self._unsynced_ns >= self._options.sync_ms * 1_000_000:
                store.sync()
                self._unsynced_ns = None
        if now_ns >= self._room_ns:
            self._room_ns = now_ns + _ROOM_NS
            self._account(store.make_room(self._now_ms(), self._live_from))
        self._read_ahead(store)
        if now_ns >= self._mark_ns:
            self._mark_ns = now_ns + _MARK_NS
            self._write_mark(store)
        with self._changed:
            self._size = store.size

    def _open(self) -> Store:
        store = Store(self._options, self._files)
        try:
            found = store.open()
        except EdgerunError:
            raise
        except OSError as error:
            raise DeviceError(
                "the spool's folder cannot be used",
                where=self._options.folder,
                got=error.strerror or str(error),
                remedy="make it writable for edgerun's user, or name another place in STATE_DIRECTORY",
            ) from error
        first = not self._opened.is_set() or self._notices.broken is not None
        with self._changed:
            self._store = store
            self._put += found.messages
            self._backlog += found.messages
        self._tell_found(found, first)
        self._notices.mend()
        self._nudge()
        return store

    def _tell_found(self, found: Opened, first: bool) -> None:
        if found.messages:
            _log.info("%s: %d messages wait to be replayed", self._options.folder, found.messages)
        if found.missing:
            self._notices.add("spool_damaged", f"{found.missing} spooled messages were damaged and are lost")
        for name in found.aside:
            self._notices.add("spool_set_aside", f"a file of the spool was set aside: {name}")
        mark = found.mark
        if first and mark is not None and not mark.clean and mark.run != self._run:
            upto = f"results up to {mark.certain} are" if mark.certain is not None else "no result is"
            self._notices.add(
                "unclean_stop",
                f"run {mark.run} ended without a stop; {upto} certain, later ones may be lost",
                run=mark.run,
                certain=mark.certain,
            )

    def _write(self, store: Store, now_ns: int) -> None:
        """Everything that has to be on disk by now."""
        while True:
            with self._changed:
                batch = self._to_write(now_ns)
                news = [
                    New(e.message.keep, e.message.topic, e.message.payload, self._now_ms(e, now_ns))
                    for e in batch
                    if e.message.keep is not None
                ]
                live_from = dict(self._live_from)
            if not batch:
                return
            places, dropped = store.append(news, live_from)
            if self._unsynced_ns is None:
                self._unsynced_ns = now_ns
            if self._options.sync_ms == 0:
                store.sync()
                self._unsynced_ns = None
            self._place(batch, places)
            self._account(dropped, written=True)
            self._nudge()

    def _to_write(self, now_ns: int) -> list[Entry]:
        """Called with the lock."""
        if self._away:
            return [self._away[i] for i in range(min(_BATCH, len(self._away)))]
        lasting = self._lanes[1]
        if not self._always:
            oldest = self._oldest_live()
            pressed = len(lasting) * 4 > self._max_messages or self._bytes * 4 > self._max_bytes
            if not pressed and (oldest is None or now_ns - oldest.put_ns < _LATE_NS):
                return []
        live = [
            entry
            for entry in (*self._in_flight.values(), *lasting)
            if entry.ticket > 0 and entry.place is None and entry.message.keep is not None
        ]
        return sorted(live, key=lambda entry: entry.ticket)[:_BATCH]

    def _oldest_live(self) -> Entry | None:
        live = (e for e in (*self._in_flight.values(), *self._lanes[1]) if e.ticket > 0 and e.message.keep is not None)
        return min(live, key=lambda entry: entry.ticket, default=None)

    def _place(self, batch: list[Entry], places: list[int | None]) -> None:
        """`batch` is written: who is still here is live, who is acknowledged already is told so, the others wait."""
        with self._changed:
            lasting = {entry.ticket for entry in self._lanes[1]}
            away = {entry.ticket for entry in self._away}
            gone: set[int] = set()
            for entry, n in zip(batch, places, strict=True):
                kind = entry.message.keep
                assert kind is not None
                self._forget_number(entry.message)
                if entry.ticket in away:
                    gone.add(entry.ticket)
                    self._away_bytes -= entry.message.weight
                    if n is not None:
                        entry.place = (kind, n)
                        self._backlog += 1
                        self._absolve(entry)
                elif entry.ticket in self._in_flight or entry.ticket in lasting:
                    if n is not None:
                        entry.place = (kind, n)
                        self._live_from[kind] = min(self._live_from[kind], n)
                elif n is not None:
                    self._acks.append((kind, n))  # acknowledged, or dropped, while it was being written
            self._away = deque(entry for entry in self._away if entry.ticket not in gone)
            self._changed.notify_all()
        if gone:
            self._work.set()

    def _account(self, dropped: list[Dropped], written: bool = False) -> None:
        for one in dropped:
            with self._changed:
                known = self._count_dropped(one)
                self._changed.notify_all()
            if known:
                self._notices.add(one.reason, f"{known} messages of class {one.kind} were dropped: {_WHY[one.reason]}")

    def _count_dropped(self, one: Dropped) -> int:
        if one.next:
            self._backlog -= one.waiting
            for entry in (*self._in_flight.values(), *self._lanes[1]):
                if entry.place is not None and entry.place[0] == one.kind and one.first <= entry.place[1] < one.next:
                    entry.place = None  # live still; only its copy is gone
        self._lose(one.kind, one.reason, one.waiting)
        return one.waiting

    def _settle(self, store: Store) -> None:
        """Tell the disk what the broker has."""
        with self._changed:
            acks, self._acks = self._acks, []
        for kind, n in acks:
            store.ack(kind, n)
        if acks or store.acks_wait:
            store.write_acks()
            for name in store.tidy(self._options.segment_bytes // 4 if self._always else 0):
                self._notices.add("spool_set_aside", f"a file of the spool was set aside: {name}")
            if store.dirty and self._unsynced_ns is None:
                self._unsynced_ns = self._clock.mono_ns()

    def _read_ahead(self, store: Store) -> None:
        with self._changed:
            wanted = _AHEAD - len(self._ahead) if self._window and self._backlog else 0
            live_from = dict(self._live_from)
        if wanted < _AHEAD // 2:
            return
        records, lost = store.read(wanted, live_from)
        now_ms = self._now_ms()
        with self._changed:
            self._backlog -= len(records) + lost
            if lost:
                self._lose(None, "damaged", lost)
            for kind, record in records:
                if store.is_expired(record, now_ms):
                    self._lose(kind, "expired", 1)
                    self._acks.append((kind, record.n))
                    continue
                self._ticket += 1
                entry = Entry(self._ticket, _replay(kind, record), 0, (kind, record.n))
                self._ahead.append(entry)
                self._bytes += entry.message.weight
            self._changed.notify_all()
        if lost:
            self._notices.add("spool_damaged", f"{lost} spooled messages were damaged and are lost")
        self._nudge()

    def _write_mark(self, store: Store) -> None:
        with self._changed:
            certain = self._certain()
        store.write_mark(Mark(self._run, certain, clean=False))

    def _certain(self) -> int | None:
        """Up to which number every result is acknowledged, on disk, or counted as dropped."""
        if not self._uncertain:
            return self._highest
        first = next(iter(self._uncertain))
        return first - 1 if first > 0 else None

    def _break(self, error: Exception) -> None:
        """The disk does not do: on in memory, and once more in a while."""
        store, self._store = self._store, None
        self._retry_ns = self._clock.mono_ns() + _RETRY_NS
        self._unsynced_ns = None
        self._notices.fail(error)
        if store is not None:
            with self._changed:
                self._recount(store)
            store.abandon()
        self._nudge()

    def _recount(self, store: Store) -> None:
        """What a folder taken anew will say is forgotten: it counts its messages, and gives those again that are here.

        Called with the lock.
        """
        self._put -= self._backlog
        self._backlog = 0
        for entry in list(self._ahead):
            self._put -= 1
            self._bytes -= entry.message.weight
        self._ahead.clear()
        for entry in (*self._in_flight.values(), *self._lanes[1]):
            entry.place = None
        self._live_from = dict.fromkeys(KINDS, _END)
        self._acks.clear()
        self._changed.notify_all()

    def _end(self) -> None:
        """The last turn: everything written, synced, and said to be so."""
        store = self._store
        if store is None:
            return
        try:
            self._write(store, self._clock.mono_ns())
            self._settle(store)
            with self._changed:
                certain = self._certain()
            store.sync()
            store.write_mark(Mark(self._run, certain, clean=True), sync=True)
            store.close()
        except (OSError, EdgerunError) as error:
            self._notices.fail(error)
            store.abandon()

    def _absolve(self, entry: Entry) -> None:
        """Read again from the disk it will be nobody's suspect."""
        if entry.tries >= 2:
            self._suspects -= 1

    def _forget_number(self, message: Message) -> None:
        if message.number is not None:
            self._uncertain.pop(message.number, None)

    def _lose(self, kind: Kind | None, reason: str, count: int) -> None:
        self._dropped[reason] += count
        if kind is not None:
            self._lost[kind] += count

    def _now_ms(self, entry: Entry | None = None, now_ns: int = 0) -> int:
        waited_ms = 0 if entry is None else (now_ns - entry.put_ns) // 1_000_000
        return max(0, round(self._clock.unix_s() * 1000) - waited_ms)


_WHY = {
    "spool_full": "the spool is at its bound",
    "disk_full": "the disk is full",
    "expired": "older than max_age",
}


def _replay(kind: Kind, record: Record) -> Message:
    """The stored message with `"replayed":true` put in front of a JSON object's members."""
    payload = record.payload
    if payload[:1] == b"{":
        rest = payload[1:]
        comma = b"" if rest.lstrip()[:1] == b"}" else b","
        payload = b'{"replayed":true' + comma + rest
    return Message(record.topic, payload, qos=1, keep=kind)
