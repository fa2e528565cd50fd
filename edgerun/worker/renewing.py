"""Another version of the model for a worker that serves: read beside the one that runs, taken over between frames."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from edgerun.app.opening import LoadedModel
from edgerun.app.remoting import reading_of
from edgerun.errors import ConfigError, EdgerunError
from edgerun.worker.answering import Answerer
from edgerun.worker.serving import Service

_log = logging.getLogger(__name__)


class Renewing:
    """`ask` may be called by a signal handler; `turn` is called, again and again, by the thread that serves.

    `open_it` opens the model as it lies there now; it is called by the thread "reload". What is wrong with that model
    is told, and the one before goes on.
    """

    def __init__(self, service: Service, open_it: Callable[[], LoadedModel]) -> None:
        self._service, self._open_it = service, open_it
        self._asked = False
        self._thread: threading.Thread | None = None
        self._found: tuple[Answerer, float] | BaseException | None = None

    def ask(self) -> None:
        """Have the model read again."""
        self._asked = True

    def turn(self) -> None:
        """Begin what was asked for, or take over what it came to."""
        if self._thread is None:
            if self._asked:
                self._asked = False
                _log.info("the model is read again")
                self._thread = threading.Thread(target=self._read, name="reload", daemon=True)
                self._thread.start()
            return
        if self._thread.is_alive():
            return
        found, self._thread, self._found = self._found, None, None
        if isinstance(found, EdgerunError):
            _log.error("not changed: %s", found)
        elif isinstance(found, BaseException):
            raise found
        elif found is not None:
            self._take_over(*found)

    def close(self) -> None:
        """The service has ended: what was opened for it is closed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
            if isinstance(self._found, tuple):
                self._found[0].model.engine.close()

    def _take_over(self, answerer: Answerer, capacity: float) -> None:
        before, after = self._service.model, answerer.model
        if _told(before) == _told(after):
            after.engine.close()
            _log.info("nothing to change: %s %s is what runs", after.bundle.name, after.bundle.version)
        elif before.bundle.name != after.bundle.name:
            after.engine.close()
            error = ConfigError(
                "another model, which has requests of its own",
                where="--model",
                expected=before.bundle.name,
                got=after.bundle.name,
                remedy="restart the worker for it",
            )
            _log.error("not changed: %s", error)
        else:
            self._service.change(answerer, capacity)
            before.engine.close()
            versions = f"version {before.bundle.version} to {after.bundle.version}"
            _log.info("changed: %s from %s, about %.0f frames a second", after.bundle.name, versions, capacity)

    def _read(self) -> None:
        try:
            with ExitStack() as undo:
                model = self._open_it()
                undo.callback(model.engine.close)
                answerer = Answerer(model, self._service.name)
                self._found = answerer, answerer.measure()
                undo.pop_all()
        except BaseException as error:  # noqa: BLE001  a thread's body: told, or raised again, by who serves
            self._found = error


def _told(model: LoadedModel) -> tuple[str, str, str, str]:
    bundle = model.bundle
    return bundle.name, bundle.version, bundle.sha256, reading_of(bundle)
