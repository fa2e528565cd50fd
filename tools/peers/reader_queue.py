"""A reader thread puts frames into a `queue.Queue`, the main thread detects: the usual cure for a slow loop.

`--size 0` is a queue without bounds, as the first version of such a program has; with a size the reader drops the frame
at hand when the queue is full (`put_nowait`, `except Full: pass`).
"""

from __future__ import annotations

import contextlib
import queue
import threading

import cv2
from detector import Detector
from tally import Tally, arguments


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=0, help="0: no bound")
    args = parser.parse_args()
    tally = Tally(args)
    frames: queue.Queue = queue.Queue(maxsize=args.size)

    def read() -> None:
        cap = cv2.VideoCapture(args.url)
        while not tally.stop.is_set():
            success, image = cap.read()
            if not success:
                break
            tally.decoded += 1
            with contextlib.suppress(queue.Full):
                frames.put_nowait(image)
        cap.release()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    detector = Detector(args.model, args.labels)
    while tally.going:
        try:
            image = frames.get(timeout=1)
        except queue.Empty:
            continue
        tally.result(image, detector.detect(image))
    reader.join(2)
    tally.end()


if __name__ == "__main__":
    main()
