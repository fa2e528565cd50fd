"""Which plug-ins there are: room → kind → "module:Class", imported only when asked for.

Plug-ins from outside register the entry-point group `edgerun` with names of the form `<room>.<kind>`.
"""

from __future__ import annotations

import importlib
from typing import Any

from edgerun.errors import ConfigError, MissingError, did_you_mean

BUILTIN: dict[str, dict[str, str]] = {
    "source": {
        "camera": "edgerun.capture.camera:CameraSource",
        "stream": "edgerun.capture.stream:StreamSource",
        "mjpeg": "edgerun.capture.mjpeg:MjpegSource",
        "file": "edgerun.capture.file:FileSource",
        "images": "edgerun.capture.images:ImagesSource",
        "synthetic": "edgerun.capture.synthetic:SyntheticSource",
        "csv": "edgerun.capture.csv_file:CsvSource",
        "wav": "edgerun.capture.wav:WavSource",
        "microphone": "edgerun.capture.microphone:MicrophoneSource",
        "iio": "edgerun.capture.iio:IioSource",
        "serial": "edgerun.capture.serial_port:SerialSource",
        "exec": "edgerun.capture.command:CommandSource",
        "mqtt": "edgerun.capture.mqtt_request:MqttRequestSource",
    },
    "engine": {
        "tflite": "edgerun.infer.tflite:TfliteEngine",
        "onnx": "edgerun.infer.onnx:OnnxEngine",
    },
    "accelerator": {
        "tflite-edgetpu": "edgerun.infer.delegates:EdgeTpu",
        "tflite-gpu": "edgerun.infer.delegates:Gpu",
        "tflite-nnapi": "edgerun.infer.delegates:Nnapi",
        "tflite-armnn": "edgerun.infer.delegates:ArmNn",
        "tflite-vx": "edgerun.infer.delegates:Vx",
        "tflite-hexagon": "edgerun.infer.delegates:Hexagon",
        "tflite-external": "edgerun.infer.delegates:External",
        "onnx-tensorrt": "edgerun.infer.providers:TensorRt",
        "onnx-cuda": "edgerun.infer.providers:Cuda",
        "onnx-openvino": "edgerun.infer.providers:OpenVino",
        "onnx-qnn": "edgerun.infer.providers:Qnn",
        "onnx-acl": "edgerun.infer.providers:Acl",
        "onnx-xnnpack": "edgerun.infer.providers:Xnnpack",
        "onnx-webgpu": "edgerun.infer.providers:WebGpu",
        "onnx-nnapi": "edgerun.infer.providers:Nnapi",
        "onnx-coreml": "edgerun.infer.providers:CoreMl",
        "onnx-external": "edgerun.infer.providers:External",
    },
    "decoder": {
        "ssd-anchors": "edgerun.decode.ssd:SsdAnchorsDecoder",
        "tflite-detection-postprocess": "edgerun.decode.postprocess:DetectionPostprocessDecoder",
        "yolo": "edgerun.decode.yolo:YoloDecoder",
        "yolo-pose": "edgerun.decode.yolo_pose:YoloPoseDecoder",
        "centernet": "edgerun.decode.centernet:CenterNetDecoder",
        "grid": "edgerun.decode.grid:GridDecoder",
        "blazeface": "edgerun.decode.blazeface:BlazeFaceDecoder",
        "pose": "edgerun.decode.pose:PoseDecoder",
        "classify": "edgerun.decode.classify:ClassifyDecoder",
        "keyword": "edgerun.decode.classify:ClassifyDecoder",
        "vad": "edgerun.decode.classify:ClassifyDecoder",
        "segment": "edgerun.decode.segment:SegmentDecoder",
        "embedding": "edgerun.decode.embedding:EmbeddingDecoder",
        "anomaly": "edgerun.decode.anomaly:AnomalyDecoder",
        "regress": "edgerun.decode.regress:RegressDecoder",
    },
    "sink": {
        "console": "edgerun.publish.console:ConsoleSink",
        "jsonl": "edgerun.publish.jsonl:JsonlSink",
        "mqtt": "edgerun.publish.mqtt:MqttSink",
        "picture": "edgerun.publish.picture:PictureSink",
        "collect": "edgerun.publish.collect:CollectSink",
    },
}

_GROUP = "edgerun"


def kinds(room: str) -> tuple[str, ...]:
    """The kinds of a room, built-in ones first."""
    from importlib.metadata import entry_points  # costs 10 ms that built-in plug-ins need not pay

    outside = sorted(name.partition(".")[2] for name in entry_points(group=_GROUP).names if name.startswith(room + "."))
    return (*BUILTIN[room], *(kind for kind in outside if kind not in BUILTIN[room]))


def resolve(room: str, kind: str) -> Any:
    """The plug-in class.

    Raises `ConfigError` for an unknown kind, `MissingError` when its module cannot be imported.
    """
    target = BUILTIN[room].get(kind)
    if target is None:
        from importlib.metadata import entry_points

        for entry in entry_points(group=_GROUP, name=f"{room}.{kind}"):
            target = entry.value
    if target is None:
        from edgerun.secret import mask

        raise ConfigError(
            f"unknown {room} kind",
            expected="one of " + ", ".join(kinds(room)),
            got=repr(mask(kind)),
            remedy=did_you_mean(kind, kinds(room)),
        )
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MissingError(f"the {room} plug-in {kind!r} cannot be imported", where=target, got=f"{error}") from error
