"""Sealed files: every change is seen, nothing is opened without the right key, name and purpose."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.errors import ConfigError, ModelError, SealError
from edgerun.models import load
from edgerun.models.sealed import seal_model_file
from edgerun.secret import Secret
from edgerun.security.sealing import (
    RecordSealer,
    SealingKey,
    is_sealed,
    open_sealed,
    seal,
    seal_file,
    unseal,
)
from tests.real_models import model_file

KEY = SealingKey(bytes(range(32)))
CHUNK = 1 << 16
HEAD = 49
STEP = CHUNK + 16


@given(st.binary(max_size=400) | st.integers(0, 3 * CHUNK).map(lambda n: b"\x5a" * n), st.text(max_size=20), st.text())
@settings(max_examples=60)
def test_what_was_sealed_is_opened(plain: bytes, purpose: str, name: str) -> None:
    sealed = seal(plain, KEY, purpose, name)
    assert is_sealed(sealed)
    assert unseal(sealed, KEY, purpose, name) == plain
    if len(plain) > 8:
        assert plain not in sealed


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_its_length_is_what_the_format_says(size: int) -> None:
    assert len(seal(bytes(size), KEY, "p", "n")) == HEAD + size + 16 * max(1, -(-size // CHUNK))


def test_every_flipped_bit_is_seen() -> None:
    sealed = seal(b"a model's weights", KEY, "model", "m.tflite")
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(SealError):
                unseal(bytes(changed), KEY, "model", "m.tflite")


@given(st.integers(0, HEAD + 3 * STEP), st.integers(1, 255))
@settings(max_examples=60)
def test_a_changed_byte_of_a_long_file_is_seen(at: int, by: int) -> None:
    changed = bytearray(LONG)
    changed[at % len(LONG)] ^= by
    with pytest.raises(SealError):
        unseal(bytes(changed), KEY, "model", "m")


LONG = seal(bytes(range(256)) * (3 * CHUNK // 256), KEY, "model", "m")


@pytest.mark.parametrize("cut", [*range(0, 80), HEAD + STEP, HEAD + 2 * STEP, HEAD + 2 * STEP + 16, len(LONG) - 1])
def test_every_truncation_is_seen(cut: int) -> None:
    with pytest.raises(SealError):
        unseal(LONG[:cut], KEY, "model", "m")


def chunks(sealed: bytes) -> list[bytes]:
    return [sealed[:HEAD], *(sealed[at : at + STEP] for at in range(HEAD, len(sealed), STEP))]


@pytest.mark.parametrize(
    "order", [(0, 2, 1, 3), (0, 1, 1, 2, 3), (0, 1, 3), (0, 3), (0, 1, 2, 3, 3), (0, 1, 2, 3, 1), (0, 1, 2), (0,)]
)
def test_chunks_that_are_swapped_repeated_or_left_out_are_seen(order: tuple[int, ...]) -> None:
    parts = chunks(LONG)
    assert len(parts) == 4
    with pytest.raises(SealError):
        unseal(b"".join(parts[n] for n in order), KEY, "model", "m")


def test_a_chunk_of_another_file_of_the_same_key_is_seen() -> None:
    other = chunks(seal(bytes(range(256)) * (3 * CHUNK // 256), KEY, "model", "m"))
    mine = chunks(LONG)
    for at in (1, 2, 3):
        with pytest.raises(SealError):
            unseal(b"".join([*mine[:at], other[at], *mine[at + 1 :]]), KEY, "model", "m")


def test_files_cannot_take_each_others_place() -> None:
    sealed = seal(b"x", KEY, "model", "a")
    for purpose, name in (("model", "b"), ("collect", "a"), ("mode", "la"), ("modela", ""), ("", "modela")):
        with pytest.raises(SealError, match="not the file that should be there"):
            unseal(sealed, KEY, purpose, name)


def test_another_key_is_named_by_its_id() -> None:
    other = SealingKey.new()
    with pytest.raises(SealError, match=f"another key; expected key {other.id.hex()}; got key {KEY.id.hex()}"):
        unseal(seal(b"x", KEY, "p", "n"), other, "p", "n")


def test_another_version_is_named_so() -> None:
    with pytest.raises(SealError, match="another version"):
        unseal(b"EDGESEA9" + bytes(100), KEY, "p", "n")


def test_two_seals_of_one_text_have_nothing_in_common() -> None:
    one, two = seal(bytes(1000), KEY, "p", "n")[17:], seal(bytes(1000), KEY, "p", "n")[17:]
    assert not {one[at : at + 8] for at in range(len(one) - 8)} & {two[at : at + 8] for at in range(len(two) - 8)}


def test_a_file_is_sealed_in_its_place_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    plain = b"planted secret weights " * 20_000
    path.write_bytes(plain)
    seal_file(path, path, KEY, "model", "m.bin")
    assert open_sealed(path, KEY, "model", "m.bin") == plain
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["m.bin"]
    assert b"planted" not in path.read_bytes()
    with pytest.raises(SealError, match="too large"):
        open_sealed(path, KEY, "model", "m.bin", max_bytes=1000)
    with pytest.raises(OSError, match="No such file"):
        seal_file(tmp_path / "none", tmp_path / "out", KEY, "model", "m.bin")
    assert [one.name for one in tmp_path.iterdir()] == ["m.bin"]


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=20)), max_size=8))
@settings(max_examples=40)
def test_records(records: list[tuple[bytes, bytes]]) -> None:
    writer = RecordSealer(KEY, "spool")
    sealed = [writer.seal(plain, about) for plain, about in records]
    assert len(set(sealed)) == len(sealed)
    reader = RecordSealer(KEY, "spool")  # the next process
    assert [reader.unseal(one, about) for one, (_, about) in zip(sealed, records, strict=True)] == [
        plain for plain, _ in records
    ]
    for one, (_, about) in zip(sealed, records, strict=True):
        for wrong in (one[:-1], one[:31], b"", one[:30] + bytes([one[30] ^ 1]) + one[31:]):
            with pytest.raises(SealError):
                reader.unseal(wrong, about)
        with pytest.raises(SealError):
            reader.unseal(one, about + b"x")
        with pytest.raises(SealError):
            RecordSealer(KEY, "other").unseal(one, about)


def test_keys_are_read_in_two_spellings_and_shown_in_none() -> None:
    key = SealingKey.new()
    raw = bytes.fromhex(key.text())
    for text in (key.text(), key.text().upper(), base64.b64encode(raw).decode()):
        assert SealingKey.read(Secret("plain", text)).id == key.id
    for shown in (repr(key), f"{key}", str([key])):
        assert key.text() not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(TypeError):
        msgspec.json.encode(key)


@pytest.mark.parametrize(
    "text", ["correct horse battery staple", "00" * 31, "zz" * 32, base64.b64encode(b"x").decode()]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(SealError, match="edgerun control key") as caught:
        SealingKey.read(Secret("plain", text))
    assert text not in str(caught.value)


def test_a_key_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        SealingKey.read(Secret("env", "NO_SUCH_KEY"))


def test_a_sealed_model_is_loaded_from_memory_only(tmp_path: Path) -> None:
    for name in ("efficientnet_lite0_int8.tflite", "silero_vad.onnx"):
        plain = model_file(name)
        path = tmp_path / f"m{plain.suffix}"
        path.write_bytes(plain.read_bytes())
        before = load(path)
        seal_model_file(path, KEY)
        seal_model_file(path, KEY)  # already
        assert load(path, KEY).model == before.model
        with pytest.raises(ModelError, match="model_key"):
            load(path)
        with pytest.raises(ModelError, match="another key"):
            load(path, SealingKey.new())
        moved = tmp_path / f"other{plain.suffix}"
        path.rename(moved)
        with pytest.raises(ModelError, match="not the file that should be there"):
            load(moved, KEY)
