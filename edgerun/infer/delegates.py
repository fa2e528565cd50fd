"""Accelerators of TensorFlow Lite: delegates that a vendor's shared library provides.

Each is a library with the two functions of the external delegate interface (tflite_plugin_create_delegate and
tflite_plugin_destroy_delegate, tensorflow/lite/delegates/external/external_delegate_interface.h) and the settings, as
text, that its vendor documents. They are loaded in the engine's own process only.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import msgspec

from edgerun.errors import EngineError, MissingError
from edgerun.infer.board import Board, wrong_machine
from edgerun.infer.compiled import GpuSettings
from edgerun.infer.content import one_line

_ENTRY = "tflite_plugin_create_delegate"


class Delegate(Protocol):
    """A plug-in of the room `accelerator`, kind `tflite-…`; constructors take `(options, board)`.

    `open_s`: how long opening and the first inference may take, seconds. `remedy`: what to do when it does not open.
    `pluggable`: it may be plugged in later, so a refusal is not for good.
    """

    options: ClassVar[type[msgspec.Struct]]
    open_s: ClassVar[float]
    pluggable: ClassVar[bool]
    remedy: ClassVar[str]

    def __init__(self, options: Any, board: Board) -> None: ...

    def refusal(self) -> str | None:
        """Why this board cannot have it, as far as that is seen without loading anything."""
        ...

    def library(self) -> tuple[str, dict[str, str]]:
        """Name or path of the shared library, and its settings."""
        ...

    def compiled(self) -> GpuSettings | None:
        """How LiteRT's CompiledModel is to run the model in place of a library; None: there is a library."""
        ...

    def careful(self) -> dict[str, Any]:
        """Options that make it slower and more exact, for when its answers were not the CPU's; empty: none do."""
        ...


class EdgeTpuOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`device`: `usb` or `pci`, or the n-th of all or of one kind: `:0`, `usb:0`, `pci:1`; empty: the first."""

    device: Annotated[str, msgspec.Meta(pattern=r"^((usb|pci)?(:\d+)?)$")] = ""
    library: str = "libedgetpu.so.1"


class EdgeTpu:
    """Google Coral (coral.ai/docs/edgetpu/tflite-python). USB ids: 1a6e:089a before its firmware is loaded, then
    18d1:9302; PCIe ones are /dev/apex_N (the gasket driver).
    """

    options: ClassVar[type[msgspec.Struct]] = EdgeTpuOptions
    open_s: ClassVar[float] = 30.0
    pluggable: ClassVar[bool] = True
    remedy: ClassVar[str] = "install libedgetpu1-std, and compile the model with edgetpu_compiler"

    def __init__(self, options: EdgeTpuOptions, board: Board) -> None:
        self._options, self._board = options, board

    def refusal(self) -> str | None:
        usb = bool({"1a6e:089a", "18d1:9302"} & self._board.usb_ids())
        pci = self._board.has("dev/apex_*")
        wanted = self._options.device.partition(":")[0]
        if (usb and wanted != "pci") or (pci and wanted != "usb"):
            return None
        places = {"usb": "on USB (1a6e:089a, 18d1:9302)", "pci": "on PCIe (/dev/apex_*)"}
        return "no Edge TPU is seen " + (places.get(wanted) or " or ".join(places.values()))

    def library(self) -> tuple[str, dict[str, str]]:
        return self._options.library, {"device": self._options.device} if self._options.device else {}

    def compiled(self) -> GpuSettings | None:
        return None

    def careful(self) -> dict[str, Any]:
        return {}


class _Plain:
    """A delegate that is a library and a struct of settings, named as its vendor names them."""

    options: ClassVar[type[msgspec.Struct]]
    open_s: ClassVar[float] = 60.0
    pluggable: ClassVar[bool] = False
    remedy: ClassVar[str] = "install the vendor's delegate library, or give its path as library"

    def __init__(self, options: Any, board: Board) -> None:
        self._options, self._board = options, board

    def refusal(self) -> str | None:
        return None

    def library(self) -> tuple[str, dict[str, str]]:
        settings = msgspec.to_builtins(self._options)
        library = settings.pop("library")
        return library, {key: _setting(value) for key, value in settings.items() if value is not None}

    def compiled(self) -> GpuSettings | None:
        return None

    def careful(self) -> dict[str, Any]:
        return {}


class GpuOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """LiteRT's own GPU accelerator, or with `library` TensorFlow Lite's GPU delegate (OpenCL or OpenGL ES) built as a
    library. Of LiteRT's: `exact` computes in float32, by default only where half precision does not prove itself;
    `cpu_ops` lets the CPU run ops that the GPU does not know; `software` takes a driver that computes on the CPU.
    """

    library: str | None = None
    exact: bool | None = None
    cpu_ops: bool = True
    software: bool = False


class Gpu(_Plain):
    """GPUs by way of LiteRT's CompiledModel (WebGPU on Vulkan); the Python packages carry no GPU delegate.

    The first inference compiles every shader: measured 44 s for a detector on Mesa's llvmpipe, the second time from
    its cache 2 s.
    """

    options: ClassVar[type[msgspec.Struct]] = GpuOptions
    open_s: ClassVar[float] = 180.0
    remedy: ClassVar[str] = "install its Vulkan driver, or build the GPU delegate and give its path as library"

    def refusal(self) -> str | None:
        nodes = ("dev/dri/renderD*", "dev/mali*", "dev/kgsl-3d0", "dev/nvhost-gpu", "dev/nvidia0")
        if self._options.software or any(map(self._board.has, nodes)):
            return None
        return "no GPU is seen: no render node in /dev"

    def library(self) -> tuple[str, dict[str, str]]:
        return self._options.library or "", {}

    def compiled(self) -> GpuSettings | None:
        if self._options.library is not None:
            return None
        return GpuSettings(bool(self._options.exact), self._options.software, self._options.cpu_ops)

    def careful(self) -> dict[str, Any]:
        return {"exact": True} if self._options.library is None and self._options.exact is None else {}


class NnapiOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An external NNAPI delegate library of an Android build."""

    library: str = "libnnapi_delegate.so"


