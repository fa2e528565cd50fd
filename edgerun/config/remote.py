"""`[models.NAME.remote]`: a model that workers behind the broker run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgerun.validate import Report, join


class RemoteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.remote]`: how frames go to `edgerun worker`, with `engine = "remote"`."""

    first: Annotated[
        Literal["there", "here"],
        Meta(
            description="`there`: the workers, and the engine here only while none answers; `here`: the engine here, "
            "and what comes while it is busy goes there."
        ),
    ] = "there"
    in_flight: Annotated[
        Annotated[int, Meta(ge=1, le=256)],
        Meta(description="Requests on the way at a time: what the workers together have in hand, and one or two more."),
    ] = 4
    payload: Annotated[
        Literal["auto", "jpeg", "tensor"],
        Meta(
            description="What is sent: the model's input, or the picture it is made of as a JPEG; `auto` takes the "
            "input, which loses nothing, where the JPEG is not smaller by a third."
        ),
    ] = "auto"
    quality: Annotated[Annotated[int, Meta(ge=1, le=100)], Meta(description="Of the JPEG.")] = 90


_NOT_WITH = ("batch", "cache", "variants", "hang_s")


def check_remote(raw: dict[str, Any], report: Report) -> None:
    """What the keys of a remote model ask of each other, and of `[mqtt]`. The tables are as written."""
    models = raw.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        if not isinstance(model, dict):
            continue
        place = join("models", str(name))
        if model.get("engine") != "remote":
            for key in ("remote", "fallback"):
                if model.get(key) is not None:
                    report.add(join(place, key), "given without a remote engine", remedy='add engine = "remote"')
            continue
        if raw.get("mqtt") is None:
            report.add(
                join(place, "engine"), "workers are reached through a broker, and there is none",
                remedy="add [mqtt] with an url",
            )  # fmt: skip
        for key in _NOT_WITH:
            if model.get(key):
                report.add(join(place, key), "given with a remote engine", remedy=f"remove {key}")
        remote = model.get("remote")
        first = remote.get("first") if isinstance(remote, dict) else None
        if first == "here" and model.get("fallback") == "none":
            report.add(
                join(join(place, "remote"), "first"), "there is no engine here, with fallback = \"none\"",
                expected='"there", or fallback = "local"', got='"here"',
            )  # fmt: skip
