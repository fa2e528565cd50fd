"""One readable line per result: time, stream, age, what was seen, what was dropped.

14:20:03.123  dock     58 ms  person 0.81  car 0.66  +3 more      dropped 3
"""

from __future__ import annotations

import codecs
import logging
import os
import sys
import time
from typing import ClassVar, Literal, TextIO

import msgspec

from edgerun.ports import SinkContext
from edgerun.publish.jsonl import LineWriter
from edgerun.types import Answer, Publication, Result

_RESET, _BOLD, _DIM, _CYAN, _GREEN, _YELLOW, _RED = (f"\x1b[{code}m" for code in (0, 1, 2, 36, 32, 33, 31))
_ANSWER_WIDTH = 48
"""Columns kept for the answer, so that the drops stand below each other; a longer one pushes them on."""


class ConsoleSink:
    """Results as lines for a person, on stdout or stderr, or on the text stream given as `out`.

    Colours only on a terminal, without `NO_COLOR` (no-color.org) and unless `TERM` is `dumb`. A reader that has gone
    (`| head -3`) makes the sink `broken` and silent; one that has stopped reading costs lines, and the next line says
    how many. In a process that was started without that stream nothing is shown.
    """

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        to: Literal["stdout", "stderr"] = "stdout"
        color: Literal["auto", "always", "never"] = "auto"
        top: int = 4
        """Labels shown before "+N more"."""
        patience_s: float = 0.2
        """How long to wait, once, for a reader that has fallen behind."""

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_picture: bool = False

    def __init__(self, options: Options, context: SinkContext, out: TextIO | None = None) -> None:
        if out is None:
            out = sys.stdout if options.to == "stdout" else sys.stderr
        self._top = options.top
        self._color = _wants_color(options.color, out)
        self._stream_width = 4
        self._unseen = 0
        self._encoding = _encoding(out)
        self._lines: LineWriter | None = None
        if out is not None:
            self._lines = LineWriter(
                out, options.to, context.clock, patience_s=options.patience_s, log_level=logging.INFO
            )

    @property
    def broken(self) -> bool:
        """Whether nobody reads any more. A process started without stdout never had a reader: no reason to end."""
        return self._lines is not None and self._lines.broken

    def publish(self, publication: Publication) -> None:
        if self._lines is None or self._lines.broken:
            return
        self._stream_width = max(self._stream_width, len(publication.result.stamp.stream))
        line = format_line(publication, top=self._top, stream_width=self._stream_width, color=self._color)
        if self._unseen:
            line += f"  ({self._unseen} line{'s' * (self._unseen > 1)} not shown: the reader fell behind)"
        self._unseen = 0 if self._lines.write(line.encode(self._encoding, "replace")) else self._unseen + 1

    def flush(self, timeout_s: float) -> None:
        if self._lines is not None:
            self._lines.flush(timeout_s)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


def format_line(publication: Publication, *, top: int = 4, stream_width: int = 4, color: bool = False) -> str:
    """The line of one result, without a newline; `stream_width` in columns."""
    result = publication.result
    stamp = result.stamp
    clock = time.strftime("%H:%M:%S", time.localtime(stamp.captured_unix_s))
    millis = int(stamp.captured_unix_s % 1.0 * 1000.0)
    drops = sum(result.dropped.values())
    name = _printable(stamp.stream).ljust(stream_width)
    answer = describe(result.answer, top)
    if result.crop is not None:
        answer = f"  └ {describe(Answer((result.crop,)), 1)}: {answer}"
    if result.reused is not None:
        answer += f"  ({result.reused})"
    for one in result.events:
        who = _printable(one.label) + (f"#{one.track}" if one.track is not None else "")
        answer += f"  [{who} {one.kind}{f' {one.zone}' if one.zone else ''}]"
    if stamp.item is not None and not result.max_age_ns:  # a picture of a folder: its name says more than its age
        answer = f"{_printable(stamp.item)}  {answer}"
    age = f"{publication.age_ms:5.0f} ms"
    gap = " " * (2 + max(0, _ANSWER_WIDTH - len(answer)))
    dropped = f"dropped {drops}" if drops else ""
    if not color:
        return f"{clock}.{millis:03d}  {name}  {age}  {answer}{gap}{dropped}".rstrip()
    return (
        f"{_DIM}{clock}.{millis:03d}{_RESET}  {_CYAN}{name}{_RESET}  {_age_color(publication.age_ms, result)}{age}"
        f"{_RESET}  {_BOLD}{answer}{_RESET}" + (f"{gap}{_YELLOW}{dropped}{_RESET}" if drops else "")
    )


def describe(answer: Answer, top: int = 4) -> str:
    """What was seen, in words: `person 0.81  car 0.66  +3 more`, `road 41.2%`, or `–` when nothing was."""
    parts: list[str] = []
    if answer.detections:
        seen = [
            f"{_printable(one.label)}{f'#{one.track}' if one.track is not None else ''} {one.score:.2f}"
            for one in answer.detections[:top]
        ]
        parts += seen + _more(len(answer.detections), top)
    if answer.classes:
        parts += [f"{_printable(one.label)} {one.score:.2f}" for one in answer.classes[:top]]
        parts += _more(len(answer.classes), top)
    if answer.segments:
        parts += [f"{_printable(one.label)} {one.share:.1%}" for one in answer.segments[:top]]
        parts += _more(len(answer.segments), top)
    if answer.keypoints:
        parts.append(f"{len(answer.keypoints)} keypoints")
    if answer.value is not None:
        parts.append(f"value {answer.value:.6g}")
    if answer.values:
        parts += [_printable(f"{one.name} {one.value:.6g} {one.unit}".rstrip()) for one in answer.values[:top]]
        parts += _more(len(answer.values), top)
    if answer.embedding is not None:
        parts.append(f"embedding of {len(answer.embedding)}")
    return "  ".join(parts) or "–"


def _more(count: int, top: int) -> list[str]:
    return [f"+{count - top} more"] if count > top else []


def _printable(text: str) -> str:
    """Labels and file names come from elsewhere and must not steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _age_color(age_ms: float, result: Result) -> str:
    share = age_ms * 1e6 / result.max_age_ns if result.max_age_ns else 0.0
    return _GREEN if share < 0.5 else _YELLOW if share < 0.8 else _RED


def _wants_color(choice: str, out: TextIO | None) -> bool:
    if choice != "auto":
        return choice == "always"
    if out is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return out.isatty()


def _encoding(out: TextIO | None) -> str:
    """The stream's own encoding where it has a descriptor to write bytes to, else UTF-8."""
    try:
        if out is not None and out.fileno() >= 0:
            return codecs.lookup(out.encoding or "utf-8").name
    except (AttributeError, OSError, LookupError):  # io.UnsupportedOperation is an OSError
        pass
    return "utf-8"
