"""What Home Assistant shows: each entity as the dict that its MQTT integration reads, by its id in the device.

Keys, device classes and units are those of Home Assistant's MQTT integration (home-assistant.io, "MQTT" and its
platforms). Templates give `None` for what a message does not hold, which Home Assistant shows as unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from edgerun.publish.homeassistant.description import DescribedDevice, DescribedStream
from edgerun.publish.homeassistant.naming import lookup, quoted, shown, slug, slugs

Component = dict[str, Any]

OPERATOR_EVENTS = ("stalled", "paused", "ended", "degraded", "running", "fell_back", "recovered", "lost", "throttled")
"""Kinds of events about the device that have a name of their own in Home Assistant; the rest is `other`."""
_STATES = ["running", "stalled", "paused", "degraded", "ended"]
_UPDATE_KEYS = (
    "installed_version",
    "latest_version",
    "title",
    "release_summary",
    "release_url",
    "entity_picture",
    "in_progress",
    "update_percentage",
)
_MISSED = 3  # telemetry messages that may be lost before a value counts as unknown: QoS 0 may lose one
_SHORTEST_EXPIRY_S = 10
_TRACE_S = 60


class Row(NamedTuple):
    """An entity of one value of telemetry: where it lies, its id, its name and what Home Assistant is told of it."""

    path: tuple[str, ...]
    id: str
    name: str
    more: Mapping[str, Any]
    platform: str = "sensor"


def _measured(kind: str | None, unit: str | None, digits: int | None = None) -> dict[str, Any]:
    told = {"device_class": kind, "unit_of_measurement": unit, "suggested_display_precision": digits}
    return {"state_class": "measurement"} | {key: value for key, value in told.items() if value is not None}


_ROWS = (
    Row(("thermal", "soc_temp_c"), "soc_temperature", "SoC temperature", _measured("temperature", "°C", 1)),
    Row(("thermal", "coral_temp_c"), "coral_temperature", "Coral temperature", _measured("temperature", "°C", 1)),
    Row(("thermal", "throttled"), "throttled", "Throttled", {"device_class": "problem"}, "binary_sensor"),
    Row(("power", "power_w"), "power", "Power", _measured("power", "W", 2)),
    Row(
        ("power", "energy_kwh"),
        "energy",
        "Energy",
        {**_measured("energy", "kWh", 3), "state_class": "total_increasing"},
    ),
    Row(("power", "j_per_inference"), "inference_energy", "Energy per inference", _measured(None, "J", 3)),
    Row(("memory", "rss_mib"), "memory", "Memory", _measured("data_size", "MiB", 0)),
    Row(("memory", "available_mib"), "memory_available", "Memory available", _measured("data_size", "MiB", 0)),
    Row(("spool", "messages"), "spool", "Messages waiting", _measured(None, None)),
)


def device_components(device: DescribedDevice) -> Iterator[tuple[str, Component]]:
    """(id, component) of what is the device's own."""
    for row in (*_ROWS, *_disk_rows(device), *_voltage_rows(device)):
        if _holds(device.known, row.path):
            yield row.id, _of_telemetry(device, row)
    if _holds(device.known, ("governor", "level")):
        yield "governor", _governor(device)
    kinds = [*OPERATOR_EVENTS, "other"]
    named = f"value_json.get('kind') if value_json.get('kind') in {_listed(OPERATOR_EVENTS)} else 'other'"
    yield (
        "events",
        {
            "platform": "event",
            "name": "Events",
            "state_topic": device.topic("event"),
            "event_types": kinds,
            "value_template": "{% if 'label' not in value_json %}{{ dict(value_json, event_type="
            + named
            + ") | tojson }}{% endif %}",
            "entity_category": "diagnostic",
        },
    )
    if "reload" in device.verbs:
        yield "reload", _button(device, "Reload the config", "reload", {}) | {"entity_category": "config"}
    if "trace" in device.verbs:
        hidden = {"entity_category": "diagnostic", "enabled_by_default": False}
        yield "trace", _button(device, "Write a trace", "trace", {"seconds": _TRACE_S}) | hidden
    for name, made in slugs(device.models).items():
        yield f"model_{made}", _update(device, name)


