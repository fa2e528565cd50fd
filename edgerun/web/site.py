"""What there is at which path, and who gets it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from edgerun.clock import Clock
from edgerun.decoding import decode
from edgerun.web.assets import asset
from edgerun.web.gate import Gate
from edgerun.web.live import LiveView, no_picture
from edgerun.web.message import Request, Response, json, text
from edgerun.web.server import Answer, Deferred
from edgerun.web.timeline import Journal, Timeline

Page = Callable[[], tuple[HTTPStatus, str, bytes]]
"""Status, content type and body of one path."""
_FRESH_NS = 400_000_000
_PAGES = {"/": "index.html", "/draw": "draw.html"}


class Facts(Protocol):
    """What the page shows and asks for. Used by the server's thread."""

    def status(self) -> dict[str, Any]:
        """Everything that is so now, ready for JSON."""
        ...

    def pictures(self) -> Collection[str]:
        """The streams that have pictures."""
        ...

    def layout(self) -> Mapping[str, Any]:
        """Zones and masks by stream."""
        ...

    def verbs(self) -> Collection[str]:
        """The commands that there are."""
        ...

    def do(self, verb: str, arguments: Mapping[str, Any], done: Callable[[Mapping[str, Any]], None]) -> None:
        """Have a command done by whoever does them; `done` gets its answer, from any thread."""
        ...

    def why_not_ready(self) -> str | None:
        """Why no results flow; None: they do."""
        ...


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    verb: str
    arguments: dict[str, Any] = {}


class PagesSite:
    """Nothing but `pages`, by path. Used by the server's thread."""

    def __init__(self, gate: Gate, pages: Mapping[str, Page]) -> None:
        self._gate, self._pages = gate, pages

    def answer(self, request: Request) -> Answer:
        """What this request gets."""
        if request.method not in ("GET", "HEAD"):
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD"))
        if (refusal := self._gate.refuse(request)) is not None:
            return refusal
        if not self._gate.may_look(request):
            return self._gate.unknown(request)
        if (page := self._pages.get(request.path)) is None:
            return text(HTTPStatus.NOT_FOUND, "there is " + ", ".join(sorted(self._pages)))
        return _as_response(page)


class StatusSite:
    """The status page, its small API, and whatever further `pages` there are. Used by the server's thread."""

    def __init__(
        self,
        gate: Gate,
        facts: Facts,
        live: LiveView,
        timeline: Timeline,
        journal: Journal,
        clock: Clock,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        self._gate, self._facts, self._live = gate, facts, live
        self._timeline, self._journal, self._clock = timeline, journal, clock
        self._pages = dict(pages or {})
        self._status: tuple[int, bytes] | None = None

    def answer(self, request: Request) -> Answer:
        """What this request gets."""
        if request.method not in ("GET", "HEAD", "POST"):
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET, HEAD and POST", ("Allow", "GET, HEAD, POST"))
        if (refusal := self._gate.refuse(request)) is not None:
            return refusal
        if request.method == "POST":
            return self._act(request)
        open_to_all = self._open(request)
        if open_to_all is not None:
            return open_to_all
        if not self._gate.may_look(request):
            if request.path in _PAGES:
                return text(HTTPStatus.SEE_OTHER, "log in first", ("Location", "/login"))
            return self._gate.unknown(request)
        return self._look(request)

    def _open(self, request: Request) -> Response | None:
        """What everybody may have: whether it is alive, and the way in."""
        path = request.path
        if path == "/healthz":
            return text(HTTPStatus.OK, "ok")
        if path == "/readyz":
            reason = self._facts.why_not_ready()
            if reason is not None and not self._gate.may_look(request):
                reason = "no results"
            return text(HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE, reason or "ok")
        if path == "/login":
            return asset("login.html", request)
        if path.startswith("/static/"):
            return asset(path.removeprefix("/static/"), request)
        return None

    def _look(self, request: Request) -> Answer:
        path = request.path
        if path in _PAGES:
            return asset(_PAGES[path], request)
        if path == "/api/status":
            return self._status_answer()
        if path == "/api/timeline":
            return json({"v": 1, **self._timeline.view()})
        if path == "/api/events":
            return json({"v": 1, "count": self._journal.count, "events": self._journal.entries()})
        if path == "/api/layout":
            return json({"v": 1, "streams": self._facts.layout()})
        if path in self._pages:
            return _as_response(self._pages[path])
        for front, suffix in (("/live/", ".mjpg"), ("/snapshot/", ".jpg")):
            if path.startswith(front) and path.endswith(suffix):
                return self._picture(request, path[len(front) : -len(suffix)], front)
        return text(HTTPStatus.NOT_FOUND, "there is no such page")

    def _picture(self, request: Request, stream: str, front: str) -> Answer:
        if stream not in self._facts.pictures():
            return no_picture()
        if request.method == "HEAD":
            return Response(HTTPStatus.OK, b"", "image/jpeg" if front == "/snapshot/" else "multipart/x-mixed-replace")
        return self._live.watch(stream) if front == "/live/" else self._live.snapshot(stream)

    def _status_answer(self) -> Response:
        """At most two or three a second are made, however many ask."""
        now_ns = self._clock.mono_ns()
        if self._status is None or now_ns - self._status[0] >= _FRESH_NS:
            body = {
                "v": 1,
                "ts": round(self._clock.unix_s(), 3),
                **self._facts.status(),
                "events": self._journal.count,
                "viewers": self._live.viewers,
                "commands": sorted(self._facts.verbs()) if self._gate.has_token else [],
                "token": self._gate.has_token,
            }
            self._status = (now_ns, msgspec.json.encode(body))
        return Response(HTTPStatus.OK, self._status[1], "application/json", (("Cache-Control", "no-store"),))

    def _act(self, request: Request) -> Answer:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return text(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        if request.path == "/login":
            return self._gate.log_in(request)
        if request.path == "/logout":
            return self._gate.log_out()
        if request.path != "/api/command":
            return text(HTTPStatus.NOT_FOUND, "there is no such page")
        if (refusal := self._gate.refuse_act(request)) is not None:
            return refusal
        try:
            order = decode(request.body, _Order)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return text(HTTPStatus.BAD_REQUEST, f"not a command: {error}")
        if order.verb not in self._facts.verbs():
            return text(HTTPStatus.NOT_FOUND, f"there is no command {quote(order.verb[:40], safe='')}")
        deferred = Deferred()

        def done(answer: Mapping[str, Any]) -> None:
            status = HTTPStatus.OK if answer.get("ok") else HTTPStatus.CONFLICT
            deferred.answer(json({"v": 1, **answer}, status))

        self._status = None
        self._facts.do(order.verb, order.arguments, done)
        return deferred


def _as_response(page: Page) -> Response:
    status, content_type, body = page()
    return Response(status, body, content_type, (("Cache-Control", "no-store"),))
