"""Which pictures may leave the device, and what is known of that: the config's snapshots, joined and told."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from edgerun.clock import Clock
from edgerun.config import Config, RunOptions, StreamConfig
from edgerun.config.web import split_address
from edgerun.decode.conceal import LOWEST_SCORE, Conceal
from edgerun.errors import ConfigError, did_you_mean
from edgerun.models import Bundle
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Broker, Decoder
from edgerun.publish.snapshot import ASKED_FOR_S, OldSnapshots, SnapshotPlan, Snapshots, forbidden
from edgerun.telemetry.states import StateKeeper
from edgerun.validate import show


def hides(stream: StreamConfig, bundle: Bundle) -> tuple[str, ...]:
    """The labels that are to be blurred in the pictures of results of this model: all of the stream's, or none."""
    wanted = () if stream.snapshot is None else stream.snapshot.blur
    return wanted if wanted and set(wanted) <= set(bundle.labels or ()) else ()


def threshold_for(stream: StreamConfig, bundle: Bundle, threshold: float) -> float:
    """What the decoder of this model is opened with, so that it also sees what is to be blurred."""
    return min(threshold, LOWEST_SCORE) if hides(stream, bundle) else threshold


def concealing(stream: StreamConfig, bundle: Bundle, decoder: Decoder, threshold: float) -> Decoder:
    """`decoder`, which was opened with `threshold_for`, made to tell what is to be blurred, where anything is."""
    labels = hides(stream, bundle)
    return Conceal(decoder, labels, threshold) if labels else decoder


def check_snapshot(name: str, stream: StreamConfig, models: Sequence[Bundle]) -> None:
    """Raises `ConfigError` unless pictures of the stream can be taken, and blurred as it wants, with its `models`."""
    if stream.snapshot is None:
        return
    where = f"streams.{name}.snapshot"
    if any(bundle.signal is not None for bundle in models):
        raise ConfigError("a model that listens has no pictures", where=where, remedy="remove the table")
    known = {label for bundle in models for label in bundle.labels or ()}
    on = stream.snapshot.on if isinstance(stream.snapshot.on, tuple) else ()
    reported = known & set(stream.labels) if stream.labels else known
    for key, labels, possible in (("on", on, reported), ("blur", stream.snapshot.blur, known)):
        for label in labels:
            if label not in possible and (known or key == "blur"):  # else its classes are numbers
                raise ConfigError(
                    "no such label" if label not in known else "a label that the stream's labels leave out",
                    where=f"{where}.{key}",
                    expected="one of " + ", ".join(sorted(possible)[:12]) if possible else "a model with labels",
                    got=f'"{label}"',
                    remedy=did_you_mean(label, sorted(possible)),
                )
    if stream.snapshot.blur and not any(hides(stream, bundle) for bundle in models):
        raise ConfigError(
            "none of the stream's models knows all labels that are to be blurred",
            where=f"{where}.blur",
            expected="labels of one model",
            got=", ".join(stream.snapshot.blur),
            remedy="blur what one model knows, or use one that knows all of it",
        )


def check_variant(name: str, stream: StreamConfig, model: Bundle, variant: Bundle) -> None:
    """Raises `ConfigError` unless `variant` can stand in for `model` in what it hides."""
    if hides(stream, model):
        check_snapshot(name, stream, [variant])


def open_snapshots(config: Config, broker: Broker | None, clock: Clock) -> Snapshots | None:
    """What sends pictures; None where none may leave."""
    plans = snapshot_plans(config)
    if not plans or broker is None or config.mqtt is None:
        return None
    return Snapshots(plans, broker, _root(config), clock)


def snapshot_plans(config: Config) -> dict[str, SnapshotPlan]:
    """Of which stream what may leave."""
    wanted = {name: stream.snapshot for name, stream in config.streams.items() if stream.snapshot is not None}
    if not wanted:
        return {}
    from edgerun.scene.blur import blur

    return {
        name: SnapshotPlan(
            on=one.on,
            every_s=one.every_s,
            width=one.width,
            quality=one.quality,
            boxes=one.boxes,
            max_age_s=one.max_age,
            hides=frozenset(one.blur),
            veil=blur if one.blur else None,
        )
        for name, one in wanted.items()
    }


def old_snapshots(config: Config, broker: Broker) -> OldSnapshots:
    """What takes back pictures of streams that may have none any more."""
    silent = [name for name, stream in config.streams.items() if stream.snapshot is None]
    return OldSnapshots(silent, broker, _root(config))


class Asking:
    """Answers `cmd/snapshot`; `snapshots` None: no pictures leave. Used by one thread."""

    def __init__(self, snapshots: Snapshots | None, pipeline: Pipeline, states: StateKeeper) -> None:
        self._snapshots, self._pipeline, self._states = snapshots, pipeline, states

    def use(self, snapshots: Snapshots) -> None:
        """From now on pictures may leave."""
        self._snapshots = snapshots

    def ask(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have a picture of `stream` taken; it comes on `topic`, at most `within_s` seconds later. Raises
        `ConfigError`.
        """
        if unknown := [key for key in arguments if key != "stream"]:
            raise ConfigError("a key that this command does not know", expected="stream", got=show(unknown[0]))
        name = arguments.get("stream")
        capture = next((one for one in self._pipeline.captures if one.stream == name), None)
        if capture is None:
            streams = ", ".join(one.stream for one in self._pipeline.captures)
            raise ConfigError("no such stream", where="stream", expected=f"one of {streams}", got=show(name))
        if self._snapshots is None:
            raise forbidden(capture.stream)
        if (state := self._states.all()[capture.stream]).state not in ("running", "degraded"):
            raise ConfigError(f"the stream is {state.state}", where=capture.stream, got=state.reason or None)
        topic = self._snapshots.ask(capture.stream)
        capture.want()
        return {"topic": topic, "within_s": ASKED_FOR_S}


def data_policy(config: Config, options: RunOptions) -> Mapping[str, Any]:
    """What leaves the device and what it keeps, for `info`: the schema says what the keys mean."""
    told: dict[str, Any] = {"streams": {name: _of_stream(stream) for name, stream in config.streams.items()}}
    told["live"] = False
    if config.web is not None:
        address, _ = split_address(config.web.listen)
        told["live"] = {"listen": config.web.listen, "loopback": ipaddress.ip_address(address).is_loopback}
    if config.mqtt is not None:
        spool = config.mqtt.spool
        told["spool"] = {"durability": spool.durability, "max_bytes": spool.max_bytes, "max_age_s": spool.max_age}
    files = {"jsonl": options.jsonl, "save": options.save, "snapshot": options.snapshot, "trace": options.trace}
    if written := [name for name, path in files.items() if path is not None]:
        told["files"] = written
    return told


def _of_stream(stream: StreamConfig) -> dict[str, Any]:
    told: dict[str, Any] = {"results": True}
    mask = () if stream.privacy is None else stream.privacy.mask
    told["masks"] = len(mask)
    told["snapshots"] = False
    if (one := stream.snapshot) is not None:
        on = one.on if isinstance(one.on, str) else list(one.on)
        told["snapshots"] = {
            "on": on, "every_s": one.every_s, "width": one.width, "blur": list(one.blur), "max_age_s": one.max_age,
        }  # fmt: skip
    told["collect"] = False
    if (kept := stream.collect) is not None:
        told["collect"] = {"every_s": kept.every_s, "max_bytes": kept.max_bytes, "max_age_s": kept.max_age}
    return told


def _root(config: Config) -> str:
    assert config.mqtt is not None, "asked for where there is a broker"
    return f"{config.mqtt.prefix}/{config.device.id}"
