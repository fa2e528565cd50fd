"""Accelerators of ONNX Runtime: execution providers, built into the library or in a plug-in library of their own.

Settings are those of onnxruntime.ai/docs/execution-providers, under the names that each page gives them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from edgerun.errors import EngineError, MissingError
from edgerun.infer.board import Board, wrong_machine
from edgerun.infer.content import one_line

CPU = "CPUExecutionProvider"
RECORD = "session.record_ep_graph_assignment_info"


class Provider(Protocol):
    """A plug-in of the room `accelerator`, kind `onnx-…`; constructors take `(options, board)`.

    `open_s`, `pluggable`, `remedy` as for a `Delegate`. `package`: the Python package of its plug-in library, where
    there is one; `no_device`: what to do when that loads and offers no device.
    """

    options: ClassVar[type[msgspec.Struct]]
    open_s: ClassVar[float]
    pluggable: ClassVar[bool]
    remedy: ClassVar[str]
    package: ClassVar[str | None]
    no_device: ClassVar[str]
    name: str
    """As ONNX Runtime names the provider."""
    library: str | None
    """The plug-in library asked for."""

    def __init__(self, options: Any, board: Board) -> None: ...

    def refusal(self) -> str | None:
        """Why this board cannot have it, as far as that is seen without loading anything."""
        ...

    def settings(self) -> dict[str, str]: ...

    def careful(self) -> dict[str, Any]:
        """As of a `Delegate`."""
        ...


class _Built:
    """What providers have in common: a struct whose fields are the provider's settings, `extra` ones as they are."""

    options: ClassVar[type[msgspec.Struct]]
    open_s: ClassVar[float] = 60.0
    pluggable: ClassVar[bool] = False
    remedy: ClassVar[str] = "install an ONNX Runtime that has it, or name another accelerator"
    package: ClassVar[str | None] = None
    no_device: ClassVar[str] = "update its driver, or leave it out of accelerators"
    nodes: ClassVar[tuple[str, ...]] = ()
    """Device files of which one must be there."""
    name: str

    def __init__(self, options: Any, board: Board) -> None:
        self._options, self._board = options, board
        self.library: str | None = getattr(options, "library", None)

    def refusal(self) -> str | None:
        if not self.nodes or any(map(self._board.has, self.nodes)):
            return None
        return f"its device is not seen: none of {', '.join('/' + node for node in self.nodes)}"

    def settings(self) -> dict[str, str]:
        given = msgspec.to_builtins(self._options)
        given.pop("library", None)
        extra = given.pop("extra", {})
        return {key: str(value) for key, value in {**given, **extra}.items() if value is not None}

    def careful(self) -> dict[str, Any]:
        return {}


class CudaOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`gpu_mem_limit` in bytes."""

    device_id: int = 0
    gpu_mem_limit: int | None = None
    cudnn_conv_algo_search: Literal["DEFAULT", "HEURISTIC", "EXHAUSTIVE"] = "HEURISTIC"
    extra: dict[str, str] = {}


_NVIDIA = ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "dev/nvgpu", "dev/nvmap", "dev/dxg")


class Cuda(_Built):
    """NVIDIA GPUs: Jetson, desktop and server cards."""

    options: ClassVar[type[msgspec.Struct]] = CudaOptions
    remedy: ClassVar[str] = 'pip install "onnxruntime-gpu" instead of onnxruntime'
    nodes: ClassVar[tuple[str, ...]] = _NVIDIA
    name = "CUDAExecutionProvider"


class TensorRtOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The engine is built at the first opening, for minutes: `trt_engine_cache_path` keeps it."""

    device_id: int = 0
    trt_fp16_enable: bool = True
    trt_int8_enable: bool = False
    trt_engine_cache_enable: bool = False
    trt_engine_cache_path: str | None = None
    trt_max_workspace_size: int | None = None
    extra: dict[str, str] = {}


