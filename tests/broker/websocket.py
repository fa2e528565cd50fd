"""A WebSocket door (RFC 6455) in front of a plain broker: Debian's mosquitto has one only where the kernel has IPv6."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator

from tests.mosquitto import Authority

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("the end")
        data += more
    return data


def _greet(client: socket.socket) -> str:
    """The opening handshake; returns the path that was asked for."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += _exactly(client, 1)
    lines = head.decode("ascii").split("\r\n")
    fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    assert "mqtt" in fields["sec-websocket-protocol"]
    accept = base64.b64encode(hashlib.sha1(fields["sec-websocket-key"].encode() + _GUID).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    return lines[0].split()[1]


def _read_frame(client: socket.socket) -> bytes:
    first, second = _exactly(client, 2)
    assert first == 0x82, "one binary frame each"
    assert second & 0x80, "a client masks"
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(_exactly(client, 2 if length == 126 else 8), "big")
    mask, data = _exactly(client, 4), _exactly(client, length)
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def _frame(data: bytes) -> bytes:
    length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
    return b"\x82" + length + data


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(4096)
    if not data:
        raise ConnectionError("the end")
    return data


@contextlib.contextmanager
def websocket_door(port: int, authority: Authority | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yields the door's URL and the list of the paths that were asked for. One client."""
    listener = socket.create_server(("127.0.0.1", 0))
    paths: list[str] = []
    broker = socket.create_connection(("127.0.0.1", port))

    def serve() -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # nobody came
            return
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority.cert, authority.key)
            client = context.wrap_socket(client, server_side=True)
        with client, contextlib.suppress(OSError):
            paths.append(_greet(client))
            while True:  # in one thread: an SSL connection must not be read and written at once
                held = client.pending() if isinstance(client, ssl.SSLSocket) else 0
                readable = [client] if held else select.select([client, broker], [], [])[0]
                if client in readable:
                    broker.sendall(_read_frame(client))
                if broker in readable:
                    client.sendall(_frame(_some(broker)))

    thread = threading.Thread(target=serve, name="door")
    thread.start()
    scheme = "ws" if authority is None else "wss"
    try:
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", paths
    finally:
        for sock in (listener, broker):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        broker.close()
        listener.close()
        assert not thread.is_alive()