class Nnapi(_Plain):
    """Android's neural networks interface."""

    options: ClassVar[type[msgspec.Struct]] = NnapiOptions
    remedy: ClassVar[str] = "name another accelerator"

    def refusal(self) -> str | None:
        return None if self._board.android else "NNAPI is a part of Android, and this is another Linux"


class ArmNnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"severity": "logging-severity"}):
    """`backends` in the order of preference, as Arm NN's delegate takes them."""

    library: str = "libarmnnDelegate.so"
    backends: str = "CpuAcc,GpuAcc,CpuRef"
    severity: Literal["trace", "debug", "info", "warning", "error", "fatal"] = "warning"


class ArmNn(_Plain):
    """Arm NN: Arm CPUs and Mali GPUs (its delegate guide, "Arm NN external delegate")."""

    options: ClassVar[type[msgspec.Struct]] = ArmNnOptions

    def refusal(self) -> str | None:
        import platform

        machine = platform.machine()
        return None if machine.startswith(("aarch64", "arm")) else f"Arm NN runs on Arm only, and this is {machine}"


class VxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cache_file_path` keeps the compiled graph, with `allowed_cache_mode` on."""

    library: str = "/usr/lib/libvx_delegate.so"
    allowed_cache_mode: bool = False
    cache_file_path: str | None = None
    device_id: int | None = None


class Vx(_Plain):
    """VeriSilicon NPUs and GPUs: NXP i.MX 8M Plus, Amlogic and others (the README of tflite-vx-delegate)."""

    options: ClassVar[type[msgspec.Struct]] = VxOptions

    def refusal(self) -> str | None:
        return None if self._board.has("dev/galcore") else "no VeriSilicon NPU is seen: no /dev/galcore"


class HexagonOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`backend_type` and `skel_library_dir` as Qualcomm's delegate takes them."""

    library: str = "libQnnTFLiteDelegate.so"
    backend_type: Literal["htp", "dsp", "gpu"] = "htp"
    skel_library_dir: str | None = None


class Hexagon(_Plain):
    """Qualcomm's NPU through the TFLite delegate of its AI Engine Direct SDK."""

    options: ClassVar[type[msgspec.Struct]] = HexagonOptions

    def refusal(self) -> str | None:
        nodes = ("dev/adsprpc-smd", "dev/fastrpc-cdsp*", "dev/fastrpc-adsp*")
        return None if any(map(self._board.has, nodes)) else "no Hexagon DSP is seen: no /dev/fastrpc-*"


class ExternalOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any other delegate: its `library` by name or path, and its `settings`."""

    library: str
    settings: dict[str, str | int | float | bool] = {}


class External(_Plain):
    """A delegate that edgerun does not know by name."""

    options: ClassVar[type[msgspec.Struct]] = ExternalOptions
    remedy: ClassVar[str] = "give the path of a library built for this machine and this runtime"

    def library(self) -> tuple[str, dict[str, str]]:
        return self._options.library, {key: _setting(value) for key, value in self._options.settings.items()}


def load(plug_in: Delegate, module: Any, where: str) -> Any:
    """The runtime's delegate object. Raises `MissingError` without its library, `EngineError` when it refuses.

    The library is looked at before the runtime does: that would also print an ignored exception to stderr.
    """
    library, settings = plug_in.library()
    path = Path(library)
    reason = wrong_machine(path) if path.is_absolute() or path.exists() else None
    if reason is None:
        try:
            if not hasattr(ctypes.CDLL(library), _ENTRY):
                reason = f"{library} is no delegate: it has no function {_ENTRY}"
        except OSError as error:
            reason = one_line(error)
    if reason is not None:
        raise MissingError("the delegate's library cannot be loaded", where=where, got=reason, remedy=plug_in.remedy)
    try:
        return module.load_delegate(library, settings)
    except (ValueError, RuntimeError) as error:
        raise EngineError("the delegate does not open", where=where, got=one_line(error)) from error


def delegated_ops(details: list[dict[str, Any]]) -> tuple[int, int]:
    """How many of a model's ops a delegate took over, and how many there are.

    `details`: the interpreter's ops after the delegate was applied and before tensors are allocated (only then the
    runtime's own CPU delegate joins). The ops it took over stay listed: they are what lies between its inputs and its
    outputs.
    """
    own = [op for op in details if op["op_name"] != "DELEGATE"]
    makers = {int(tensor): at for at, op in enumerate(own) for tensor in op["outputs"]}
    taken: set[int] = set()
    for part in details:
        if part["op_name"] != "DELEGATE":
            continue
        given = {int(tensor) for tensor in part["inputs"]}
        wanted = [int(tensor) for tensor in part["outputs"]]
        while wanted:
            tensor = wanted.pop()
            at = makers.get(tensor)
            if tensor not in given and at is not None and at not in taken:
                taken.add(at)
                wanted.extend(int(one) for one in own[at]["inputs"])
    return len(taken), len(own)


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
