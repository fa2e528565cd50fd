"""The loop of the runtime vendors' own camera examples: read a frame, detect, show; no threads.

As in LiteRT's and TensorFlow Lite's Raspberry Pi object detection examples, with the drawing left out.
"""

from __future__ import annotations

import cv2
from detector import Detector
from tally import Tally, arguments


def main() -> None:
    args = arguments(__doc__).parse_args()
    tally = Tally(args)
    cap = cv2.VideoCapture(args.url)
    detector = Detector(args.model, args.labels)
    while cap.isOpened() and tally.going:
        success, image = cap.read()
        if not success:
            break
        tally.decoded += 1
        tally.result(image, detector.detect(image))
    cap.release()
    tally.end()


if __name__ == "__main__":
    main()
