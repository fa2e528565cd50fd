"""What a stream does besides inferring: gate, masks, tracks, zones, cascade; and how a model gathers frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgerun.polygon import check_polygon
from edgerun.secret import Secret

_POLYGON = "at least 3 points [x, y] in 0..1 of the frame"
_REGION = "[x0, y0, x1, y1] in 0..1 of the frame, x0 < x1 and y0 < y1"

Points = tuple[tuple[float, float], ...]
Region = tuple[float, float, float, float]


def polygon(points: Points) -> Points:
    """`points` when they enclose something in the frame. Raises `ValueError`."""
    check_polygon(points)
    return points


def region(box: Region) -> Region:
    """`box` when it is a part of the frame. Raises `ValueError`."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError("not a part of the frame")
    return box


Polygon = Annotated[Points, Meta(extra={"parse": polygon, "expected": _POLYGON})]
Polygons = Annotated[tuple[Polygon, ...], Meta(extra={"expected": f"a list of polygons, each {_POLYGON}"})]
PartOfFrame = Annotated[Region, Meta(extra={"parse": region, "expected": _REGION})]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Label = Annotated[str, Meta(min_length=1)]


class GateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.gate]`: infer only while something moves."""

    motion: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        Meta(description="Share of the watched pixels that must change to open the gate."),
    ] = 0.005
    hold_s: Annotated[Seconds, Meta(description="How long the gate stays open after the last movement.")] = 1.0
    still_s: Annotated[
        Seconds,
        Meta(
            description="While nothing moves the last result stands for new frames (`reused: still`), for at most this "
            "long; then the model looks once. 0: no results while nothing moves."
        ),
    ] = 0.0
    crop: Annotated[
        bool, Meta(description="Give the model only the part of the frame that moves; boxes are those of the frame.")
    ] = False
    mask: Annotated[Polygons, Meta(description="Parts of the frame whose movement is of no interest.")] = ()


class PrivacyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.privacy]`: what nobody may see."""

    mask: Annotated[
        Polygons, Meta(description="Parts of the frame that are blacked out before anything else sees it.")
    ] = ()


class TrackConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.track]`, or `track = true`: follow objects from frame to frame."""

    lost_s: Annotated[
        Annotated[float, Meta(gt=0, le=3600)],
        Meta(description="How long an object that is not seen keeps its number."),
    ] = 2.0


class ZoneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.zones.ZONE]`: a part of the frame; needs `track`. An object is where the middle of its box's lower
    edge is.
    """

    polygon: Annotated[Polygon, Meta(description="Its outline.")]
    labels: Annotated[tuple[Label, ...], Meta(description="Only these objects; by default all.")] = ()
    dwell_s: Annotated[
        Annotated[float, Meta(gt=0, le=86400)] | None,
        Meta(description="Tell (`dwelled`) when an object has been in it for this long."),
    ] = None


class KeywordConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.keyword]`: when a word counts as heard; the stream's `threshold` is that of the mean score."""

    labels: Annotated[tuple[Label, ...], Meta(description="The words listened for; by default all classes.")] = ()
    window_s: Annotated[
        Annotated[float, Meta(gt=0, le=60)] | None,
        Meta(description="The mean of the scores over this time counts; by default that of five of them."),
    ] = None
    min_scores: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)], Meta(description="Fewest scores that make a mean.")
    ] = 3
    refractory_s: Annotated[Seconds, Meta(description="After a word was heard none is for this long.")] = 1.0


class ActivityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.activity]`: when speech (or another sound) goes on; it begins at the stream's `threshold`."""

    label: Annotated[str, Meta(description="The class looked at; by default the model's first.")] = ""
    off: Annotated[
        Share | None, Meta(description="It may have ended below this score; by default 0.15 below `threshold`.")
    ] = None
    min_on_s: Annotated[Seconds, Meta(description="It has begun when it lasted this long.")] = 0.25
    hangover_s: Annotated[Seconds, Meta(description="It has ended when it was below `off` for this long.")] = 0.3
    max_gap_s: Annotated[
        Annotated[float, Meta(gt=0, le=86400)],
        Meta(description="After a longer time without results it is taken to have ended."),
    ] = 5.0


class CollectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.collect]`: keep pictures that the model is unsure of, for the next one."""

    folder: Annotated[
        Path | None, Meta(description="Where; by default `collect/NAME` in the state folder. Nothing else goes there.")
    ] = None
    score: Annotated[
        tuple[Share, Share],
        Meta(description="Unsure is a result with a score in this band; lower `threshold` where it reaches below."),
    ] = (0.3, 0.6)
    labels: Annotated[tuple[Label, ...], Meta(description="Only of these; by default of all.")] = ()
    every_s: Annotated[Seconds, Meta(description="At most one picture in this time.")] = 60.0
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=2**50, extra={"unit": "bytes"})],
        Meta(description="Room for pictures and what is known of them; the oldest give way."),
    ] = 256 << 20
    max_age: Annotated[
        Annotated[float, Meta(ge=1, le=1e9, extra={"unit": "s"})],
        Meta(description="Older pictures are deleted, by the time in their names."),
    ] = 2592000.0


class SnapshotConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.snapshot]`: pictures may leave the device; needs `[mqtt]`. Without this table none does."""

    on: Annotated[
        Literal["any", "always"] | tuple[Label, ...],
        Meta(
            description="A picture is sent when one of these labels was detected, or `any`, or `always`; an empty "
            "list: only when `cmd/snapshot` asks.",
            extra={"expected": 'a list of labels, "any" or "always"'},
        ),
    ] = "any"
    every_s: Annotated[
        Annotated[float, Meta(ge=1, le=86400)], Meta(description="At most one picture in this time.")
    ] = 10.0
    width: Annotated[
        Annotated[int, Meta(ge=16, le=16384)], Meta(description="Pixels; wider pictures are scaled down.")
    ] = 640
    quality: Annotated[Annotated[int, Meta(ge=1, le=100)], Meta(description="Of the JPEG.")] = 80
    boxes: Annotated[bool, Meta(description="Draw what was found.")] = True
    blur: Annotated[
        tuple[Label, ...],
        Meta(
            description="Objects that are made unrecognisable, from a score of 0.1 on, also those that `labels` leaves "
            "out; one of the stream's models must know all of them. See docs/privacy.md."
        ),
    ] = ()
    max_age: Annotated[
        Annotated[float, Meta(ge=1, le=1e9, extra={"unit": "s"})],
        Meta(description="A broker of MQTT 5 keeps the last picture for so long."),
    ] = 86400.0


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: for Prometheus; needs the extra `metrics`. `/metrics`, `/healthz` and `/readyz` are served."""

    listen: Annotated[str, Meta(description="The address to serve on; beyond loopback it needs `token`.")] = "127.0.0.1"
    port: Annotated[Annotated[int, Meta(ge=0, le=65535)], Meta(description="The port; 0: any free one.")] = 9464
    token: Annotated[
        Secret | None,
        Meta(
            description="What a scraper must send (`Authorization: Bearer …`); given like a password.",
            extra={"expected": "a table that says where it is"},
        ),
    ] = None
    textfile: Annotated[
        Path | None, Meta(description="Written at every telemetry too, for node_exporter's textfile collector.")
    ] = None


class ThenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams.NAME.then]`: a second model looks at what the first one found, each object on its own, or at the whole
    frame again where the first one is unsure.
    """

    model: Annotated[Label, Meta(description="The name of another `[models.NAME]` table.")]
    on: Annotated[tuple[Label, ...], Meta(description="Objects it looks at; by default all.")] = ()
    max_crops: Annotated[
        Annotated[int, Meta(ge=1, le=100)], Meta(description="Most objects of one frame, the surest first.")
    ] = 4
    margin: Annotated[
        Annotated[float, Meta(ge=0, le=2)], Meta(description="Widens each box by this share of its sides.")
    ] = 0.1
    every_s: Annotated[
        Seconds, Meta(description="Look at the same object again only after this time; needs `track`. 0: every frame.")
    ] = 0.0
    score: Annotated[
        tuple[Share, Share] | None,
        Meta(
            description="Only what the first model gives a score in this band, both ends included; lower the "
            "stream's `threshold` where it reaches below."
        ),
    ] = None
    whole: Annotated[
        bool,
        Meta(
            description="It looks at the whole frame, once, instead of at each object: a second opinion of a larger "
            "model, which may be `remote`. A model without objects asks for its surest class."
        ),
    ] = False
    threshold: Annotated[Share | None, Meta(description="Lowest score reported, instead of the model's.")] = None


class BatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.batch]`: several frames in one inference, where `edgerun bench --sweep` shows that it pays."""

    max: Annotated[Annotated[int, Meta(ge=1, le=64)], Meta(description="Most frames in one inference.")]
    max_delay_ms: Annotated[
        Annotated[float, Meta(ge=0, le=10_000)], Meta(description="How long the first waits for the others.")
    ] = 20.0
