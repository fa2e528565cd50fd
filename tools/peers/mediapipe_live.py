"""MediaPipe Tasks' object detector in live stream mode, as its guide for Python writes it.

`--model` is what `mediapipe_model.py` makes of the bundled detector.
"""

from __future__ import annotations

import threading
import time

import cv2
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision
from tally import Tally, arguments


def main() -> None:
    args = arguments(__doc__).parse_args()
    tally = Tally(args)
    one_at_a_time = threading.Lock()

    def show(result: vision.ObjectDetectorResult, image: mp.Image, _timestamp_ms: int) -> None:
        found = [
            {
                "label": one.categories[0].category_name,
                "score": round(one.categories[0].score, 4),
                "box": [box.origin_x, box.origin_y, box.width, box.height],
            }
            for one in result.detections
            for box in (one.bounding_box,)
        ]
        with one_at_a_time:
            if not tally.stop.is_set():
                tally.result(image.numpy_view(), found)

    options = vision.ObjectDetectorOptions(
        base_options=BaseOptions(model_asset_path=args.model),
        running_mode=vision.RunningMode.LIVE_STREAM,
        score_threshold=0.5,
        category_denylist=["background"],
        result_callback=show,
    )
    with vision.ObjectDetector.create_from_options(options) as detector:
        cap = cv2.VideoCapture(args.url)
        last_ms = 0
        while cap.isOpened() and tally.going:
            success, frame = cap.read()
            if not success:
                break
            tally.decoded += 1
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            last_ms = max(last_ms + 1, time.monotonic_ns() // 1_000_000)  # they must rise
            detector.detect_async(image, last_ms)
        tally.stop.set()
        cap.release()
    tally.end(mediapipe=mp.__version__)


if __name__ == "__main__":
    main()
