"""Annotated pictures for a person to look at: a film of a run (`--save`) and the newest picture (`--snapshot`)."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from edgerun.clock import Clock
from edgerun.errors import ConfigError
from edgerun.ports import Seal, SinkContext
from edgerun.publish.draw import draw
from edgerun.publish.film import Film, open_writer
from edgerun.types import Image, Publication, Result

_log = logging.getLogger(__name__)

_LOG_EVERY_NS = 60_000_000_000
_JPEG_QUALITY = 90
_PROBE_BYTES = 64 << 10
"""A film that has no room for so much is not begun."""


class PictureSink:
    """Every result's picture with its boxes, in an MP4 per stream, and the newest one as a JPEG, replaced atomically.

    Drawing and encoding happen in the publish thread (a film takes about 3 ms a picture at 640×480 and 14 ms at
    1920×1080 on a desktop core), into copies: the leased picture is left as it is. A film runs at the speed of its
    source; of a source without a deadline (a folder, `--as-fast`) it has every picture, one after the other. With
    several streams the stream's name is inserted before the suffix: `out.mp4` → `out-dock.mp4`. A full disk ends the
    film, playable, or costs a snapshot, and is logged.
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
        self._seal = context.seal
        self._films: dict[str, Film] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self._canvases: dict[str, Image] = {}
        self._closed = False
        if options.save is not None and context.seal is not None:
            raise ConfigError(
                "a film is written as it grows and cannot be sealed",
                where="--save",
                got="state_key in [security]",
                remedy="leave --save out, or take state_key out of a config that is for looking only",
            )
        if options.save is not None:
            _check_target(Path(options.save), (".mp4",))
            _check_codec(cv2, Path(options.save), options.codec)
        if options.snapshot is not None:
            _check_target(Path(options.snapshot), (".jpg", ".jpeg"))

    @property
    def shortfall(self) -> str | None:
        """Which films are not whole and why; None where all are."""
        return "; ".join(film.shortfall for film in self._films.values() if film.shortfall is not None) or None

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
                path = self._name(self._options.save, stream, self._films)
                film = self._films[stream] = Film(
                    self._cv2,
                    path,
                    self._options.codec,
                    self._options.fps,
                    self._clock,
                    every=not result.max_age_ns,
                )
            film.add(canvas, result.stamp.captured_ns)
        if self._options.snapshot is not None:
            shot = self._snapshots.get(stream)
            if shot is None:
                path = self._name(self._options.snapshot, stream, self._snapshots)
                shot = self._snapshots[stream] = _Snapshot(
                    self._cv2, path, self._options.snapshot_interval_s, self._clock, self._seal
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


class _Snapshot:
    """The newest picture as a JPEG that is whole at any moment: written beside and renamed.

    Where there is something to seal with, it is sealed with the purpose "snapshot" and called `….jpg.sealed`.
    """

    def __init__(self, cv2: Any, path: Path, interval_s: float, clock: Clock, seal: Seal | None = None) -> None:
        self._cv2 = cv2
        self._name, self._seal = path.name, seal
        self._path = path if seal is None else path.with_name(path.name + ".sealed")
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
            content = jpeg.tobytes()
            beside.write_bytes(content if self._seal is None else self._seal(content, "snapshot", self._name))
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            now_ns = self._clock.mono_ns()
            if self._logged_ns is None or now_ns - self._logged_ns >= _LOG_EVERY_NS:
                self._logged_ns = now_ns
                _log.warning("%s: the snapshot cannot be written: %s", self._path, error.strerror or error)


def _draw(picture: Image, result: Result, age_ms: float) -> None:
    draw(picture, result.answer, age_ms=age_ms if result.max_age_ns else None, stream=result.stamp.stream)


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
        try:  # on a full disk OpenCV says no more than that it did not open
            (Path(folder) / "room").write_bytes(bytes(_PROBE_BYTES))
        except OSError as error:
            what, remedy = "cannot write a picture or film there", "make room, or choose another place"
            raise ConfigError(what, where=path, got=error.strerror, remedy=remedy) from error
        writer = open_writer(cv2, Path(folder) / "probe.mp4", codec, 10.0, (64, 64))
        opened = writer.isOpened()
        writer.release()
    if not opened:
        raise ConfigError(
            f"this OpenCV cannot write films with the codec {codec!r}",
            where=path,
            got=f"OpenCV {cv2.__version__} without an encoder for it",
            remedy="use codec 'mp4v'",
        )
