"""Which converter reads a source and makes a target; each is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgerun.convert.parts import Network, Progress, Quantizer, Samples, Target
from edgerun.convert.subject import Subject
from edgerun.errors import ConfigError
from edgerun.models.manifest import Format
from edgerun.types import Tensor

Method = Literal["minmax", "average", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "average", "percentile", "entropy", "mse")
_METADATA = b"TFLITE_METADATA"
_KERAS = (".keras", ".h5", ".hdf5")


def is_torch(source: str) -> bool:
    """Whether `source` names a PyTorch model: `.pt2`, `module:factory`, `file.py:factory`, or a pickle (refused)."""
    return Path(source).suffix in (".pt2", ".pt", ".pth", ".ckpt") or (":" in source and not Path(source).exists())


def read(source: str, workdir: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Network:
    """The float network of `source`. Raises `ConfigError` for an unknown kind, and what the importer raises."""
    path = Path(source)
    suffix = path.suffix.lower()
    if is_torch(source):
        from edgerun.convert.torch import importing as torch_importing
        from edgerun.convert.torch.loading import Options as TorchOptions

        return torch_importing.read(source, workdir, TorchOptions(shapes=tuple(shapes.values()), seed=seed))
    if not path.exists():
        raise ConfigError("there is no such model", where=source, remedy="check the path")
    if suffix == ".onnx":
        from edgerun.convert.onnx import importing as onnx_importing

        return onnx_importing.read(path, workdir, onnx_importing.ImportOptions(shapes=shapes))
    if suffix == ".tflite":
        from edgerun.convert.tflite import importing as tflite_importing

        return _without_metadata(tflite_importing.read(path, workdir, tflite_importing.ReadOptions(shapes=shapes)))
    if suffix in _KERAS or (path / "saved_model.pb").is_file():
        from edgerun.convert import keras

        return keras.read(path, workdir, keras.Options(shapes=shapes, seed=seed))
    raise ConfigError(
        "not a model that can be converted",
        where=source,
        expected=".onnx, float .tflite, .keras, a SavedModel, .pt2, module:factory, or a bundle of one",
        got=suffix or "a folder" if path.is_dir() else suffix or "a file without a suffix",
    )


def _without_metadata(network: Network) -> Network:
    """`network` without TFLite Metadata: it names files attached behind the model, which importing leaves behind.

    What it said has been read from the source, and goes into the manifest.
    """
    from edgerun.convert.tflite.graph import open_graph

    graph = open_graph(network.path)
    entries = graph.model.metadata or []
    kept = [one for one in entries if bytes(one.name or b"") != _METADATA]
    if len(kept) == len(entries):
        return network
    graph.model.metadata = kept
    graph.drop_unused()
    network.path.write_bytes(graph.to_bytes())
    note = "What its TFLite Metadata says stands in the manifest now."
    return msgspec.structs.replace(network, notes=(*network.notes, note))


def refuse_bridge(made: Format, wanted: Format | None, source: str) -> None:
    """Raises `ConfigError` for TFLite → ONNX, which no tool does well."""
    if made == "tflite" and wanted == "onnx":
        raise ConfigError(
            "a TFLite model is not turned into ONNX",
            where=source,
            expected="--format tflite",
            remedy="export the ONNX file from where the model was trained",
        )


def bridge(network: Network, wanted: Format, workdir: Path, shown: Sequence[Mapping[str, Tensor]] = ()) -> Network:
    """`network` in the wanted format, compared with the original on `shown` inputs too; raises as the bridge does."""
    if network.format == wanted:
        return network
    refuse_bridge(network.format, wanted, network.path.name)
    from edgerun.convert.bridge import to_tflite

    folder = workdir / "bridged"
    folder.mkdir(exist_ok=True)
    return to_tflite(network, folder, shown)


def make_quantizer(
    network: Network,
    subject: Subject,
    calibration: Samples,
    method: Method | None,
    target: Target,
    progress: Progress,
) -> Quantizer:
    """The quantiser of the network's format, with its own default where `method` is None."""
    chosen: dict[str, Any] = {}
    if network.format == "onnx":
        from edgerun.convert.onnx.quantizer import OnnxOptions, OnnxQuantizer

        if method is not None:
            chosen["method"] = method
        onnx_options = OnnxOptions(input_ranges=_input_ranges(subject), **chosen)
        return OnnxQuantizer(network, calibration, onnx_options, progress)
    from edgerun.convert.tflite.quantizer import QuantizerOptions, TfliteQuantizer

    if method is not None:
        chosen["ranges"] = method
    options = QuantizerOptions(target=target, input_ranges=_input_ranges(subject), **chosen)
    return TfliteQuantizer(network, calibration, options, progress)


def as_float(network: Network) -> bytes:
    """The network itself: float32."""
    if network.format == "onnx":
        from edgerun.convert.onnx.export import as_float as plain_onnx

        return plain_onnx(network)
    from edgerun.convert.tflite.casting import plain

    return plain(network)


def as_fp16(network: Network, target: Target) -> bytes:
    """The network with float16 weights."""
    if network.format == "onnx":
        from edgerun.convert.onnx.export import as_fp16 as half_onnx

        return half_onnx(network, target)
    from edgerun.convert.tflite.casting import fp16

    return fp16(network)


def as_ort(model: bytes, where: str) -> bytes:
    """An ONNX model in ONNX Runtime's own format."""
    from edgerun.convert.onnx.export import as_ort as ort

    return ort(model, where)


def _input_ranges(subject: Subject) -> dict[str, tuple[float, float]]:
    """What pixels of 0 and 255 become: the range that an int8 picture input must hold, whatever the samples show."""
    picture = subject.bundle.picture
    if subject.kind != "picture" or picture.mean is None or picture.std is None:
        return {}
    count = max(len(picture.mean), len(picture.std))
    means, stds = (one * count if len(one) == 1 else one for one in (picture.mean, picture.std))
    low = min((0 - mean) / std for mean, std in zip(means, stds, strict=True))
    high = max((255 - mean) / std for mean, std in zip(means, stds, strict=True))
    return {subject.inputs[0].name: (low, high)}
