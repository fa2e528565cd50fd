"""Downloads over HTTPS that take up where they broke off, and end with the right hash or not at all.

What is there already is continued with `Range` and `If-Range` (RFC 9110, 13.1.5, 14.2): the server sends the rest only
of the very same file, else all of it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edgerun import __version__
from edgerun.errors import ConfigError, DeviceError, ModelError
from edgerun.models.archive import MAX_FILE_BYTES
from edgerun.models.disk import disk_error
from edgerun.turns import try_lock

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""(bytes there, bytes in all or None where the server does not say)."""

_TRIES = 6
_TIMEOUT_S = 30.0
_CHUNK = 1 << 18
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_GONE = (OSError, http.client.HTTPException)


def shown_url(url: str) -> str:
    """The address without what may be secret: user, password, query, fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_url(url: str) -> str:
    """`url` when it can be fetched. Raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_right = urlsplit(""), False
    if parts.scheme != "https" or not parts.hostname or not port_is_right or re.search(r"[\s\x00-\x20\x7f]", url):
        raise ConfigError("not an address to fetch from", expected="https://host/path", got=repr(shown_url(url)[:200]))
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "user and password in an address", where=shown_url(url), remedy="put them into ~/.netrc of edgerun's user"
        )
    return url


def download(
    url: str,
    partial: Path,
    into: Path,
    *,
    sha256: str | None = None,
    limit: int = MAX_FILE_BYTES,
    ca_file: Path | None = None,
    progress: Progress | None = None,
    room: Callable[[int], None] = lambda need_bytes: None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch `url` into the folder `partial`, and move the file to `into` (of the same file system) when it is whole.

    A download that broke off stays there and is taken up by the next call; two at a time share nothing. `room` is asked
    before bytes are written: it is told how many there will be (0 where the server does not say) and raises where they
    may not. Raises `ConfigError` for an address that is none, `DeviceError` when it cannot be fetched, `ModelError`
    when it is too large or has another SHA-256.
    """
    check_url(url)
    opener = _opener(ca_file)
    with _begun_file(partial, hashlib.sha256(url.encode()).hexdigest()[:32]) as (file, about):
        _fetch_all(opener, url, file, about, limit, progress, room, pause)
        if sha256 is not None:
            _check_hash(url, file, sha256)
        return file.rename(into)


def _fetch_all(
    opener: Any,
    url: str,
    file: Path,
    about: Path,
    limit: int,
    progress: Progress | None,
    room: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    """As many requests as it takes."""
    for attempt in range(1, _TRIES + 1):
        size = file.stat().st_size if file.exists() else 0
        try:
            _fetch(opener, url, file, about, limit, progress, room)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and size:
                os.truncate(file, 0)
                about.unlink(missing_ok=True)
                continue
            if error.code not in _TRANSIENT or attempt == _TRIES:
                raise _failed(url, f"{error.code} {error.reason}") from error
            why = f"{error.code} {error.reason}"
        except DeviceError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise _failed(url, error.verify_message) from error
        except _GONE as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_error(error, file.parent) from error
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise _failed(url, reason.verify_message) from error
            why = f"{reason}" or type(error).__name__
            grown = file.exists() and file.stat().st_size > size
            if attempt == _TRIES and not grown:
                raise _failed(url, why) from error
        wait_s = min(30.0, 2.0 ** (attempt - 1))
        _log.warning("%s: %s; trying again in %.0f s", shown_url(url), why, wait_s)
        pause(wait_s)
    else:
        raise _failed(url, f"it broke off {_TRIES} times")
    about.unlink(missing_ok=True)


_AGENT = f"edgerun/{__version__}"


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects to other https addresses (at most 10), and drops what was meant for the first host."""

    max_redirections = 10

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise urllib.error.URLError(f"it leads to {shown_url(newurl)}, which is not https")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            made.remove_header("Authorization")
        return made


def _opener(ca_file: Path | None) -> urllib.request.OpenerDirector:
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("not a file of certificates", where=ca_file, expected="PEM", got=error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _OnlyHttps())


def _fetch(
    opener: Any, url: str, file: Path, about: Path, limit: int, progress: Progress | None, room: Callable[[int], None]
) -> None:
    """One request; returns when the whole file is there."""
    start, validator = _begun(file, about)
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **_login(url)}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
        total = _total(response, start)
        if response.status != 206:
            start = 0
        if total is not None and total > limit:
            raise ModelError("too large", where=shown_url(url), expected=f"≤ {limit} bytes", got=total)
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        room(total - start if total is not None else 0)
        about.write_text(json.dumps({"validator": strong}), encoding="utf-8")
        with file.open("r+b" if start else "wb") as out:
            out.seek(start)
            out.truncate()
            while chunk := response.read(_CHUNK):
                start += len(chunk)
                if start > limit:
                    raise ModelError("too large", where=shown_url(url), expected=f"≤ {limit} bytes", got="more")
                out.write(chunk)
                if progress is not None:
                    progress(start, total)
    if total is not None and start != total:
        raise http.client.IncompleteRead(b"", total - start)


