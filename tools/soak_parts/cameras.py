"""Emulated cameras that keep their port while they go, come back, fall silent and answer nonsense."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests import emulators
from tests.mosquitto import free_port


class Camera:
    """One emulator process at a time, on one port."""

    def __init__(self, kind: str, video: Path, fps: float) -> None:
        self.kind = kind
        self._port = free_port()
        self._args = ("--port", self._port, "--size", "768x576", "--fps", fps, "--video", video)
        self._running = ExitStack()
        self._now: emulators.Emulator | None = None
        self.restart()
        assert self._now is not None
        self.url = self._now.url

    def restart(self, *faults: object) -> None:
        """Gone and there again, with the emulator's flags for a fault or healthy."""
        self.vanish()
        self._now = self._running.enter_context(emulators.start(self.kind, *self._args, *faults))

    def vanish(self) -> None:
        self.speak()
        self._now = None
        self._running.close()

    def hush(self) -> None:
        """Connections stay open and are even taken, and nothing comes."""
        if self._now is not None:
            os.kill(self._now.pid, signal.SIGSTOP)

    def speak(self) -> None:
        if self._now is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._now.pid, signal.SIGCONT)


@contextlib.contextmanager
def camera(kind: str, video: Path, fps: float) -> Iterator[Camera]:
    made = Camera(kind, video, fps)
    try:
        yield made
    finally:
        made.vanish()
