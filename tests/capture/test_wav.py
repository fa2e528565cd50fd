"""WAV files of every kind that is read, of other rates, damaged and cut short."""

from __future__ import annotations

import contextlib
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgerun.capture.wav import Options, Sinc, WavSource
from edgerun.clock import Clock, FakeClock
from edgerun.errors import SourceError
from tests.capture.scenes import context

SOUND = np.stack([np.linspace(-1, 1, 101) * 0.999, np.linspace(0.5, -0.25, 101)], 1)


def packed(sound: NDArray[np.float64], bits: int, floating: bool) -> bytes:
    if floating:
        return sound.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return np.round(sound * 128 + 128).clip(0, 255).astype(np.uint8).tobytes()
    numbers = np.round(sound * 2 ** (bits - 1)).astype("<i4")
    return numbers.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()


def wav_bytes(
    sound: NDArray[np.float64],
    bits: int = 16,
    *,
    rate_hz: int = 16_000,
    floating: bool = False,
    extensible: bool = False,
    extra: bytes = b"",
    stated: int | None = None,
) -> bytes:
    data = packed(sound, bits, floating)
    channels, align = sound.shape[1], sound.shape[1] * bits // 8
    tag = 3 if floating else 1
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate_hz, rate_hz * align, align, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 3, tag) + bytes.fromhex("000000001000800000aa00389b71")
    head = b"fmt " + struct.pack("<I", len(form)) + form + extra
    size = len(data) if stated is None else stated
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + head + b"data" + struct.pack("<I", size) + data


def opened(
    path: Path, *, loop: bool = False, as_fast: bool = True, clock: Clock | None = None, **changed: object
) -> WavSource:
    options = {"path": str(path), "window_samples": 50, "channels": "all", **changed}
    return WavSource(Options(**options), context(clock or FakeClock(), as_fast=as_fast, loop=loop))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "sound.wav"
    path.write_bytes(data)
    return path


def all_sound(source: WavSource) -> NDArray[np.float32]:
    parts = []
    try:
        while source.grab() is not None:
            parts.append(source.retrieve(None))
    finally:
        source.close()
    return np.concatenate(parts)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("bits", "floating", "error"),
    [(8, False, 1 / 200), (16, False, 1e-4), (24, False, 1e-6), (32, False, 1e-7), (32, True, 1e-7), (64, True, 1e-7)],
)
def test_every_kind_is_read(tmp_path: Path, bits: int, floating: bool, error: float, extensible: bool) -> None:
    path = written(tmp_path, wav_bytes(SOUND, bits, floating=floating, extensible=extensible))
    source = opened(path)
    assert (source.lossless, source.frame_size) == (True, (2, 50))
    got = all_sound(source)
    assert got.shape == (100, 2)
    assert got.dtype == np.float32
    assert np.abs(got - SOUND[:100]).max() < error


def test_what_the_standard_library_writes_is_read(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.arange(-50, 50, dtype="<i2").tobytes())
    assert (all_sound(opened(tmp_path / "sound.wav"))[:, 0] * 32768).tolist() == list(range(-50, 50))


def test_channels_are_mixed_or_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, wav_bytes(SOUND, 32, floating=True))
    assert np.allclose(all_sound(opened(path, channels="mono"))[:, 0], SOUND[:100].mean(1), atol=1e-6)
    assert np.allclose(all_sound(opened(path, channels=1))[:, 0], SOUND[:100, 1], atol=1e-6)
    with pytest.raises(SourceError, match="no channel 2"):
        opened(path, channels=2)


def test_chunks_it_does_not_know_are_passed_over(tmp_path: Path) -> None:
    extra = b"LIST" + struct.pack("<I", 5) + b"INFO!\0"
    assert len(all_sound(opened(written(tmp_path, wav_bytes(SOUND, extra=extra))))) == 100


@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF])
def test_a_size_that_was_never_filled_in_is_the_rest_of_the_file(tmp_path: Path, stated: int) -> None:
    assert len(all_sound(opened(written(tmp_path, wav_bytes(SOUND, stated=stated))))) == 100


def test_a_file_cut_short_is_played_to_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, wav_bytes(SOUND)[:-157])
    assert np.allclose(all_sound(opened(path)), SOUND[:50], atol=1e-4)
    assert "cut short: 247 of 404 bytes" in caplog.text


def test_a_file_that_shrinks_while_it_is_read_ends_the_stream(tmp_path: Path) -> None:
    path = written(tmp_path, wav_bytes(SOUND))
    source = opened(path)
    path.write_bytes(wav_bytes(SOUND)[:100])
    with pytest.raises(SourceError, match="become shorter"):
        source.grab()
    source.close()


