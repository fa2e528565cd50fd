"""A broker of a few lines, for what no real one does: it answers CONNECT with any bytes, and never acknowledges."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

ACCEPTED_5 = b"\x20\x03\x00\x00\x00"
ACCEPTED_3_1_1 = b"\x20\x02\x00\x00"
_MQTT_5 = 5


def refused(level: int, code: int) -> bytes:
    """CONNACK (MQTT 5.0, 3.2; MQTT 3.1.1, 3.2), of 5 without properties."""
    return bytes([0x20, 0x03, 0x00, code, 0x00]) if level == _MQTT_5 else bytes([0x20, 0x02, 0x00, code])


class Server:
    """`answer(level)` is sent for a CONNECT of that protocol level; with `hang_up` the connection is then closed."""

    def __init__(self, answer: Callable[[int], bytes], hang_up: bool) -> None:
        self._answer, self._hang_up = answer, hang_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.levels: list[int] = []
        """The protocol level of every CONNECT that came."""
        self.swallowed = 0
        """Bytes that came behind it."""
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="server")]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,), name="server")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            hello = client.recv(65536)
            if b"MQTT" not in hello:
                return
            self.levels.append(hello[hello.index(b"MQTT") + 4])
            client.sendall(self._answer(self.levels[-1]))
            while not self._hang_up and (data := client.recv(65536)):
                self.swallowed += len(data)

    def close(self) -> None:
        for sock in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@contextlib.contextmanager
def server(answer: Callable[[int], bytes], *, hang_up: bool = True) -> Iterator[Server]:
    made = Server(answer, hang_up)
    try:
        yield made
    finally:
        made.close()


def deaf(level: int) -> bytes:
    """Accepts."""
    return ACCEPTED_5 if level == _MQTT_5 else ACCEPTED_3_1_1
