"""A config of Frigate (0.13 to 0.16, `config.yml`) as one of edgerun: cameras, objects, zones, masks, broker.

What has no counterpart is told, key by key: nothing is dropped quietly. Frigate's keys are those of its reference
configuration (docs.frigate.video/configuration/reference).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from edgerun.errors import ConfigError, MissingError
from edgerun.secret import mask
from edgerun.setup import toml_text
from edgerun.validate import show

_HEAD = "# Made from a config of Frigate by edgerun import-frigate. Look through it: edgerun check --config FILE\n"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DETECTORS = {"edgetpu": "edgetpu", "openvino": "openvino", "tensorrt": "tensorrt", "cpu": "cpu"}
_OF_OBJECTS = ("track", "filters")
_OF_CAMERA = ("enabled", "ffmpeg", "detect", "objects", "motion", "zones", "snapshots")
_OF_ALL = ("mqtt", "cameras", "detectors", "model", "objects", "detect", "motion", "snapshots", "go2rtc", "version")
_KEYS_TOLD = 8
_FPS = 5  # Frigate's default detect.fps


class Imported(msgspec.Struct, frozen=True):
    """The text of the config, and what of Frigate's is not in it: (key, why) in the order met."""

    text: str
    left_out: tuple[tuple[str, str], ...]


