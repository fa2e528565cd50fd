"""The connection that others hold: it never blocks them and never gives up."""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from edgerun.broker import ending as endings
from edgerun.broker.complaints import Complaints
from edgerun.broker.ending import Cause, Ending
from edgerun.broker.inboxes import Inboxes
from edgerun.broker.link import Link
from edgerun.broker.message import Kind, Message, check_topic
from edgerun.broker.options import Address, BrokerOptions
from edgerun.broker.outgoing import Outgoing
from edgerun.broker.paho import load_paho
from edgerun.broker.reconnect import MQTT_5, Route
from edgerun.broker.session import Session
from edgerun.broker.stats import ConnectionStats
from edgerun.broker.tls import tls_context, uses_tls
from edgerun.clock import Clock
from edgerun.errors import BrokerError, ConfigError, StageError
from edgerun.ports import Incoming
from edgerun.slot import Slot

_log = logging.getLogger("edgerun.broker")

_TICK_S = 1.0
_JOIN_GRACE_S = 0.5


class Connection:
    """The one MQTT connection of this process (`ports.Broker`), with a thread of its own, "mqtt".

    `birth` gives the messages that follow `online` after every accepted CONNACK; it is called in the thread "mqtt" and
    must return quickly. Everything else here may be called from any thread. Raises `ConfigError` for a bad address.
    """

    def __init__(
        self,
        options: BrokerOptions,
        clock: Clock,
        *,
        birth: Callable[[], Sequence[Message]] = tuple,
        outgoing: Outgoing | None = None,
    ) -> None:
        self._options, self._clock, self._birth = options, clock, birth
        self._outgoing = outgoing or Outgoing(options.queue_max, options.queue_max_bytes)
        self._route = Route(options)
        self._complaints = Complaints()
        self._inboxes = Inboxes()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._stop_at_ns = 0
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._hungry = False
        self._link: Link | None = None
        self._session: Session | None = None
        self._last_error: BrokerError | None = None
        self._retry_at_ns: int | None = None
        self._sent = self._accepts = self._resent = 0
        self._turned_ns = clock.mono_ns()
        self._acks: deque[tuple[int, int]] = deque()
        self._taken_over = False

    @property
    def _address(self) -> Address:
        return self._route.address

    @property
    def turned_ns(self) -> int:
        """When the thread "mqtt" was last seen at work (monotonic ns): at least once a second while there is a link,
        and otherwise with every attempt, of which one may take three times `connect_timeout_s` behind its back-off.
        """
        return self._turned_ns

    @property
    def connected(self) -> bool:
        """Whether a CONNACK was accepted and the link has not been seen to fail since."""
        return self._session is not None

    @property
    def last_error(self) -> BrokerError | None:
        """Why there is no link; None while there is one, and before the first attempt has failed."""
        with self._lock:
            return self._last_error

    @property
    def taken_over(self) -> bool:
        """Whether the last link ended because another client has the same id: see `last_error`."""
        with self._lock:
            return self._taken_over

    def ack(self, incoming: Incoming) -> None:
        """Tell the broker that `incoming` is done with, where `receive_max` leaves that to us. Never blocks."""
        if incoming.packet is not None:
            self._acks.append(incoming.packet)
            self._nudge()

    def start(self) -> None:
        """Start connecting, in the background and for ever.

        Raises `MissingError` without paho, `ConfigError` when a certificate or the password cannot be read.
        """
        load_paho()
        if uses_tls(self._options):
            tls_context(self._options)
        if self._options.password is not None:
            self._options.password.reveal()
        self._outgoing.start(self._nudge)
        self._start_thread()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation: bytes | None = None,
        keep: Kind | None = None,
        number: int | None = None,
        expires_s: int | None = None,
        response_topic: str | None = None,
    ) -> None:
        """Queue one message; never blocks. While the link is down QoS 1 waits and QoS 0 is dropped, both counted.

        `keep`: with a spool, it is stored under this class until the broker has it, and published with QoS 1; `number`,
        `expires_s` and `response_topic`: see `Message`.

        QoS 2 is not offered: results carry ids, and consumers drop duplicates by them. Raises `ValueError` for a topic
        that cannot be published to.
        """
        check_topic(topic)
        if qos not in (0, 1):
            raise ValueError(f"QoS is 0 or 1; got {qos}")
        if keep is not None:
            qos = 1
        message = Message(topic, payload, qos, retain, correlation, keep, number, expires_s, response_topic)
        if self._stop.is_set():
            self._outgoing.refuse("stopped")
            return
        if qos == 0 and self._session is None:
            self._outgoing.refuse("offline")
        else:
            self._outgoing.put(message, self._clock.mono_ns())
        self._nudge()
        if self._thread is not None and not self._thread.is_alive():
            self._revive()

    def flush(self, timeout_s: float) -> bool:
        """Wait until every QoS 1 message so far is acknowledged (or counted as dropped); False when time ran out."""
        return self._outgoing.wait_acked(timeout_s)

    def subscribe(self, topic_filter: str, inbox: Slot[Incoming], qos: int = 1, *, as_published: bool = False) -> None:
        """Messages that match go to `inbox`, now and after every reconnect, until the inbox is closed.

        `as_published`: see `ports.Broker`. Whoever made the inbox drains it, in a thread of its own: no handler ever
        runs in the thread "mqtt". When the inbox is full its oldest message gives way, counted in its `stats()`.
        """
        self._inboxes.add(topic_filter, inbox, qos, as_published=as_published)
        self._wake()

    def stats(self) -> ConnectionStats:
        now_ns, outgoing = self._clock.mono_ns(), self._outgoing.stats()
        with self._lock:
            session, link, retry_at_ns, accepts = self._session, self._link, self._retry_at_ns, self._accepts
            sent = self._sent + (session.sent if session else 0)
        oldest_ns = outgoing.oldest_unacked_ns
        return ConnectionStats(
            connected=session is not None,
            protocol=_version(link) if session is not None and link is not None else None,
            queued=outgoing.put,
            sent=sent,
            sent0=outgoing.sent0,
            acked=outgoing.acked,
            dropped=dict(outgoing.dropped),
            waiting=outgoing.waiting,
            in_flight=outgoing.in_flight,
            waiting_bytes=outgoing.waiting_bytes,
            reconnects=max(0, accepts - 1),
            resent=self._resent,
            oldest_unacked_s=None if oldest_ns is None else (now_ns - oldest_ns) / 1e9,
            retry_in_s=None if retry_at_ns is None else max(0.0, (retry_at_ns - now_ns) / 1e9),
            broker=str(self._address),
        )

    def stop(self, timeout_s: float) -> None:
        """Publish `offline`, disconnect, end the thread. Idempotent. What still waits is dropped: `flush` first.

        When the broker does not acknowledge `offline` in time the link is cut without a DISCONNECT, so that the will
        says it. Raises `StageError` when the thread hangs; one still connecting holds nothing and ends by itself.
        """
        self._stop_at_ns = self._clock.mono_ns() + round(timeout_s * 1e9)
        self._stop.set()
        self._wake()
        thread = self._thread
        if thread is None:
            self._close_wake()
        else:
            thread.join(timeout_s + _JOIN_GRACE_S)
            if thread.is_alive() and self._link is not None:
                raise StageError("the thread 'mqtt' does not stop", expected=f"its end within {timeout_s:g} s")
            if thread.is_alive():
                _log.info("%s: left in mid-attempt, which ends with its connect time-out", self._address)
        left = self._outgoing.drop_waiting()
        if left:
            _log.warning("%s: %d messages were not sent before the stop and are lost", self._address, left)

    def _nudge(self) -> None:
        """There may be something to send."""
        if self._hungry:
            self._wake()

    def _wake(self) -> None:
        """Get the thread "mqtt" out of its wait. A full or closed pipe means that it is awake, or gone, anyway."""
        self._hungry = False
        try:
            self._wake_in.send(b"\0")
        except OSError as error:
            _log.debug("waking the thread mqtt: %s", error)

    def _close_wake(self) -> None:
        self._wake_in.close()
        self._wake_out.close()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        thread.start()
        self._thread = thread  # not before it is alive: a publisher would take it for one that was killed

    def _revive(self) -> None:
        """The thread does not end before `stop`; should it have been killed all the same, the next publisher sees."""
        with self._lock:
            if self._stop.is_set() or self._thread is None or self._thread.is_alive():
                return
            _log.error("the thread 'mqtt' died and is started again")
            self._start_thread()

    def _run(self) -> None:
        self._end_link(blame=False)  # of a thread that was killed
        while not self._stop.is_set():
            try:
                ending = self._live()
            except Exception as error:  # noqa: BLE001  a thread's body
                _log.debug("in the thread mqtt", exc_info=True)
                ending = endings.fault(self._address, error)
            now_ns = self._clock.mono_ns()
            self._turned_ns = now_ns
            session = self._session
            served_s = None if session is None else (now_ns - session.began_ns) / 1e9
            # A broker that has acknowledged nothing on this link has other troubles than one message.
            self._end_link(blame=ending.blames and session is not None and session.acked > 0)
            plan = self._route.after(ending, served_s, suspicious=self._outgoing.cautious)
            stopped = self._stop.is_set()
            if not stopped:
                self._complaints.ended(plan.ending, plan.delay_s, now_ns)
            with self._lock:
                self._taken_over = plan.ending.cause is Cause.TAKEN
                self._last_error = plan.ending.error if ending.cause is not Cause.STOPPED else None
                self._retry_at_ns = now_ns + round(plan.delay_s * 1e9)
            if not stopped:
                self._clock.wait(self._stop, plan.delay_s)
            self._retry_at_ns = None
        self._close_wake()

    def _end_link(self, *, blame: bool) -> None:
        with self._lock:
            session, self._session = self._session, None
            link, self._link = self._link, None
            self._sent += session.sent if session else 0
        if link is not None:
            link.close()
        self._resent += self._outgoing.rewind(blame)

    def _live(self) -> Ending:
        """One link, from connecting to its end."""
        try:
            link = Link(self._options, self._address, self._route.protocol, self._wake_out.fileno())
        except (OSError, ConfigError) as error:
            return endings.cannot_connect(self._options, self._address, error)
        self._link = link
        return self._accept(link) or self._serve(link)

    def _accept(self, link: Link) -> Ending | None:
        """Wait for the CONNACK and set up the session. None when accepted."""
        asked_ns = self._clock.mono_ns()
        timeout_ns = round(self._options.connect_timeout_s * 1e9)
        while link.accepted is None:
            now_ns = self._clock.mono_ns()
            if link.ending is not None:
                return link.ending
            if self._stop.is_set():
                return endings.stopped(self._address)
            if now_ns - asked_ns > timeout_ns:
                return endings.no_connack(self._options, self._address)
            self._step(link, (asked_ns + timeout_ns - now_ns) / 1e9, now_ns)
        if link.ending is not None:
            return link.ending
        now_ns = self._clock.mono_ns()
        self._inboxes.ask_all()
        session = Session(
            link, link.accepted, self._options, self._outgoing, self._complaints, self._birth_messages(), now_ns
        )
        self._outgoing.opened(session.window)
        self._complaints.connected()
        with self._lock:
            self._session = session
            self._accepts += 1
            self._last_error = None
        level = logging.INFO if link.protocol == MQTT_5 else logging.WARNING
        _log.log(level, "%s: connected as %s, MQTT %s", self._address, self._options.client_id, _version(link))
        if self._route.stands_in:
            _log.warning("%s stands in for %s", self._address, ", ".join(map(str, self._route.others())))
        return None

    def _serve(self, link: Link) -> Ending:
        """An accepted link at work, until it ends or we stop."""
        session = self._session
        assert session is not None
        now_ns = self._clock.mono_ns()
        while link.ending is None:
            if self._stop.is_set() and self._goodbye(link, session, now_ns):
                return endings.stopped(self._address)
            if session.overdue(now_ns):
                got = f"no PUBACK for {self._options.ack_timeout_s:g} s"
                return endings.lost(self._address, got, hung_up=False)
            self._inboxes.ask(link)
            while self._acks:
                link.ack(self._acks.popleft())
            timeout_s = 0.0
            if not session.hand_over(now_ns):
                self._hungry = True  # from here on a publisher wakes us; what came just before is seen by has_more
                waits = bool(self._acks) or (self._inboxes.waits and link.ready)
                if not session.has_more(now_ns) and not waits:
                    timeout_s = _TICK_S if not self._stop.is_set() else (self._stop_at_ns - now_ns) / 1e9
                    due_ns = session.due_ns()
                    timeout_s = timeout_s if due_ns is None else min(timeout_s, (due_ns - now_ns) / 1e9)
            self._step(link, timeout_s, now_ns)
            self._hungry = False
            now_ns = self._clock.mono_ns()
            session.settle(now_ns)
            for incoming in link.incoming:
                for left in self._inboxes.deliver(msgspec.structs.replace(incoming, came_ns=now_ns)):
                    self.ack(left)
            link.incoming.clear()
        return link.ending

    def _step(self, link: Link, timeout_s: float, now_ns: int) -> None:
        self._turned_ns = now_ns
        if link.step(min(_TICK_S, timeout_s), now_ns):
            self._wake_out.recv(65536)

    def _goodbye(self, link: Link, session: Session, now_ns: int) -> bool:
        """`offline`, its PUBACK, DISCONNECT; True when said, or when there is no more time for it."""
        session.leave()
        if session.said_offline:
            link.disconnect()
            return True
        if now_ns < self._stop_at_ns:
            return False
        _log.warning("%s: the broker did not acknowledge `offline` in time; its will says it", self._address)
        return True

    def _birth_messages(self) -> Sequence[Message]:
        try:
            return self._birth()
        except Exception:  # noqa: BLE001  foreign code; without this every link would end here, for ever
            _log.exception("the birth messages cannot be made; the connection goes on without them")
            return ()


def _version(link: Link) -> str:
    return "5" if link.protocol == MQTT_5 else "3.1.1"
