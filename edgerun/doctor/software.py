"""Python, the libraries, and combinations of them that are known not to work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from edgerun.device.machine import Machine
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow

_OLDEST_PYTHON = (3, 11, 0)
Version = tuple[int, ...]


class Library(msgspec.Struct, frozen=True):
    """A package, the oldest version that works, and whether edgerun cannot run without it."""

    name: str
    oldest: Version
    needed: bool = True


LIBRARIES = (
    Library("numpy", (1, 26)),
    Library("opencv-python-headless", (4, 10)),
    Library("msgspec", (0, 19)),
    Library("psutil", (6,)),
    Library("paho-mqtt", (2, 1), needed=False),
    Library("ai-edge-litert", (2, 1), needed=False),
    Library("tflite-runtime", (2, 14), needed=False),
    Library("onnxruntime", (1, 20), needed=False),
)
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
_DPKG = re.compile(rb"^Package: (libedgetpu1-\w+)\n(?:.+\n)*?Version: (\S+)", re.MULTILINE)

Have = dict[str, Version]


class Trouble(msgspec.Struct, frozen=True):
    """Packages that do not go together: `there` looks whether they are."""

    what: str
    there: Callable[[Have], bool]
    value: str
    remedy: str
    broken: bool = False


TROUBLES = (
    Trouble(
        "tflite-runtime with numpy 2",
        lambda have: "tflite-runtime" in have and have.get("numpy", ()) >= (2,),
        "it was built for numpy 1: it imports, and fails at the first model",
        'pip install "edgerun[tflite-runtime]", or pip uninstall tflite-runtime and use ai-edge-litert',
    ),
    Trouble(
        "OpenCV with numpy 1",
        lambda have: _opencv(have) >= (4, 12) and (0,) < have.get("numpy", (2,)) < (2,),
        "OpenCV from 4.12 on is built for numpy 2",
        'pip install "opencv-python-headless<4.12", or pip install "numpy>=2" where tflite-runtime is not used',
    ),
    Trouble(
        "several OpenCV packages",
        lambda have: sum(name in have for name in _OPENCV) > 1,
        "they overwrite each other's files",
        "pip uninstall opencv-python opencv-contrib-python, then pip install --force-reinstall opencv-python-headless",
    ),
    Trouble(
        "several ONNX Runtime packages",
        lambda have: sum(name in have for name in _ONNXRUNTIMES) > 1,
        "they overwrite each other's files, and the accelerated one is often the loser",
        "pip uninstall onnxruntime onnxruntime-gpu onnxruntime-openvino, then pip install the one that is wanted",
    ),
    Trouble(
        "TFLite runtime",
        lambda have: "ai-edge-litert" not in have and "tflite-runtime" not in have,
        "none is installed",
        'pip install "ai-edge-litert>=2.1"',
        broken=True,
    ),
)


def look(patient: Patient) -> Iterator[Line]:
    """Versions first, then what does not go together."""
    machine = patient.machine
    python = machine.python()
    value = ".".join(map(str, python))
    if python >= _OLDEST_PYTHON:
        yield green("Python", value)
    else:
        yield red(
            "Python",
            value,
            "`sudo apt install python3.11-venv`, or `uv python install 3.11` where the system has none",
            needed=True,
        )
    yield green("edgerun", machine.package("edgerun") or "from a source tree")
    have: Have = {}
    for name in (*_OPENCV, *_ONNXRUNTIMES):
        _note(machine, name, have)
    for library in LIBRARIES:
        yield _library(machine, library, have)
    for trouble in TROUBLES:
        if trouble.there(have):
            yield Line(
                "red" if trouble.broken else "yellow", trouble.what, trouble.value, trouble.remedy, trouble.broken
            )
    yield from _libedgetpu(machine, have)


def _library(machine: Machine, library: Library, have: Have) -> Line:
    told = _note(machine, library.name, have)
    oldest = ".".join(map(str, library.oldest))
    command = f'pip install "{library.name}>={oldest}"'
    if told is None and library.name == "opencv-python-headless" and any(name in have for name in _OPENCV):
        other = next(name for name in _OPENCV if name in have)
        return green(library.name, f"{other} in its place")
    if told is None and library.name == "onnxruntime" and any(name in have for name in _ONNXRUNTIMES):
        other = next(name for name in _ONNXRUNTIMES if name in have)
        return green(library.name, f"{other} in its place")
    if told is None:
        return red(library.name, "not installed", command, True) if library.needed else _optional(library, command)
    if have[library.name] < library.oldest:
        return red(library.name, f"{told}, older than {oldest}", command, needed=library.needed)
    return green(library.name, told)


def _optional(library: Library, command: str) -> Line:
    if library.name == "tflite-runtime":
        command = 'only old boards and old libedgetpu builds want it: pip install "edgerun[tflite-runtime]"'
    return absent(library.name, "not installed", command)


def _libedgetpu(machine: Machine, have: Have) -> Iterator[Line]:
    """Google's own package is built against TensorFlow 2.5 (google-coral/edgetpu #812, LiteRT #3611)."""
    found = _DPKG.search(machine.read("var/lib/dpkg/status") or b"")
    if found is None:
        return
    name, version = found[1].decode(), found[2].decode()
    if version.startswith("16.0") and {"ai-edge-litert", "tflite-runtime"} & set(have):
        yield yellow(
            name,
            f"{version}, built against TensorFlow 2.5: it crashes with newer TFLite runtimes",
            "install a build of libedgetpu for your runtime's TensorFlow version (2.13 or newer), then run this again",
        )
    else:
        yield green(name, version)


def _note(machine: Machine, name: str, have: Have) -> str | None:
    told = machine.package(name)
    if told is not None:
        have[name] = tuple(int(part) for part in re.findall(r"\d+", told.partition("+")[0])[:3])
    return told


def _opencv(have: Have) -> Version:
    return max((have[name] for name in _OPENCV if name in have), default=())
