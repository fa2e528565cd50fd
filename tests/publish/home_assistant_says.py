"""Run by the Python of a virtual environment that holds Home Assistant, never imported by edgerun's own tests.

Standard input: {"payload": discovery message, "renders": [[template, message], …]}. Standard output: {"problems": […],
"components": {id: checked config}, "rendered": […], "version": …}. `sys.argv[1]`, where it is given, is a folder with
the files of a Home Assistant that knows device-based discovery, for a version that does not yet.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import voluptuous as vol
from homeassistant import const
from homeassistant.core import HomeAssistant
from homeassistant.helpers.template import Template


class Stand(types.ModuleType):
    """Stands for a module of the newer version that its schemas do not need: every name in it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def load(folder: Path) -> str:
    """The newer files as a package of their own, on top of the installed rest; returns the package's name."""
    import homeassistant.components.mqtt.util as util
    import homeassistant.helpers.typing as typing

    for module, name, value in ((const, "CONF_MODEL_ID", "model_id"), (typing, "VolSchemaType", Any)):
        if not hasattr(module, name):  # what came between the two versions
            setattr(module, name, value)
    package = types.ModuleType("newer")
    package.__path__ = [str(folder)]
    sys.modules |= {"newer": package, "newer.util": util}
    for name in ("newer.entity", "newer.models", "newer.subscription", "homeassistant.helpers.service_info.mqtt"):
        sys.modules[name] = Stand(name)
    util.check_state_too_long = lambda *_: True  # type: ignore[attr-defined]
    return "newer"


def find_package() -> str:
    """Where the MQTT integration that knows device-based discovery is."""
    package = "homeassistant.components.mqtt"
    there = importlib.util.find_spec(package + ".schemas") is not None
    if there and hasattr(importlib.import_module(package + ".schemas"), "DEVICE_DISCOVERY_SCHEMA"):
        return package
    return load(Path(sys.argv[1]))


def lengthen(told: dict[str, Any], table: dict[str, str]) -> dict[str, Any]:
    return {table.get(key, key): value for key, value in told.items()}


def check(payload: str) -> tuple[list[str], dict[str, Any]]:
    """What Home Assistant has against the message, and each component as its platform's schema leaves it."""
    abbreviations = importlib.import_module(PACKAGE + ".abbreviations")
    schemas = importlib.import_module(PACKAGE + ".schemas")
    problems: list[str] = []
    device = lengthen(json.loads(payload), abbreviations.ABBREVIATIONS)
    device["device"] = lengthen(device["device"], abbreviations.DEVICE_ABBREVIATIONS)
    device["origin"] = lengthen(device["origin"], abbreviations.ORIGIN_ABBREVIATIONS)
    device["availability"] = [lengthen(one, abbreviations.ABBREVIATIONS) for one in device["availability"]]
    device["components"] = {
        key: lengthen(one, abbreviations.ABBREVIATIONS) for key, one in device["components"].items()
    }
    try:
        schemas.DEVICE_DISCOVERY_SCHEMA(device)
    except vol.Invalid as error:
        problems.append(f"device: {error}")
    out: dict[str, Any] = {}
    for key, component in device["components"].items():
        if " " in key:
            problems.append(f"{key}: a space in a component's id")
        platform = component.pop("platform")
        if not component:
            out[key] = {"platform": platform}
            continue
        config = {**component, "device": device["device"], "origin": device["origin"]}
        config["availability"] = device["availability"]
        module = importlib.import_module(f"{PACKAGE}.{platform}")
        try:
            checked = module.DISCOVERY_SCHEMA(config)
        except vol.Invalid as error:
            problems.append(f"{key} ({platform}): {error}")
            continue
        unknown = sorted(set(component) - {str(one) for one in checked} - {"default_entity_id"})
        if unknown:  # the schema drops what it does not know
            problems.append(f"{key} ({platform}): unknown keys {unknown}")
        unit, kind = component.get("unit_of_measurement"), component.get("device_class")
        if platform == "sensor" and kind is not None:
            from homeassistant.components.sensor.const import DEVICE_CLASS_STATE_CLASSES, DEVICE_CLASS_UNITS

            if kind in DEVICE_CLASS_UNITS and unit not in {*DEVICE_CLASS_UNITS[kind]}:
                problems.append(f"{key}: unit {unit} for device class {kind}")
            state_class = component.get("state_class")
            if state_class is not None and state_class not in DEVICE_CLASS_STATE_CLASSES.get(kind, {state_class}):
                problems.append(f"{key}: state class {state_class} for device class {kind}")
        out[key] = {"platform": platform, **component}
    return problems, out


def update_problems(state: str) -> list[str]:
    try:
        importlib.import_module(f"{PACKAGE}.update").MQTT_JSON_UPDATE_SCHEMA(json.loads(state))
    except vol.Invalid as error:
        return [f"update: {error}: {state}"]
    return []


async def render(renders: list[list[str]]) -> list[str]:
    """Each template over its message, as an MQTT entity does it."""
    hass = HomeAssistant("/nonexistent")
    made = [
        Template(template, hass).async_render_with_possible_json_value(message, "ERROR", parse_result=False)
        for template, message in renders
    ]
    await hass.async_stop(force=True)
    return made


def main() -> None:
    asked = json.load(sys.stdin)
    problems, components = check(asked["payload"])
    rendered = asyncio.run(render(asked.get("renders", ())))
    for state in asked.get("updates", ()):
        problems += update_problems(state)
    json.dump(
        {"problems": problems, "components": components, "rendered": rendered, "version": const.__version__},
        sys.stdout,
    )


PACKAGE = find_package()
main()
