"""The queue in front of the network with a disk behind it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from edgerun.broker.message import Kind, Message
from edgerun.broker.outgoing import Entry
from edgerun.clock import Clock
from edgerun.errors import DeviceError, EdgerunError
from edgerun.spool.files import Files
from edgerun.spool.lanes import AHEAD, BATCH, Lanes, as_replayed
from edgerun.spool.notices import Notice
from edgerun.spool.options import SpoolOptions
from edgerun.spool.stats import SpoolStats
from edgerun.spool.store import Dropped, Mark, New, Reason, Store

_log = logging.getLogger(__name__)

_LATE_NS = 1_000_000_000  # "outage": live messages are written when the oldest has waited this long for its PUBACK
_TURN_NS = 1_000_000_000
_MARK_NS = 1_000_000_000
_ACKS_NS = 20_000_000
_LOOK_NS = 100_000_000
_ROOM_NS = 10_000_000_000
_GATHER_S = 0.02  # a flood is written in batches; a kill takes at most this and the time of one write


class Spool(Lanes):
    """`Outgoing` whose messages of a class (`Message.keep`) outlive an outage, a restart, a kill and a power cut.

    A message is *live* or belongs to the *backlog*. Live: put while there was a link, in memory, and on disk as well
    with durability "always" or once the oldest unacknowledged is a second old. Backlog: everything else, on disk. It is
    read ahead a little, in its order, and sent behind live messages, marked as replayed, at most `replay_rate` a second
    and with at most half of the window of unacknowledged messages, so that a live one always finds room. A link that is
    lost makes a backlog of what was live.

    All disk work is done by one thread, "spool": neither whoever publishes nor the thread "mqtt" waits for a disk that
    stalls. (With "always", whoever publishes waits for its message's write, a quarter of a second at most, and not
    again until the disk answers.) What the disk refuses stays in memory within the bounds of `Outgoing`, is told, and
    is written as soon as the disk takes it; live messages go on meanwhile.
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
        super().__init__(options, max_messages, max_bytes)
        self._clock, self._run, self._files = clock, run, files
        self._store: Store | None = None
        self._thread: threading.Thread | None = None
        self._ending, self._tried = threading.Event(), threading.Event()
        self._retry_after_ns = round(options.retry_s * 1e9)
        self._size = 0
        self._unsynced_ns: int | None = None
        self._no_copies_until_ns = self._say_ns = 0
        self._turned_ns = now_ns = clock.mono_ns()
        self._mark_ns = self._room_ns = self._acks_ns = self._retry_ns = now_ns

    def start(self, nudge: Callable[[], None]) -> None:
        """Start the thread, which opens the folder. Idempotent. Until it is open messages wait in memory."""
        self._nudge = nudge
        if self._thread is None:
            self._disk = "opening"
            self._thread = threading.Thread(target=self._run_thread, name="spool", daemon=True)
            self._thread.start()

    def drop_waiting(self) -> int:
        """The end of the process: what the disk has is kept. Returns how many of the others were to be kept and are
        lost, counted as `stopped`; what only holds while it runs (states, answers) is `unsaid`: the next start says it.
        """
        thread = self._thread
        if thread is None:
            return super().drop_waiting()
        self.rewind()
        self._ending.set()
        self._work.set()
        self._hurry.set()
        thread.join(self._options.close_s)
        if thread.is_alive():
            _log.error("%s: the disk does not answer; what it was not given yet is lost", self._options.folder)
        with self._changed:
            left = [*self._lanes[1], *self._away, *self._ahead]
            in_memory = [entry for entry in left if entry.place is None]
            lost = sum(entry.message.keep is not None for entry in in_memory)
            self._backlog += len(left) - len(in_memory)
            for lane in (self._lanes[1], self._away, self._ahead):
                lane.clear()
            self._bytes = self._away_bytes = 0
            for reason, count in (("stopped", lost), ("unsaid", len(in_memory) - lost)):
                if count:
                    self._dropped[reason] += count
            if self._backlog:
                _log.info("%s: %d messages wait there for the next start", self._options.folder, self._backlog)
            self._changed.notify_all()
        self._notices.tell_losses()
        return lost

    def spool_stats(self) -> SpoolStats:
        """Thread-safe."""
        with self._changed:
            waiting = self._backlog + len(self._ahead) + len(self._away) + self._replaying
            lost = {kind: n for kind, n in self._lost.items() if n}
            return SpoolStats(waiting, self._size, lost, self._replayed, self._notices.broken)

    def take_notices(self, *, last: bool = False) -> list[Notice]:
        """What an operator wants to know of since the last call: each is an event to publish. `last`: what would be
        told together with the losses of the next seconds, too. Thread-safe.
        """
        return self._notices.take(self._clock.mono_ns(), last=last)

    def wait_tried(self, timeout_s: float) -> bool:
        """Whether the folder was opened, or refused, within that time: `take_notices` then knows of the run before."""
        return self._tried.wait(timeout_s)

    @property
    def keeps(self) -> bool:
        """Whether the folder is open and takes what is given to it."""
        with self._changed:
            return self._store is not None and self._notices.broken is None

    @property
    def turned_ns(self) -> int:
        """When the thread "spool" was last seen at work (monotonic ns): it turns at least once a second."""
        return self._turned_ns

    def _run_thread(self) -> None:
        while not self._ending.is_set():
            self._turned_ns = now_ns = self._clock.mono_ns()
            try:
                self._turn(now_ns)
            except (OSError, EdgerunError) as error:
                self._break(error)
            except Exception as error:  # noqa: BLE001  a thread's body; memory takes over
                _log.debug("in the thread spool", exc_info=True)
                self._break(error)
            self._tried.set()
            if self._work.wait(self._wait_s(now_ns)) and not self._always:
                self._hurry.wait(_GATHER_S)
            self._work.clear()
            self._hurry.clear()
        self._end()

    def _wait_s(self, now_ns: int) -> float:
        """Until something is due, a second at most."""
        due_ns = now_ns + _TURN_NS
        with self._changed:
            if self._unsynced_ns is not None:
                due_ns = min(due_ns, self._unsynced_ns + self._options.sync_ms * 1_000_000)
            if self._acks:
                due_ns = min(due_ns, self._acks_ns)
            elif self._store is not None and self._store.acks_wait:
                due_ns = min(due_ns, max(self._acks_ns, self._say_ns))
            if self._store is not None and not self._always and (live := self._live()):
                due_ns = min(due_ns, max(live[0].put_ns + _LATE_NS, now_ns + _LOOK_NS))
        return max(0.0, (due_ns - self._clock.mono_ns()) / 1e9)

    def _turn(self, now_ns: int) -> None:
        store = self._store
        if store is None:
            if self._notices.broken is not None and now_ns < self._retry_ns:
                return
            store = self._open()
        self._write(store, now_ns)
        if now_ns >= self._acks_ns or len(self._acks) >= BATCH:
            self._acks_ns = now_ns + _ACKS_NS
            self._settle(store)
        if self._unsynced_ns is not None and now_ns - self._unsynced_ns >= self._options.sync_ms * 1_000_000:
            self._sync(store)
        if now_ns >= self._room_ns:
            self._room_ns = now_ns + _ROOM_NS
            dropped: list[Dropped] = []
            try:
                store.make_room(self._unix_ms(), self._release, dropped)
            finally:
                self._account(dropped)
        self._read_ahead(store)
        if now_ns >= self._mark_ns:
            self._mark_ns = now_ns + _MARK_NS
            with self._changed:
                certain = self._certain()
            store.write_mark(Mark(self._run, certain, clean=False))
        if self._unsynced_ns is None and not store.dirty:  # what was to be written is, and synced
            self._notices.mend()
        with self._changed:
            self._size = store.size

    def _open(self) -> Store:
        store = Store(self._options, self._files)
        try:
            found = store.open()
        except DeviceError:
            raise
        except OSError as error:
            raise DeviceError(
                "the spool's folder cannot be used",
                where=error.filename or self._options.folder,
                got=error.strerror or str(error),
                remedy="make it, and all in it, writable for edgerun's user, or name another place in STATE_DIRECTORY",
            ) from error
        with self._changed:
            self._store = store
            self._disk = "works"
            self._put += found.messages
            self._backlog += found.messages
        self._notices.tell_found(found, self._run)
        self._nudge()
        return store

    def _write(self, store: Store, now_ns: int) -> None:
        """Everything that has to be on disk by now."""
        while True:
            with self._changed:
                batch = self._to_write(now_ns)
            if not batch:
                return
            news = []
            for entry in batch:
                assert entry.message.keep is not None
                waited_ms = (now_ns - entry.put_ns) // 1_000_000
                unix_ms = max(0, self._unix_ms() - waited_ms)
                news.append(New(entry.message.keep, entry.message.topic, entry.message.payload, unix_ms))
            places, dropped, error = store.append(news, self._release)
            if self._unsynced_ns is None:
                self._unsynced_ns = now_ns
            self._account(dropped)
            if self._options.sync_ms == 0 and error is None:
                self._sync(store)
            self._place(batch, places, now_ns)
            self._nudge()
            if error is not None:
                raise error

    def _to_write(self, now_ns: int) -> list[Entry]:
        """Called with the lock."""
        if self._away:
            return [self._away[i] for i in range(min(BATCH, len(self._away)))]
        live = self._live()
        if not live or now_ns < self._no_copies_until_ns:
            return []
        if not self._always and not self._is_pressed() and now_ns - live[0].put_ns < _LATE_NS:
            return []
        # Copies stand in their order: one whose file had to go is not written again behind newer ones.
        copied = {entry.message.keep: entry.ticket for entry in live if entry.place is not None}
        return [e for e in live if e.place is None and e.ticket > copied.get(e.message.keep, 0)][:BATCH]

    def _place(self, batch: Sequence[Entry], places: Sequence[int | Reason], now_ns: int) -> None:
        """`batch` is on disk as far as `places` goes: who is still here learns it, who is done with is told so."""
        with self._changed:
            self._stalled = self._no_copies = False
            lasting = {entry.ticket for entry in self._lanes[1]}
            away = {entry.ticket for entry in self._away}
            for entry, place in zip(batch, places, strict=False):
                kind = entry.message.keep
                assert kind is not None
                if isinstance(place, int):
                    self._forget_number(entry.message)
                    entry.place = (kind, place)
                is_away = entry.ticket in away
                away.discard(entry.ticket)
                if not is_away and entry.ticket not in lasting and entry.ticket not in self._in_flight:
                    if isinstance(place, int):  # acknowledged, or dropped, while it was being written
                        self._acks.append((kind, place))
                elif not isinstance(place, int):
                    self._no_copies_until_ns, self._no_copies = now_ns + self._retry_after_ns, True
                    if is_away:
                        self._lose(entry, place)
                elif is_away:
                    self._backlog += 1
                    self._absolve(entry)
                else:
                    self._live_from[kind] = min(self._live_from[kind], place)
            kept = [entry for entry in self._away if entry.ticket in away]
            self._away.clear()
            self._away.extend(kept)
            self._away_bytes = sum(entry.message.weight for entry in kept)
            self._changed.notify_all()

    def _release(self, kind: Kind, first: int, behind: int) -> int:
        """Their file is about to go. What of it is acknowledged, or in memory, is not lost with it."""
        assert self._store is not None
        with self._changed:
            for place in self._uncopy(kind, first, behind):
                self._store.ack(*place)
            return self._live_from[kind]

    def _account(self, dropped: Sequence[Dropped]) -> None:
        for one in dropped:
            if one.waiting:
                with self._changed:
                    self._backlog -= one.waiting
                    self._count_lost(one.kind, one.reason, one.waiting)
                    self._changed.notify_all()

    def _settle(self, store: Store) -> None:
        """Tell the disk what the broker has."""
        with self._changed:
            acks, self._acks = self._acks, []
        for kind, n in acks:
            store.ack(kind, n)
        now_ns = self._clock.mono_ns()
        if acks or store.acks_wait:
            if now_ns >= self._say_ns or self._ending.is_set():
                store.write_acks()
                if store.acks_wait:  # the disk is full
                    self._say_ns = now_ns + self._retry_after_ns
            self._notices.tell_aside(store.tidy(self._options.segment_bytes // 4 if self._always else 0))
            if store.dirty and self._unsynced_ns is None:
                self._unsynced_ns = self._clock.mono_ns()

    def _sync(self, store: Store) -> None:
        store.sync()
        self._unsynced_ns = None

    def _read_ahead(self, store: Store) -> None:
        with self._changed:
            wanted = AHEAD - len(self._ahead) if self._window and self._backlog else 0
            if wanted < AHEAD // 2:
                return
            live_from = dict(self._live_from)
            acks, self._acks = self._acks, []
        for kind, n in acks:  # what the broker has is not read: of a link that is lost already it may be unsaid still
            store.ack(kind, n)
        records, lost = store.read(wanted, live_from)
        now_ms = self._unix_ms()
        with self._changed:
            in_memory = {entry.place for entry in self._live()}
            acked = set(self._acks)
            for kind, record in records:
                place = (kind, record.n)
                if place in acked:
                    continue
                if place in in_memory:
                    self._overtaken.add(place)
                    continue
                self._backlog -= 1
                if store.is_expired(record, now_ms):
                    self._count_lost(kind, "expired", 1)
                    self._acks.append(place)
                    continue
                self._ticket += 1
                message = as_replayed(Message(record.topic, record.payload, qos=1, keep=kind))
                self._ahead.append(Entry(self._ticket, message, 0, place))
                self._bytes += message.weight
            self._backlog -= lost
            self._count_lost(None, "damaged", lost)
            self._changed.notify_all()
        if lost:
            self._notices.add("spool_damaged", f"{lost} spooled messages were damaged and are lost")
        self._nudge()

    def _break(self, error: Exception) -> None:
        """The disk does not do: on in memory, and once more in a while. A folder taken anew counts its messages anew,
        and gives those again that are here.
        """
        store, self._store = self._store, None
        self._retry_ns = self._clock.mono_ns() + self._retry_after_ns
        self._unsynced_ns = None
        self._notices.fail(error)
        with self._changed:
            self._lose_disk()
            self._changed.notify_all()
        if store is not None:
            store.abandon()
        self._nudge()

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

    def _unix_ms(self) -> int:
        return max(0, round(self._clock.unix_s() * 1000))
