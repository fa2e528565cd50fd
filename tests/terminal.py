"""A real terminal for tests: tmux, on a socket of its own.

with terminal.tmux("some command", tmp_path) as screen:
    screen.wait(lambda text: "ready" in text)
    screen.press("q")
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mosquitto import wait_until


class Screen:
    """One window; what was last seen of it is in `text`."""

    def __init__(self, socket: Path, pane: str = "t") -> None:
        self._tmux = ["tmux", "-S", str(socket)]
        self._pane = pane
        self.text = ""

    def read(self, *how: str) -> str:
        """The screen as it is, without trailing spaces; with `-e` also its colours, with `-S -` what scrolled away."""
        done = subprocess.run(
            [*self._tmux, "capture-pane", "-p", "-t", self._pane, *how], capture_output=True, text=True, check=True
        )
        self.text = done.stdout
        return self.text

    def wait(self, condition: Callable[[str], object], timeout_s: float = 40.0) -> str:
        """The screen as soon as it fulfils `condition`."""
        try:
            wait_until(lambda: condition(self.read()), timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{self.text}") from None
        return self.text

    def press(self, *keys: str) -> None:
        """Keys as tmux names them: q, C-c, Down."""
        subprocess.run([*self._tmux, "send-keys", "-t", self._pane, *keys], check=True)

    def resize(self, columns: int, rows: int) -> None:
        size = ["-x", str(columns), "-y", str(rows)]
        subprocess.run([*self._tmux, "resize-window", "-t", self._pane, *size], check=True)


@contextlib.contextmanager
def tmux(command: str, folder: Path, columns: int = 80, rows: int = 24) -> Iterator[Screen]:
    """`command`, run by sh in a window of that size; when it has ended "exit CODE" stands below what it left."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed on this device")
    socket = folder / "tmux"
    begin = ["tmux", "-S", str(socket), "-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", str(columns)]
    shell = f"trap : INT; {command}; echo exit $?; exec cat"  # Ctrl-C is for the command alone
    subprocess.run([*begin, "-y", str(rows), "sh", "-c", shell], check=True)
    try:
        yield Screen(socket)
    finally:
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], check=False)