def stream_components(device: DescribedDevice, stream: DescribedStream) -> Iterator[tuple[str, Component]]:
    """(id, component) of one stream, without those of single labels."""
    made, name = slug(stream.name), shown(stream.name)
    topic = device.topic(f"state/{stream.name}")
    yield (
        f"{made}_state",
        {
            "platform": "sensor",
            "name": f"{name} state",
            "state_topic": topic,
            "value_template": "{{ " + lookup("state") + " }}",
            "device_class": "enum",
            "options": _STATES,
            "json_attributes_topic": topic,
            "json_attributes_template": "{{ dict(reason=value_json.get('reason'), "
            "accelerator=value_json.get('accelerator')) | tojson }}",
        },
    )
    yield from _rates(device, stream, made, name)
    if stream.accounts:
        yield f"{made}_input", _input(device, stream, name)
    if stream.counted:
        total = "value_json.get('counts', {}).values() | sum"
        yield (
            f"{made}_objects",
            _count(topic, f"{name} objects", total)
            | {
                "json_attributes_topic": topic,
                "json_attributes_template": "{{ value_json.get('counts', {}) | tojson }}",
            },
        )
        if not stream.occupied_by:
            yield f"{made}_occupied", _occupancy(topic, f"{name} occupied", total)
    if stream.events:
        yield f"{made}_events", _scene_events(device, stream, name)
    if stream.snapshot:
        yield (
            f"{made}_snapshot",
            {
                "platform": "image",
                "name": f"{name} snapshot",
                "image_topic": device.topic(f"snapshot/{stream.name}"),
                "content_type": "image/jpeg",
            },
        )
    if {"pause", "resume"} <= device.verbs:
        yield f"{made}_running", _switch(device, stream, topic, name)
    if stream.snapshot and "snapshot" in device.verbs:
        yield f"{made}_take_snapshot", _button(device, f"{name} take snapshot", "snapshot", {"stream": stream.name})


def label_components(device: DescribedDevice, stream: DescribedStream, most: int) -> Iterator[tuple[str, Component]]:
    """(id, component) of the stream's first `most` labels: occupancy where it is wanted, and the count."""
    topic, made, name = device.topic(f"state/{stream.name}"), slug(stream.name), shown(stream.name)
    wanted = label_names(stream)[:most] if stream.counted else ()
    for label, short in slugs(wanted).items():
        count = f"value_json.get('counts', {{}}).get({quoted(label)}, 0)"
        if label in stream.occupied_by:
            yield f"{made}_{short}_occupancy", _occupancy(topic, f"{name} {shown(label)}", count)
        if label in stream.labels:
            yield f"{made}_{short}_count", _count(topic, f"{name} {shown(label)} count", count)


def label_names(stream: DescribedStream) -> tuple[str, ...]:
    """All labels that want an entity, each once, those with an occupancy sensor first."""
    return tuple(dict.fromkeys((*stream.occupied_by, *stream.labels)))


def _of_telemetry(device: DescribedDevice, row: Row) -> Component:
    value = lookup(*row.path)
    if row.platform == "binary_sensor":
        value = f"none if {value} is none else 'ON' if {value} else 'OFF'"
    return {
        "platform": row.platform,
        "name": row.name,
        "state_topic": device.topic("telemetry"),
        "value_template": "{{ " + value + " }}",
        "expire_after": _expiry(device),
        "entity_category": "diagnostic",
        **row.more,
    }


def _governor(device: DescribedDevice) -> Component:
    """0: nothing is held back. Why, and what of which stream, are its attributes."""
    return {
        **_of_telemetry(device, Row(("governor", "level"), "governor", "Governor level", _measured(None, None, 0))),
        "json_attributes_topic": device.topic("telemetry"),
        "json_attributes_template": "{{ value_json.get('governor', {}) | tojson }}",
    }


def _input(device: DescribedDevice, stream: DescribedStream, name: str) -> Component:
    """Whether the camera or sensor sees nothing any more: telemetry names what is wrong only while something is."""
    own = f"value_json.get('streams', {{}}).get({quoted(stream.accounts[0])})"
    return {
        "platform": "binary_sensor",
        "name": f"{name} input",
        "state_topic": device.topic("telemetry"),
        "value_template": "{{ none if " + own + " is none else 'ON' if " + own + ".get('input') else 'OFF' }}",
        "device_class": "problem",
        "expire_after": _expiry(device),
        "entity_category": "diagnostic",
        "json_attributes_topic": device.topic("telemetry"),
        "json_attributes_template": "{{ dict(input=(" + own + " or {}).get('input', [])) | tojson }}",
    }


def _expiry(device: DescribedDevice) -> int:
    return max(_SHORTEST_EXPIRY_S, math.ceil(_MISSED * device.interval_s))


