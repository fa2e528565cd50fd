"""The public keys that are trusted: a folder of `.pub` files, one key each.

Under the key's line a file may say `not-after 2027-12-31T00:00:00Z` (what it signed is refused from then on) and
`revoked 2026-05-01T00:00:00Z <why>` (refused at once). Where two files hold one key, the stricter word counts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgerun.errors import ConfigError, ModelError
from edgerun.security.keys import MAX_LINE, PublicKey, parse_public
from edgerun.security.signing import decode
from edgerun.turns import turn_at

DEFAULT_FOLDER = Path("/etc/edgerun/trust")
_MAX_KEYS = 1000
_MAX_FILE_BYTES = 8 * MAX_LINE


class TrustedKey(msgspec.Struct, frozen=True):
    """A key and how far it is trusted; times in Unix seconds."""

    key: PublicKey
    file: Path
    not_after: float | None = None
    revoked_at: float | None = None
    reason: str = ""

    def state(self, now: float) -> str:
        """`trusted`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.not_after is not None and now >= self.not_after else "trusted"


class Trust:
    """What the folder said when it was opened. Immutable but for the methods that write, which return a new one."""

    def __init__(self, folder: Path, keys: Sequence[TrustedKey]) -> None:
        self.folder = folder
        self.keys = tuple(keys)

    @classmethod
    def open(cls, folder: Path | None = None) -> Trust:
        """Read the folder; one that is not there trusts nobody. Raises `ConfigError` for a file it cannot read, and
        for a folder or file that every user could write to.
        """
        folder = folder if folder is not None else DEFAULT_FOLDER
        found: dict[bytes, TrustedKey] = {}
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix == ".pub")
            _check_mode(folder)
        except FileNotFoundError:
            return cls(folder, ())
        except OSError as error:
            raise ConfigError("the trusted keys cannot be read", where=folder, got=error.strerror or error) from error
        if len(paths) > _MAX_KEYS:
            raise ConfigError("too many trusted keys", where=folder, expected=f"≤ {_MAX_KEYS}", got=len(paths))
        for path in paths:
            one = _read(path)
            known = found.get(one.key.raw)
            found[one.key.raw] = one if known is None else _stricter(known, one)
        return cls(folder, tuple(found.values()))

    def find(self, key_id: str) -> TrustedKey | None:
        """The key of that id, in whatever state."""
        return next((one for one in self.keys if one.key.id == key_id), None)

    def knows(self, signature_file: bytes, where: object) -> bool:
        """Whether one of the keys that are said to have signed is known, in whatever state. Raises `ModelError`."""
        return any(self.find(one.key_id) is not None for one in decode(signature_file, where))

    def verify(self, message: bytes, signature_file: bytes, where: object, now: float) -> TrustedKey:
        """The trusted key that signed `message`. Raises `ModelError` that says why there is none.

        One signature of a key trusted at `now` (Unix seconds) is enough, and keys that are not known here are passed
        over. A signature that is wrong, or of a revoked key, refuses the whole.
        """
        good: TrustedKey | None = None
        reasons = []
        for one in decode(signature_file, where):
            known = self.find(one.key_id)
            if known is None:
                reasons.append(f"key {one.key_id} is not known here")
            elif not known.key.accepts(one.raw, message):
                reasons, good = [f"the signature of {one.key_id} is not one over these bytes"], None
                break
            elif known.revoked_at is not None:
                when = format_time(known.revoked_at)
                reasons, good = [f"key {one.key_id} was revoked {when} {known.reason}".rstrip()], None
                break
            elif known.state(now) == "expired":
                reasons.append(f"key {one.key_id} was to be used until {format_time(known.not_after or 0)}")
            else:
                good = good or known
        if good is not None:
            return good
        raise ModelError(
            "not signed by a key that is trusted here",
            where=where,
            expected=f"a signature of one of {len(self.keys)} keys in {self.folder}",
            got="; ".join(reasons),
            remedy="check where it comes from; a key that is right is trusted with edgerun models trust add KEY.pub",
        )

    def add(self, key: PublicKey, not_after: float | None = None) -> Trust:
        """Trust a key; one that is trusted already keeps its `not_after` where none is given.

        Raises `ConfigError`, also for one that was revoked: that is for ever.
        """
        known = self.find(key.id)
        if known is not None and known.revoked_at is not None:
            raise _revoked(known)
        path = known.file if known is not None else self.folder / f"{key.id}.pub"
        if not_after is None and known is not None:
            not_after = known.not_after
        made = self._write(TrustedKey(key, path, not_after))
        there = made.find(key.id)
        if there is not None and there.revoked_at is not None:
            raise _revoked(there)
        return made

    def revoke(self, key_id: str, reason: str, now: float) -> Trust:
        """Never take anything of this key again; its file stays and says so. Raises `ConfigError`."""
        known = self.find(key_id)
        if known is None:
            raise ConfigError(
                "no such key",
                where=self.folder,
                expected=", ".join(one.key.id for one in self.keys) or "a key that is trusted",
                got=key_id,
            )
        if not reason.isprintable() or len(reason) > 200:
            raise ConfigError("not a usable reason", expected="up to 200 printable characters", got=repr(reason[:80]))
        return self._write(msgspec.structs.replace(known, revoked_at=now, reason=reason.strip()))

    def rotate(self, key_file: bytes, signature_file: bytes, now: float, retire_at: float | None = None) -> Trust:
        """Trust the key in `key_file` (one .pub line) because a key trusted at `now` has signed that file.

        `retire_at`: from then on the old key is not taken any more. Raises `ConfigError` or `ModelError`.
        """
        old = self.verify(key_file, signature_file, "the new key", now)
        new = parse_public(key_file.decode("utf-8", "replace"), "the new key")
        trust = self.add(new)
        if retire_at is None or (old.not_after is not None and old.not_after <= retire_at):
            return trust
        return trust._write(msgspec.structs.replace(old, not_after=retire_at))

    def _write(self, one: TrustedKey) -> Trust:
        """A revocation that came since this was opened stays."""
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with turn_at(self.folder):
                there = _read(one.file) if one.file.exists() else one
                if there.revoked_at is not None and one.revoked_at is None:
                    one = msgspec.structs.replace(one, revoked_at=there.revoked_at, reason=there.reason)
                self._replace(one)
        except OSError as error:
            raise ConfigError(
                "the trusted keys cannot be changed",
                where=one.file,
                got=error.strerror or str(error),
                remedy="run it as the user that may write there (root), or name another folder with --trust",
            ) from error
        return Trust.open(self.folder)

    def _replace(self, one: TrustedKey) -> None:
        lines = [one.key.line]
        if one.not_after is not None:
            lines.append(f"not-after {format_time(one.not_after)}")
        if one.revoked_at is not None:
            lines.append(f"revoked {format_time(one.revoked_at)} {one.reason}".rstrip())
        part = one.file.with_name(f".{one.file.name}.{os.getpid()}")
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            part.replace(one.file)
            _sync_folder(self.folder)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def format_time(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 time, or of a date, which means its first moment in UTC. Raises `ValueError`."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _read(path: Path) -> TrustedKey:
    try:
        _check_mode(path)
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError("a trusted key cannot be read", where=path, got=error.strerror or str(error)) from error
    first, *rest = content.decode("utf-8", "replace").splitlines() or [""]
    made = TrustedKey(parse_public(first, path), path)
    for number, line in enumerate(rest, 2):
        if not line.strip() or line.startswith("#"):
            continue
        word, _, text = line.strip().partition(" ")
        when, _, reason = text.partition(" ")
        try:
            if word == "not-after" and not reason:
                made = msgspec.structs.replace(made, not_after=parse_time(when))
            elif word == "revoked":
                made = msgspec.structs.replace(made, revoked_at=parse_time(when), reason=reason.strip())
            else:
                raise ValueError(line[:80])
        except ValueError as error:
            raise ConfigError(
                "a line under a trusted key that is not understood",
                where=f"{path}:{number}",
                expected="not-after TIME, or revoked TIME REASON",
                got=repr(str(error)),
            ) from None
    return made


def _revoked(known: TrustedKey) -> ConfigError:
    return ConfigError(
        "this key was revoked and is not trusted again",
        where=known.file,
        got=f"{known.key.id}: {known.reason or 'no reason given'}",
        remedy="make a new key with edgerun models keygen",
    )


def _stricter(one: TrustedKey, other: TrustedKey) -> TrustedKey:
    revoked = one if one.revoked_at is not None else other
    times = [time for time in (one.not_after, other.not_after) if time is not None]
    return msgspec.structs.replace(revoked, not_after=min(times, default=None))


def _check_mode(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        raise ConfigError(
            "every user could add a key to trust",
            where=path,
            got=f"mode {mode & 0o7777:04o}",
            remedy=f"run chmod o-w {path}, after a look at what is in it",
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
