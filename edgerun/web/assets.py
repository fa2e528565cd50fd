"""The page's own files: HTML, style and script as they lie beside this module. Nothing is fetched from elsewhere."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path

from edgerun.web.message import Request, Response, text

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def asset(name: str, request: Request) -> Response:
    """The file of that name; nothing but its name when the browser has it already (`ETag`, RFC 9110)."""
    path = _FOLDER / name
    if "/" in name or name.startswith(".") or path.suffix not in _TYPES or not path.is_file():
        return text(HTTPStatus.NOT_FOUND, "there is no such page")
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = (("ETag", tag), ("Cache-Control", "no-cache"))
    if request.headers.get("if-none-match") == tag:
        return Response(HTTPStatus.NOT_MODIFIED, b"", _TYPES[path.suffix], headers)
    return Response(HTTPStatus.OK, body, _TYPES[path.suffix], headers)
