"""An HTTP MJPEG camera with the faults that cameras have."""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import socket
import threading
import time

from tests.emulators.door import keep_open
from tests.emulators.pictures import add_arguments, jpegs

_BOUNDARY = "edgerun-frame"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--silent-after", type=int, default=-1, help="after N frames stay connected, send nothing")
    parser.add_argument("--half-frame-at", type=int, default=-1, help="send half of frame N, then close")
    parser.add_argument("--resize-at", type=int, default=-1, help="from frame N on at half the size")
    parser.add_argument("--corrupt-at", type=int, default=-1, help="frame N is no JPEG")
    parser.add_argument("--corrupt-every", type=int, default=0, help="and so is every so manieth")
    parser.add_argument("--empty-at", type=int, default=-1, help="frame N has no bytes")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--never-answer", action="store_true", help="accept and say nothing")
    parser.add_argument("--garbage", action="store_true", help="200 and multipart, but no boundary ever comes")
    parser.add_argument("--no-content-length", action="store_true")
    parser.add_argument("--chunked", action="store_true")
    parser.add_argument("--burst", action="store_true", help="pause 450 ms, then flood what was due")
    parser.add_argument("--pile", type=int, default=0, help="pause 500 ms, then send this many at once, over and over")
    parser.add_argument("--lie", type=int, default=0, help="Content-Length is off by this much, at every third frame")
    parser.add_argument("--content-type", help="answer with this instead of multipart, and one frame")
    parser.add_argument("--boundary", default=f"boundary={_BOUNDARY}", help="the parameter as announced")
    parser.add_argument("--delimiter", default=f"--{_BOUNDARY}", help="the delimiter as sent")
    parser.add_argument("--redirect", action="store_true", help="/ redirects to /stream")
    parser.add_argument("--user", help="user:password to ask for")
    parser.add_argument("--digest", action="store_true", help="ask for it in Digest instead of Basic")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    return parser.parse_args(argv)


class Camera:
    """One client's connection."""

    def __init__(self, sock: socket.socket, args: argparse.Namespace) -> None:
        self.sock, self.args = sock, args

    def serve(self) -> None:
        args = self.args
        head = self._read_request()
        if args.never_answer:
            threading.Event().wait()
        target = head.split(" ")[1] if " " in head else "/"
        if args.redirect and target == "/":
            return self._answer("302 Found", "Location: /stream")
        if args.user and not self._allowed(head, target):
            ways = 'Digest realm="cam", nonce="n1", qop="auth", opaque="o"' if args.digest else 'Basic realm="cam"'
            return self._answer("401 Unauthorized", f"WWW-Authenticate: {ways}")
        if args.status != 200:
            return self._answer(f"{args.status} Refused")
        if args.content_type:
            body = next(jpegs(args))
            self._answer("200 OK", f"Content-Type: {args.content_type}", f"Content-Length: {len(body)}")
            return self.sock.sendall(body)
        chunked = ["Transfer-Encoding: chunked"] if args.chunked else []
        self._answer("200 OK", f"Content-Type: multipart/x-mixed-replace; {args.boundary}", *chunked)
        if args.garbage:
            while True:
                self._send(b"\x00garbage\xff" * 500)
        return self._stream()

    def _stream(self) -> None:
        args = self.args
        began = time.monotonic()
        self._send(f"{args.delimiter}\r\n".encode())
        pictures = self._frames()
        for number in itertools.count():
            due = began + number / args.fps
            if args.burst:  # a Wi-Fi that delivers twice a second
                due = began + 0.45 * (int((due - began) / 0.45) + 1)
            if args.pile:
                due = began + 0.5 * (number // args.pile + 1)
            time.sleep(max(0.0, due - time.monotonic()))
            jpeg = next(pictures)  # made now, so that its stamp is the moment of sending
            if number == args.half_frame_at:
                self._send(self._part(jpeg)[: len(jpeg) // 2])
                return
            if number == args.silent_after:
                threading.Event().wait()
            self._send(self._part(jpeg, args.lie if number % 3 == 2 else 0))
            if args.frames and number + 1 == args.frames:
                self._send(b"")
                return

    def _frames(self):
        pictures = jpegs(self.args, self.args.resize_at)
        for number in itertools.count():
            jpeg = next(pictures)
            every = self.args.corrupt_every
            if number == self.args.corrupt_at or (every and number % every == every - 1):
                jpeg = b"not a picture" * 100
            yield b"" if number == self.args.empty_at else jpeg

    def _part(self, jpeg: bytes, lie: int = 0) -> bytes:
        length = "" if self.args.no_content_length else f"Content-Length: {len(jpeg) + lie}\r\n"
        head = f"Content-Type: image/jpeg\r\n{length}\r\n".encode()
        return head + jpeg + f"\r\n{self.args.delimiter}\r\n".encode()

    def _send(self, data: bytes) -> None:
        if self.args.chunked:
            data = b"%x\r\n%s\r\n" % (len(data), data)
        self.sock.sendall(data)

    def _answer(self, status: str, *headers: str) -> None:
        self.sock.sendall("\r\n".join([f"HTTP/1.1 {status}", "Server: emulator", *headers, "", ""]).encode())

    def _read_request(self) -> str:
        data = b""
        while b"\r\n\r\n" not in data and (piece := self.sock.recv(4096)):
            data += piece
        return data.decode("latin-1")

    def _allowed(self, head: str, target: str) -> bool:
        user, _, password = self.args.user.partition(":")
        given = next((line[15:] for line in head.split("\r\n") if line.lower().startswith("authorization: ")), "")
        if not self.args.digest:
            return given == "Basic " + base64.b64encode(self.args.user.encode()).decode()
        fields = dict(part.strip().split("=", 1) for part in given.removeprefix("Digest ").split(",") if "=" in part)
        fields = {name: value.strip('"') for name, value in fields.items()}

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        proof = (
            md5(f"{user}:cam:{password}"),
            "n1",
            fields.get("nc"),
            fields.get("cnonce"),
            "auth",
            md5(f"GET:{target}"),
        )
        return fields.get("response") == md5(":".join(map(str, proof)))


def main() -> None:
    args = parse()
    url = ("https" if args.tls else "http") + "://127.0.0.1:{port}/"
    keep_open(url, args.port, lambda sock: Camera(sock, args).serve(), args.tls)


if __name__ == "__main__":
    main()
