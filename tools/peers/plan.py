"""Who is compared: one row per subject, in the table's order."""

from __future__ import annotations

from typing import NamedTuple


class Subject(NamedTuple):
    name: str
    title: str
    script: str
    environment: str = "edgerun"
    """Whose Python runs it: `environments.make`."""
    flags: tuple[str, ...] = ()


EDGERUN, LATEST = "edgerun", "latest"
SUBJECTS = (
    Subject(EDGERUN, "edgerun", "edgerun_run.py"),
    Subject(LATEST, "reader thread, latest slot", "latest_slot.py"),
    Subject("sized", "reader thread, queue of 4", "reader_queue.py", flags=("--size", "4")),
    Subject("unbounded", "reader thread, unbounded queue", "reader_queue.py"),
    Subject("vendor", "vendor example loop", "vendor_loop.py"),
    Subject("gstreamer", "GStreamer appsink drop=true", "gstreamer_appsink.py", "gstreamer"),
    Subject("mediapipe", "MediaPipe Tasks live stream", "mediapipe_live.py", "mediapipe"),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}
BARE = "bare_loop.py"

LEFT_OUT = {
    "Roboflow inference": "fetches its models' weights from its vendor's servers at first use; nothing in its "
    "documentation lets it run a .tflite file",
    "Frigate": "ships as a container image with recorder and web application, not as a package (what the Python index "
    "calls frigate is something else)",
    "DeepStream, Savant": "need an NVIDIA GPU",
    "NNStreamer": "neither Debian 12 nor the Python index carries it",
}
"""Runtimes that do the whole job but could not be measured, and why."""
