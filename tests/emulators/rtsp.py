"""An RTSP/1.0 camera (RFC 2326) that sends JPEG over RTP (RFC 2435), interleaved in the control connection."""

from __future__ import annotations

import argparse
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

from tests.emulators.door import keep_open
from tests.emulators.pictures import add_arguments, jpegs

_PAYLOAD_TYPE = 26  # JPEG, RFC 3551 table 5
_CLOCK_HZ = 90_000
_LONGEST_PAYLOAD = 1400
_SSRC = 0x0E06E12F


class Jpeg:
    """What RTP carries of a baseline JPEG: type, size, quantisation tables and the scan. Huffman tables must be the
    standard's (RFC 2435 §3.1.3, §3.1.8), which is what libjpeg writes unless it optimises."""

    def __init__(self, data: bytes) -> None:
        at, tables = 2, {}
        while True:
            marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
            body = data[at + 4 : at + 2 + length]
            if marker == 0xDB:
                while body:
                    assert body[0] >> 4 == 0, "16-bit quantisation tables"
                    tables[body[0] & 15] = body[1:65]
                    body = body[65:]
            elif marker == 0xC0:
                self.height, self.width = struct.unpack(">HH", body[1:5])
                self.type = {0x22: 1, 0x21: 0}[body[7]]  # 4:2:0 and 4:2:2 luma sampling
            at += 2 + length
            if marker == 0xDA:
                break
        self.tables = tables[0] + tables[1]
        self.scan = data[at : data.rindex(b"\xff\xd9")]


def packets(data: bytes, sequence: int, timestamp: int) -> Iterator[bytes]:
    """One JPEG as RTP packets (RFC 3550 §5.1, RFC 2435 §3.1); the first carries the quantisation tables."""
    jpeg = Jpeg(data)
    offset = 0
    while offset < len(jpeg.scan):
        header = struct.pack(
            ">BBBBBBBB", 0, *offset.to_bytes(3, "big"), jpeg.type, 255, jpeg.width // 8, jpeg.height // 8
        )
        if offset == 0:
            header += struct.pack(">BBH", 0, 0, len(jpeg.tables)) + jpeg.tables
        piece = jpeg.scan[offset : offset + _LONGEST_PAYLOAD - len(header)]
        offset += len(piece)
        last = offset == len(jpeg.scan)
        rtp = struct.pack(">BBHII", 0x80, last << 7 | _PAYLOAD_TYPE, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, _SSRC)
        sequence += 1
        yield rtp + header + piece


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--teardown-after", type=int, default=-1, help="close the connection after N frames")
    parser.add_argument("--silent-after", type=int, default=-1, help="after N frames stay connected, send nothing")
    parser.add_argument("--never-answer", action="store_true", help="accept and say nothing")
    return parser.parse_args(argv)


class Session:
    """One client's connection."""

    def __init__(self, sock: socket.socket, args: argparse.Namespace) -> None:
        self.sock, self.args = sock, args
        self.pending = b""
        self.playing = False

    def serve(self) -> None:
        if self.args.never_answer:
            threading.Event().wait()
        while not self.playing:
            if not self._serve_request(self._read_request()):
                return
        self._stream()

    def _read_request(self) -> bytes:
        while b"\r\n\r\n" not in self.pending:
            piece = self.sock.recv(4096)
            if not piece:
                raise ConnectionError
            self.pending += piece
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        return head

    def _serve_request(self, head: bytes) -> bool:
        """Answer one request; False when it was the last."""
        first, *lines = head.decode("latin-1").split("\r\n")
        verb, url, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer, body, status = [f"CSeq: {headers.get('cseq', '0')}", "Session: 1234;timeout=60"], "", "200 OK"
        if verb == "OPTIONS":
            answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN")
        elif verb == "DESCRIBE":
            body = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=emulator\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
                f"m=video 0 RTP/AVP {_PAYLOAD_TYPE}\r\na=control:trackID=0\r\na=framerate:{self.args.fps:g}\r\n"
            )
            answer += [f"Content-Base: {url.rstrip('/')}/", "Content-Type: application/sdp"]
        elif verb == "SETUP":
            if "TCP" in headers.get("transport", ""):
                answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            else:
                status = "461 Unsupported Transport"
        elif verb == "PLAY":
            self.playing = True
        if body:
            answer.append(f"Content-Length: {len(body)}")
        self.sock.sendall("\r\n".join([f"RTSP/1.0 {status}", *answer, "", body]).encode())
        return verb != "TEARDOWN"

    def _stream(self) -> None:
        sequence, began = 0, time.monotonic()
        pictures = jpegs(self.args)
        for number in itertools.count():
            time.sleep(max(0.0, began + number / self.args.fps - time.monotonic()))
            if number == self.args.teardown_after or (self.args.frames and number == self.args.frames):
                return
            if number == self.args.silent_after:
                threading.Event().wait()
            for packet in packets(next(pictures), sequence, int(number * _CLOCK_HZ / self.args.fps)):
                self.sock.sendall(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)  # RFC 2326 §10.12
                sequence += 1
            if select.select([self.sock], [], [], 0)[0] and not self._while_playing():
                return

    def _while_playing(self) -> bool:
        """Keep-alives and TEARDOWN come in between, and so do RTCP reports, which are passed over."""
        self.pending += self.sock.recv(4096) or b"TEARDOWN * RTSP/1.0\r\n\r\n"
        while self.pending:
            if self.pending[:1] == b"$":
                length = 4 + int.from_bytes(self.pending[2:4], "big")
                if len(self.pending) < length:
                    return True
                self.pending = self.pending[length:]
            elif b"\r\n\r\n" in self.pending:
                head, _, self.pending = self.pending.partition(b"\r\n\r\n")
                if not self._serve_request(head):
                    return False
            else:
                return True
        return True


def main() -> None:
    args = parse()
    keep_open("rtsp://127.0.0.1:{port}/camera", args.port, lambda sock: Session(sock, args).serve())


if __name__ == "__main__":
    main()