def parse(text: str) -> Mapping[str, Any]:
    """The YAML of a `config.yml`. Raises `ConfigError` for what is none, `MissingError` without PyYAML."""
    try:
        import yaml
    except ImportError as error:
        raise MissingError(
            "PyYAML is not installed", where="import-frigate", remedy="pip install 'edgerun[frigate]'"
        ) from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("not YAML", got=" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ConfigError("nested too deep to be a config") from error
    expected = "a mapping with `cameras`, of which there is one at least"
    if not isinstance(raw, Mapping):
        raise ConfigError("not a config of Frigate", expected=expected, got=show(raw))
    if "cameras" not in raw:
        got = "the keys " + ", ".join(show(str(key)) for key in list(raw)[:_KEYS_TOLD]) if raw else "an empty one"
        raise ConfigError("not a config of Frigate", expected=expected, got=got)
    if not isinstance(raw["cameras"], Mapping) or not raw["cameras"]:
        raise ConfigError("not a config of Frigate", where="cameras", expected=expected, got=show(raw["cameras"]))
    return raw


def convert(raw: Mapping[str, Any], model: str, labels: Sequence[str]) -> Imported:
    """`raw` (of `parse`) with `model` as the detector, which knows `labels`. Raises `ConfigError`."""
    return _Conversion(raw, model, labels).run()


class _Conversion:
    def __init__(self, raw: Mapping[str, Any], model: str, labels: Sequence[str]) -> None:
        self._raw, self._model, self._labels = raw, model, frozenset(labels)
        self._left: dict[str, str] = {}

    def run(self) -> Imported:
        for key in self._raw:
            if key not in _OF_ALL:
                self._leave(str(key), "has no counterpart")
        parts = [_HEAD, *self._mqtt(), self._detector()]
        for name, camera in self._raw["cameras"].items():
            parts += self._camera(str(name), _map(camera, f"cameras.{name}"))
        return Imported("\n\n".join(part.rstrip("\n") for part in parts) + "\n", tuple(self._left.items()))

    def _leave(self, key: str, why: str) -> None:
        self._left.setdefault(key, why)

    def _mqtt(self) -> Iterator[str]:
        mqtt = _map(self._raw.get("mqtt"), "mqtt")
        if not mqtt.get("host") or mqtt.get("enabled") is False:
            return
        tls = mqtt.get("tls_ca_certs") is not None
        port = mqtt.get("port", 1883)
        values: dict[str, Any] = {"url": f"{'mqtts' if tls else 'mqtt'}://{mqtt['host']}:{port}"}
        values["username"] = mqtt.get("user")
        if (password := mqtt.get("password")) is not None:
            named = re.fullmatch(r"\{(FRIGATE_[A-Z0-9_]+)\}", str(password))
            values["password"] = {"env": named[1]} if named else {"credential": "mqtt-password"}
            if not named:
                self._leave("mqtt.password", "is not copied: put it where `password` says (edgerun's docs/config.md)")
        for theirs, ours in (
            ("tls_ca_certs", "ca_file"),
            ("tls_client_cert", "cert_file"),
            ("tls_client_key", "key_file"),
        ):
            values[ours] = mqtt.get(theirs)
        values["insecure"] = True if mqtt.get("tls_insecure") else None
        values["home_assistant"] = True
        known = ("enabled", "host", "port", "user", "password", "client_id", "topic_prefix", "stats_interval")
        for key in mqtt:
            if key not in known and not str(key).startswith("tls_"):
                self._leave(f"mqtt.{key}", "has no counterpart")
        if "topic_prefix" in mqtt:
            self._leave("mqtt.topic_prefix", "is Frigate's: topics here are edgerun/<device>/…")
        yield toml_text.table(["mqtt"], values)

    def _detector(self) -> str:
        accelerators: list[str] = []
        threads = None
        for name, detector in _map(self._raw.get("detectors"), "detectors").items():
            kind = _map(detector, f"detectors.{name}").get("type")
            known = _DETECTORS.get(str(kind))
            if known is None:
                self._leave(f"detectors.{name}", f"type {kind} is not one that edgerun has")
            elif known != "cpu" and known not in accelerators:
                accelerators.append(known)
            if kind == "cpu":
                threads = detector.get("num_threads")
        if "model" in self._raw:
            self._leave("model", f"is not taken over: {self._model} is used; name yours in [models.detector] path")
        return toml_text.table(
            ["models", "detector"], {"path": self._model, "accelerators": [*accelerators, "cpu"], "threads": threads}
        )

    def _camera(self, name: str, camera: Mapping[str, Any]) -> Iterator[str]:
        where = f"cameras.{name}"
        if camera.get("enabled") is False or _map(camera.get("detect"), where).get("enabled") is False:
            self._leave(where, "is switched off (enabled, or detect.enabled)")
            return
        for key in camera:
            if key not in _OF_CAMERA:
                self._leave(f"{where}.{key}", "has no counterpart")
        detect = {**_map(self._raw.get("detect"), "detect"), **_map(camera.get("detect"), f"{where}.detect")}
        size = (detect.get("width"), detect.get("height"))
        stream = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63] or "camera"
        yield toml_text.table(
            ["streams", stream],
            {
                "source": self._source(name, camera),
                "model": "detector",
                "max_fps": detect.get("fps", _FPS),
                "labels": self._objects(name, camera) or None,
                "threshold": self._threshold(camera),
                "track": True,
            },
        )
        for place, table in ((where, camera), ("all", self._raw)):
            if _map(table.get("snapshots"), f"{place}.snapshots").get("enabled"):
                self._leave(f"{'' if place == 'all' else place + '.'}snapshots", "are off: see [streams.NAME.snapshot]")
        motion = {**_map(self._raw.get("motion"), "motion"), **_map(camera.get("motion"), f"{where}.motion")}
        masks = list(_shapes(motion.get("mask"), size, f"{where}.motion.mask", self._leave))
        yield toml_text.table(["streams", stream, "gate"], {"mask": masks or None})
        for key in motion:
            if key not in ("mask", "enabled"):
                self._leave(f"{where}.motion.{key}", "is on another scale: see `motion` of [streams.NAME.gate]")
        for zone, values in _map(camera.get("zones"), f"{where}.zones").items():
            yield from self._zone(
                stream, str(zone), _map(values, f"{where}.zones.{zone}"), size, f"{where}.zones.{zone}"
            )

    def _source(self, name: str, camera: Mapping[str, Any]) -> str:
        given = _map(camera.get("ffmpeg"), f"cameras.{name}.ffmpeg").get("inputs")
        inputs = given if isinstance(given, list) else []
        paths = [(one, one.get("roles") or []) for one in inputs if isinstance(one, Mapping) and one.get("path")]
        if not paths:
            raise ConfigError("a camera without an input", where=f"cameras.{name}.ffmpeg.inputs", expected="path")
        chosen = next((one for one, roles in paths if "detect" in roles), paths[0][0])
        url = self._behind_go2rtc(str(chosen["path"]))
        if placeholders := re.findall(r"\{FRIGATE_[A-Z0-9_]+\}", url):
            self._leave(
                f"cameras.{name}: {placeholders[0]}", "is filled in by Frigate from its environment: write it out"
            )
        return url

    def _behind_go2rtc(self, url: str) -> str:
        """The camera itself, where Frigate asks its own go2rtc for it."""
        found = re.fullmatch(r"rtsp://([^/:]+):8554/([^/?]+).*", url)
        streams = _map(_map(self._raw.get("go2rtc"), "go2rtc").get("streams"), "go2rtc.streams")
        if not found or found[1] not in _LOOPBACK or found[2] not in streams:
            return url
        given = streams[found[2]]
        first = str(given[0] if isinstance(given, Sequence) and not isinstance(given, str) and given else given)
        if not first.startswith(("rtsp://", "rtsps://", "http://", "https://")):
            self._leave(
                f"go2rtc.streams.{found[2]}", f"{show(mask(first))} is go2rtc's own: go2rtc has to go on running"
            )
            return url
        return first.partition("#")[0]

    def _objects(self, name: str, camera: Mapping[str, Any]) -> list[str]:
        objects = {
            **_map(self._raw.get("objects"), "objects"),
            **_map(camera.get("objects"), f"cameras.{name}.objects"),
        }
        for key in objects:
            if key not in _OF_OBJECTS:
                self._leave(
                    f"cameras.{name}.objects.{key}", "has no counterpart; a privacy mask hides a part of the frame"
                )
        for label, rules in _map(objects.get("filters"), "objects.filters").items():
            for key in _map(rules, f"objects.filters.{label}"):
                if key not in ("min_score", "threshold"):
                    self._leave(f"objects.filters.{label}.{key}", "has no counterpart")
        wanted = [str(label) for label in objects.get("track") or ["person"]]
        for label in wanted:
            if label not in self._labels:
                self._leave(f"objects.track: {label}", f"{self._model} does not know it")
        return [label for label in wanted if label in self._labels]

    def _threshold(self, camera: Mapping[str, Any]) -> float | None:
        """The lowest `min_score` of the objects: Frigate has one for each, edgerun one for the stream."""
        scores = []
        for objects in (camera.get("objects"), self._raw.get("objects")):
            for rules in _map(_map(objects, "objects").get("filters"), "objects.filters").values():
                score = _map(rules, "objects.filters").get("min_score")
                if isinstance(score, int | float) and 0 <= score <= 1:
                    scores.append(float(score))
        return min(scores) if scores else None

    def _zone(
        self, stream: str, zone: str, values: Mapping[str, Any], size: tuple[Any, Any], where: str
    ) -> Iterator[str]:
        shapes = list(_shapes(values.get("coordinates"), size, f"{where}.coordinates", self._leave))
        if not shapes:
            return
        for key in values:
            if key not in ("coordinates", "objects", "loitering_time"):
                self._leave(f"{where}.{key}", "has no counterpart")
        labels = values.get("objects") or []
        known = [str(one) for one in ([labels] if isinstance(labels, str) else labels) if str(one) in self._labels]
        dwell = values.get("loitering_time") or None
        yield toml_text.table(
            ["streams", stream, "zones", re.sub(r"[^a-z0-9-]+", "-", zone.lower()).strip("-") or "zone"],
            {"polygon": shapes[0], "labels": known or None, "dwell_s": float(dwell) if dwell else None},
        )


