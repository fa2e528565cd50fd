"""Publications to feed sinks with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.types import Answer, Detection, Image, Lease, ModelInfo, Publication, Result, Stamp

PERSON = Detection(label="person", class_id=1, score=0.81239, box=(0.41, 0.22, 0.47, 0.51), track=17)
CAR = Detection(label="car", class_id=3, score=0.6649, box=(0.1, 0.6, 0.300004, 0.9))
MODEL = ModelInfo(name="ssd-mobilenet-v2-oid", version="2", accelerator="cpu")
LATENCY_NS = {"capture": 4_000_000, "wait": 6_200_000, "preprocess": 1_900_000, "infer": 24_800_000, "decode": 400_000}


def publication(
    number: int = 412,
    answer: Answer | None = None,
    *,
    stream: str = "dock",
    item: str | None = None,
    image: Image | None = None,
    frame_size: tuple[int, int] = (768, 576),
    dropped: tuple[int, int] = (3, 0),
    max_age_ns: int = 250_000_000,
    age_ms: float = 58.14,
    interval_ns: int = 100_000_000,
    late_ms: float = 0,
) -> Publication:
    """Frame `number` of a stream with a result every `interval_ns`, captured `late_ms` after its turn."""
    captured_ns = 40_030_000_000 + number * interval_ns + round(late_ms * 1e6)
    stamp = Stamp(stream, number, captured_ns, 1_795_230_000.1234 + (number - 412) * interval_ns / 1e9, item)
    result = Result(
        stamp=stamp,
        answer=answer if answer is not None else Answer(detections=(PERSON, CAR)),
        model=MODEL,
        frame_size=frame_size if image is None else (image.shape[1], image.shape[0]),
        latency_ns=LATENCY_NS,
        dropped={"skipped": dropped[0], "superseded": dropped[1]},
        max_age_ns=max_age_ns,
        lease=None if image is None else Lease(image),
    )
    return Publication(result=result, id=f"1f3a9c02-{number:06d}", age_ms=age_ms)


def picture(width: int = 640, height: int = 480, gray: int = 90) -> Image:
    return np.full((height, width, 3), gray, np.uint8)


def people(count: int) -> Sequence[Detection]:
    return tuple(
        Detection(label="person", class_id=1, score=0.9 - 0.05 * i, box=(0.1 * i, 0.1, 0.1 * i + 0.08, 0.5))
        for i in range(count)
    )
