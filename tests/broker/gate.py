"""A TCP relay in front of a broker, for what mosquitto cannot be told to do: be old, be deaf, cut the line."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

# CONNACK packets (MQTT 5.0, 3.2; MQTT 3.1.1, 3.2).
REFUSED_BY_5 = b"\x20\x03\x00\x84\x00"
REFUSED_BY_3_1_1 = b"\x20\x02\x00\x01"
HANG_UP = b""
TAKEN_OVER = b"\xe0\x02\x8e\x00"  # DISCONNECT (MQTT 5.0, 3.14)


class Gate:
    """Relays to `port`. With `old` set, a CONNECT of MQTT 5 gets that answer and the connection is closed."""

    def __init__(self, port: int, old: bytes | None = None, hang_up_after_connack: bool = False) -> None:
        self._target, self.old, self._hang_up = port, old, hang_up_after_connack
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.versions: list[int] = []
        """The protocol level of every CONNECT that came."""
        self.deaf = threading.Event()
        """While set, nothing that the broker says reaches the client."""
        self.locked = threading.Event()
        """While set, whoever comes is turned away."""
        self._open: set[socket.socket] = {self._listener}
        self._clients: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="gate")]
        self._threads[0].start()

    def cut(self) -> None:
        """End every connection there is."""
        for sock in list(self._open):
            if sock is not self._listener:
                _shut(sock)

    def say(self, packet: bytes) -> None:
        """Bytes of our own to every client, as if from the broker."""
        for sock in list(self._clients):
            sock.sendall(packet)

    def close(self) -> None:
        _shut(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            if self.locked.is_set():
                _shut(client)
                continue
            thread = threading.Thread(target=self._relay, args=(client,), name="gate")
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            hello = client.recv(65536)
            if not hello:  # cut, or gone, before it said anything
                _shut(client)
                return
            # 0x10, remaining length (1 byte here or 2), 0x0004 "MQTT", protocol level
            self.versions.append(hello[hello.index(b"MQTT") + 4])
            if self.old is not None and self.versions[-1] == 5:
                client.sendall(self.old)
                _shut(client)
                return
            broker = socket.create_connection(("127.0.0.1", self._target))
            self._open.add(broker)
            self._clients.add(client)
            broker.sendall(hello)
            upward = threading.Thread(target=self._pump, args=(client, broker), name="gate")
            self._threads.append(upward)
            upward.start()
            if self._hang_up:
                client.sendall(broker.recv(4))
                _shut(client)
                _shut(broker)
                return
            self._pump(broker, client, heed=True)

    def _pump(self, source: socket.socket, sink: socket.socket, heed: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (heed and self.deaf.is_set()):
                    sink.sendall(data)
        self._clients -= {source, sink}
        _shut(sink)
        _shut(source)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def gate(port: int, old: bytes | None = None, hang_up_after_connack: bool = False) -> Iterator[Gate]:
    made = Gate(port, old, hang_up_after_connack)
    try:
        yield made
    finally:
        made.close()
