"""One thread that serves every client: requests, and pictures that go on and on, each at its reader's own pace.

No client can hold anything up: sockets never block, a request has its deadline, a reader that takes nothing for a while
is cut off, and of a feed each reader gets the newest part when it has taken the one before.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

import msgspec

from edgerun.clock import Clock
from edgerun.errors import EdgerunError
from edgerun.wake import Wake
from edgerun.web.message import (
    MOST_BODY_BYTES,
    MOST_HEAD_BYTES,
    BadRequest,
    Request,
    Response,
    encode_head,
    read_request,
    text,
)

_log = logging.getLogger(__name__)

_SEND_BUFFER_BYTES = 131072  # a few pictures: what lies in it is older than what could be sent instead
_UNSENT_BYTES = 16384
_NO_FILES_NS = 1_000_000_000
_MOST_AT_ONCE = 65536


class Limits(msgspec.Struct, frozen=True):
    """What one server puts up with. `request_s`: until a request is there; `reader_s`: without taking anything;
    `answer_s`: until an answer that comes later is there.
    """

    connections: int = 128
    feeds: int = 64
    request_s: float = 10.0
    reader_s: float = 20.0
    answer_s: float = 15.0


class Feed(Protocol):
    """Something that goes on until its reader leaves. Used by the server's thread; `close` is called once."""

    content_type: str

    def take(self) -> bytes | None:
        """What to send next; None as long as there is nothing new: then the server asks again after every `wake`."""
        ...

    def close(self) -> None: ...


class Deferred:
    """An answer that another thread will give."""

    def __init__(self) -> None:
        self._answer: Response | None = None
        self._wake: Callable[[], None] = lambda: None

    def answer(self, response: Response) -> None:
        """Here it is; a second one is of no interest. Any thread."""
        if self._answer is None:
            self._answer = response
            self._wake()

    def attach(self, wake: Callable[[], None]) -> None:
        """`wake` is called when the answer is there."""
        self._wake = wake

    @property
    def ready(self) -> Response | None:
        """The answer, if it is there."""
        return self._answer


Answer = Response | Feed | Deferred
Site = Callable[[Request], Answer]
"""What answers the requests at one address, at once. Called by the server's thread. Raises `EdgerunError`."""


class Door(msgspec.Struct, frozen=True):
    """A listening socket, the server's from now on, and what answers there."""

    listener: socket.socket
    site: Site


