"""A published result as the bytes that leave the device: the Result message of docs/schema/result.schema.json."""

from __future__ import annotations

from typing import Any

import msgspec

from edgerun.meter import STAGES
from edgerun.types import (
    Answer,
    Box,
    Classification,
    Detection,
    Keypoints,
    Publication,
    Quantity,
    Result,
    SceneEvent,
    Segment,
)

VERSION = 1
"""The `v` of the message; a breaking change makes it 2."""

_CLOCK_SET_S = 1_735_689_600.0
"""2025-01-01, before there was an edgerun: a clock that says less has not been set since the board was switched on."""

_DROPS = ("skipped", "superseded")
_WORDS = {
    "appeared": "appeared",
    "lost": "is no longer seen",
    "heard": "was heard",
    "began": "began",
    "ended": "ended",
}
_encode = msgspec.json.Encoder().encode


def encode_result(publication: Publication, device: str) -> bytes:
    """One JSON object, UTF-8, without a newline; keys in the schema's order, keys without a value left out.

    Rounded to what the numbers can carry: capture time to 1 ms, age to 0.1 ms, stage latencies to 0.01 ms, scores to
    4 decimals, boxes, keypoints, polygons and shares to 5 (0.02 px of a 1920 px frame), embeddings to 6.
    """
    result = publication.result
    stamp, model = result.stamp, result.model
    latency_ns, dropped = result.latency_ns, result.dropped
    message: dict[str, Any] = {
        "v": VERSION,
        "id": publication.id,
        "seq": stamp.seq,
        "device": device,
        "stream": stamp.stream,
        "ts": round(stamp.captured_unix_s, 3),
        **({"ts_src": "unset"} if stamp.captured_unix_s < _CLOCK_SET_S else {}),
        "mono_ns": stamp.captured_ns,
        "age_ms": round(publication.age_ms, 1),
        "latency_ms": {stage: round(latency_ns[stage] / 1e6, 2) for stage in STAGES if stage in latency_ns},
        "model": {"name": model.name, "version": model.version, "accelerator": model.accelerator},
        **_size(result),
        "dropped": {fate: dropped[fate] for fate in _DROPS if fate in dropped},
    }
    if result.gap:
        message["gap"] = True
    if stamp.item is not None:
        message["item"] = _utf8(stamp.item)
    if result.reused is not None:
        message["reused"] = result.reused
    if result.crop is not None:
        message["crop"] = _detection(result.crop)
    _add_answer(message, result.answer)
    if result.events:
        message["events"] = [_event(one) for one in result.events]
    return _encode(message)


def encode_events(publication: Publication) -> list[bytes]:
    """What happened in the scene of this result, each as an Event message of docs/schema/event.schema.json."""
    result = publication.result
    return [
        _encode(
            {
                "v": VERSION,
                "id": f"{publication.id}-e{number}",
                "ts": round(result.stamp.captured_unix_s, 3),
                "stream": result.stamp.stream,
                **_event(one),
                "text": _sentence(one),
            }
        )
        for number, one in enumerate(result.events)
    ]


def _size(result: Result) -> dict[str, Any]:
    width, height = result.frame_size
    return {"window": {"samples": height, "channels": width}} if result.window else {"frame": {"w": width, "h": height}}


def _add_answer(message: dict[str, Any], answer: Answer) -> None:
    if answer.detections is not None:
        message["detections"] = [_detection(one) for one in answer.detections]
    if answer.classes is not None:
        message["classes"] = [_classification(one) for one in answer.classes]
    if answer.keypoints is not None:
        message["keypoints"] = _keypoints(answer.keypoints)
    if answer.value is not None:
        message["value"] = answer.value
    if answer.segments is not None:
        message["segments"] = [_segment(one) for one in answer.segments]
    if answer.embedding is not None:
        message["embedding"] = [round(one, 6) for one in answer.embedding]
    if answer.values is not None:
        message["values"] = [_quantity(one) for one in answer.values]


def _detection(one: Detection) -> dict[str, Any]:
    out: dict[str, Any] = {
        "label": one.label,
        "class": one.class_id,
        "score": round(one.score, 4),
        "box": _box(one.box),
    }
    if one.track is not None:
        out["track"] = one.track
    if one.zones:
        out["zones"] = one.zones
    if one.keypoints:
        out["keypoints"] = _keypoints(one.keypoints)
    return out


def _box(box: Box) -> Box:
    x0, y0, x1, y1 = box
    return round(x0, 5), round(y0, 5), round(x1, 5), round(y1, 5)


def _keypoints(points: Keypoints) -> Keypoints:
    return tuple([(round(x, 5), round(y, 5), round(score, 4)) for x, y, score in points])


def _segment(one: Segment) -> dict[str, Any]:
    out: dict[str, Any] = {"label": one.label, "class": one.class_id, "share": round(one.share, 5)}
    if one.polygons:
        out["polygons"] = [[(round(x, 5), round(y, 5)) for x, y in polygon] for polygon in one.polygons]
    if one.runs is not None:
        out["runs"] = {"size": one.runs.size, "counts": one.runs.counts, "box": _box(one.runs.box)}
    return out


def _quantity(one: Quantity) -> dict[str, Any]:
    out: dict[str, Any] = {"name": one.name, "value": one.value}
    if one.unit:
        out["unit"] = one.unit
    return out


def _event(one: SceneEvent) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": one.kind, "label": one.label, "class": one.class_id}
    if one.track is not None:
        out["track"] = one.track
    if one.box is not None:
        out["box"] = _box(one.box)
    if one.zone is not None:
        out["zone"] = one.zone
    if one.seconds is not None:
        out["seconds"] = round(one.seconds, 2)
    if one.score is not None:
        out["score"] = round(one.score, 4)
    return out


def _sentence(one: SceneEvent) -> str:
    who = one.label if one.track is None else f"{one.label} {one.track}"
    after = f" after {one.seconds:.1f} s" if one.seconds is not None else ""
    if one.kind == "dwelled":
        return f"{who} has been in {one.zone} for {one.seconds or 0:.1f} s"
    return f"{who} {one.kind} {one.zone}{after}" if one.zone is not None else f"{who} {_WORDS[one.kind]}{after}"


def _classification(one: Classification) -> dict[str, Any]:
    return {"label": one.label, "class": one.class_id, "score": round(one.score, 4)}


def _utf8(name: str) -> str:
    """A file name may hold bytes that are not UTF-8 (Python's surrogate escapes); JSON may not."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
