"""Who may look and who may act: the Host a request is for, where it comes from, tokens and sessions."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from edgerun.clock import Clock
from edgerun.decoding import decode
from edgerun.web.message import Request, Response, json, text

Check = Callable[[str], bool]
"""Whether a token is one that opens this door; takes as long for a wrong one as for a right one."""

SESSION_S = 12 * 3600
_TRIES = 10.0
_TRIES_A_SECOND = 0.5
_CLIENTS = 256
_LONGEST_TOKEN = 512


def check_fixed(token: str) -> Check:
    """A check of one token, by digests: neither the length nor the first wrong character shows in the time it takes."""
    known = hashlib.sha256(token.encode()).digest()
    return lambda given: hmac.compare_digest(hashlib.sha256(given.encode("utf-8", "replace")).digest(), known)


class Gate:
    """One door's rules. Used by the server's thread.

    `check` None: anybody whom the operating system lets in may look, and nobody may act. `loopback`: the address
    listened on; requests must then be for a name of this machine. `hosts`: further names that requests may be for
    (behind a reverse proxy).

    A page of somebody else's in a browser here can neither read nor send anything: a name that leads here by DNS
    rebinding is not one of ours, what comes from another site is refused by `Sec-Fetch-Site` and `Origin`, and an act
    needs a header that no form can send besides the cookie, which is `SameSite=Strict`.
    """

    def __init__(self, check: Check | None, *, loopback: bool, hosts: Collection[str], clock: Clock) -> None:
        self._check, self._loopback, self._clock = check, loopback, clock
        self._hosts = {name.lower() for name in hosts} | {"localhost"}
        self._key = secrets.token_bytes(32)
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.cookie = "edgerun-session"

    @property
    def has_token(self) -> bool:
        """Whether there is a token at all."""
        return self._check is not None

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request that must not get any further, whoever sent it."""
        host = request.headers.get("host")
        if host is None or not self._is_ours(host):
            return text(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this name is not known here: use the address, or add the name to [web] hosts",
            )
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return text(HTTPStatus.FORBIDDEN, "other sites may not use this page")
        site, mode = request.headers.get("sec-fetch-site", "none"), request.headers.get("sec-fetch-mode")
        if site not in ("none", "same-origin") and not (request.method == "GET" and mode == "navigate"):
            return text(HTTPStatus.FORBIDDEN, "other sites may not use this page")
        return None

    def may_look(self, request: Request) -> bool:
        """Whether it carries a token or a session, where those are asked for."""
        return self._check is None or self._is_known(request)

    def refuse_act(self, request: Request) -> Response | None:
        """The answer to a request to do something that it may not do."""
        if self._check is None:
            return text(HTTPStatus.FORBIDDEN, "commands need a token: set [web] token")
        if not self._is_known(request):
            return self.unknown(request)
        if "x-edgerun" not in request.headers and "authorization" not in request.headers:
            return text(HTTPStatus.FORBIDDEN, "a command has the header X-Edgerun")
        return None

    def unknown(self, request: Request) -> Response:
        """The answer to a request that is neither let in by a token nor by a session."""
        if _bearer(request) is not None and not self._may_try(request.peer):
            return _too_many()
        return text(HTTPStatus.UNAUTHORIZED, "a token is needed", ("WWW-Authenticate", 'Bearer realm="edgerun"'))

    def log_in(self, request: Request) -> Response:
        """A session for a token: `{"token": "…"}` → a cookie."""
        try:
            token = decode(request.body, dict[str, str]).get("token", "")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return text(HTTPStatus.BAD_REQUEST, 'expected {"token": "…"}')
        if self._check is None:
            return json({"ok": True})
        if not self._may_try(request.peer):
            return _too_many()
        if not self._is_right(token, request.peer):
            return text(HTTPStatus.UNAUTHORIZED, "this is not the token")
        expires = str(int(self._clock.unix_s()) + SESSION_S)
        value = f"{expires}.{self._mac(expires)}"
        return json({"ok": True}, HTTPStatus.OK, ("Set-Cookie", self._cookie(value, SESSION_S)))

    def log_out(self) -> Response:
        """Forget the session, in the browser that asks."""
        return json({"ok": True}, HTTPStatus.OK, ("Set-Cookie", self._cookie("", 0)))

    def _cookie(self, value: str, seconds: int) -> str:
        return f"{self.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"

    def _is_known(self, request: Request) -> bool:
        if (token := _bearer(request)) is not None:
            return self._may_try(request.peer) and self._is_right(token, request.peer)
        expires, _, mac = (request.cookie(self.cookie) or "").partition(".")
        return (
            expires.isascii()
            and expires.isdigit()
            and hmac.compare_digest(mac.encode("latin-1", "replace"), self._mac(expires).encode())
            and int(expires) > self._clock.unix_s()
        )

    def _is_right(self, token: str, peer: str) -> bool:
        """Whether it opens the door; a wrong one costs the client one of its tries."""
        assert self._check is not None, "asked for only where there is a token"
        right = 0 < len(token) <= _LONGEST_TOKEN and self._check(token)
        if not right:
            left, at_ns = self._tries.get(peer, (_TRIES, self._clock.mono_ns()))
            self._tries[peer] = (left - 1.0, at_ns)
            self._tries.move_to_end(peer)
            if len(self._tries) > _CLIENTS:
                self._tries.popitem(last=False)
        return right

    def _may_try(self, peer: str) -> bool:
        """Ten wrong tokens at once, then one every two seconds, of each client."""
        if peer not in self._tries:
            return True
        now_ns = self._clock.mono_ns()
        left, at_ns = self._tries[peer]
        left += (now_ns - at_ns) / 1e9 * _TRIES_A_SECOND
        if left >= _TRIES:
            del self._tries[peer]
            return True
        self._tries[peer] = (left, now_ns)
        return left >= 1.0

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        front, colon, port = name.rpartition(":")
        if colon and port.isdigit() and not name.endswith("]") and (":" not in front or front.endswith("]")):
            name = front
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or not self._loopback


def _bearer(request: Request) -> str | None:
    """The token of an `Authorization: Bearer` header (RFC 6750, 2.1)."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _too_many() -> Response:
    return text(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens; wait a little", ("Retry-After", "5"))
