"""GStreamer reads and decodes, `appsink drop=true max-buffers=1` hands the newest frame to the interpreter."""

from __future__ import annotations

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")

import numpy as np  # noqa: E402
from detector import Detector  # noqa: E402
from gi.repository import Gst, GstApp  # noqa: E402, F401  (GstApp gives appsink its methods)
from tally import Tally, arguments  # noqa: E402

PIPELINE = (
    "souphttpsrc location={url} is-live=true do-timestamp=true ! multipartdemux single-stream=true ! "
    "jpegdec name=decoder ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink name=sink drop=true max-buffers=1 sync=false"
)


def main() -> None:
    args = arguments(__doc__).parse_args()
    tally = Tally(args)
    Gst.init(None)
    pipeline = Gst.parse_launch(PIPELINE.format(url=args.url))

    def count(*_: object) -> Gst.PadProbeReturn:
        tally.decoded += 1
        return Gst.PadProbeReturn.OK

    pipeline.get_by_name("decoder").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, count)
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    detector = Detector(args.model, args.labels)
    while tally.going:
        sample = sink.try_pull_sample(Gst.SECOND)
        if sample is None:
            if sink.is_eos():
                break
            continue
        caps = sample.get_caps().get_structure(0)
        buffer = sample.get_buffer()
        mapped, info = buffer.map(Gst.MapFlags.READ)
        if not mapped:
            continue
        frame = np.frombuffer(info.data, np.uint8).reshape(caps.get_value("height"), caps.get_value("width"), 3)
        tally.result(frame, detector.detect(frame))
        buffer.unmap(info)
    pipeline.set_state(Gst.State.NULL)
    tally.end(gstreamer=Gst.version_string())


if __name__ == "__main__":
    main()
