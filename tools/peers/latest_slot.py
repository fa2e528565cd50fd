"""A reader thread and one slot that always holds the latest frame: the best that is usually written by hand."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from detector import Detector
from tally import Tally, arguments


class LatestFrame:
    """Reads a camera in a thread and hands out its newest frame, each one at most once."""

    def __init__(self, url: str, tally: Tally) -> None:
        self._url = url
        self._tally = tally
        self._frame: np.ndarray | None = None
        self._new = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        cap = cv2.VideoCapture(self._url)
        while not self._tally.stop.is_set():
            success, frame = cap.read()
            if not success:
                break
            self._tally.decoded += 1
            with self._new:
                self._frame = frame
                self._new.notify()
        cap.release()

    def take(self) -> np.ndarray | None:
        with self._new:
            self._new.wait_for(lambda: self._frame is not None, timeout=1)
            frame, self._frame = self._frame, None
            return frame

    def join(self) -> None:
        self._thread.join(2)


def main() -> None:
    args = arguments(__doc__).parse_args()
    tally = Tally(args)
    camera = LatestFrame(args.url, tally)
    detector = Detector(args.model, args.labels)
    while tally.going:
        frame = camera.take()
        if frame is not None:
            tally.result(frame, detector.detect(frame))
    camera.join()
    tally.end()


if __name__ == "__main__":
    main()
