"""URLs as they may be shown: without their password."""

from __future__ import annotations

import re

# RFC 3986 §3.2: the authority runs from "//" to the next "/", "?" or "#", the user information in it to its "@". But
# operators paste passwords unescaped, with any of these and blanks in them, so everything up to the last "@" that has
# a plausible host behind it is looked at. In doubt too much is masked.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)((?:(?![A-Za-z][A-Za-z0-9+.\-]*://)[^\r\n])*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._\-]+)(:[0-9]*)?(?=[/?#\s'\",;)]|$)")


def mask_url(url: str) -> str:
    """`url` with every password replaced: `rtsp://user:secret@cam/1` → `rtsp://user:***@cam/1`.

    Works on any text with URLs in it, e.g. a library's error message; everything else is left as it is. A user name
    without a password may be a token and is masked too.
    """
    return _URL.sub(_mask, url)


def _mask(match: re.Match[str]) -> str:
    scheme, rest = match[1], match[2]
    ends = [i for i, letter in enumerate(rest) if letter == "@" and _may_end_userinfo(rest[:i])]
    if not ends:
        return scheme + rest
    at = next((i for i in reversed(ends) if _HOST.match(rest, i + 1)), ends[-1])
    user, colon, _ = rest[:at].partition(":")
    return f"{scheme}{user}:***{rest[at:]}" if colon else f"{scheme}***{rest[at:]}"


def _may_end_userinfo(before: str) -> bool:
    """Not so for an "@" in the path or text behind a host that no colon follows."""
    return ":" in re.split(r"[/?#\s]", before, maxsplit=1)[0] or not re.search(r"[/?#\s]", before)
