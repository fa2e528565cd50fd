"""What each command does to the running whole, and the thread that takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from edgerun.control.commands import Commands
from edgerun.control.desk import Act, Command, Desk
from edgerun.errors import ConfigError
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.notice import Asked, NoticeBoard, ThreadDied
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Broker
from edgerun.validate import show


class Commanding:
    """Commands from the broker (where there is one) and through `desk`, done by the main thread.

    `root` is `<prefix>/<device>`; `make_desk` makes of the verbs who takes the commands; `more` are further verbs.
    """

    def __init__(
        self,
        broker: Broker | None,
        root: str,
        pipeline: Pipeline,
        notices: NoticeBoard,
        make_desk: Callable[[Mapping[str, Act]], Desk] = Desk,
        more: Mapping[str, Act] | None = None,
    ) -> None:
        self._pipeline, self._notices = pipeline, notices
        verbs = {"pause": self._pause, "resume": self._resume, **(more or {})}
        self.verbs = frozenset(verbs)
        self.desk = make_desk(verbs)
        self._commands = None if broker is None else Commands(broker, root, self.desk)
        self._turn = threading.Semaphore()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Take commands from now on."""
        if self._commands is not None:
            self._thread.start()

    def close(self) -> None:
        """Take no more. Idempotent."""
        self._closed = True
        if self._commands is not None:
            self._commands.close()
        self._turn.release()

    def _run(self) -> None:
        assert self._commands is not None  # else there is no thread
        try:
            self._commands.run(self._hand_over)
        except BaseException as error:  # noqa: BLE001  a thread's body: told, and the run ends with it
            self._notices.put(ThreadDied("control", error))

    def _hand_over(self, command: Command) -> None:
        """One at a time: a flood is to wait where the oldest give way, and not before a notice of something else."""
        self._turn.acquire()
        if self._closed:
            self._turn.release()
            return
        self._notices.put(Asked(partial(self._do, command)))

    def _do(self, command: Command) -> None:
        try:
            self.desk.do(command)
        finally:
            self._turn.release()

    def _pause(self, arguments: Mapping[str, Any]) -> None:
        paused = arguments.get("paused", True)  # a switch of Home Assistant has one topic for on and off
        if not isinstance(paused, bool):
            raise ConfigError("wrong type", where="paused", expected="true or false", got=repr(paused))
        for capture in self._named({key: value for key, value in arguments.items() if key != "paused"}):
            if paused:
                capture.pause("paused by a command")
            else:
                capture.resume()

    def _resume(self, arguments: Mapping[str, Any]) -> None:
        for capture in self._named(arguments):
            capture.resume()

    def _named(self, arguments: Mapping[str, Any]) -> Sequence[Capture]:
        """Those of the `stream` that a command names, of all where it names none. Raises `ConfigError`."""
        captures, name = self._pipeline.captures, arguments.get("stream")
        if unknown := [key for key in arguments if key != "stream"]:
            raise ConfigError("a key that this command does not know", expected="stream", got=show(unknown[0]))
        found = [capture for capture in captures if name in (None, capture.stream)]
        if not found:
            raise ConfigError(
                "no such stream", expected="one of " + ", ".join(one.stream for one in captures), got=show(name)
            )
        return found
