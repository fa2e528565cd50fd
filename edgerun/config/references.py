"""What the tables of a config ask of each other: models that streams name, keys that need other keys."""

from __future__ import annotations

import re
from typing import Any

from edgerun.config.structs import NAME, NAME_WORDS
from edgerun.errors import did_you_mean
from edgerun.validate import Report, join, show


def check_streams(streams: dict[str, Any], models: dict[str, Any], report: Report) -> None:
    """Report every name that does not exist and every key without the key that it needs. The tables are as written."""
    cascades: dict[str, set[str]] = {}
    for name, stream in streams.items():
        if not isinstance(stream, dict):
            continue
        place = join("streams", str(name))
        then = _table(stream, "then")
        wanted = stream.get("model")
        names = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        for one in names:
            _check_model(one, models, join(place, "model"), report)
        if len({str(one) for one in names}) < len(names):
            report.add(join(place, "model"), "the same model twice", remedy="name each model once")
        if then:
            _check_model(then.get("model"), models, join(join(place, "then"), "model"), report)
            for one in names:
                cascades.setdefault(str(one), set()).add(str(then.get("model")))
        _check_needs(place, stream, then, report)
    for name, stream in streams.items():
        target = str(_table(stream, "then").get("model") or "") if isinstance(stream, dict) else ""
        if target and _leads_to(target, target, cascades):
            report.add(
                join(join(join("streams", str(name)), "then"), "model"),
                "cascades that lead back to their own model",
                expected="a model whose results lead to no crops for it",
                got=show(target),
            )


def _check_model(wanted: Any, models: dict[str, Any], place: str, report: Report) -> None:
    if not isinstance(wanted, str) or not wanted or wanted in models:
        return
    known = [str(model) for model in models]
    report.add(
        place,
        "no such model",
        expected="one of " + ", ".join(known) if known else "the name of a [models.NAME] table",
        got=show(wanted),
        remedy=did_you_mean(wanted, known) or f"add [models.{wanted}]",
    )


def check_requests(streams: dict[str, Any], mqtt: Any, report: Report) -> None:
    """Requests come through the broker, and pictures leave through it."""
    for name in streams:
        if mqtt is None and isinstance(_table(streams, name).get("snapshot"), dict):
            place = join(join("streams", str(name)), "snapshot")
            report.add(place, "pictures leave through a broker, and there is none", remedy="add [mqtt] with an url")
        if mqtt is None and _table(_table(streams, name), "source").get("kind") == "mqtt":
            place = join(join("streams", str(name)), "source")
            report.add(place, "requests come through a broker, and there is none", remedy="add [mqtt] with an url")


def _check_needs(place: str, stream: dict[str, Any], then: dict[str, Any], report: Report) -> None:
    """What keys of one stream ask of each other."""
    if stream.get("track") in (None, False):
        if stream.get("zones"):
            report.add(join(place, "zones"), "given without track", remedy="add track = true")
        if then.get("every_s"):
            report.add(join(join(place, "then"), "every_s"), "given without track", remedy="add track = true")
    elif _table(stream, "gate").get("crop"):
        report.add(
            join(join(place, "gate"), "crop"),
            "given with track",
            remedy="remove one: what stands still lies outside the part that moves, and would be taken for lost",
        )
    _check_then(join(place, "then"), stream, then, report)
    low, high = stream.get("min_fps"), stream.get("max_fps")
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        report.add(join(place, "min_fps"), "more than max_fps", expected=f"at most {high:g}", got=f"{low:g}")
    for zone in _table(stream, "zones"):
        if not re.search(NAME, str(zone)):
            report.add(
                join(join(place, "zones"), str(zone)), "not a usable name", expected=NAME_WORDS, got=show(str(zone))
            )


def _check_then(place: str, stream: dict[str, Any], then: dict[str, Any], report: Report) -> None:
    """What the keys of a cascade ask of each other, and of the first model's threshold."""
    score, threshold = then.get("score"), stream.get("threshold")
    if isinstance(score, list) and len(score) == 2 and all(isinstance(one, int | float) for one in score):
        if score[0] > score[1]:
            report.add(join(place, "score"), "the band is upside down", expected="[low, high]", got=score)
        elif isinstance(threshold, int | float) and threshold > score[1]:
            report.add(
                join(place, "score"), "nothing is ever in this band", expected=f"more than threshold, {threshold:g}",
                got=score, remedy=f"lower threshold to {score[0]:g}",
            )  # fmt: skip
    for key in ("max_crops", "margin"):
        if then.get("whole") is True and key in then:
            report.add(join(place, key), "given with whole: there are no crops", remedy="remove one of them")


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _leads_to(start: str, goal: str, edges: dict[str, set[str]]) -> bool:
    """Whether a walk along `edges` from `start` comes to `goal`."""
    seen: set[str] = set()
    ahead = set(edges.get(start, ()))
    while ahead:
        one = ahead.pop()
        if one == goal:
            return True
        if one not in seen:
            seen.add(one)
            ahead |= edges.get(one, set())
    return False
