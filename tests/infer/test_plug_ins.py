"""What each accelerator says of a board, of its options and of its library, before anything is loaded."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.errors import ConfigError, EngineError, MissingError
from edgerun.infer import open_engine
from edgerun.infer.accelerators import ACCELERATORS, Accelerator, declared, expand, plug_in
from edgerun.infer.board import Board, wrong_machine
from edgerun.infer.delegates import delegated_ops
from edgerun.infer.host import HostedEngine
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.onnx import Options as OnnxOptions
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.ports import EngineContext
from edgerun.registry import BUILTIN, resolve
from tests.infer.onnx_models import quantised_convolution

KINDS = [tuple(kind.split("-", 1)) for kind in BUILTIN["accelerator"]]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """A board without any accelerator."""
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    return Board(root)


def add_usb(board: Board, name: str, vendor: str, product: str) -> None:
    device = board.root / "sys/bus/usb/devices" / name
    device.mkdir(parents=True)
    (device / "idVendor").write_text(vendor + "\n")
    (device / "idProduct").write_text(product + "\n")


@pytest.mark.parametrize(("engine", "kind"), KINDS)
def test_every_plug_in_has_options_and_states_its_limits(engine: str, kind: str, board: Board) -> None:
    found = resolve("accelerator", f"{engine}-{kind}")
    assert found.options.__struct_config__.forbid_unknown_fields
    assert 10 <= found.open_s <= 3600
    assert isinstance(found.pluggable, bool)
    assert found.remedy
    needed = {"library": "/lib/x.so", "name": "XExecutionProvider"} if kind == "external" else {}
    known = {field: value for field, value in needed.items() if field in found.options.__struct_fields__}
    made = plug_in(engine, Accelerator(kind, known), board)
    reason = made.refusal()
    assert reason is None or "\n" not in reason
    if engine == "tflite":
        library, settings = made.library()
        assert (made.compiled() is not None) if not library else library.endswith((".so", ".so.1"))
    else:
        settings = made.settings()
        assert made.name.endswith("ExecutionProvider")
    assert all(isinstance(value, str) for value in settings.values())
    assert kind in ACCELERATORS
    careful = plug_in(engine, Accelerator(kind, {**known, **made.careful()}), board)  # options that it knows
    assert not careful.careful()


@pytest.mark.parametrize(
    ("device", "usb", "pci", "seen"),
    [
        ("", None, False, False),
        ("", ("1a6e", "089a"), False, True),
        ("", ("18d1", "9302"), False, True),
        ("", ("046d", "c52b"), False, False),
        ("", None, True, True),
        ("usb", None, True, False),
        ("usb:0", ("18d1", "9302"), True, True),
        ("pci", ("18d1", "9302"), False, False),
        ("pci:1", None, True, True),
        (":0", ("1a6e", "089a"), False, True),
    ],
)
def test_an_edge_tpu_is_seen_where_it_is_wanted(
    device: str, usb: tuple[str, str] | None, pci: bool, seen: bool, board: Board
) -> None:
    if usb is not None:
        add_usb(board, "1-1", *usb)
    if pci:
        (board.root / "dev/apex_0").touch()
    made = plug_in("tflite", Accelerator("edgetpu", {"device": device}), board)
    assert (made.refusal() is None) is seen
    assert made.library() == ("libedgetpu.so.1", {"device": device} if device else {})


@pytest.mark.parametrize(
    ("engine", "accelerator", "why"),
    [
        ("tflite", Accelerator("edgtpu"), 'unknown accelerator; did you mean "edgetpu"'),
        ("tflite", Accelerator("cuda"), "not an accelerator of this engine; known are cpu, edgetpu, gpu"),
        ("tflite", Accelerator("edgetpu", {"device": "usb0"}), "options of edgetpu are wrong; got .*regex"),
        ("tflite", Accelerator("edgetpu", {"devise": "usb"}), "options of edgetpu are wrong; got .*devise"),
        ("tflite", Accelerator("external"), "options of external are wrong; got .*library"),
        ("onnx", Accelerator("cuda", {"device_id": "one"}), "options of cuda are wrong; got .*int"),
    ],
)
def test_wrong_names_and_options(engine: str, accelerator: Accelerator, why: str, board: Board) -> None:
    with pytest.raises(ConfigError, match=why):
        plug_in(engine, accelerator, board)


def test_an_order_is_names_or_tables() -> None:
    table = {"kind": "edgetpu", "device": "usb"}
    assert declared([table, "cpu"]) == [Accelerator("edgetpu", {"device": "usb"}), Accelerator("cpu")]
    assert table == {"kind": "edgetpu", "device": "usb"}
    with pytest.raises(ConfigError, match="names no kind"):
        declared([{"device": "usb"}])


def test_auto_is_what_the_board_shows_best_first(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    add_usb(board, "2-1", "18d1", "9302")
    (board.root / "dev/dri").mkdir()
    (board.root / "dev/dri/renderD128").touch()
    with caplog.at_level(logging.INFO):
        order = expand([Accelerator("auto")], "tflite", "net", board)
    arm = [] if platform.machine() == "x86_64" else ["armnn"]
    assert [one.kind for one in order] == ["edgetpu", *arm, "gpu", "cpu"]
    assert [one.chosen for one in order] == [True] * (len(order) - 1) + [False]
    assert "model net: auto is edgetpu, then " in caplog.text
    assert "not vx (no VeriSilicon NPU is seen: no /dev/galcore)" in caplog.text


def test_auto_on_a_bare_board_is_the_cpu(board: Board) -> None:
    assert [one.kind for one in expand([Accelerator("auto"), Accelerator("cpu")], "tflite", "net", board)][-1:] == [
        "cpu"
    ]
    assert expand([Accelerator("auto")], None, "net", board) == [Accelerator("cpu")]


def test_a_library_for_another_machine_says_so(tmp_path: Path, classifier: bytes) -> None:
    library = tmp_path / "libedgetpu.so.1"
    other, number = ("aarch64", 183) if platform.machine() == "x86_64" else ("x86_64", 62)
    library.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + number.to_bytes(2, "little") + bytes(60))
    assert wrong_machine(library) == f"{library} is built for {other}, and this is {platform.machine()}"
    with pytest.raises(MissingError, match=f"is built for {other}"):
        open_delegated(classifier, str(library))


def open_delegated(model: bytes, library: str, **settings: str) -> HostedEngine:
    options = {"library": library, "settings": settings}
    context = EngineContext(model, "net", accelerator="external", accelerator_options=options)
    return HostedEngine(TfliteEngine, Options(), context)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot open shared object file|cannot be read"),
        (b"garbage", "is no shared library"),
        (b"", "is no shared library"),
    ],
)
def test_what_is_no_library(content: bytes | None, why: str, tmp_path: Path, classifier: bytes) -> None:
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MissingError, match=why):
        open_delegated(classifier, str(path))


def test_a_library_that_is_no_delegate(classifier: bytes) -> None:
    with pytest.raises(MissingError, match="is no delegate: it has no function tflite_plugin_create_delegate"):
        open_delegated(classifier, "libc.so.6")


def test_a_setting_that_the_delegate_does_not_know(delegate_library: Path, classifier: bytes) -> None:
    with pytest.raises(EngineError, match=r"the delegate does not open; got .* unknown option: speed"):
        open_delegated(classifier, str(delegate_library), speed="fast")


def test_a_delegate_that_takes_no_op_of_the_model(delegate_library: Path) -> None:
    from tests.real_models import model_file

    model = model_file("face_detection_short_range.tflite").read_bytes()
    with pytest.raises(EngineError, match=r"runs none of the model's ops; expected .*; got external takes 0 of \d+"):
        open_delegated(model, str(delegate_library))


def test_ops_are_counted_between_a_delegates_edges() -> None:
    def op(name: str, inputs: list[int], outputs: list[int]) -> dict[str, object]:
        return {"op_name": name, "inputs": inputs, "outputs": outputs}

    chain = [op("CONV_2D", [at, 10 + at], [at + 1]) for at in range(5)]
    assert delegated_ops(chain) == (0, 5)
    assert delegated_ops([*chain, op("DELEGATE", [1, 11, 12, 13], [4])]) == (3, 5)
    assert delegated_ops([*chain, op("DELEGATE", [0, 10], [1]), op("DELEGATE", [4, 14], [5])]) == (2, 5)


@pytest.mark.parametrize("kind", ["xnnpack", "acl", "external"])
def test_a_provider_that_is_not_there_is_refused_and_not_only_warned_of(kind: str) -> None:
    options = {"name": "NoneSuchExecutionProvider"} if kind == "external" else {}
    context = EngineContext(quantised_convolution(), "net", accelerator=kind, accelerator_options=options)
    with pytest.raises(MissingError, match=r"does not have the provider; expected \w+ExecutionProvider; got .*CPU"):
        OnnxEngine(OnnxOptions(), context)


def test_a_provider_library_that_is_none(delegate_library: Path) -> None:
    options = {"name": "XExecutionProvider", "library": str(delegate_library)}
    context = EngineContext(quantised_convolution(), "net", accelerator="external", accelerator_options=options)
    with pytest.raises(EngineError, match="the provider's library does not open"):
        HostedEngine(OnnxEngine, OnnxOptions(), context)


def test_openvino_agrees_with_the_cpu(closing: Callable[[Any], Any]) -> None:
    """A real second provider: built into onnxruntime-openvino, or the plug-in where the processor is one it takes."""
    import onnxruntime

    if "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.importorskip(
            "onnxruntime_ep_openvino", reason="neither onnxruntime-openvino nor onnxruntime-ep-openvino is installed"
        )
        if "GenuineIntel" not in Path("/proc/cpuinfo").read_text():
            pytest.skip("onnxruntime-ep-openvino offers a device on Intel's processors only, and this is another")
    context = EngineContext(quantised_convolution(), "net")
    engine = closing(open_engine(OnnxEngine, OnnxOptions(), context, ["openvino"]))
    assert engine.info.accelerator == "openvino"
    done, of = engine.engine.delegated
    assert 0 < done <= of
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8)
    cpu = closing(open_engine(OnnxEngine, OnnxOptions(), context, ["cpu"]))
    assert np.abs(engine.infer([picture])[0].astype(int) - cpu.infer([picture])[0]).max() <= 1
