"""Taking an address to listen on, before anything else of the page is needed."""

from __future__ import annotations

import ipaddress
import socket

from edgerun.errors import DeviceError

_WAITING = 64  # clients that the kernel holds until they are answered


_reserved: dict[tuple[str, int], socket.socket] = {}


def reserve(host: str, port: int) -> int:
    """Take `port`, or any when that one is taken, for the next `listen` there; returns which it is.

    For those who must tell the address before it is opened. Raises `DeviceError`.
    """
    try:
        listener = listen(host, port)
    except DeviceError:
        listener = listen(host, 0)
    taken = int(listener.getsockname()[1])
    _reserved[host, taken] = listener
    return taken


def listen(host: str, port: int) -> socket.socket:
    """A listening socket at `host` (an IPv4 or IPv6 address) and `port` (0: any free one), or the one reserved there.

    The caller closes it. Raises `DeviceError` when the address cannot be had.
    """
    if (host, port) in _reserved:
        return _reserved.pop((host, port))
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_WAITING)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DeviceError(
            "nothing can be served there",
            where=f"{host}:{port}",
            got=error.strerror or error,
            remedy="choose another address or port, or end what uses this one",
        ) from error
    return listener
