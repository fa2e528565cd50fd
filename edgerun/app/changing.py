"""What may be asked of a run while it goes on: its config read again, a model swapped, results given to one more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.app.reloading import Done, Reloading
from edgerun.config import Config
from edgerun.config.overlay import Overlay
from edgerun.errors import ConfigError
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Broker, Sink
from edgerun.validate import show

if TYPE_CHECKING:  # for runs with a broker
    from edgerun.app.desiring import Desiring
    from edgerun.broker.message import Message
    from edgerun.control.desk import Later

Reread = Callable[[Overlay | None], Config]
"""Reads the config again, with what is wished for from afar laid over it. Raises `EdgerunError`."""


class Changing:
    """Used by the main thread, which is told by `done` what became of each; `birth` by any."""

    def __init__(self, reloading: Reloading, pipeline: Pipeline, reread: Reread | None) -> None:
        self._reloading, self._pipeline, self._reread = reloading, pipeline, reread
        self._desiring: Desiring | None = None

    def wish(self, broker: Broker, root: str) -> None:
        """From now on whoever may publish to `<root>/config/desired` has a say."""
        from edgerun.app.desiring import Desiring

        self._desiring = Desiring(broker, root, self._reload_with)

    def reload(self, done: Done) -> None:
        """See `App.reload`."""
        self._reload_with(None if self._desiring is None else self._desiring.overlay, done)

    def reload_by_command(self, arguments: Mapping[str, Any]) -> Later:
        """The verb `reload`, answered when it is done. Raises `ConfigError`."""
        if arguments:
            raise ConfigError("reload knows no keys", got=show(next(iter(arguments))))
        from edgerun.control.desk import Later

        later = Later()
        self.reload(lambda outcome: later.give(ConfigError(outcome.error) if outcome.errors else outcome.told()))
        return later

    def swap_model(self, name: str, path: Path, done: Done) -> None:
        """See `App.swap_model`."""
        served = [worker.name for worker in self._pipeline.workers]
        if name not in served:
            raise ConfigError("no such model runs", expected="one of " + ", ".join(served), got=show(name))

        def make(now: Config) -> Config:
            model = msgspec.structs.replace(now.models[name], path=path)
            return msgspec.structs.replace(now, models={**now.models, name: model})

        self._reloading.ask(make, done, replaced=(name,))

    def named(self) -> Config:
        """The config that a reload would have run now. Raises `EdgerunError`."""
        if self._reread is None:
            return self._reloading.config
        return self._reread(None if self._desiring is None else self._desiring.overlay)

    def add_sink(self, sink: Sink, done: Done) -> None:
        """Give `sink` every result too, with its picture where it wants that; whoever made it closes it."""
        self._pipeline.publisher.add(sink)
        self._reloading.ask(lambda now: now, done)

    def remove_sink(self, sink: Sink, done: Done) -> None:
        """Give `sink` no more; one result may just be on its way to it until `done`."""
        self._pipeline.publisher.remove(sink)
        self._reloading.ask(lambda now: now, done)

    def birth(self) -> list[Message]:
        """What every new connection begins with."""
        return [] if self._desiring is None else self._desiring.birth()

    def tick(self) -> None:
        """Do what is due; called several times a second."""
        if self._desiring is not None:
            self._desiring.tick()

    def stop(self) -> None:
        """The run ends: take and begin nothing more. Idempotent."""
        if self._desiring is not None:
            self._desiring.close()
        self._reloading.stop()

    def _reload_with(self, overlay: Overlay | None, done: Done) -> None:
        reread = self._reread
        if reread is None:
            raise ConfigError(
                "this run has no config file that could be read again", remedy="restart it, or run it with --config"
            )
        self._reloading.ask(lambda now: reread(overlay), done)
