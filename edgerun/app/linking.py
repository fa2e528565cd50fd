"""The connection to the broker and the spool behind it, as the config says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgerun.broker.connection import Connection
from edgerun.broker.message import Message
from edgerun.broker.options import BrokerOptions
from edgerun.clock import Clock
from edgerun.config import Config, MqttConfig, SpoolConfig
from edgerun.secret import reveal
from edgerun.security.sealing import SealingKey
from edgerun.spool.options import SpoolOptions, spool_folder
from edgerun.spool.spool import Spool


def open_link(
    mqtt: MqttConfig,
    device: str,
    run_id: str,
    clock: Clock,
    birth: Callable[[], Sequence[Message]],
    key: SealingKey | None = None,
) -> tuple[Connection, Spool]:
    """The connection of `device`, not started, and the spool that it takes its messages from, sealed with `key`."""
    spool = _open_spool(mqtt.spool, device, run_id, clock, key)
    return Connection(broker_options(mqtt, device), clock, birth=birth, outgoing=spool), spool


def broker_options(mqtt: MqttConfig, device: str) -> BrokerOptions:
    """`[mqtt]` as the connection of `device` takes it."""
    return BrokerOptions(
        url=mqtt.url,
        client_id=device,
        username=mqtt.username,
        password=mqtt.password,
        prefix=mqtt.prefix,
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        insecure=mqtt.insecure,
        keepalive_s=mqtt.keepalive_s,
        inflight_max=mqtt.inflight_max,
        more_urls=tuple(map(reveal, mqtt.more_urls)),
    )


def _open_spool(wanted: SpoolConfig, device: str, run_id: str, clock: Clock, key: SealingKey | None) -> Spool:
    options = SpoolOptions(
        folder=wanted.folder or spool_folder(device),
        durability=wanted.durability,
        max_bytes=wanted.max_bytes,
        max_age_s=wanted.max_age,
        sync_ms=wanted.sync_ms,
        free_share=wanted.free_share,
        min_free_bytes=wanted.min_free,
        replay_rate=wanted.replay_rate,
        key=key,
    )
    return Spool(options, clock, run_id)


def spool_group(spool: Spool) -> dict[str, dict[str, Any]]:
    """The group `spool` of telemetry."""
    stats = spool.spool_stats()
    return {"spool": {"messages": stats.messages, "bytes": stats.bytes, "dropped": sum(stats.dropped.values())}}


def posture(config: Config) -> dict[str, Any]:
    """Who may read and change what, as `info` and telemetry say it: for whoever looks after many devices."""
    mqtt, security = config.mqtt, config.security
    if mqtt is None:
        return {}
    urls = (mqtt.url, *mqtt.more_urls)
    return {
        "tls": all(url.startswith(("mqtts://", "wss://")) for url in urls),
        "insecure": mqtt.insecure,
        "signed_models": security.require_signed,
        "signed_commands": security.signed_commands,
        "sealed_state": security.state_key is not None,
    }
