"""Home Assistant finds the device by itself: MQTT discovery, one message that describes device and entities.

`DescribedDevice` says what there is, `discovery` makes the message of it (pure), `Announcer` keeps it sent.
"""

from edgerun.publish.homeassistant.announcer import Announcer
from edgerun.publish.homeassistant.description import DescribedDevice, DescribedStream
from edgerun.publish.homeassistant.discovery import LIMIT_BYTES, Discovery, discovery
from edgerun.publish.homeassistant.models import ModelTopics, ModelVersions, encode_versions

__all__ = [
    "LIMIT_BYTES",
    "Announcer",
    "DescribedDevice",
    "DescribedStream",
    "Discovery",
    "ModelTopics",
    "ModelVersions",
    "discovery",
    "encode_versions",
]
