from __future__ import annotations

import contextlib
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.capture.http import Dechunker
from edgerun.capture.jpeg import JpegWalk
from edgerun.capture.multipart import MultipartParser, boundary_of
from edgerun.errors import SourceError


def _jpeg(seed: int, options: tuple[int, ...] = ()) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (8 + seed % 40, 16 + seed % 24, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", image, list(options))[1])


def _with_thumbnail(jpeg: bytes, thumbnail: bytes) -> bytes:
    """An Exif segment that holds a whole JPEG, end marker and all."""
    return jpeg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpeg[2:]


JPEGS = [
    _jpeg(1),
    _jpeg(2, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    _jpeg(3, (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)),
    _with_thumbnail(_jpeg(4), _jpeg(5)),
    _jpeg(6) + b"",
]
_PART = st.sampled_from(JPEGS) | st.binary(max_size=80).filter(lambda part: b"--frame" not in part)


def _body(parts: list[bytes], with_length: bool, delimiter: bytes = b"--frame", newline: bytes = b"\r\n") -> bytes:
    body = b""
    for part in parts:
        length = b"Content-Length: %d" % len(part) + newline if with_length else b""
        body += delimiter + newline + b"Content-Type: image/jpeg" + newline + length + newline + part + newline
    return body + delimiter + newline


def _parse(body: bytes, cuts: list[int], boundary: str = "frame") -> list[bytes]:
    parser = MultipartParser(boundary)
    found = []
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for begin, end in itertools.pairwise(edges):
        parser.feed(body[begin:end])
        while parser.next():
            found.append(bytes(parser.held))
    return found


_CUTS = st.lists(st.integers(0, 10**6), max_size=40)


@settings(deadline=None)
@given(st.lists(_PART, min_size=1, max_size=6), _CUTS, st.sampled_from([b"\r\n", b"\n"]))
def test_with_content_length_any_cutting_gives_the_same_parts(parts: list[bytes], cuts: list[int], line: bytes) -> None:
    assert _parse(_body(parts, True, newline=line), cuts) == parts


@settings(deadline=None)
@given(st.lists(st.sampled_from(JPEGS), min_size=1, max_size=6), _CUTS, st.sampled_from([b"\r\n", b"\n"]))
def test_without_content_length_any_cutting_gives_the_same_jpegs(
    parts: list[bytes], cuts: list[int], line: bytes
) -> None:
    assert _parse(_body(parts, False, newline=line), cuts) == parts


@settings(deadline=None)
@given(st.lists(_PART, min_size=1, max_size=6), _CUTS)
def test_without_content_length_cutting_never_matters(parts: list[bytes], cuts: list[int]) -> None:
    body = _body(parts, False)
    assert _parse(body, cuts) == _parse(body, [])


@settings(deadline=None)
@given(st.binary(max_size=3000), _CUTS)
def test_garbage_is_waited_for_or_refused_but_never_a_crash(body: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(SourceError):
        _parse(b"--frame\r\n" + body, cuts)


def test_a_jpeg_without_length_is_there_with_its_last_byte() -> None:
    parser = MultipartParser("frame")
    parser.feed(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + JPEGS[3][:-1])
    assert not parser.next()
    parser.feed(JPEGS[3][-1:])
    assert parser.next()
    assert parser.held == JPEGS[3]


@pytest.mark.parametrize("jpeg", JPEGS)
def test_the_walk_finds_the_end_of_every_kind_of_jpeg(jpeg: bytes) -> None:
    assert JpegWalk().find_end(bytearray(jpeg + b"\r\nbehind\xff\xd9")) == len(jpeg)
    walk, grown = JpegWalk(), bytearray()
    ends = []
    for byte in jpeg:
        grown.append(byte)
        ends.append(walk.find_end(grown))
    assert ends == [None] * (len(jpeg) - 1) + [len(jpeg)]


@pytest.mark.parametrize("stated", [-7, 5])
def test_a_wrong_content_length_costs_one_frame_only(stated: int) -> None:
    wrong = JPEGS[0]
    head = b"--frame\r\nContent-Length: %d\r\n\r\n" % (len(wrong) + stated)
    parts = _parse(head + wrong + b"\r\n" + _body([JPEGS[1], JPEGS[2]], True), [])
    assert parts[-1] == JPEGS[2]
    assert len(parts) >= 2


@pytest.mark.parametrize(
    ("announced", "sent"), [("frame", b"--frame"), ("--frame", b"--frame"), ("--frame", b"----frame")]
)
def test_delimiters_as_cameras_send_them(announced: str, sent: bytes) -> None:
    assert _parse(_body(JPEGS[:2], True, sent), [], announced) == JPEGS[:2]
    assert _parse(_body(JPEGS[:2], False, sent), [], announced) == JPEGS[:2]


def test_parts_that_are_no_pictures_are_passed_over() -> None:
    event = b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello\r\n"
    assert _parse(event + _body([JPEGS[0]], True), []) == [JPEGS[0]]


def test_the_closing_boundary_ends_it() -> None:
    parser = MultipartParser("frame")
    parser.feed(_body([JPEGS[0]], True)[: -len(b"\r\n")] + b"--\r\n")
    assert parser.next()
    assert parser.held == JPEGS[0]
    assert not parser.next()
    assert parser.ended


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"x" * 40_000, "no boundary at the start"),
        (b"--frame\r\n" + b"A: b\r\n" * 10_000, "headers of a part do not end"),
        (b"--frame\r\nContent-Length: 99999999999\r\n\r\n", "a part is too large"),
        (b"--frame\r\n\r\n" + b"\x00" * (17 * 1024 * 1024), "a part does not end"),
    ],
)
def test_what_has_no_end_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        _parse(body, [])


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/x-mixed-replace; boundary=frame", "frame"),
        ('multipart/x-mixed-replace;boundary="a b:c"', "a b:c"),
        ("Multipart/X-Mixed-Replace; Boundary=--frame", "--frame"),
        ("multipart/x-mixed-replace; charset=x; boundary = frame ", "frame"),
        ("image/jpeg", None),
        ("", None),
    ],
)
def test_boundary_of(content_type: str, boundary: str | None) -> None:
    assert boundary_of(content_type) == boundary


