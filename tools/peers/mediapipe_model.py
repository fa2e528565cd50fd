"""The bundled detector as MediaPipe Tasks can load it: `mediapipe_model.py MODEL LABELS OUT`.

Its weights and its arithmetic stay. MediaPipe wants metadata: how pixels are normalised, what the outputs are, the
anchors, the labels.
MediaPipe's own metadata writers cannot be imported from its wheel (1.2.2: `No module named 'mediapipe.tasks.cc'`), so
the tables of `metadata_schema.fbs` and `object_detector_metadata_schema.fbs` are filled in here.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from detector import anchors

# Through importlib, because `mediapipe.tasks` is rebound to `mediapipe.tasks.python` by the package itself.
md: Any = importlib.import_module("mediapipe.tasks.metadata.metadata_schema_py_generated")
od: Any = importlib.import_module("mediapipe.tasks.metadata.object_detector_metadata_schema_py_generated")

LABELS_FILE = "labels.txt"
_CUSTOM = "DETECTOR_METADATA"


def main() -> None:
    source, labels, target = map(Path, sys.argv[1:])
    model = read(source.read_bytes())
    model.signatureDefs = []  # it wants the names that metadata gives
    names = labels.read_text().strip().split("\n")
    add_buffer(model, "TFLITE_METADATA", metadata(len(names)))
    content = io.BytesIO(packed(model, b"TFL3"))
    with zipfile.ZipFile(content, "a") as archive:  # associated files are a zip at the end of the model
        archive.writestr(LABELS_FILE, "\n".join(names) + "\n")
    target.write_bytes(content.getvalue())
    print(json.dumps({"bytes": target.stat().st_size}))


def read(content: bytes) -> Any:
    """The model with its weights inside the FlatBuffer, where those of some writers lie behind it."""
    model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(content))
    for buffer in model.buffers:
        if buffer.offset > 1:  # schema.fbs: 0 and 1 mean that there is none
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(table: Any, identifier: bytes) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(table.Pack(builder), identifier)
    return bytes(builder.Output())


def add_buffer(model: Any, name: str, data: bytes) -> None:
    buffer = tfl.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    entry = tfl.MetadataT()
    entry.name, entry.buffer = name.encode(), len(model.buffers) - 1
    model.metadata = [one for one in model.metadata or [] if one.name != entry.name] + [entry]


def metadata(classes: int) -> bytes:
    graph = md.SubGraphMetadataT()
    graph.inputTensorMetadata = [image_tensor()]
    location, score = md.TensorMetadataT(), md.TensorMetadataT()
    location.name, score.name = "location", "score"
    for tensor, kind, content in (
        (location, md.ContentProperties.BoundingBoxProperties, md.BoundingBoxPropertiesT()),
        (score, md.ContentProperties.FeatureProperties, md.FeaturePropertiesT()),
    ):
        tensor.content = md.ContentT()
        tensor.content.contentPropertiesType, tensor.content.contentProperties = kind, content
    location.content.contentProperties.type = md.BoundingBoxType.BOUNDARIES
    location.content.contentProperties.coordinateType = md.CoordinateType.RATIO
    file = md.AssociatedFileT()
    file.name, file.type = LABELS_FILE, md.AssociatedFileType.TENSOR_AXIS_LABELS
    score.associatedFiles = [file]
    graph.outputTensorMetadata = [location, score]
    custom = md.CustomMetadataT()
    custom.name, custom.data = _CUSTOM, list(packed(detector_options(classes), b"V001"))
    graph.customMetadata = [custom]
    model = md.ModelMetadataT()
    model.name, model.subgraphMetadata, model.minParserVersion = "ObjectDetector", [graph], "1.5.0"
    return packed(model, b"M001")


def image_tensor() -> Any:
    tensor = md.TensorMetadataT()
    tensor.name = "image"
    tensor.content = md.ContentT()
    tensor.content.contentPropertiesType = md.ContentProperties.ImageProperties
    tensor.content.contentProperties = md.ImagePropertiesT()
    tensor.content.contentProperties.colorSpace = md.ColorSpaceType.RGB
    unit = md.ProcessUnitT()
    unit.optionsType = md.ProcessUnitOptions.NormalizationOptions
    unit.options = md.NormalizationOptionsT()
    unit.options.mean, unit.options.std = [127.5], [127.5]
    tensor.processUnits = [unit]
    return tensor


def detector_options(classes: int) -> Any:
    options = od.ObjectDetectorOptionsT()
    options.minParserVersion = "1.0.0"
    options.ssdAnchorsOptions = od.SsdAnchorsOptionsT()
    options.ssdAnchorsOptions.fixedAnchorsSchema = od.FixedAnchorsSchemaT()
    fixed = []
    for y, x, height, width in anchors().tolist():
        anchor = od.FixedAnchorT()
        anchor.xCenter, anchor.yCenter, anchor.width, anchor.height = x, y, width, height
        fixed.append(anchor)
    options.ssdAnchorsOptions.fixedAnchorsSchema.anchors = fixed
    decoding = options.tensorsDecodingOptions = od.TensorsDecodingOptionsT()
    decoding.numClasses, decoding.numBoxes, decoding.numCoords = classes, len(fixed), 4
    decoding.keypointCoordOffset, decoding.numKeypoints, decoding.numValuesPerKeypoint = 0, 0, 2
    decoding.xScale = decoding.yScale = 10.0
    decoding.wScale = decoding.hScale = 5.0
    decoding.applyExponentialOnBoxSize = decoding.sigmoidScore = True
    return options


if __name__ == "__main__":
    main()
