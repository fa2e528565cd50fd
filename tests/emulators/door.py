"""How an emulated camera takes its clients: one thread each, until SIGTERM."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable


def keep_open(url: str, port: int, serve: Callable[[socket.socket], None], tls: list[str] | None = None) -> None:
    """Listen on loopback, tell the chosen port as one line of JSON (`url` with `{port}` filled in), never return."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.create_server(("127.0.0.1", port))
    if tls:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        listener = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
    port = listener.getsockname()[1]
    print(json.dumps({"url": url.format(port=port), "port": port}), flush=True)

    def one(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, contextlib.suppress(OSError):  # the client has gone, or does not trust us
            serve(sock)

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock,), daemon=True).start()