def test_multipart_without_boundary_is_refused() -> None:
    with pytest.raises(SourceError, match="names no boundary"):
        boundary_of("multipart/x-mixed-replace")


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), _CUTS, st.booleans())
def test_dechunking_any_cutting_gives_the_body(pieces: list[bytes], cuts: list[int], extended: bool) -> None:
    extension = b";name=value" if extended else b""
    wire = b"".join(b"%X%s\r\n%s\r\n" % (len(p), extension, p) for p in pieces) + b"0\r\n\r\n"
    chunks = Dechunker()
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    body = b"".join(chunks.feed(wire[a:b]) for a, b in itertools.pairwise(edges))
    assert body == b"".join(pieces)
    assert chunks.ended


@pytest.mark.parametrize("wire", [b"xyz\r\n", b"-5\r\n", b"\r\n", b"1" * 2000])
def test_damaged_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(SourceError, match="chunk header"):
        Dechunker().feed(wire)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 150_000), min_size=1, max_size=8), st.integers(5_000, 65536))
def test_the_held_picture_outlives_whatever_is_read_behind_it(sizes: list[int], step: int) -> None:
    """Also while the buffer is moved together and grows; what is missing is never more than what will come."""
    body = _body([bytes([i]) * size for i, size in enumerate(sizes)], True)
    parser, found, at = MultipartParser("frame"), [], 0
    while at < len(body):
        while parser.next():
            found.append(len(parser.held))
        held = bytes(parser.held)
        assert 1 <= parser.missing <= len(body) - at
        room = parser.room()
        piece = body[at : at + min(step, len(room))]
        room[: len(piece)] = piece
        parser.filled(len(piece))
        at += len(piece)
        assert parser.held == held
        assert parser.received == at
    while parser.next():
        found.append(len(parser.held))
    assert found == sizes


def test_a_picture_says_where_in_the_body_it_ended() -> None:
    parser = MultipartParser("frame")
    body = _body(JPEGS[:2], True)
    parser.feed(body)
    for jpeg in JPEGS[:2]:
        assert parser.next()
        assert parser.held_end == body.index(jpeg) + len(jpeg)
