"""`cmd/trace`: what happened to every frame in the last seconds, in the answer or as a file in the state folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgerun.clock import Clock
from edgerun.errors import ConfigError, DeviceError
from edgerun.telemetry.trace import Trace, write_whole
from edgerun.validate import show

MOST_FRAMES = 2048
"""A trace of so many takes some 50 ms to encode on a desktop core and ten times that on a Raspberry Pi Zero 2, on the
main thread, which must not stand still for a second."""
INLINE_BYTES = 16384
"""A trace up to this size comes in the answer itself."""
FILES_KEPT = 4
_SECONDS, _MOST_SECONDS = 10.0, 3600.0


class Tracing:
    """Answers `cmd/trace`. `folder`, made when the first file is written, holds the newest `FILES_KEPT` traces."""

    def __init__(self, trace: Trace, folder: Path, clock: Clock) -> None:
        self._trace, self._folder, self._clock = trace, folder, clock

    def tell(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a command with `arguments`, of which there is one, `seconds`.

        `frames` and `seconds` say what the trace covers; `trace` is it, or `file` where it lies, with `bytes`. Raises
        `ConfigError`, or `DeviceError` where it cannot be written.
        """
        ends = self._trace.ends(_seconds(arguments), MOST_FRAMES)
        trace = self._trace.encode_ends(ends)
        covered_s = (self._clock.mono_ns() - ends[0].ended_ns) / 1e9 if ends else 0.0
        told = {"frames": len(ends), "seconds": round(max(0.0, covered_s), 3)}
        if len(trace) <= INLINE_BYTES:
            return {**told, "trace": msgspec.Raw(trace)}
        return {**told, "file": str(self._write(trace)), "bytes": len(trace)}

    def _write(self, trace: bytes) -> Path:
        now_s = self._clock.unix_s()
        name = f"trace-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now_s))}.{int(now_s % 1 * 1000):03}Z.json"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(
                "the folder of traces cannot be made", where=self._folder, got=error.strerror or error
            ) from error
        path = self._folder / name
        write_whole(path, trace)
        kept = sorted(self._folder.glob("trace-*.json"), key=_written_ns)
        for old in kept[:-FILES_KEPT]:
            if old != path:
                with suppress(OSError):  # the next one tries again
                    old.unlink(missing_ok=True)
        return path


def _written_ns(path: Path) -> int:
    """When; 0 for what somebody else has taken away meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _seconds(arguments: Mapping[str, Any]) -> float:
    for key in arguments:
        if key != "seconds":
            raise ConfigError("a key that this command does not know", expected="seconds", got=show(key))
    seconds = arguments.get("seconds", _SECONDS)
    right = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if not right or not 0 < seconds <= _MOST_SECONDS:
        raise ConfigError(
            "not a length of time",
            where="seconds",
            expected=f"more than 0, at most {_MOST_SECONDS:g}",
            got=show(seconds),
        )
    return float(seconds)
