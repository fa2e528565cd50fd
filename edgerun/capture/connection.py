"""A TCP or TLS connection whose every wait ends with the stream's `stop` or at its time-out."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import SplitResult

from edgerun.capture.waiting import wait_readable
from edgerun.clock import Clock
from edgerun.errors import SourceError
from edgerun.wake import Wake

T = TypeVar("T")
Address = tuple[Any, Any, int, str, Any]

_RECEIVE_BYTES = 65536
# What may pile up unread in the kernel (Linux doubles it): a few frames, so that a slow reader meets its camera's
# flow control instead of seconds of old pictures.
_RECEIVE_BUFFER = 131072
_WAIT_STEP_S = 0.2
_SENDING = "sending the request"
_TIMESTAMPS = 35  # SO_TIMESTAMPNS and SCM_TIMESTAMPNS (Linux, include/uapi/asm-generic/socket.h)
_TIMESPEC = struct.Struct("@qq")
_CONTROL_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)


class Stopped(SourceError):
    """The stream ended while the source was waiting."""


class Patience:
    """How long to wait and for whom: the stream's `stop`, its clock, and the URL to name in errors (masked)."""

    def __init__(self, clock: Clock, stop: threading.Event, where: str) -> None:
        self.where = where
        self._clock = clock
        self._stop = stop

    def deadline_ns(self, seconds: float) -> int:
        return self._clock.mono_ns() + round(seconds * 1e9)

    def left_s(self, deadline_ns: int, what: str) -> float:
        """How long to sleep at most before asking again; raises `Stopped`, or `SourceError` past the deadline."""
        if self._stop.is_set():
            raise Stopped("the stream was stopped", where=self.where)
        left_s = (deadline_ns - self._clock.mono_ns()) / 1e9
        if left_s <= 0:
            raise SourceError(f"timed out {what}", where=self.where, remedy="is it reachable from this device?")
        return min(left_s, _WAIT_STEP_S)

    def ready(self, sock: socket.socket, event: int, deadline_ns: int, what: str) -> None:
        """Wait until `sock` can be read (POLLIN) or written (POLLOUT)."""
        poll = select.poll()
        poll.register(sock, event)
        while not poll.poll(self.left_s(deadline_ns, what) * 1000):
            pass


class Connection:
    """One TCP connection, with TLS where the scheme says so. Owns its socket."""

    def __init__(
        self, url: SplitResult, patience: Patience, timeout_s: float, tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._patience = patience
        self._low_water = 1
        deadline_ns = patience.deadline_ns(timeout_s)
        host = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        self.socket = _connect(host, port, patience, deadline_ns)
        if url.scheme == "https":
            try:
                self.socket = tls().wrap_socket(self.socket, server_hostname=host, do_handshake_on_connect=False)
                self._retry(self.socket.do_handshake, deadline_ns, "during the TLS handshake")
            except BaseException:
                self.close()
                raise

    @property
    def secure(self) -> bool:
        return isinstance(self.socket, ssl.SSLSocket)

    def send(self, data: bytes, deadline_ns: int) -> None:
        left = memoryview(data)
        while left:
            sent = self._retry(functools.partial(self.socket.send, left), deadline_ns, _SENDING)
            left = left[sent:]

    def receive(self, deadline_ns: int) -> bytes:
        """What has arrived, at least one byte; b"" when the other side has closed."""
        return self._retry(lambda: self.socket.recv(_RECEIVE_BYTES), deadline_ns, "waiting for data")

    def receive_into(self, view: memoryview) -> tuple[int, int] | None:
        """Bytes read into `view` without waiting, and how old (ns) the newest of them is; None: nothing is there.

        0 bytes: the other side has closed. The age is the kernel's: it dates each TCP segment when it comes
        (SO_TIMESTAMPNS, for TCP since Linux 4.16), so a reader that was kept from its core still knows. 0 for TLS.
        """
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                return self.socket.recv_into(view), 0
            count, control, _, _ = self.socket.recvmsg_into([view], _CONTROL_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise SourceError(
                "the connection broke waiting for data", where=self._patience.where, got=error.strerror or str(error)
            ) from error
        for _, kind, data in control:
            if kind == _TIMESTAMPS and len(data) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(data)
                return count, max(0, time.time_ns() - seconds * 1_000_000_000 - nanoseconds)
        return count, 0

    def wait(self, timeout_s: float, wake: Wake | None, missing: int = 1) -> bool:
        """Wait until something can be received, `wake` is set or the time has passed; returns whether `wake` is set.

        Less than `missing` bytes need not be told of (SO_RCVLOWAT): a picture comes in dozens of segments, and being
        woken by each would cost more than reading them. Bytes that TLS has decrypted already are not seen:
        `receive_into` first.
        """
        if missing != self._low_water and not isinstance(self.socket, ssl.SSLSocket):
            self._low_water = missing
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, missing)
        return wait_readable(self.socket.fileno(), timeout_s, wake)[1]

    def close(self) -> None:
        self.socket.close()

    def _retry(self, call: Callable[[], T], deadline_ns: int, what: str) -> T:
        """`call` until it neither wants to read nor to write; a lost connection is a `SourceError`."""
        while True:
            try:
                return call()
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
                writing = isinstance(wants, ssl.SSLWantWriteError) or (
                    isinstance(wants, BlockingIOError) and what == _SENDING
                )
                self._patience.ready(self.socket, select.POLLOUT if writing else select.POLLIN, deadline_ns, what)
            except ssl.SSLCertVerificationError as error:
                raise SourceError(
                    "the camera's certificate is not trusted",
                    where=self._patience.where,
                    got=error.verify_message,
                    remedy="name its authority with tls_ca = FILE, or accept any with tls_verify = false",
                ) from error
            except OSError as error:
                raise SourceError(
                    f"the connection broke {what}", where=self._patience.where, got=error.strerror or str(error)
                ) from error


def _connect(host: str, port: int, patience: Patience, deadline_ns: int) -> socket.socket:
    """A connected, non-blocking socket to the first address that answers."""
    refused = "no address"
    for family, kind, protocol, _, address in _resolve(host, port, patience, deadline_ns):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            with contextlib.suppress(OSError):  # then frames are dated when they are read
                sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
            patience.ready(sock, select.POLLOUT, deadline_ns, "connecting")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            refused = os.strerror(code)
        except OSError as error:
            if isinstance(error, SourceError):
                sock.close()
                raise
            refused = error.strerror or str(error)
        sock.close()
    raise SourceError(
        "cannot connect", where=patience.where, got=refused, remedy="is the camera on, and the host and port right?"
    )


def _resolve(host: str, port: int, patience: Patience, deadline_ns: int) -> list[Address]:
    """The host's addresses. A resolver may block for half a minute whatever one does, so it does so in a thread."""
    found: list[list[Address]] = []
    failed: list[OSError] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)
        except UnicodeError as error:
            failed.append(OSError(0, f"not a host name: {error}"))
        finally:
            done.set()

    threading.Thread(target=ask, name=f"resolve:{host}", daemon=True).start()
    while not done.wait(patience.left_s(deadline_ns, "looking up the host's address")):
        pass
    if failed:
        raise SourceError(
            "the host's address cannot be found", where=patience.where, got=failed[0].strerror or str(failed[0])
        )
    return found[0]
