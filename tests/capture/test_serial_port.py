"""Serial sensors over a real pseudo-terminal."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.capture.serial_port import FrameParser, LineParser, Options, SerialSource
from edgerun.errors import ConfigError, SourceError
from tests.capture.scenes import context

Ends = tuple[int, str]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The sensor's end and the device that edgerun opens."""
    device_side, own_side = os.openpty()
    yield device_side, os.ttyname(own_side)
    os.close(own_side)
    try:
        os.close(device_side)
    except OSError:
        assert True  # the test has unplugged it


def opened(name: str, stop: threading.Event | None = None, **changed: object) -> SerialSource:
    options = {"device": name, "channels": 3, "window_samples": 4, "stall_s": 20.0, **changed}
    return SerialSource(Options(**options), context(stop=stop))


def lines(first: int, count: int) -> bytes:
    return b"".join(b"%d,%d.5,-%d\r\n" % (n, n, n) for n in range(first, first + count))


def rows(first: int, count: int) -> list[list[float]]:
    return [[n, n + 0.5, -n] for n in range(first, first + count)]


def test_lines_become_windows(ends: Ends) -> None:
    source = opened(ends[1], hop_samples=2)
    os.write(ends[0], b"9,9,9\n" + lines(0, 8))  # what comes first may be the rest of a line
    grabs = [source.grab() for _ in range(3)]
    assert [grab.gap for grab in grabs if grab] == [True, False, False]
    assert source.retrieve(None).tolist() == rows(4, 4)
    assert source.frame_size == (3, 4)
    source.close()


def test_pieces_of_lines_and_of_values_are_put_together(ends: Ends) -> None:
    source = opened(ends[1])
    text = b"\n" + lines(0, 4)
    thread = threading.Thread(target=lambda: [os.write(ends[0], bytes([byte])) for byte in text])
    thread.start()
    assert source.grab() is not None
    thread.join()
    assert source.retrieve(None).tolist() == rows(0, 4)
    source.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\x00\x80boot v1.2\r\n",
        b"1,2\r\n",
        b"1,2,3,4\r\n",
        b"nan,1,2\r\n",
        b"1e999,0,0\n",
        b"1e39,0,0\n",
        b"1;2;3\n",
        b"x" * 9000,
    ],
)
def test_garbage_between_lines_is_a_gap(ends: Ends, garbage: bytes) -> None:
    source = opened(ends[1])
    thread = threading.Thread(target=lambda: os.write(ends[0], b"\n" + lines(0, 6) + garbage + b"\n" + lines(6, 6)))
    thread.start()
    assert source.grab() is not None
    assert source.retrieve(None).tolist() == rows(0, 4)
    grab = source.grab()
    thread.join()
    assert grab is not None
    assert grab.gap
    first = 7 if len(garbage) > 4096 else 6  # after a flood the rest of its last line is thrown away too
    assert source.retrieve(None).tolist() in (rows(6, 4), rows(first, 4))
    source.close()


def test_frames_with_a_checksum(ends: Ends) -> None:
    source = opened(ends[1], format="frames", checksum="xor", sync="aa55", scale=0.5, offset=1.0)
    good = b"".join(frame(n, "xor") for n in range(4))
    broken = bytearray(frame(9, "xor"))
    broken[3] ^= 0x10
    os.write(ends[0], frame(7, "xor")[4:] + good[:9] + bytes(broken) + good)
    assert source.grab() is not None
    assert source.retrieve(None).tolist() == [[n * 0.5 + 1, 1.0, -n * 0.5 + 1] for n in range(4)]
    source.close()


def frame(n: int, checksum: str) -> bytes:
    body = struct.pack("<3h", n, 0, -n)
    check = 0
    for byte in body:
        check = check ^ byte if checksum == "xor" else (check + byte) & 0xFF
    return b"\xaa\x55" + body + (bytes([check]) if checksum != "none" else b"")


@given(
    noise=st.lists(st.binary(max_size=20).filter(lambda piece: b"\xaa" not in piece), min_size=6, max_size=6),
    checksum=st.sampled_from(["none", "sum", "xor"]),
    cuts=st.lists(st.integers(1, 7), min_size=1),
)
@settings(deadline=None)
def test_frames_are_found_in_any_noise(noise: list[bytes], checksum: str, cuts: list[int]) -> None:
    options = Options(device="x", channels=3, window_samples=1, format="frames", checksum=checksum)
    stream = b"".join(piece + frame(n, checksum) for n, piece in enumerate(noise))
    parser, got, at = FrameParser(options), [], 0
    for number in range(len(stream)):
        cut = cuts[number % len(cuts)]
        got += parser.feed(stream[at : at + cut])
        at += cut
    assert [row for row in got if row is not None] == [(n, 0.0, -n) for n in range(len(noise))]
    assert got.count(None) == sum(bool(piece) for piece in noise)


@given(st.lists(st.binary(max_size=100)))
@settings(deadline=None)
def test_no_bytes_break_the_parsers(pieces: list[bytes]) -> None:
    options = Options(device="x", channels=2, window_samples=1)
    for parser in (LineParser(options), FrameParser(options)):
        for piece in pieces:
            assert all(row is None or len(row) == 2 for row in parser.feed(piece))


def test_unplugging_loses_the_source(ends: Ends) -> None:
    source = opened(ends[1])
    os.write(ends[0], b"\n" + lines(0, 2))
    os.close(ends[0])
    with pytest.raises(SourceError, match=r"gone|hung up") as caught:
        source.grab()
    assert not caught.value.final
    source.close()
    source.close()


def test_silence_and_garbage_are_told_apart(ends: Ends) -> None:
    source = opened(ends[1], stall_s=0.05)
    with pytest.raises(SourceError, match="silent"):
        source.grab()
    source.close()
    source = opened(ends[1], stall_s=2.0)
    stop = threading.Event()

    def babble() -> None:
        while not stop.wait(0.005):
            os.write(ends[0], b"\xf0\x9f\n")

    thread = threading.Thread(target=babble)
    thread.start()
    try:
        with pytest.raises(SourceError, match="Check baud_rate") as caught:
            source.grab()
    finally:
        stop.set()
        thread.join()
    assert "\\xf0\\x9f" in str(caught.value)
    source.close()


def test_a_port_that_is_not_there_or_taken_can_be_tried_again(ends: Ends) -> None:
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        opened("/dev/ttyUSB-none")
    assert not caught.value.final
    with pytest.raises(SourceError, match="group dialout"):
        opened("/dev/null")  # not a terminal


def test_what_lay_in_the_port_before_is_not_used(ends: Ends) -> None:
    os.write(ends[0], lines(100, 4))
    source = opened(ends[1])
    os.write(ends[0], b"\n" + lines(0, 4))
    source.grab()
    assert source.retrieve(None).tolist() == rows(0, 4)
    source.close()


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="115200"):
        Options(device="x", window_samples=1, baud_rate=115201)
    for wrong in ({"sync": "a"}, {"sync": "zz"}, {"channels": 0}, {"baud": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"device": "x", "window_samples": 1, **wrong}, Options)
