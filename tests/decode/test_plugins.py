import msgspec
import pytest

from edgerun import registry
from edgerun.decode.yolo_maps import ANCHORS

MANIFESTS = {
    "ssd-anchors": {"background": 0, "iou": 0.6, "feature_sizes": [19, 10, 5, 3, 2, 1], "score": "sigmoid"},
    "tflite-detection-postprocess": {"class_offset": 1},
    "yolo": {"version": "8", "box_units": "normalised", "anchors": ANCHORS},
    "yolo-pose": {"keypoints": 17, "box_units": "pixels"},
    "centernet": {"score": "none", "background": 0, "size_output": "wh"},
    "grid": {"objectness": None, "box": 0, "classes": 4, "centre": "sigmoid", "size": "exp", "size_units": "cells"},
    "blazeface": {"strides": [16, 32, 32, 32], "input_size": [256, 256]},
    "pose": {"keypoints": 17},
    "segment": {"background": None, "runs": True, "layout": "nchw"},
    "embedding": {"normalise": False},
    "anomaly": {"error": "rmse", "limit": 0.2, "original": "input"},
    "regress": {"names": ["count"], "units": ["people"], "scale": [10], "shift": [0.5]},
    "classify": {"activation": "softmax", "background_first": True},
    "keyword": {"activation": "sigmoid"},
    "vad": {"activation": "sigmoid"},
}


@pytest.mark.parametrize("kind", registry.kinds("decoder"))
def test_every_decoder_reads_its_options_from_a_manifest(kind):
    options = registry.resolve("decoder", kind).options
    said = msgspec.json.encode(MANIFESTS[kind])
    read = msgspec.json.decode(said, type=options)
    assert msgspec.convert(msgspec.to_builtins(read), options) == read
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"tresholt": 0.5}, options)