class Server:
    """Answers at every door once it is started, on the thread "web".

    `tick` is called about every `tick_s` seconds by the same thread.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        clock: Clock,
        *,
        limits: Limits | None = None,
        tick: Callable[[], None] = lambda: None,
        tick_s: float = 5.0,
    ) -> None:
        self._clock, self._limits = clock, limits or Limits()
        self._tick, self._tick_ns = tick, round(tick_s * 1e9)
        self._next_tick_ns = clock.mono_ns()
        self._selector = selectors.DefaultSelector()
        self._wake = Wake()
        self._closing = False
        self._connections: set[_Connection] = set()
        self._listeners = {door.listener: door.site for door in doors}
        self._deaf_until_ns: int | None = None
        self._selector.register(self._wake, selectors.EVENT_READ)
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def ports(self) -> list[int]:
        """The port of each door."""
        return [int(listener.getsockname()[1]) for listener in self._listeners]

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def wake(self) -> None:
        """Look whether a feed or an answer has something new. Any thread."""
        self._wake.set()

    def close(self) -> None:
        """Answer no more and cut off whoever is still there. Idempotent."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._release()

    def _release(self) -> None:
        for connection in list(self._connections):
            self._drop(connection)
        for listener in self._listeners:
            listener.close()
        self._selector.close()
        self._wake.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException:  # noqa: BLE001  a thread's body: the page ends, what it is about goes on
            _log.exception("the status page is no longer served")

    def _turn(self) -> None:
        now_ns = self._clock.mono_ns()
        if now_ns >= self._next_tick_ns:
            self._next_tick_ns = now_ns + self._tick_ns
            self._tick()
        woken = False
        for key, events in self._selector.select(self._wait_s()):
            if key.fileobj is self._wake:
                self._wake.clear()
                woken = True
            elif isinstance(key.data, _Connection):
                self._serve(key.data, events)
            elif isinstance(key.fileobj, socket.socket):
                self._accept(key.fileobj)
        if woken:
            for connection in [one for one in self._connections if one.waits]:
                self._advance(connection)
        self._expire()

    def _wait_s(self) -> float:
        due_ns = min((one.deadline_ns for one in self._connections), default=self._next_tick_ns)
        if self._deaf_until_ns is not None:
            due_ns = min(due_ns, self._deaf_until_ns)
        return max(0.0, (min(due_ns, self._next_tick_ns) - self._clock.mono_ns()) / 1e9)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # out of file descriptors: the client waits in the kernel's queue until there is one
            _log.warning("the status page cannot take another client: %s", error.strerror or error)
            self._deaf_until_ns = self._clock.mono_ns() + _NO_FILES_NS
            for one in self._listeners:
                self._selector.unregister(one)
            return
        client.setblocking(False)
        if len(self._connections) >= self._limits.connections:
            self._make_room()
        if len(self._connections) >= self._limits.connections:
            with contextlib.suppress(OSError):
                client.send(_busy().encode())
            client.close()
            return
        deadline_ns = self._clock.mono_ns() + round(self._limits.request_s * 1e9)
        connection = _Connection(client, str(address[0]), self._listeners[listener], deadline_ns)
        self._connections.add(connection)
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _make_room(self) -> None:
        """Drop the client that has taken longest over its request: somebody who opens connections and says little in
        each keeps nobody else out.
        """
        still_asking = [one for one in self._connections if not one.asked]
        if still_asking:
            self._drop(min(still_asking, key=lambda one: one.deadline_ns))

    def _serve(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not self._receive(connection):
                self._drop(connection)
                return
            if events & selectors.EVENT_WRITE:
                self._advance(connection)
        except OSError:
            self._drop(connection)

    def _receive(self, connection: _Connection) -> bool:
        """Read what has come; whether the client is still there."""
        try:
            data = connection.socket.recv(_MOST_AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return True
        if not data:
            return False
        if connection.asked:  # one request a connection
            return True
        connection.received += data
        try:
            request = read_request(connection.received, connection.peer)
        except BadRequest as error:
            self._answer(connection, text(error.status, str(error)))
            return True
        if request is None:
            return len(connection.received) <= MOST_HEAD_BYTES + MOST_BODY_BYTES + 4
        connection.is_head = request.method == "HEAD"
        try:
            answer = connection.site(request)
        except EdgerunError as error:
            answer = text(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        self._answer(connection, answer)
        return True

    def _answer(self, connection: _Connection, answer: Answer) -> None:
        connection.asked, connection.received = True, bytearray()
        connection.deadline_ns = self._clock.mono_ns() + round(self._limits.reader_s * 1e9)
        if isinstance(answer, Response):
            connection.outgoing = memoryview(answer.encode(with_body=not connection.is_head))
        elif isinstance(answer, Deferred):
            connection.deferred = answer
            connection.deadline_ns = self._clock.mono_ns() + round(self._limits.answer_s * 1e9)
            answer.attach(self._wake.set)
        elif connection.is_head or sum(one.feed is not None for one in self._connections) >= self._limits.feeds:
            head = encode_head(HTTPStatus.OK, (), answer.content_type)
            answer.close()
            connection.outgoing = memoryview(head if connection.is_head else _busy().encode())
        else:
            connection.feed = answer
            _tune(connection.socket)
            head = encode_head(HTTPStatus.OK, (("Cache-Control", "no-store"),), answer.content_type)
            connection.outgoing = memoryview(head)
        self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        """Send as much as the client takes."""
        try:
            while self._fill(connection):
                sent = connection.socket.send(connection.outgoing)
                connection.outgoing = connection.outgoing[sent:]
                connection.deadline_ns = self._clock.mono_ns() + round(self._limits.reader_s * 1e9)
        except (BlockingIOError, InterruptedError):
            self._listen_for(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except OSError:
            self._drop(connection)
            return
        if connection.waits:
            self._listen_for(connection, selectors.EVENT_READ)
        else:
            self._drop(connection, politely=True)

    def _fill(self, connection: _Connection) -> bool:
        """Whether there is something to send now."""
        if connection.outgoing:
            return True
        if connection.deferred is not None and (response := connection.deferred.ready) is not None:
            connection.deferred = None
            connection.outgoing = memoryview(response.encode(with_body=not connection.is_head))
        elif connection.feed is not None:
            part = connection.feed.take()
            if part is not None:
                connection.outgoing = memoryview(part)
            else:  # it waits for us, not we for it
                connection.deadline_ns = _NEVER_NS
        return bool(connection.outgoing)

    def _listen_for(self, connection: _Connection, events: int) -> None:
        if connection.events != events:
            connection.events = events
            self._selector.modify(connection.socket, events, connection)

    def _expire(self) -> None:
        now_ns = self._clock.mono_ns()
        if self._deaf_until_ns is not None and now_ns >= self._deaf_until_ns:
            self._deaf_until_ns = None
            for listener in self._listeners:
                self._selector.register(listener, selectors.EVENT_READ)
        for connection in [one for one in self._connections if one.deadline_ns <= now_ns]:
            if connection.deferred is not None and connection.deferred.ready is None:
                connection.deferred = None
                self._answer(connection, text(HTTPStatus.GATEWAY_TIMEOUT, "there was no answer in time"))
            else:
                self._drop(connection)

    def _drop(self, connection: _Connection, *, politely: bool = False) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection.feed is not None:
            connection.feed.close()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        if politely:  # a close with unread bytes would reset the connection, and the answer with it
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)
                connection.socket.recv(_MOST_AT_ONCE)
        connection.socket.close()


_NEVER_NS = 1 << 62


class _Connection:
    __slots__ = (
        "asked", "deadline_ns", "deferred", "events", "feed", "is_head", "outgoing", "peer", "received", "site",
        "socket",
    )  # fmt: skip

    def __init__(self, client: socket.socket, peer: str, site: Site, deadline_ns: int) -> None:
        self.socket, self.peer, self.site, self.deadline_ns = client, peer, site, deadline_ns
        self.received = bytearray()
        self.outgoing = memoryview(b"")
        self.events = selectors.EVENT_READ
        self.asked = self.is_head = False
        self.feed: Feed | None = None
        self.deferred: Deferred | None = None

    @property
    def waits(self) -> bool:
        """Whether there may be more to send, later."""
        return not self.asked or bool(self.outgoing) or self.feed is not None or self.deferred is not None


def _tune(client: socket.socket) -> None:
    """Little is to lie in the kernel's buffers, where it grows old; a client that vanished is to be noticed."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _busy() -> Response:
    return text(HTTPStatus.SERVICE_UNAVAILABLE, "too many look at once; try again soon", ("Retry-After", "5"))
