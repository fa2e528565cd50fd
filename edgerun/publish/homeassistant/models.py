"""Which version of each model is installed, and which could be: `<prefix>/<device>/models/<name>`, retained, in the
shape of Home Assistant's `update` entity (home-assistant.io, "MQTT Update").
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from edgerun.broker.message import Message
from edgerun.ports import Broker

VERSION = 1
_WEB = re.compile(r"https?://[\w.-]+(:\d+)?([/?#]\S*)?")
_LONGEST_SUMMARY = 255
"""Home Assistant's own limit (components/update/const.py)."""


class ModelVersions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What there is to know of one model.

    `installed` is what runs, `latest` what the store or a catalog offers: the same where nothing newer is known to it,
    None where nobody has looked. `in_progress`: it is being installed, `percentage` (0..100) of it done where that is
    known. `summary` and `url` say what is new.
    """

    installed: str
    latest: str | None = None
    title: str | None = None
    in_progress: bool = False
    percentage: int | None = None
    summary: str | None = None
    url: str | None = None
    rollout: Mapping[str, Any] | None = None
    """What is known of the newer one while it is tried; for others than Home Assistant."""


def encode_versions(versions: ModelVersions) -> bytes:
    """The message: what is not known is left out, so that Home Assistant shows it as unknown.

    A `url` that is none of http or https is left out too: Home Assistant would refuse the whole message for it.
    """
    url = versions.url if versions.url is not None and _WEB.fullmatch(versions.url) else None
    told = {
        "v": VERSION,
        "installed_version": versions.installed,
        "latest_version": versions.latest,
        "title": versions.title,
        "release_summary": None if versions.summary is None else versions.summary[:_LONGEST_SUMMARY],
        "release_url": url,
        "rollout": versions.rollout,
    }
    out: dict[str, Any] = {key: value for key, value in told.items() if value is not None}
    # Both always: a percentage that is not taken back stays.
    out["in_progress"] = versions.in_progress
    out["update_percentage"] = versions.percentage if versions.in_progress else None
    return msgspec.json.encode(out)


class ModelTopics:
    """Keeps the retained message of every model as it is now. `root` is `<prefix>/<device>`. Thread-safe."""

    def __init__(self, broker: Broker, root: str, models: Mapping[str, ModelVersions]) -> None:
        self._broker, self._root = broker, root
        self._lock = threading.Lock()
        self._now = dict(models)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that have a topic."""
        with self._lock:
            return tuple(self._now)

    def birth(self) -> list[Message]:
        """What every new connection begins with."""
        with self._lock:
            return [self._message(name, encode_versions(versions)) for name, versions in self._now.items()]

    def tell(self, name: str, versions: ModelVersions) -> None:
        """This is what is known of the model called `name` from now on. Publishes it where it is new."""
        with self._lock:
            if self._now.get(name) == versions:
                return
            self._now[name] = versions
            self._publish(self._message(name, encode_versions(versions)))

    def loaded(self, models: Mapping[str, ModelVersions]) -> None:
        """These are the models that are loaded now, with what is `installed` and its `title`; what was told of newer
        ones stays. The messages of others go.
        """
        for name in set(self.names) - models.keys():
            self.remove(name)
        for name, versions in models.items():
            known = self.versions(name)
            if known is not None:
                versions = msgspec.structs.replace(known, installed=versions.installed, title=versions.title)
            self.tell(name, versions)

    def versions(self, name: str) -> ModelVersions | None:
        """What is told of a model now."""
        with self._lock:
            return self._now.get(name)

    def remove(self, name: str) -> None:
        """There is no such model any more: its retained message goes."""
        with self._lock:
            if self._now.pop(name, None) is not None:
                self._publish(self._message(name, b""))

    def _message(self, name: str, payload: bytes) -> Message:
        return Message(f"{self._root}/models/{name}", payload, qos=1, retain=True)

    def _publish(self, message: Message) -> None:
        self._broker.publish(message.topic, message.payload, qos=1, retain=True)
