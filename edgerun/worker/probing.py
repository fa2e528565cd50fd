"""A worker's control socket: a supervisor asks there whether it is alive, and whether it gets frames."""

from __future__ import annotations

import queue
from pathlib import Path

from edgerun.clock import Clock
from edgerun.control.desk import Command, Desk
from edgerun.control.local import LocalControl
from edgerun.control.probes import probes
from edgerun.worker.serving import Service


class Probing:
    """Answers are given by the thread that serves: `turn` is called by it, again and again.

    Raises `ConfigError` for a path that is none for a socket, `DeviceError` where it cannot be made.
    """

    def __init__(self, path: Path, service: Service, clock: Clock) -> None:
        self._desk = Desk(probes(service.why_not_ready), clock=clock)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._control = LocalControl(path, self._desk, self._commands.put, clock)
        self._control.start()

    def turn(self) -> None:
        """Answer what was asked since."""
        while not self._commands.empty():
            self._desk.do(self._commands.get())

    def close(self) -> None:
        """Take no more; the socket's file goes. Idempotent."""
        self._control.close()
