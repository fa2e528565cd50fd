"""`[web]`: the status page."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgerun.secret import Secret
from edgerun.validate import Report, show

DEFAULT_PORT = 8137
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?")


def split_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8137`, `[::1]:8137`, or either without its port → address and port. Raises `ValueError`."""
    match = re.fullmatch(
        r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)|([0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*))(?::(\d{1,5}))?", text
    )
    if match is None:
        raise ValueError("not an IP address with a port")
    port = DEFAULT_PORT if match[4] is None else int(match[4])
    if port > 65535:
        raise ValueError("port is not a number from 0 to 65535")
    return str(ipaddress.ip_address(match[1] or match[2] or match[3])), port


def listen_address(text: str) -> str:
    """`text` when it is an address to listen on. Raises `ValueError`."""
    split_address(text)
    return text


def host_name(text: str) -> str:
    """`text` when it is a host's name. Raises `ValueError`."""
    if not _HOST.fullmatch(text.lower()) or len(text) > 253:
        raise ValueError("not a host's name")
    return text


Address = Annotated[
    str,
    Meta(extra={"parse": listen_address, "expected": "an IP address and a port, such as 127.0.0.1:8137 or [::]:8137"}),
]
HostName = Annotated[str, Meta(extra={"parse": host_name, "expected": "a host's name, such as dock-7.example"})]


class WebConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[web]`: a page that shows how it runs, with live pictures. `[web]` alone serves it to this machine.

    `/`, `/draw`, `/live/STREAM.mjpg`, `/snapshot/STREAM.jpg`, `/api/status`, `/healthz` and `/readyz`; with `[metrics]`
    also `/metrics`. With a token all but `/healthz` and `/readyz` ask for it, and commands can be given.
    """

    listen: Annotated[
        Address, Meta(description="Address and port; beyond loopback it needs `token`. Port 0: any free one.")
    ] = f"127.0.0.1:{DEFAULT_PORT}"
    token: Annotated[
        Secret | None,
        Meta(
            description="What opens the page and its buttons; given like a password. Without it there are no buttons.",
            extra={"expected": "a table that says where it is"},
        ),
    ] = None
    hosts: Annotated[
        tuple[HostName, ...],
        Meta(description="Names, besides addresses, that browsers may ask for; needed behind a reverse proxy."),
    ] = ()
    live_fps: Annotated[
        Annotated[float, Meta(ge=0.2, le=30)], Meta(description="Most live pictures a second of one stream.")
    ] = 8.0
    live_width: Annotated[
        Annotated[int, Meta(ge=160, le=3840)],
        Meta(description="Width of live pictures, pixels; wider ones are scaled."),
    ] = 960


def check_web(raw: Any, report: Report) -> None:
    """Report what the keys of `[web]`, as written, ask of each other."""
    listen = raw.get("listen") if isinstance(raw, dict) else None
    if not isinstance(listen, str) or raw.get("token") is not None:
        return
    try:
        host, _ = split_address(listen)
    except ValueError:
        return
    if not ipaddress.ip_address(host).is_loopback:
        report.add(
            "web.listen",
            "the status page is only served to this machine unless there is a token",
            expected="a loopback address, or a token",
            got=show(listen),
            remedy='add token = { file = "…" }, or reach it by ssh -L 8137:127.0.0.1:8137',
        )
