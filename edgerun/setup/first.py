"""The text of a first config: what was chosen, and beside it in comments what one changes next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgerun.setup import toml_text

_HEAD = """\
# edgerun's config. Every key: `edgerun` docs/config.md; is it right: edgerun check --config FILE;
# start it: edgerun run --config FILE; as a service: edgerun service install --config FILE --now
"""

_MQTT_OFF = """\
# Results go nowhere but to the terminal until there is a broker:
# [mqtt]
# url = "mqtt://localhost"
# home_assistant = true
"""

_STREAM_NEXT = """\
# labels = ["person", "car"]      # report only these
# threshold = 0.5                 # the lowest score reported
# max_fps = 5                     # save power
# max_age_ms = 250                # nothing older is published
# track = true                    # number objects and follow them; zones need it
# [streams.{name}.gate]
# motion = 0.005                  # infer only where this share of the picture moves
# [streams.{name}.privacy]
# mask = [[[0, 0], [0.3, 0], [0.3, 0.2]]]   # blacked out before anything else sees the frame
"""


class Choice(msgspec.Struct, frozen=True):
    """What the operator wants, or what was found. `source`: text or a table, as a config has it."""

    device: str
    model: str
    source: str | Mapping[str, Any]
    broker: str | None = None
    username: str | None = None
    stream: str = "main"
    loop: bool = False


def text_of(choice: Choice) -> str:
    """The file. What it means is `edgerun.config.load`'s to check."""
    stream = {"source": choice.source, "model": "detector", "loop": True if choice.loop else None}
    parts = [_HEAD, toml_text.table(["device"], {"id": choice.device}) + "\n"]
    if choice.broker is None:
        parts.append(_MQTT_OFF)
    else:
        mqtt = {"url": choice.broker, "username": choice.username, "home_assistant": True}
        password = None
        if choice.username is not None:
            password = {"credential": "mqtt-password"}
        parts.append(toml_text.table(["mqtt"], {**mqtt, "password": password}) + "\n")
    model = {"path": choice.model, "accelerators": ["auto"]}
    parts.append(toml_text.table(["models", "detector"], model) + "   # what the board has, then the CPU\n")
    parts.append(toml_text.table(["streams", choice.stream], stream) + "\n" + _STREAM_NEXT.format(name=choice.stream))
    return "\n".join(parts)
