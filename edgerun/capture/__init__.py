"""Sources of frames: one file each, behind `ports.Source`.

`camera` V4L2 and GStreamer · `stream` RTSP and other network video through FFmpeg · `mjpeg` HTTP multipart cameras,
read by ourselves · `file` · `images` · `synthetic`. The rest are their parts: `connection`, `http` and `auth` (a small
client whose waits end with the stream), `multipart` (the parser), `pace` (playing at a real rate), `picture` (one
compressed picture), `stamp` (number and time drawn into a picture), `url` (masking), `opencv` (importing it with its
settings).
"""
