"""One function per reader: bytes in; what the reader says in its errors is swallowed, anything else is a find."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tempfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgerun.broker.options import parse_address
from edgerun.capture import jpeg, multipart
from edgerun.capture.csv_file import CsvSource
from edgerun.capture.csv_file import Options as CsvOptions
from edgerun.capture.http import Dechunker
from edgerun.capture.wav import WavFile
from edgerun.cli import flags
from edgerun.clock import SystemClock
from edgerun.config import build, parse_source
from edgerun.control.desk import Desk, Origin
from edgerun.device.sampler import Sampler
from edgerun.device.site import SensorOptions, Site
from edgerun.errors import EdgerunError, FrameError
from edgerun.models import load
from edgerun.models.labels import parse_labels
from edgerun.models.manifest import parse_manifest
from edgerun.models.onnx_structure import read_onnx
from edgerun.models.tflite_metadata import read_tflite_metadata
from edgerun.models.tflite_structure import read_tflite
from edgerun.ports import SourceContext
from edgerun.publish.wire import encode_result
from edgerun.security.keys import parse_public
from edgerun.setup import frigate
from edgerun.spool import record
from tests.boards import tree
from tests.decode import test_bad_outputs as decoders
from tests.publish.samples import publication
from tests.real_models import ROOT

BUNDLE = ROOT / "models" / "ssd-mobilenet-v2-oid"

Target = Callable[[bytes], None]


def config(data: bytes) -> None:
    with contextlib.suppress(UnicodeDecodeError, tomllib.TOMLDecodeError):
        build(tomllib.loads(data.decode()), flags.options_of, find_model=flags.find_model)


def manifest(data: bytes) -> None:
    parse_manifest(data, "fuzz")


def labels(data: bytes) -> None:
    parse_labels(data, "fuzz")


def bundle_zip(data: bytes) -> None:
    """A bundle in a ZIP; nothing may appear beside it."""
    with folder() as place:
        path = place / "bundle.zip"
        path.write_bytes(data)
        try:
            load(path)
        finally:
            assert [one.name for one in place.iterdir()] == ["bundle.zip"], "something was unpacked"


def tflite(data: bytes) -> None:
    read_tflite(data, "fuzz")
    read_tflite_metadata(data, "fuzz")


def onnx(data: bytes) -> None:
    read_onnx(data, "fuzz")


def command(data: bytes) -> None:
    done: list[object] = []
    desk = Desk({"pause": lambda arguments: None, "model/install": lambda arguments: None}, on_done=done.append)
    verb, _, payload = data.partition(b"\n")
    origin = Origin(via="mqtt", who="fuzz")
    asked = desk.read(verb.decode("utf-8", "replace"), payload, origin, done.append)
    if asked is not None:
        desk.do(asked)


def camera_parts(data: bytes) -> None:
    """A camera's answer, in pieces as they come; what is taken for a picture is looked at."""
    boundary = multipart.boundary_of("multipart/x-mixed-replace; boundary=frame")
    assert boundary is not None
    parser = multipart.MultipartParser(boundary)
    for at in range(0, len(data), 61):
        parser.feed(data[at : at + 61])
        while parser.next():
            picture = bytes(parser.held)
            jpeg.read_header(picture)
            jpeg.is_cut_short(picture)


def content_type(data: bytes) -> None:
    multipart.boundary_of(data.decode("latin-1"))


def chunks(data: bytes) -> None:
    chunked = Dechunker()
    out = 0
    for at in range(0, len(data), 7):
        out += len(chunked.feed(data[at : at + 7]))
    assert out <= len(data)


def csv(data: bytes) -> None:
    with folder() as place:
        path = place / "a.csv"
        path.write_bytes(data)
        context = SourceContext("fuzz", SystemClock(), threading.Event(), as_fast=True)
        source = CsvSource(CsvOptions(path=str(path), rate_hz=50, window_samples=4), context)
        try:
            for _ in range(40):
                if source.grab() is None:
                    break
                source.retrieve(None)
        finally:
            source.close()


def wav(data: bytes) -> None:
    with folder() as place:
        path = place / "a.wav"
        path.write_bytes(data)
        sound = WavFile(str(path), "fuzz")
        try:
            sound.read(0, 512)
            sound.read(1 << 40, 512)
        finally:
            sound.close()


