"""A TCP relay in front of a broker that does to a line what lines do: delay, cut, half-close, swallow."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class Proxy:
    """Relays to `port`. Every fault can be set and lifted at any moment; `heal` lifts all."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.locked = threading.Event()
        """Whoever comes is turned away."""
        self._down_holed, self._up_holed = threading.Event(), threading.Event()
        self._delay_s = 0.0
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._never = threading.Event()
        self._start(self._accept)

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._open():
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                _shut(sock)

    def half_close(self) -> None:
        """The client reads the end of the stream; what it says still reaches the broker."""
        for client, _ in self._open():
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def swallow(self, *, up: bool = True, down: bool = True) -> None:
        """What is sent disappears, and no connection ends."""
        if up:
            self._up_holed.set()
        if down:
            self._down_holed.set()

    def delay(self, seconds: float) -> None:
        """Every packet, in each direction, waits so long."""
        self._delay_s = seconds

    def heal(self) -> None:
        """Connections from which something was swallowed end; a TCP that has lost bytes cannot go on."""
        holed = self._up_holed.is_set() or self._down_holed.is_set()
        self._up_holed.clear()
        self._down_holed.clear()
        self._delay_s = 0.0
        if holed:
            self.cut()
        self.locked.clear()

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        self._never.set()
        self.cut()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _open(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            return list(self._pairs)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.locked.is_set():
                client.close()
                continue
            try:
                broker = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            for sock in (client, broker):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add((client, broker))
            self._start(self._relay, client, broker)
            if self.locked.is_set():  # it came while the line was locked and cut
                _shut(client)
                _shut(broker)

    def _relay(self, client: socket.socket, broker: socket.socket) -> None:
        upward = threading.Thread(target=self._pump, args=(client, broker, self._up_holed), name="proxy")
        upward.start()
        self._pump(broker, client, self._down_holed)
        upward.join()
        with self._lock:
            self._pairs.discard((client, broker))
        client.close()
        broker.close()

    def _pump(self, source: socket.socket, sink: socket.socket, hole: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._delay_s:
                    self._never.wait(self._delay_s)
                if not hole.is_set():
                    sink.sendall(data)
        _shut(sink)
        _shut(source)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()