class TensorRt(_Built):
    """NVIDIA's compiler for its GPUs."""

    options: ClassVar[type[msgspec.Struct]] = TensorRtOptions
    open_s: ClassVar[float] = 900.0
    remedy: ClassVar[str] = 'pip install "onnxruntime-gpu" instead of onnxruntime, and TensorRT'
    nodes: ClassVar[tuple[str, ...]] = _NVIDIA
    name = "TensorrtExecutionProvider"

    def careful(self) -> dict[str, Any]:
        half = self._options.trt_fp16_enable or self._options.trt_int8_enable
        return {"trt_fp16_enable": False, "trt_int8_enable": False} if half else {}


class OpenVinoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`library`: the plug-in's path, where its package is not installed. `device_type`: CPU, GPU, NPU, AUTO …"""

    library: str | None = None
    device_type: str | None = None
    cache_dir: str | None = None
    extra: dict[str, str] = {}


class OpenVino(_Built):
    """Intel's CPUs, GPUs and NPUs. The plug-in offers devices of Intel's alone, also of processors; the provider built
    into onnxruntime-openvino computes on any x86-64 (both seen on an AMD one, 1.8.1 and 1.24.1).
    """

    options: ClassVar[type[msgspec.Struct]] = OpenVinoOptions
    remedy: ClassVar[str] = 'pip install "onnxruntime-ep-openvino"'
    package: ClassVar[str | None] = "onnxruntime_ep_openvino"
    no_device: ClassVar[str] = (
        "the plug-in takes Intel's devices only: pip uninstall onnxruntime onnxruntime-ep-openvino, then "
        'pip install "onnxruntime-openvino", whose provider computes on any x86-64'
    )
    name = "OpenVINOExecutionProvider"

    def refusal(self) -> str | None:
        import platform

        machine = platform.machine()
        return None if machine in ("x86_64", "AMD64") else f"OpenVINO's provider is for Intel, and this is {machine}"


class XnnpackOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`intra_op_num_threads`: XNNPACK has a pool of its own."""

    intra_op_num_threads: int = 1
    extra: dict[str, str] = {}


class Xnnpack(_Built):
    """Float kernels for Arm and x86 CPUs, in builds of ONNX Runtime that have them."""

    options: ClassVar[type[msgspec.Struct]] = XnnpackOptions
    name = "XnnpackExecutionProvider"


class AclOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`enable_fast_math`: bfloat16 kernels where the CPU has them."""

    enable_fast_math: bool = False
    extra: dict[str, str] = {}


class Acl(_Built):
    """Arm Compute Library."""

    options: ClassVar[type[msgspec.Struct]] = AclOptions
    name = "ACLExecutionProvider"


class QnnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`backend_path`: Qualcomm's library for HTP (NPU), GPU or CPU."""

    library: str | None = None
    backend_path: str = "libQnnHtp.so"
    htp_performance_mode: str | None = None
    extra: dict[str, str] = {}


class Qnn(_Built):
    """Qualcomm's AI Engine Direct."""

    options: ClassVar[type[msgspec.Struct]] = QnnOptions
    remedy: ClassVar[str] = 'pip install "onnxruntime-qnn"'
    package: ClassVar[str | None] = "onnxruntime_qnn"
    nodes: ClassVar[tuple[str, ...]] = ("dev/adsprpc-smd", "dev/fastrpc-cdsp*", "dev/fastrpc-adsp*")
    name = "QNNExecutionProvider"


class PlainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`extra`: the provider's settings."""

    extra: dict[str, str] = {}


class Nnapi(_Built):
    """Android's neural networks interface."""

    options: ClassVar[type[msgspec.Struct]] = PlainOptions
    name = "NnapiExecutionProvider"

    def refusal(self) -> str | None:
        return None if self._board.android else "NNAPI is a part of Android, and this is another Linux"


