"""Whom the device believes: several keys, revoked and retired ones, and how one follows another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgerun.errors import ConfigError, ModelError
from edgerun.security.keys import PrivateKey, private_from_bytes
from edgerun.security.signing import encode, sign
from edgerun.security.trust import Trust, format_time, parse_time

NOW = 1_795_000_000.0
OLD, NEW, STRANGE = (private_from_bytes(bytes([number] * 32), f"key {number}") for number in (1, 2, 3))
MESSAGE = b"manifest"


def signed(*keys: PrivateKey) -> bytes:
    return encode([sign(MESSAGE, key) for key in keys])


def refused(trust: Trust, signature: bytes, now: float = NOW) -> str:
    with pytest.raises(ModelError) as caught:
        trust.verify(MESSAGE, signature, "x/manifest.sig", now)
    return str(caught.value)


def test_a_folder_that_is_not_there_trusts_nobody(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "none")
    assert trust.keys == ()
    assert "is not known here" in refused(trust, signed(OLD))


def test_one_trusted_signature_is_enough(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "t").add(OLD.public).add(NEW.public)
    assert len(Trust.open(tmp_path / "t").keys) == 2
    for keys in ((OLD,), (NEW,), (STRANGE, NEW), (OLD, NEW)):
        assert trust.verify(MESSAGE, signed(*keys), "x", NOW).key in (OLD.public, NEW.public)
    assert STRANGE.public.id in refused(trust, signed(STRANGE))


def test_a_wrong_signature_of_a_known_key_refuses_the_whole(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "t").add(OLD.public).add(NEW.public)
    mixed = encode([sign(MESSAGE, OLD), sign(b"another", NEW)])
    assert "is not one over these bytes" in refused(trust, mixed)


def test_a_revoked_key_is_refused_for_ever(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "t").add(OLD.public).add(NEW.public)
    trust = trust.revoke(OLD.public.id, "laptop lost", NOW)
    assert "laptop lost" in refused(trust, signed(OLD), NOW - 1e9)
    assert "was revoked" in refused(trust, signed(NEW, OLD))
    assert trust.verify(MESSAGE, signed(NEW), "x", NOW).key == NEW.public
    with pytest.raises(ConfigError, match="not trusted again"):
        trust.add(OLD.public)
    with pytest.raises(ConfigError, match="no such key"):
        trust.revoke("0" * 16, "", NOW)


def test_the_stricter_of_two_files_counts(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "t").add(OLD.public)
    (tmp_path / "t" / "a copy.pub").write_text(f"{OLD.public.line}\nrevoked 2026-01-01T00:00:00Z\n")
    (tmp_path / "t" / "zz.pub").write_text(f"{OLD.public.line}\nnot-after 2026-01-01\n")
    (one,) = Trust.open(tmp_path / "t").keys
    assert (one.state(0), one.not_after) == ("revoked", parse_time("2026-01-01"))
    assert trust.keys[0].state(0) == "trusted"


def test_a_key_runs_out(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "t").add(OLD.public, NOW)
    assert trust.verify(MESSAGE, signed(OLD), "x", NOW - 1)
    assert f"until {format_time(NOW)}" in refused(trust, signed(OLD), NOW)
    assert f"until {format_time(NOW)}" in refused(trust.add(OLD.public), signed(OLD), NOW)
    assert trust.add(OLD.public, NOW + 2).verify(MESSAGE, signed(OLD), "x", NOW + 1)


def test_one_key_follows_another(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "t").add(OLD.public)
    line = (NEW.public.line + "\n").encode()
    with pytest.raises(ModelError, match="not signed by a key that is trusted"):
        trust.rotate(line, encode([sign(line, STRANGE)]), NOW)
    trust = trust.rotate(line, encode([sign(line, OLD)]), NOW, retire_at=NOW + 100)
    assert trust.verify(MESSAGE, signed(NEW), "x", NOW + 200).key.comment == "key 2"
    assert trust.verify(MESSAGE, signed(OLD), "x", NOW)
    assert "was to be used until" in refused(trust, signed(OLD), NOW + 200)


@pytest.mark.parametrize("place", ["", "one.pub"])
def test_keys_that_everybody_can_change_are_not_believed(tmp_path: Path, place: str) -> None:
    Trust.open(tmp_path / "t").add(OLD.public)
    (tmp_path / "t" / f"{OLD.public.id}.pub").rename(tmp_path / "t" / "one.pub")
    (tmp_path / "t" / place).chmod(0o777)
    with pytest.raises(ConfigError, match="every user could add a key"):
        Trust.open(tmp_path / "t")


@pytest.mark.parametrize("line", ["not-after soon", "revoked", "trusted yes", "not-after 2026-01-01 and more"])
def test_a_line_that_is_not_understood_is_not_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "k.pub").write_text(f"{OLD.public.line}\n{line}\n")
    with pytest.raises(ConfigError, match=r"k.pub:2: a line under a trusted key"):
        Trust.open(tmp_path)


def test_who_looked_before_a_revocation_does_not_undo_it(tmp_path: Path) -> None:
    before = Trust.open(tmp_path / "t").add(OLD.public)
    Trust.open(tmp_path / "t").revoke(OLD.public.id, "laptop lost", NOW)
    with pytest.raises(ConfigError, match=r"is not trusted again; got .*laptop lost"):
        before.add(OLD.public)
    line = (NEW.public.line + "\n").encode()
    before.rotate(line, encode([sign(line, OLD)]), NOW, NOW + 10)
    found = Trust.open(tmp_path / "t").find(OLD.public.id)
    assert found is not None
    assert (found.state(NOW), found.reason) == ("revoked", "laptop lost")


def test_several_change_what_is_trusted_at_once(tmp_path: Path) -> None:
    def revoke(number: int) -> None:
        Trust.open(tmp_path / "t").revoke(OLD.public.id, f"reason {number}", NOW)

    Trust.open(tmp_path / "t").add(OLD.public)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(revoke, range(40)))
    found = Trust.open(tmp_path / "t").find(OLD.public.id)
    assert found is not None
    assert found.state(NOW) == "revoked"
    assert len(list((tmp_path / "t").iterdir())) == 1
