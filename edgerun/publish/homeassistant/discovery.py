"""The discovery message: a description of the device as the bytes that Home Assistant reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edgerun.decoding import decode
from edgerun.publish.homeassistant.components import (
    Component,
    device_components,
    label_components,
    label_names,
    stream_components,
)
from edgerun.publish.homeassistant.description import DescribedDevice, DescribedStream
from edgerun.publish.homeassistant.naming import shown, slug

LIMIT_BYTES = 64 * 1024
"""Most bytes of one discovery message. It is sent again at every connection and lies at the broker; small devices and
their brokers shall carry it with ease.
"""

_SHORT = {
    "command_topic": "cmd_t",
    "content_type": "cont_type",
    "device_class": "dev_cla",
    "enabled_by_default": "en",
    "entity_category": "ent_cat",
    "event_types": "evt_typ",
    "expire_after": "exp_aft",
    "image_topic": "img_t",
    "json_attributes_template": "json_attr_tpl",
    "json_attributes_topic": "json_attr_t",
    "options": "ops",
    "payload_off": "pl_off",
    "payload_on": "pl_on",
    "payload_press": "pl_prs",
    "payload_install": "pl_inst",
    "platform": "p",
    "state_class": "stat_cla",
    "state_off": "stat_off",
    "state_on": "stat_on",
    "state_topic": "stat_t",
    "suggested_display_precision": "sug_dsp_prc",
    "unique_id": "uniq_id",
    "unit_of_measurement": "unit_of_meas",
    "value_template": "val_tpl",
}
"""Home Assistant's own abbreviations (core, components/mqtt/abbreviations.py)."""


class Discovery(msgspec.Struct, frozen=True):
    """The message: `topic`, `payload` (JSON), the platform of each component in it by id, and what found no room.

    `left_out` names streams, and labels as `stream: label`, in the order in which they were given up.
    """

    topic: str
    payload: bytes
    platforms: Mapping[str, str]
    left_out: tuple[str, ...] = ()


def discovery(
    device: DescribedDevice,
    prefix: str = "homeassistant",
    *,
    removed: Mapping[str, str] | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> Discovery:
    """The discovery message of `device`, at most `limit_bytes` long.

    When it would be longer, every stream keeps only its first k labels, with the largest k that fits; when it is too
    long without any, the last streams go. What an entity is called never depends on what else there is.
    `removed` (id → platform) are components that earlier messages held: an entry with nothing but its platform removes
    one (home-assistant.io, "MQTT", device discovery); a message without them should follow. They come first.
    """
    gone = {key: {"p": platform} for key, platform in (removed or {}).items()}
    most = max((len(label_names(stream)) for stream in device.streams), default=0)
    kept = len(device.streams)
    made = _encode(device, kept, most, gone)
    if len(made) > limit_bytes:
        low, high = 0, most - 1  # the largest `most` that fits, if any does
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(_encode(device, kept, middle, gone)) <= limit_bytes else (low, middle - 1)
        most = max(0, low)
        made = _encode(device, kept, most, gone)
        while len(made) > limit_bytes and kept:
            kept -= 1
            made = _encode(device, kept, most, gone)
    platforms = {key: one["platform"] for key, one in _components(device, kept, most).items()}
    return Discovery(topic(device, prefix), made, platforms, _left_out(device.streams, kept, most))


def topic(device: DescribedDevice, prefix: str = "homeassistant") -> str:
    """`<prefix>/device/edgerun_<id>/config`."""
    return f"{prefix}/device/edgerun_{device.id}/config"


def announced(payload: bytes) -> dict[str, str]:
    """Id → platform of the components that an earlier message announced; empty for what is none of ours."""
    try:
        told = decode(payload, dict[str, Any])
        components = told.get("cmps", {})
        return {
            key: one["p"]
            for key, one in components.items()
            if isinstance(one, dict) and isinstance(one.get("p"), str) and len(one) > 1
        }
    except (msgspec.DecodeError, RecursionError, AttributeError, UnicodeDecodeError):
        return {}


def _components(device: DescribedDevice, kept: int, most: int) -> dict[str, Component]:
    def all_of_them() -> Iterable[tuple[str, Component]]:
        yield from device_components(device)
        for stream in device.streams[:kept]:
            yield from stream_components(device, stream)
            yield from label_components(device, stream, most)

    out: dict[str, Component] = {}
    for key, component in all_of_them():
        own = key
        while own in out:  # stream "a" with a label like another's name
            own += "_"
        unique = {"unique_id": f"edgerun_{device.id}_{own}"}
        entity = {"default_entity_id": f"{component['platform']}.{slug(device.id)}_{own}"}
        out[own] = {**component, **unique, **entity}
    return out


def _encode(device: DescribedDevice, kept: int, most: int, gone: Mapping[str, Component]) -> bytes:
    components = {key: _shortened(one) for key, one in _components(device, kept, most).items()}
    about = {"ids": [f"edgerun_{device.id}"], "name": device.id, "mf": "edgerun", "sw": device.version}
    if device.board is not None:
        about["mdl"] = shown(device.board, 100)
    return msgspec.json.encode(
        {
            "dev": about,
            "o": {"name": "edgerun", "sw": device.version},
            "avty": [{"t": device.topic("status"), "pl_avail": "online", "pl_not_avail": "offline"}],
            "cmps": {**gone, **components},
        }
    )


def _shortened(component: Component) -> Component:
    return {_SHORT.get(key, key): value for key, value in component.items()}


def _left_out(streams: tuple[DescribedStream, ...], kept: int, most: int) -> tuple[str, ...]:
    labels = [f"{one.name}: {label}" for one in streams[:kept] for label in label_names(one)[most:] if one.counted]
    return (*labels, *(one.name for one in streams[kept:]))
