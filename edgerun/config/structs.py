"""The structs of a config. A key's description stands beside it: `docs/config.md` is generated from here."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgerun.config.governing import GovernorConfig, QuietConfig, SensorsConfig
from edgerun.config.mqtt import MqttConfig
from edgerun.config.remote import RemoteConfig
from edgerun.config.rollout import RolloutConfig
from edgerun.config.security import SecurityConfig
from edgerun.config.store import StoreConfig
from edgerun.config.watching import (
    ActivityConfig,
    BatchConfig,
    CollectConfig,
    GateConfig,
    KeywordConfig,
    MetricsConfig,
    PartOfFrame,
    PrivacyConfig,
    SnapshotConfig,
    ThenConfig,
    TrackConfig,
    ZoneConfig,
)
from edgerun.config.web import WebConfig
from edgerun.secret import Secret, mask

NAME = r"^[a-z0-9-]{1,63}\Z"
NAME_WORDS = "1 to 63 of the characters a-z 0-9 -"


def default_device_id() -> str:
    """`$EDGERUN_DEVICE_ID`, else the host's name, made to fit a topic level: a-z, 0-9 and -."""
    named = os.environ.get("EDGERUN_DEVICE_ID") or socket.gethostname().partition(".")[0]
    name = re.sub(r"[^a-z0-9-]+", "-", named.lower()).strip("-")
    return name[:63] or "edgerun"


def default_threads() -> int:
    """2, or 1 on a single core: the other cores stay free for capturing and decoding."""
    return min(2, len(os.sched_getaffinity(0)))


def device_labels(labels: dict[str, str]) -> dict[str, str]:
    """`labels` when they can be asked for as `name=text`. Raises `ValueError` that names the first that cannot."""
    for name, text in labels.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", name) or not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", text):
            raise ValueError(f"{name[:80]!r} is no label, or what it says is none")
    if len(labels) > 16:
        raise ValueError(f"{len(labels)} labels")
    return labels


Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=NAME, extra={"expected": NAME_WORDS})]
Text = Annotated[str, Meta(min_length=1)]
Side = Annotated[int, Meta(ge=1, le=16384)]
AcceleratorTable = dict[str, Any]


class DeviceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[device]`: who this is."""

    id: Annotated[
        Name,
        Meta(
            description="The device's name in topics, and its MQTT client id. By default `$EDGERUN_DEVICE_ID`, else "
            "the host's name."
        ),
    ] = msgspec.field(default_factory=default_device_id)
    labels: Annotated[
        dict[str, str],
        Meta(
            description='What it is told apart by among many, such as `{ site = "north" }`; stands in `info`.',
            extra={"parse": device_labels, "expected": "at most 16 of name = text, of A-Z a-z 0-9 . _ -"},
        ),
    ] = {}


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME]`: a model, and how to run it."""

    path: Annotated[
        Path,
        Meta(
            description="A bundle, a bare .tflite or .onnx file, or a model's name: of the store (its active version, "
            "or `name@version`), or of those that ship with edgerun."
        ),
    ]
    engine: Annotated[
        Literal["tflite", "onnx", "remote"] | None,
        Meta(description="What runs it; by default what the file says. `remote`: workers behind the broker."),
    ] = None
    fallback: Annotated[
        Literal["local", "none"] | None,
        Meta(description="With a remote engine: whether it also runs here, by default it does (`local`)."),
    ] = None
    remote: Annotated[RemoteConfig | None, Meta(description="A table, see below; of a remote engine.")] = None
    key: Annotated[
        Secret | None,
        Meta(
            description="Opens its sealed files, instead of `model_key` of [security].",
            extra={"expected": "a table that says where it is"},
        ),
    ] = None
    runtime: Annotated[
        Literal["auto", "litert", "tflite-runtime"],
        Meta(description="Which TFLite library; `auto` takes the one installed, LiteRT first."),
    ] = "auto"
    accelerators: Annotated[
        Annotated[tuple[Name | AcceleratorTable, ...], Meta(min_length=1)],
        Meta(
            description="Tried in this order: names, or tables of a `kind` and its options; `auto` is what the board "
            "has. Without `cpu` in it, none working is an error rather than slow.",
            extra={"expected": "a list of names or tables with kind"},
        ),
    ] = ("cpu",)
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=256)], Meta(description="CPU threads; by default 2, or 1 on a single core.")
    ] = msgspec.field(default_factory=default_threads)
    pixels: Annotated[
        Literal["0..255", "0..1", "-1..1", "imagenet"] | None,
        Meta(description="What its pixels were normalised to in training; needed where neither bundle nor file says."),
    ] = None
    size: Annotated[
        tuple[Side, Side] | None, Meta(description="Width and height of its picture, where the file leaves them open.")
    ] = None
    decoder: Annotated[
        Text | None, Meta(description="How its outputs are read; needed where neither bundle nor file says.")
    ] = None
    labels: Annotated[Path | None, Meta(description="A file with one label a line, instead of the model's own.")] = None
    threshold: Annotated[
        Share | None, Meta(description="Lowest score reported; by default the bundle's, else 0.5.")
    ] = None
    top_k: Annotated[Annotated[int, Meta(ge=1, le=1000)], Meta(description="Classes reported of a classification.")] = 5
    hang_s: Annotated[
        Annotated[float, Meta(gt=0, le=600, extra={"unit": "s"})] | None,
        Meta(
            description="How long an inference on an accelerator may take before its process is killed; by default 20 "
            "times its p99, 1 to 10 s."
        ),
    ] = None
    batch: Annotated[BatchConfig | None, Meta(description="A table, see below; by default one frame at a time.")] = None
    cache: Annotated[
        Annotated[int, Meta(ge=0, le=2**40, extra={"unit": "bytes"})],
        Meta(
            description="Memory for results of pictures that may come again byte for byte (folders, requests); 0: none."
        ),
    ] = 0

    swap: Annotated[
        Literal["auto", "overlap", "gap"],
        Meta(
            description="When another model takes its place: `overlap` opens the new one beside the old, so that "
            "results go on; `gap` closes the old one first, which needs less memory; `auto` takes the gap only where "
            "memory is short."
        ),
    ] = "auto"
    variants: Annotated[
        tuple[Text, ...],
        Meta(
            description="Other `[models.NAME]` tables, the largest first, that the governor may let stand in for it: "
            "smaller models, or the same one at a smaller `size`."
        ),
    ] = ()

    @property
    def format(self) -> Literal["tflite", "onnx"] | None:
        """What runs it here; None: what the file says."""
        return None if self.engine == "remote" else self.engine


class SourceConfig(msgspec.Struct, frozen=True):
    """A source's kind and its plug-in's options, validated."""

    kind: str
    options: msgspec.Struct

    def __repr__(self) -> str:
        return f"SourceConfig({self.kind!r}, {mask(repr(self.options))})"


class StreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME]`: a source and the model that looks at it."""

    source: Annotated[
        SourceConfig,
        Meta(
            description="Text, or a table with `kind` and the options of that kind, as listed below.",
            extra={"expected": "text or a table with kind"},
        ),
    ]
    model: Annotated[
        Text | Annotated[tuple[Text, ...], Meta(min_length=1)],
        Meta(
            description="The name of a `[models.NAME]` table, or a list: each of them gets the stream's frames.",
            extra={"expected": "the name of a [models.NAME] table, or a list of such names"},
        ),
    ]
    max_age_ms: Annotated[
        Annotated[float, Meta(gt=0, le=3_600_000)],
        Meta(description="A result older than this is never inferred and never published."),
    ] = 1000.0
    max_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None, Meta(description="Most results a second; by default no limit.")
    ] = None
    min_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Results a second that it gets before other streams of its model get more; by default none."),
    ] = None
    weight: Annotated[
        Annotated[float, Meta(gt=0, le=1000)],
        Meta(description="Its share of a model that several streams use, against their weights."),
    ] = 1.0
    target_age_ms: Annotated[
        Annotated[float, Meta(gt=0, le=3_600_000)] | None,
        Meta(description="Keep the p95 age of its results below this, by its rate and its model's `variants`."),
    ] = None
    least_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Results a second below which the governor does not go; by default a twentieth of its rate."),
    ] = None
    may_pause: Annotated[
        bool, Meta(description="Whether the governor may pause it for the others; at `stop` it pauses all.")
    ] = True
    labels: Annotated[tuple[Text, ...], Meta(description="Report only these; by default all.")] = ()
    threshold: Annotated[Share | None, Meta(description="Lowest score reported, instead of the model's.")] = None
    loop: Annotated[bool, Meta(description="Begin a file or folder again at its end.")] = False
    as_fast: Annotated[bool, Meta(description="Read a file without pacing; every frame is inferred.")] = False
    region: Annotated[PartOfFrame | None, Meta(description="Give the models only this part of the frame.")] = None
    gate: Annotated[GateConfig | None, Meta(description="A table, see below; by default every frame counts.")] = None
    privacy: Annotated[PrivacyConfig | None, Meta(description="A table, see below.")] = None
    track: Annotated[
        bool | TrackConfig, Meta(description="Number objects and follow them; true, or a table, see below.")
    ] = False
    zones: Annotated[dict[str, ZoneConfig], Meta(description="Tables, see below.")] = msgspec.field(
        default_factory=dict
    )
    then: Annotated[ThenConfig | None, Meta(description="A table, see below.")] = None
    collect: Annotated[CollectConfig | None, Meta(description="A table, see below; by default nothing is kept.")] = None
    snapshot: Annotated[
        SnapshotConfig | None, Meta(description="A table, see below; by default no picture leaves the device.")
    ] = None
    keyword: Annotated[
        KeywordConfig | None, Meta(description="A table, see below; of a model that listens for words.")
    ] = None
    activity: Annotated[
        ActivityConfig | None, Meta(description="A table, see below; of a model that listens for speech.")
    ] = None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models."""
        return (self.model,) if isinstance(self.model, str) else self.model


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    models: Annotated[
        dict[str, ModelConfig], Meta(min_length=1, extra={"expected": "at least one [models.NAME] table"})
    ]
    streams: Annotated[
        dict[str, StreamConfig], Meta(min_length=1, extra={"expected": "at least one [streams.NAME] table"})
    ]
    device: DeviceConfig = msgspec.field(default_factory=DeviceConfig)
    mqtt: MqttConfig | None = None
    governor: GovernorConfig | None = None
    sensors: SensorsConfig = msgspec.field(default_factory=SensorsConfig)
    quiet: dict[str, QuietConfig] = msgspec.field(default_factory=dict)
    metrics: MetricsConfig | None = None
    web: WebConfig | None = None
    security: SecurityConfig = msgspec.field(default_factory=SecurityConfig)
    store: StoreConfig = msgspec.field(default_factory=StoreConfig)
    rollout: RolloutConfig = msgspec.field(default_factory=RolloutConfig)


class RunOptions(msgspec.Struct, frozen=True):
    """What one run is told besides its config: when it ends and what it writes.

    `loop` and `as_fast` are also set in every `StreamConfig`. With `jsonl` "-" standard output carries result lines
    only: what `console` shows then belongs on standard error.
    """

    as_fast: bool = False
    loop: bool = False
    seconds: Annotated[float, Meta(gt=0, le=1e9, extra={"unit": "s"})] | None = None
    frames: Annotated[int, Meta(ge=1)] | None = None
    jsonl: Text | None = None
    save: Path | None = None
    snapshot: Path | None = None
    trace: Path | None = None
    console: bool = True
    json: bool = False
