"""Sources of frames: one file each, behind `ports.Source`.

`camera` V4L2 and GStreamer · `stream` RTSP and other network video through FFmpeg · `mjpeg` HTTP multipart cameras,
read by ourselves · `file` · `images` · `synthetic`. The rest are their parts: `connection`, `http` and `auth` (a small
client whose waits end with the stream), `multipart` (the parser), `rawjpeg` (a V4L2 camera's JPEGs), `jpeg` (what one
says of itself), `picture` (decoding one), `pace` (playing at a real rate; silence), `waiting` (for a descriptor and a
wake), `stamp` (number and time drawn into a picture), `url` (masking), `opencv` (importing it with its settings).
"""