def addresses(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for reader in (parse_address, parse_source):
        with contextlib.suppress(EdgerunError):
            reader(text)


def spooled(data: bytes) -> None:
    """A segment: whatever was damaged, records come in order, within the bytes, and can be shown."""
    at = 0
    for found in record.scan(data, 0):
        begin, end = found if isinstance(found, tuple) else (found.start, found.end)
        assert at == begin <= end <= len(data)
        at = end
        if not isinstance(found, tuple):
            found.ranges() if found.kind == record.ACKS else found.record()


def board(data: bytes) -> None:
    """A board whose every file says `data`, or the lines of it in turn."""
    lines = data.split(b"\n") or [b""]
    with folder() as place:
        shown = a_board()
        files = {name: lines[at % len(lines)] + b"\n" for at, name in enumerate(shown.files)}
        machine = tree.BoardMachine(shown._replace(files=files), place)
        sampler = Sampler(Site(machine, SystemClock(), SensorOptions()))
        try:
            for value in sampler.sample().values().values():
                assert np.isfinite(value)
        finally:
            sampler.close()


def frigate_config(data: bytes) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        made = frigate.convert(frigate.parse(data.decode()), "ssd-mobilenet-v2-oid", ("person",))
        build(tomllib.loads(made.text), flags.options_of, find_model=flags.find_model)


def public_key(data: bytes) -> None:
    parse_public(data.decode("latin-1"), "fuzz")


def decoder(data: bytes) -> None:
    """Every decoder by the first byte, its outputs of the others: an answer that can be sent, or a `FrameError`."""
    if not data:
        return
    case = decoders.EVERY[data[0] % len(decoders.EVERY)]
    made, outputs = decoders.made(case)
    filled = []
    for at, one in enumerate(outputs):
        raw = np.frombuffer((data[1 + at % len(data) :] or data) * (one.nbytes // max(1, len(data) - 1) + 1), np.uint8)
        filled.append(raw[: one.nbytes].view(one.dtype).reshape(one.shape) if one.nbytes <= raw.nbytes else one)
    with contextlib.suppress(FrameError), np.errstate(all="ignore"):
        answer = made.decode(filled, decoders_placement())
        json.loads(encode_result(publication(answer=answer), "a"))


TARGETS: dict[str, Target] = {
    name: one
    for name, one in globals().items()
    if callable(one) and getattr(one, "__annotations__", {}).get("data") == "bytes"
}


def run(name: str, data: bytes) -> None:
    """One execution; raises what no reader may raise."""
    with contextlib.suppress(EdgerunError):
        TARGETS[name](data)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


@functools.cache
def a_board() -> tree.Board:
    return tree.read("pi5")


def decoders_placement() -> object:
    from edgerun.types import Placement

    return Placement()


def seeds(name: str) -> list[bytes]:
    """What the reader is made for, to begin from."""
    made: dict[str, Callable[[], list[bytes]]] = {
        "config": lambda: (
            [(ROOT / "deploy/compose/edgerun.toml").read_bytes()]
            + [path.read_bytes() for path in sorted((ROOT / "tests/configs/bad").glob("*.toml"))[:40]]
        ),
        "manifest": lambda: [(BUNDLE / "manifest.json").read_bytes()],
        "labels": lambda: [(BUNDLE / "labels.txt").read_bytes(), b"{0: 'a', 1: 'b'}", b"0 a\n1 b\n"],
        "bundle_zip": lambda: [a_zip()],
        "tflite": lambda: [(BUNDLE / "model.tflite").read_bytes()[:60_000]],
        "onnx": lambda: [an_onnx()],
        "command": lambda: [b'pause\n{"id":"1","stream":"a"}', b'model/install\n{"expires":99999999999}'],
        "camera_parts": lambda: [a_camera()],
        "content_type": lambda: [b'multipart/x-mixed-replace; boundary="frame"', b"image/jpeg"],
        "chunks": lambda: [b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n"],
        "csv": lambda: [b"t,x,y\n0,1,2\n0.02,3,4\n0.04,5,6\n0.06,7,8\n", b"1;2\n3;4\n"],
        "wav": lambda: [a_wav()],
        "addresses": lambda: [b"mqtt://u:p@[::1]:1883", b"rtsp://a:b@c:554/x?y=1", b"synthetic:640x480@30"],
        "spooled": lambda: [a_segment()],
        "board": lambda: [b"1\n-88000\n4294967295\nperformance\n0x50005\nsome avg10=0.1 total=5"],
        "frigate_config": lambda: [(ROOT / "tests/setup/frigate/two-cameras.yml").read_bytes()],
        "public_key": lambda: [b"edgerun-ed25519 " + b"A" * 44 + b" me"],
        "decoder": lambda: [bytes(range(256)), b"\x00" * 64, b"\x01" + np.float32([1, np.nan, np.inf, -1]).tobytes()],
    }
    return made[name]()


def a_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", (BUNDLE / "manifest.json").read_bytes())
        archive.writestr("labels.txt", (BUNDLE / "labels.txt").read_bytes())
        archive.writestr("../up.txt", b"x")
    return out.getvalue()


def an_onnx() -> bytes:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in "xy"]
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])).SerializeToString()


def a_camera() -> bytes:
    import cv2

    picture = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
    return (head + picture + b"\r\n") * 2 + b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + picture + b"\r\n--frame--"


def a_wav() -> bytes:
    import wave

    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(800))
    return out.getvalue()


def a_segment() -> bytes:
    one = record.encode(7, 3, 1_795_230_000_000, "edgerun/a/event", b'{"v":1}')
    return one + record.encode_acks([(1, 4), (9, 2)]) + record.encode(8, 4, 1_795_230_000_001, "edgerun/a/b", b"x" * 90)
