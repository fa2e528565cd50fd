"""URLs as they may be shown: without their password."""

from __future__ import annotations

import re

# RFC 3986 §3.2: the authority runs from "//" to the next "/", "?" or "#". Operators paste passwords unescaped, so the
# user information is taken to end at the LAST "@" of the authority — or, where a "/", "?" or "#" belongs to the
# password, at the last "@" that still has a plausible host behind it.
_AUTHORITY = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)(?P<rest>\S*)", re.DOTALL)
_HOST_BEHIND = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._\-]+)(:[0-9]*)?(?=[/?#]|$)")


def mask_url(url: str) -> str:
    """`url` with every password replaced: `rtsp://user:secret@cam/1` → `rtsp://user:***@cam/1`.

    Works on any text with URLs in it, e.g. a library's error message; everything else is left as it is. A user name
    without a password may be a token and is masked too.
    """
    return _AUTHORITY.sub(_mask, url)


def _mask(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"]
    for at in (i for i in range(len(rest) - 1, -1, -1) if rest[i] == "@"):
        userinfo, behind = rest[:at], rest[at + 1 :]
        authority_ended = re.search(r"[/?#]", userinfo)
        if authority_ended and ":" not in userinfo[: authority_ended.start()]:
            continue  # an "@" in the path of a URL that has no password
        if not _HOST_BEHIND.match(behind):
            continue
        user, colon, _password = userinfo.partition(":")
        return f"{scheme}{user}:***@{behind}" if colon else f"{scheme}***@{behind}"
    return scheme + rest
