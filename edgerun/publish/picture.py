"""Annotated pictures for a person to look at: a film of a run (`--save`) and the newest picture (`--snapshot`)."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from edgerun.clock import Clock
from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.draw import draw
from edgerun.types import Image, Publication, Result

_log = logging.getLogger(__name__)

_HELD_PICTURES = 9
_HELD_BYTES = 32 << 20
"""Pictures kept in memory until the frame rate is known: a film states it at its beginning."""
_FALLBACK_FPS = 10.0
_FPS_LIMITS = (1.0, 120.0)
_FREE_BYTES = 8 << 20
"""Below this the film is ended while there is room for its index, without which nothing plays."""
_CHECK_EVERY_NS = 2_000_000_000
_LOG_EVERY_NS = 60_000_000_000
_JPEG_QUALITY = 90


class PictureSink:
    """Every result's picture with its boxes, in an MP4 per stream, and the newest one as a JPEG, replaced atomically.

    Drawing and encoding happen in the publish thread (a film takes about 3 ms a picture at 640×480 and 14 ms at
    1920×1080 on a desktop core), into copies: the leased picture is left as it is. With several streams the stream's
    name is inserted before the suffix: `out.mp4` → `out-dock.mp4`. A full disk ends the film, playable, or costs a
    snapshot, and is logged.
    """

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        save: str | None = None
        """A film, `.mp4`; an existing one is replaced."""
        snapshot: str | None = None
        """A picture, `.jpg`."""
        fps: float | None = None
        """The film's frame rate; without it, that of the first results."""
        codec: Literal["mp4v", "vp09", "avc1"] = "mp4v"
        """mp4v (MPEG-4 part 2) plays in VLC, mpv and ffplay and is in every OpenCV wheel; vp09 also plays in browsers
        and takes some 40 times as long: only for sources without a deadline; avc1 (H.264) needs a hardware encoder that
        FFmpeg can use."""
        snapshot_interval_s: float = 1.0
        streams: tuple[str, ...] = ()
        """The run's streams: with more than one, all file names carry the stream's name."""

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_picture: bool = True
    broken: bool = False

    def __init__(self, options: Options, context: SinkContext) -> None:
        import cv2

        if options.fps is not None and not options.fps > 0:
            raise ConfigError("the film's frame rate is not positive", where="fps", got=options.fps)
        self._cv2: Any = cv2
        self._options = options
        self._clock = context.clock
        self._films: dict[str, _Film] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self._canvases: dict[str, Image] = {}
        self._closed = False
        if options.save is not None:
            _check_target(Path(options.save), (".mp4",))
            _check_codec(cv2, Path(options.save), options.codec)
        if options.snapshot is not None:
            _check_target(Path(options.snapshot), (".jpg", ".jpeg"))

    def publish(self, publication: Publication) -> None:
        result = publication.result
        if result.lease is None or self._closed:
            return
        stream = result.stamp.stream
        canvas = self._copy(stream, result.lease.image)
        if self._options.save is not None:
            _draw(canvas, result, publication.age_ms)
            film = self._films.get(stream)
            if film is None:
                film = self._films[stream] = _Film(
                    self._cv2, self._name(self._options.save, stream, self._films), self._options, self._clock
                )
            film.add(canvas, result.stamp.captured_ns)
        if self._options.snapshot is not None:
            shot = self._snapshots.get(stream)
            if shot is None:
                path = self._name(self._options.snapshot, stream, self._snapshots)
                shot = self._snapshots[stream] = _Snapshot(
                    self._cv2, path, self._options.snapshot_interval_s, self._clock
                )
            shot.offer(canvas, result, publication.age_ms, drawn=self._options.save is not None)

    def flush(self, timeout_s: float) -> None:
        """Write the newest picture; the film is complete only when closed."""
        for shot in self._snapshots.values():
            shot.write()

    def close(self) -> None:
        """End the films and write each stream's last picture. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for film in self._films.values():
            film.close()
        for shot in self._snapshots.values():
            shot.write()
        self._canvases.clear()

    def _copy(self, stream: str, image: Image) -> Image:
        canvas = self._canvases.get(stream)
        if canvas is None or canvas.shape != image.shape:
            canvas = self._canvases[stream] = np.empty(image.shape, np.uint8)
        np.copyto(canvas, image)
        return canvas

    def _name(self, target: str, stream: str, known: Any) -> Path:
        path = Path(target)
        if len(self._options.streams) > 1 or known:
            return path.with_name(f"{path.stem}-{stream.replace(os.sep, '_')}{path.suffix}")
        return path


class _Film:
    """One MP4. The first pictures are held back until their capture times tell the frame rate."""

    def __init__(self, cv2: Any, path: Path, options: PictureSink.Options, clock: Clock) -> None:
        self._cv2 = cv2
        self._path = path
        self._codec = options.codec
        self._fps = options.fps
        self._clock = clock
        self._held: list[Image] = []
        self._times_ns: list[int] = []
        self._writer: Any = None
        self._size = (0, 0)
        self._ended = False
        self._checked_ns = clock.mono_ns()

    def add(self, picture: Image, captured_ns: int) -> None:
        if self._ended:
            return
        if self._writer is not None:
            self._write(picture)
            return
        self._held.append(picture.copy())
        self._times_ns.append(captured_ns)
        known = self._fps is not None or len(self._held) >= _HELD_PICTURES
        if known or sum(image.nbytes for image in self._held) >= _HELD_BYTES:
            self._start()

    def close(self) -> None:
        if not self._ended and self._held:
            self._start()
        self._end()

    def _start(self) -> None:
        held, self._held = self._held, []
        height, width = held[0].shape[:2]
        self._size = (max(2, width & ~1), max(2, height & ~1))  # 4:2:0 chroma: even sides
        fps = self._fps if self._fps is not None else frame_rate(self._times_ns)
        self._writer = _open_writer(self._cv2, self._path, self._codec, fps, self._size)
        if not self._writer.isOpened():
            self._ended = True
            _log.error("%s: the film cannot be written; the run goes on without it", self._path)
            return
        _log.info("%s: %d×%d at %.2f frames/s", self._path, *self._size, fps)
        for picture in held:
            self._write(picture)

    def _write(self, picture: Image) -> None:
        now_ns = self._clock.mono_ns()
        if now_ns - self._checked_ns >= _CHECK_EVERY_NS:
            self._checked_ns = now_ns
            if shutil.disk_usage(self._path.parent).free < _FREE_BYTES:
                _log.error("%s: the disk is full; the film ends here, the run goes on", self._path)
                self._end()
                return
        self._writer.write(fit(self._cv2, picture, self._size))

    def _end(self) -> None:
        self._ended = True
        if self._writer is not None:
            self._writer.release()
            self._writer = None


class _Snapshot:
    """The newest picture as a JPEG that is whole at any moment: written beside and renamed."""

    def __init__(self, cv2: Any, path: Path, interval_s: float, clock: Clock) -> None:
        self._cv2 = cv2
        self._path = path
        self._interval_ns = round(interval_s * 1e9)
        self._clock = clock
        self._written_ns: int | None = None
        self._logged_ns: int | None = None
        self._waiting: tuple[Image, Result, float, bool] | None = None

    def offer(self, picture: Image, result: Result, age_ms: float, *, drawn: bool) -> None:
        """Take the newest picture: the sink's canvas, which the next one overwrites and is offered as in turn."""
        self._waiting = (picture, result, age_ms, drawn)
        now_ns = self._clock.mono_ns()
        if self._written_ns is None or now_ns - self._written_ns >= self._interval_ns:
            self._written_ns = now_ns
            self.write()

    def write(self) -> None:
        if self._waiting is None:
            return
        (picture, result, age_ms, drawn), self._waiting = self._waiting, None
        if not drawn:
            _draw(picture, result, age_ms)
        done, jpeg = self._cv2.imencode(".jpg", picture, (self._cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            if not done:
                raise OSError("the picture cannot be encoded as a JPEG")
            beside.write_bytes(jpeg.tobytes())
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            now_ns = self._clock.mono_ns()
            if self._logged_ns is None or now_ns - self._logged_ns >= _LOG_EVERY_NS:
                self._logged_ns = now_ns
                _log.warning("%s: the snapshot cannot be written: %s", self._path, error.strerror or error)


def frame_rate(times_ns: list[int]) -> float:
    """Frames per second from capture times: the inverse of the median interval, within 1..120; 10 when unknown."""
    intervals = [later - earlier for earlier, later in itertools.pairwise(times_ns) if later > earlier]
    if not intervals:
        return _FALLBACK_FPS
    low, high = _FPS_LIMITS
    return min(high, max(low, 1e9 / statistics.median(intervals)))


def fit(cv2: Any, picture: Image, size: tuple[int, int]) -> Image:
    """`picture` in a film of `size` (width, height): as it is, an odd row or column cut off, or, when the source has
    changed its resolution, scaled with black bars.
    """
    wide, tall = size
    height, width = picture.shape[:2]
    if (max(2, width & ~1), max(2, height & ~1)) == size and width >= 2 and height >= 2:
        return picture[:tall, :wide]
    scale = min(wide / width, tall / height)
    inside = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = np.zeros((tall, wide, 3), np.uint8)
    x, y = (wide - inside[0]) // 2, (tall - inside[1]) // 2
    out[y : y + inside[1], x : x + inside[0]] = cv2.resize(picture, inside, interpolation=cv2.INTER_AREA)
    return out


def _draw(picture: Image, result: Result, age_ms: float) -> None:
    draw(picture, result.answer, age_ms=age_ms if result.max_age_ns else None, stream=result.stamp.stream)


def _open_writer(cv2: Any, path: Path, codec: str, fps: float, size: tuple[int, int]) -> Any:
    return cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)


def _check_target(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises `ConfigError` unless a file of this name can be written."""
    what = "cannot write a picture or film there"
    if path.suffix.lower() not in suffixes:
        raise ConfigError(what, where=path, expected=f"a name ending in {' or '.join(suffixes)}", got=path.name or path)
    if path.is_dir():
        raise ConfigError(what, where=path, expected="a file", got="a folder", remedy="name a file in that folder")
    try:
        if path.exists():
            with path.open("ab"):
                pass
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        remedy = "choose a file in a folder that exists and that this user may write to"
        raise ConfigError(what, where=path, got=error.strerror, remedy=remedy) from error


def _check_codec(cv2: Any, path: Path, codec: str) -> None:
    """Raises `ConfigError` when this OpenCV cannot write a film with `codec` there."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        writer = _open_writer(cv2, Path(folder) / "probe.mp4", codec, 10.0, (64, 64))
        opened = writer.isOpened()
        writer.release()
    if not opened:
        raise ConfigError(
            f"this OpenCV cannot write films with the codec {codec!r}",
            where=path,
            got=f"OpenCV {cv2.__version__} without an encoder for it",
            remedy="use codec 'mp4v'",
        )
