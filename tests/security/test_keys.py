"""Ed25519 keys: the standard's own vectors, files that keep to themselves, lines that are what they say."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ConfigError
from edgerun.security.keys import (
    PublicKey,
    generate,
    parse_public,
    private_from_bytes,
    read_private,
    read_public,
    write_pair,
)

RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
        "2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a"
        "d9bef1177331a704",
    ),
}


@pytest.mark.parametrize("vector", RFC_8032)
def test_the_vectors_of_rfc_8032(vector: str) -> None:
    seed, public, message, signature = map(bytes.fromhex, RFC_8032[vector])
    key = private_from_bytes(seed)
    assert key.public.raw == public
    assert key.sign(message) == signature
    assert PublicKey(public).accepts(signature, message)
    assert not PublicKey(public).accepts(signature, message + b"\0")


def test_a_signature_with_another_s_of_the_same_value_is_refused() -> None:
    """RFC 8032, 5.1.7: S is below the group's order, or one message would have many signatures."""
    _, public, message, signature = map(bytes.fromhex, RFC_8032["TEST 3"])
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    assert not PublicKey(public).accepts(signature[:32] + s.to_bytes(32, "little"), message)


def test_a_pair_is_written_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        public = write_pair(generate("release 2026"), tmp_path / "r.key")
    finally:
        os.umask(old)
    assert (tmp_path / "r.key").stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    key = read_private(tmp_path / "r.key")
    assert key.public == read_public(public)
    assert key.public.comment == "release 2026"
    for left in (public, tmp_path / "r.key"):
        with pytest.raises(ConfigError, match="never overwritten"):
            write_pair(generate(), tmp_path / "r.key")
        left.unlink()


def test_a_passphrase_is_needed_and_must_be_the_right_one(tmp_path: Path) -> None:
    write_pair(generate(), tmp_path / "r.key", "correct horse")
    assert b"ENCRYPTED" in (tmp_path / "r.key").read_bytes()
    assert read_private(tmp_path / "r.key", "correct horse").public.id
    for wrong in (None, "battery staple"):
        with pytest.raises(ConfigError, match="cannot be used"):
            read_private(tmp_path / "r.key", wrong)


def test_a_private_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    write_pair(generate(), tmp_path / "r.key")
    (tmp_path / "r.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"other users can reach .* got 0640. Run chmod 600"):
        read_private(tmp_path / "r.key")


def test_the_public_key_is_not_taken_for_the_private_one(tmp_path: Path) -> None:
    write_pair(generate(), tmp_path / "r.key")
    with pytest.raises(ConfigError, match=r"this is the public key; expected the private one. Name .*/r.key$"):
        read_private(tmp_path / "r.key.pub")


def test_openssl_reads_the_key_and_checks_the_signature(tmp_path: Path) -> None:
    write_pair(generate(), tmp_path / "r.key")
    (tmp_path / "message").write_bytes(b"manifest")
    (tmp_path / "raw.sig").write_bytes(read_private(tmp_path / "r.key").sign(b"manifest"))
    words = ["openssl", "pkeyutl", "-verify", "-rawin", "-inkey", "r.key", "-in", "message", "-sigfile", "raw.sig"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout + done.stderr


def test_nothing_shows_a_private_key() -> None:
    key = private_from_bytes(bytes(range(32)))
    assert repr(key) == f"PrivateKey({key.public.id})"
    with pytest.raises(TypeError):
        pickle.dumps(key)


@given(st.binary(min_size=32, max_size=32), st.text(max_size=40))
def test_a_line_is_read_back_as_it_was_written(seed: bytes, comment: str) -> None:
    comment = "".join(c for c in comment if c.isprintable()).strip()
    key = PublicKey(private_from_bytes(seed).public.raw, comment)
    assert parse_public(key.line) == key


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519 AAAA",
        "edgerun-ed25519",
        "edgerun-ed25519 AAAA",
        "edgerun-ed25519 " + "A" * 43,
        "edgerun-ed25519 " + "A" * 42 + "B=",  # spare bits that are not zero
        "edgerun-ed25519 hKpPhJZ3tLuYfIzonDEYR/odwkMltbQaYSdhWn4qdxY= a\x1bb",
        "edgerun-ed25519 hKpPhJZ3tLuYfIzonDEYR/odwkMltbQaYSdhWn4qdxY= " + "x" * 600,
    ],
)
def test_what_is_no_public_key(line: str) -> None:
    with pytest.raises(ConfigError, match="not a public key"):
        parse_public(line)


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def torsion() -> list[bytes]:
    """The encodings of all points whose order divides 8, worked out on -x² + y² = 1 + d x² y² (RFC 8032, 5.1)."""

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        k = D * a[0] * b[0] * a[1] * b[1] % P
        x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + k, -1, P) % P
        return x, (a[1] * b[1] + a[0] * b[0]) * pow(1 - k, -1, P) % P

    def lift(y: int) -> tuple[int, int] | None:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        return (x, y) if x * x % P == square else None

    order = 2**252 + 27742317777372353535851937790883648493
    y = 2
    while True:  # a point times the prime order leaves its part of order 8
        y += 1
        point = lift(y)
        if point is None:
            continue
        found, left, base = (0, 1), order, point
        while left:
            found, base, left = add(found, base) if left & 1 else found, add(base, base), left >> 1
        points = [(0, 1)]
        while (following := add(points[-1], found)) != (0, 1):
            points.append(following)
        if len(points) == 8:
            return [(y | (x & 1) << 255).to_bytes(32, "little") for x, y in points]


def test_keys_that_take_any_signature_are_no_keys() -> None:
    weak = torsion()
    assert len(set(weak)) == 8
    for raw in weak:
        with pytest.raises(ConfigError, match="anybody could sign"):
            parse_public(PublicKey(raw).line)
