"""The bundled detector as someone who uses the interpreter by hand writes it: picture in, list of detections out.

Anchors are laid out as the TensorFlow Object Detection API's `create_ssd_anchors` does for ssd_mobilenet_v2 (see
`edgerun.decode.ssd`); only boxes above the threshold are decoded, and OpenCV suppresses what overlaps.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np

THRESHOLD, IOU = 0.5, 0.6


def anchors() -> np.ndarray:
    """1917×4: centre y, centre x, height, width in 0..1."""
    scales = [0.2 + 0.75 * layer / 5 for layer in range(6)] + [1.0]
    rows = []
    for layer, side in enumerate((19, 10, 5, 3, 2, 1)):
        if layer == 0:
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            shapes = [(scales[layer], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
            shapes.append((sqrt(scales[layer] * scales[layer + 1]), 1.0))
        for y in range(side):
            for x in range(side):
                for scale, ratio in shapes:
                    rows.append(((y + 0.5) / side, (x + 0.5) / side, scale / sqrt(ratio), scale * sqrt(ratio)))
    return np.array(rows, np.float32)


class Detector:
    """Input 1×300×300×3 float32 in -1..1, one thread."""

    def __init__(self, model: str, labels: str | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=model, num_threads=1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        _, self.height, self.width, _ = self.interpreter.get_input_details()[0]["shape"]
        outputs = {detail["name"]: detail["index"] for detail in self.interpreter.get_output_details()}
        self.boxes, self.scores = outputs["raw_outputs/box_encodings"], outputs["raw_outputs/class_predictions"]
        self.anchors = anchors()
        self.labels = Path(labels).read_text().split("\n") if labels else []

    def set_input(self, frame: np.ndarray) -> None:
        """`frame`: H×W×3 uint8, BGR."""
        small = cv2.cvtColor(cv2.resize(frame, (self.width, self.height)), cv2.COLOR_BGR2RGB)
        tensor = small.astype(np.float32)
        tensor -= 127.5
        tensor /= 127.5
        self.interpreter.set_tensor(self.input, tensor[None])

    def detect(self, frame: np.ndarray) -> list[dict[str, Any]]:
        self.set_input(frame)
        self.interpreter.invoke()
        return self.decode(self.interpreter.get_tensor(self.boxes)[0], self.interpreter.get_tensor(self.scores)[0])

    def decode(self, codes: np.ndarray, logits: np.ndarray) -> list[dict[str, Any]]:
        rows, classes = np.nonzero(logits[:, 1:] >= np.log(THRESHOLD / (1 - THRESHOLD)))
        if not len(rows):
            return []
        classes += 1  # column 0 is the background
        scores = 1 / (1 + np.exp(-logits[rows, classes]))
        anchor, code = self.anchors[rows], codes[rows]
        centre = code[:, :2] / 10 * anchor[:, 2:] + anchor[:, :2]
        size = np.exp(code[:, 2:] / 5) * anchor[:, 2:]
        boxes = np.concatenate(((centre - size / 2)[:, ::-1], size[:, ::-1]), axis=1)  # x, y, width, height
        kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), THRESHOLD, IOU)
        return [
            {
                "label": self.labels[classes[i]] if self.labels else int(classes[i]),
                "score": round(float(scores[i]), 4),
                "box": [round(float(value), 5) for value in boxes[i]],
            }
            for i in kept
        ]