class CoreMl(_Built):
    """Apple's accelerators."""

    options: ClassVar[type[msgspec.Struct]] = PlainOptions
    name = "CoreMLExecutionProvider"

    def refusal(self) -> str | None:
        import sys

        return None if sys.platform == "darwin" else f"Core ML is a part of macOS and iOS, and this is {sys.platform}"


class WebGpuOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`library`: the plug-in's path, where its package is not installed."""

    library: str | None = None
    extra: dict[str, str] = {}


class WebGpu(_Built):
    """GPUs through Vulkan."""

    options: ClassVar[type[msgspec.Struct]] = WebGpuOptions
    remedy: ClassVar[str] = 'pip install "onnxruntime-ep-webgpu"'
    package: ClassVar[str | None] = "onnxruntime_ep_webgpu"
    nodes: ClassVar[tuple[str, ...]] = ("dev/dri/renderD*", "dev/mali*", "dev/kgsl-3d0", *_NVIDIA)
    name = "WebGpuExecutionProvider"


class ExternalOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any other provider by its ONNX Runtime `name`, from a plug-in `library` or built in."""

    name: str
    library: str | None = None
    extra: dict[str, str] = {}


class External(_Built):
    """A provider that edgerun does not know by name."""

    options: ClassVar[type[msgspec.Struct]] = ExternalOptions

    def __init__(self, options: ExternalOptions, board: Board) -> None:
        super().__init__(options, board)
        self.name = options.name

    def settings(self) -> dict[str, str]:
        return dict(self._options.extra)


def attach(
    plug_in: Provider, onnxruntime: Any, settings: Any, errors: tuple[type[Exception], ...], where: str
) -> list[Any]:
    """Have a session with `settings` (SessionOptions) run on the provider; returns its `providers` argument.

    Raises `MissingError` where this ONNX Runtime has it neither built in nor as a plug-in: the session itself would
    only warn and run on the CPU. Raises `EngineError` when its plug-in offers no device here. `errors` are those that
    ONNX Runtime raises.
    """
    built_in = onnxruntime.get_available_providers()
    if plug_in.library is None and plug_in.name in built_in:
        return [(plug_in.name, plug_in.settings()), CPU]
    library = plug_in.library or _packaged(plug_in.package)
    if library is None:
        raise MissingError(
            "this ONNX Runtime does not have the provider",
            where=where,
            expected=plug_in.name,
            got=", ".join(built_in),
            remedy=plug_in.remedy,
        )
    if (reason := wrong_machine(Path(library))) is not None:
        raise MissingError("the provider's library cannot be loaded", where=where, got=reason, remedy=plug_in.remedy)
    try:
        onnxruntime.register_execution_provider_library(plug_in.name, library)
    except errors as error:
        raise EngineError("the provider's library does not open", where=where, got=one_line(error)) from error
    seen = onnxruntime.get_ep_devices()
    devices = [device for device in seen if device.ep_name == plug_in.name]
    if not devices:
        hardware = sorted({f"{device.device.vendor} {device.device.type.name}".strip() for device in seen})
        raise EngineError(
            "the provider's library is loaded, but takes none of this machine's devices",
            where=where,
            expected=f"a device of {plug_in.name}",
            got=", ".join(hardware) or "no device at all",
            remedy=plug_in.no_device,
        )
    settings.add_provider_for_devices(devices[:1], plug_in.settings())
    return []


def delegated_ops(session: Any, name: str) -> tuple[int, int] | None:
    """How many ops the provider runs, and all of them; None where this ONNX Runtime does not tell (before 1.24).

    The session must have been made with the config entry `RECORD`. An op fused by the provider counts as one.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts = [(part.ep_name, len(part.get_nodes())) for part in session.get_provider_graph_assignment_info()]
    return sum(count for ep, count in counts if ep == name), sum(count for _, count in counts)


def _packaged(package: str | None) -> str | None:
    if package is None:
        return None
    try:
        path: str = importlib.import_module(package).get_library_path()
    except (ImportError, OSError, AttributeError):
        return None
    return path
