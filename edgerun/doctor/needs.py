"""What the job needs of this device: by the config, else what `edgerun demo` needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgerun.broker.options import BrokerOptions
from edgerun.config import Config, ModelConfig, split_credentials
from edgerun.errors import MissingError
from edgerun.models import find_bundled
from edgerun.secret import Secret

DEFAULT_MODEL = "ssd-mobilenet-v2-oid"
_CLIENT_SUFFIX = "-doctor"  # another id than the daemon's, whose session a second client would take over


class Needs(msgspec.Struct, frozen=True):
    """What must work. `cameras`: device (path, or index as text) → the streams that read it."""

    models: Mapping[str, ModelConfig]
    cameras: Mapping[str, tuple[str, ...]] = {}
    broker: BrokerOptions | None = None
    device_id: str | None = None
    configured: bool = False

    @property
    def accelerators(self) -> frozenset[str]:
        """Every accelerator that some model names."""
        return frozenset(name for model in self.models.values() for name in accelerator_names(model))


def accelerator_names(model: ModelConfig) -> tuple[str, ...]:
    """The kinds in its declared order, whether they stand there as names or as tables with a `kind`."""
    entries: tuple[Any, ...] = model.accelerators
    return tuple(entry if isinstance(entry, str) else str(entry["kind"]) for entry in entries)


def needs_of(config: Config | None, broker_url: str | None = None) -> Needs:
    """What `config` needs, or the default job, and the broker of `broker_url` in place of the config's.

    Raises `ConfigError` for an address that is none, `MissingError` when the bundled model is not installed.
    """
    if config is None:
        bundled = find_bundled(DEFAULT_MODEL)
        if bundled is None:
            raise MissingError(
                "the bundled detector is not in this installation",
                expected=DEFAULT_MODEL,
                remedy="install edgerun again: pip install --force-reinstall edgerun",
            )
        return Needs({DEFAULT_MODEL: ModelConfig(bundled)}, broker=_broker(None, broker_url, "edgerun"))
    cameras: dict[str, tuple[str, ...]] = {}
    for name, stream in config.streams.items():
        if stream.source.kind == "camera":
            device = str(getattr(stream.source.options, "device", ""))
            cameras[device] = (*cameras.get(device, ()), name)
    used = {name for stream in config.streams.values() for name in stream.models}
    used |= {stream.then.model for stream in config.streams.values() if stream.then is not None}
    key = config.security.model_key
    models = {name: _with_key(model, key) for name, model in config.models.items() if name in used}
    return Needs(models, cameras, _broker(config, broker_url, config.device.id), config.device.id, configured=True)


def _with_key(model: ModelConfig, key: Secret | None) -> ModelConfig:
    return model if model.key is not None else msgspec.structs.replace(model, key=key)


def _broker(config: Config | None, url: str | None, device_id: str) -> BrokerOptions | None:
    """As the daemon would connect, but as a client that leaves nothing behind."""
    mqtt = config.mqtt if config is not None else None
    if mqtt is None and url is None:
        return None
    username, password = (mqtt.username, mqtt.password) if mqtt is not None else (None, None)
    if url is not None:
        url, user, secret = split_credentials(url)
        username = user or username
        password = Secret("plain", secret, "--broker") if secret else password
    return BrokerOptions(
        url=url or (mqtt.url if mqtt is not None else ""),
        client_id=device_id + _CLIENT_SUFFIX,
        username=username,
        password=password,
        prefix=mqtt.prefix if mqtt is not None else "edgerun",
        ca_file=mqtt.ca_file if mqtt is not None else None,
        cert_file=mqtt.cert_file if mqtt is not None else None,
        key_file=mqtt.key_file if mqtt is not None else None,
        insecure=mqtt.insecure if mqtt is not None else False,
        session_expiry_s=0,
        will_delay_s=0,
    )


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where the daemon keeps its state: `$STATE_DIRECTORY` (systemd.exec(5)), else the XDG base directory."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/root")) / ".local/state")
    return Path(home) / "edgerun"