def _map(value: Any, where: str) -> Mapping[str, Any]:
    """A mapping, an absent one as empty. Raises `ConfigError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError("not a mapping", where=where, got=show(value))
    return value


def _shapes(given: Any, size: tuple[Any, Any], where: str, leave: Any) -> Iterator[list[list[float]]]:
    """Polygons in 0..1, of Frigate's "x,y,x,y,…" in 0..1 or in pixels of `detect`'s size, one or a list of them."""
    texts: Sequence[Any] = [given] if isinstance(given, str) else given or []
    for text in texts:
        try:
            numbers = [float(part) for part in str(text).split(",")]
        except ValueError:
            raise ConfigError("not coordinates", where=where, expected="x,y,x,y,…", got=show(text)) from None
        if len(numbers) < 6 or len(numbers) % 2:
            raise ConfigError(
                "not the outline of an area", where=where, expected="three points or more", got=show(text)
            )
        if max(numbers) > 1:
            if not all(isinstance(side, int) and side > 0 for side in size):
                leave(where, "is in pixels, and detect.width and detect.height do not say of how many")
                continue
            numbers = [one / size[at % 2] for at, one in enumerate(numbers)]
        inside = [round(min(1.0, max(0.0, one)), 4) for one in numbers]
        yield [[inside[at], inside[at + 1]] for at in range(0, len(inside), 2)]