def _rates(device: DescribedDevice, stream: DescribedStream, made: str, name: str) -> Iterator[tuple[str, Component]]:
    for account in stream.accounts:
        several = len(stream.accounts) > 1
        front = f"{made}_{slug(account.rpartition('/')[2])}" if several else made
        said = f"{name} {shown(account.rpartition('/')[2])}" if several else name
        at = ("streams", account)
        for row in (
            Row((*at, "fps"), f"{front}_rate", f"{said} results", _measured(None, "1/s", 1)),
            Row((*at, "age_ms", "p95"), f"{front}_age", f"{said} age p95", _measured("duration", "ms", 0)),
        ):
            yield row.id, _of_telemetry(device, row)


def _disk_rows(device: DescribedDevice) -> Iterator[Row]:
    disks = device.known.get("disk", {})
    for place, made in slugs(sorted(disks)).items():
        short = "root" if place == "/" else made
        more = _measured("data_size", "B", 0)
        yield Row(("disk", place, "free_bytes"), f"disk_{short}_free", f"Free on {shown(place)}", more)


def _voltage_rows(device: DescribedDevice) -> Iterator[Row]:
    values = device.known.get("sensors", {}).get("values", {})
    for name in sorted(values):
        if name.startswith("pi/") and name.endswith("/under_voltage"):
            more = {"device_class": "problem"}
            yield Row(("sensors", "values", name), "under_voltage", "Under-voltage", more, "binary_sensor")
            return


def _count(topic: str, name: str, value: str) -> Component:
    return {
        "platform": "sensor",
        "name": name,
        "state_topic": topic,
        "value_template": "{{ " + value + " if 'counts' in value_json else none }}",
        "state_class": "measurement",
    }


def _occupancy(topic: str, name: str, value: str) -> Component:
    return {
        "platform": "binary_sensor",
        "name": name,
        "state_topic": topic,
        "value_template": "{{ none if 'counts' not in value_json else 'ON' if " + value + " else 'OFF' }}",
        "device_class": "occupancy",
    }


def _scene_events(device: DescribedDevice, stream: DescribedStream, name: str) -> Component:
    ours = f"value_json.get('stream') == {quoted(stream.name)} and value_json.get('kind') in {_listed(stream.events)}"
    return {
        "platform": "event",
        "name": f"{name} events",
        "state_topic": device.topic("event"),
        "event_types": list(stream.events),
        "value_template": "{% if 'label' in value_json and " + ours + " %}"
        "{{ dict(value_json, event_type=value_json['kind']) | tojson }}{% endif %}",
    }


def _switch(device: DescribedDevice, stream: DescribedStream, topic: str, name: str) -> Component:
    """On is running. A switch has one command topic, so that `cmd/pause` is told which of the two is meant."""
    return {
        "platform": "switch",
        "name": f"{name} running",
        "state_topic": topic,
        "value_template": "{{ 'OFF' if value_json.get('state') == 'paused' else 'ON' }}",
        "command_topic": device.topic("cmd/pause"),
        "payload_on": _json({"stream": stream.name, "paused": False}),
        "payload_off": _json({"stream": stream.name, "paused": True}),
        "state_on": "ON",
        "state_off": "OFF",
    }


def _button(device: DescribedDevice, name: str, verb: str, arguments: Mapping[str, Any]) -> Component:
    return {
        "platform": "button",
        "name": name,
        "command_topic": device.topic(f"cmd/{verb}"),
        "payload_press": _json(arguments),
    }


def _update(device: DescribedDevice, model: str) -> Component:
    """Only the keys that Home Assistant knows are passed on: it refuses a message with any other."""
    out = {
        "platform": "update",
        "name": f"Model {shown(model)}",
        "state_topic": device.topic(f"models/{model}"),
        "value_template": "{{ dict(value_json.items() | selectattr(0, 'in', "
        + _listed(_UPDATE_KEYS)
        + ")) | tojson }}",
        "entity_category": "config",
    }
    if "model/install" in device.verbs:
        out["command_topic"] = device.topic("cmd/model/install")
        out["payload_install"] = _json({"model": model})
    return out


def _holds(known: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    at: Any = known
    for key in path:
        if not isinstance(at, Mapping) or key not in at:
            return False
        at = at[key]
    return at is not None


def _listed(words: list[str] | tuple[str, ...]) -> str:
    return "[" + ", ".join(quoted(word) for word in words) + "]"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