def test_it_is_replayed_at_its_rate(tmp_path: Path) -> None:
    clock = FakeClock()
    source = opened(written(tmp_path, wav_bytes(SOUND, rate_hz=100)), as_fast=False, clock=clock, hop_samples=25)
    grabs = []
    while (grab := source.grab()) is not None:
        grabs.append(grab)
    assert [grab.item for grab in grabs] == ["0", "25", "50"]
    assert [grab.captured_ns - grabs[0].captured_ns for grab in grabs] == [0, 250_000_000, 500_000_000]
    assert not source.lossless
    source.close()


def test_a_loop_begins_again_with_a_gap(tmp_path: Path) -> None:
    source = opened(written(tmp_path, wav_bytes(SOUND)), loop=True)
    grabs = [source.grab() for _ in range(5)]
    assert [(grab.item, grab.gap) for grab in grabs if grab] == [
        ("0", False), ("50", False), ("0", True), ("50", False), ("0", True),
    ]  # fmt: skip
    source.close()


def test_another_rate_is_refused_when_told_to(tmp_path: Path) -> None:
    path = written(tmp_path, wav_bytes(SOUND, rate_hz=44_100))
    with pytest.raises(SourceError, match="expected 16000 Hz; got 44100 Hz") as caught:
        opened(path, rate_hz=16_000, other_rate="refuse")
    assert caught.value.final


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (16_000, 44_100), (16_000, 16_001)]
)
def test_another_rate_is_converted(tmp_path: Path, from_hz: int, to_hz: int) -> None:
    tone_hz = 0.35 * min(from_hz, to_hz)
    at = np.arange(from_hz // 4) / from_hz
    path = written(tmp_path, wav_bytes(np.sin(2 * np.pi * tone_hz * at)[:, None], 32, floating=True, rate_hz=from_hz))
    source = opened(path, rate_hz=to_hz, window_samples=160, hop_samples=160)
    got = all_sound(source)[:, 0]
    wanted = np.sin(2 * np.pi * tone_hz * np.arange(len(got)) / to_hz)
    inner = slice(200, len(got) - 200)
    assert len(got) == to_hz // 4 // 160 * 160
    assert np.abs(got - wanted)[inner].max() < 2e-3  # −54 dB: within the stated 0.1 dB


@given(
    rates=st.sampled_from([(48_000, 16_000), (44_100, 16_000), (22_050, 16_000)]),
    share=st.floats(1.09, 1.3),
)
@settings(deadline=None, max_examples=20)
def test_what_would_alias_is_80_db_down(rates: tuple[int, int], share: float) -> None:
    from_hz, to_hz = rates
    tone_hz = min(share * to_hz / 2, 0.499 * from_hz)
    sound = np.sin(2 * np.pi * tone_hz * np.arange(4000) / from_hz).astype(np.float32)[:, None]
    sinc = Sinc(from_hz, to_hz)
    got = sinc.convert(lambda first, count: sound[first : first + count], 0, sinc.length(4000), 4000)[100:-100]
    assert np.sqrt((got.astype(np.float64) ** 2).mean() * 2) < 1e-4


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20))
@settings(deadline=None)
def test_in_pieces_or_at_once_it_is_the_same(cuts: list[int]) -> None:
    sound = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    sinc = Sinc(441, 160)
    length = sinc.length(500)
    whole = sinc.convert(lambda first, count: sound[first : first + count], 0, length, 500)
    at = 0
    for cut in cuts:
        cut = min(cut, length - at)
        if cut:
            part = sinc.convert(lambda first, count: sound[first : first + count], at, cut, 500)
            assert np.allclose(part, whole[at : at + cut], atol=1e-6)
        at += cut


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_damage_does_more_than_refuse(tmp_path: Path, data: st.DataObject) -> None:
    good = bytearray(wav_bytes(SOUND, extensible=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, 70))] = data.draw(st.integers(0, 255))
    path = written(tmp_path, bytes(good[: data.draw(st.integers(0, len(good)))]))
    with contextlib.suppress(SourceError):
        assert np.isfinite(all_sound(opened(path, window_samples=1))).all()


def test_a_folder_and_nothing_at_all_are_final(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(SourceError, match="cannot be opened") as caught:
            opened(path)
        assert caught.value.final


def test_shorter_than_a_window_is_final(tmp_path: Path) -> None:
    source = opened(written(tmp_path, wav_bytes(SOUND)), window_samples=102, loop=True)
    with pytest.raises(SourceError, match="at least 102 samples in a row; got 101"):
        source.grab()
    source.close()