@contextmanager
def _begun_file(partial: Path, key: str) -> Iterator[tuple[Path, Path]]:
    """This download's own file, and the one that says of what it is: those that were begun before, or where another
    download is at them just now new ones, which go at the end. Raises `DeviceError`.
    """
    file = partial / f"{key}.part"
    try:
        fd = _held(file)
        beside = fd is None
        if beside:
            file = partial / f"{key}-{os.urandom(4).hex()}.part"
            fd = _held(file)
    except OSError as error:
        raise disk_error(error, partial) from error
    assert fd is not None, "nobody else has that name"
    about = file.with_suffix(".json")
    try:
        yield file, about
    finally:
        if beside or (file.exists() and not file.stat().st_size):
            _forget(file, about)
        os.close(fd)


def _held(file: Path) -> int | None:
    """A descriptor of the file, made where it is not there, that keeps other downloads from it until it is closed; None
    while another one has it. Raises `OSError`.
    """
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with suppress(FileNotFoundError):
            if not try_lock(fd):
                os.close(fd)
                return None
            if os.path.samestat(os.fstat(fd), file.stat()):
                return fd
        os.close(fd)  # it was moved away between the two


def broken_off(partial: Path) -> Iterator[Path]:
    """The files in the folder that are of no download that goes on; none begins with them while its caller has them.
    Raises `OSError`.
    """
    for part in sorted({path.with_suffix(".part") for path in partial.glob("*")}):
        fd = _held(part)
        if fd is not None:
            try:
                yield part.with_suffix(".json")
                yield part
            finally:
                os.close(fd)


def _begun(file: Path, about: Path) -> tuple[int, str]:
    """How much is there, and what the server calls that version of the file; 0 where that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        validator = json.loads(about.read_bytes())["validator"]
        size = file.stat().st_size
        if size and isinstance(validator, str) and validator and validator.isprintable():
            return size, validator
    return 0, ""


def _total(response: Any, start: int) -> int | None:
    """The size of the whole file. Raises `HTTPException` for an answer that is another part than was asked for."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise http.client.HTTPException("the server sent another part than was asked for")
        return int(match[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _login(url: str) -> dict[str, str]:
    """What ~/.netrc says for the host, as a header."""
    import base64
    import netrc

    with suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc().hosts.get(urlsplit(url).hostname or "")
        if found is not None:
            text = base64.b64encode(f"{found[0]}:{found[2]}".encode()).decode()
            return {"Authorization": f"Basic {text}"}
    return {}


def _check_hash(url: str, file: Path, sha256: str) -> None:
    with file.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != sha256.lower():
        file.unlink()
        raise ModelError(
            "not the file that was meant",
            where=shown_url(url),
            expected=f"sha256 {sha256}",
            got=f"sha256 {got}",
            remedy="it was changed there or on the way; do not use it",
        )


def _forget(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _failed(url: str, got: object) -> DeviceError:
    return DeviceError(
        "the model cannot be fetched",
        where=shown_url(url),
        got=got,
        remedy="check the address and the network; what is there already is kept, and the next try goes on from it",
    )
