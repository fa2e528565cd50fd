"""What every sink promises (edgerun/ports.py, Sink), over every sink that opens here."""

from __future__ import annotations

import inspect
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.clock import FakeClock
from edgerun.ports import Sink, SinkContext
from edgerun.publish.collect import CollectPlan, CollectSink
from edgerun.publish.console import ConsoleSink
from edgerun.publish.jsonl import JsonlSink
from edgerun.publish.picture import PictureSink
from edgerun.registry import BUILTIN, resolve
from edgerun.types import Answer, Classification, Lease, Publication
from tests.publish.samples import people, picture, publication

CONTEXT = SinkContext(device="dock-7", clock=FakeClock())

MAKERS: dict[str, Callable[[Path], Sink]] = {
    "console": lambda folder: ConsoleSink(ConsoleSink.Options(), CONTEXT, io.StringIO()),
    "jsonl": lambda folder: JsonlSink(JsonlSink.Options(path=str(folder / "out.jsonl")), CONTEXT),
    "jsonl-null": lambda folder: JsonlSink(JsonlSink.Options(path="/dev/null"), CONTEXT),
    "picture": lambda folder: PictureSink(
        PictureSink.Options(save=str(folder / "out.mp4"), snapshot=str(folder / "out.jpg")), CONTEXT
    ),
    "collect": lambda folder: CollectSink(
        CollectSink.Options(streams={"dock": CollectPlan(folder=str(folder / "kept"), score=(0.0, 1.0), every_s=0.0)}),
        CONTEXT,
    ),
    "snapshot": lambda folder: PictureSink(PictureSink.Options(snapshot=str(folder / "out.jpg")), CONTEXT),
}


@pytest.fixture(params=MAKERS)
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


def publications(sink: Sink, count: int) -> list[Publication]:
    answers = (
        None,
        Answer(detections=()),
        Answer(detections=people(7)),
        Answer(classes=(Classification("espresso", 967, 0.9),)),
        Answer(keypoints=((0.1, 0.2, 0.9),)),
        Answer(value=0.5),
    )
    return [
        publication(
            number,
            answers[number % len(answers)],
            stream=("dock", "yard")[number % 2],
            image=picture(96, 64) if sink.wants_picture else None,
        )
        for number in range(count)
    ]


def test_it_takes_many_and_any(sink: Sink) -> None:
    for one in publications(sink, 200):
        sink.publish(one)
    sink.flush(1.0)


def test_closing_is_idempotent(sink: Sink) -> None:
    sink.publish(publications(sink, 1)[0])
    sink.close()
    sink.close()


def test_closing_without_a_result(sink: Sink) -> None:
    sink.flush(0.0)
    sink.close()


def test_flushing_at_any_time(sink: Sink) -> None:
    for one in publications(sink, 3):
        sink.flush(0.0)
        sink.publish(one)
        sink.flush(0.1)
        sink.flush(0.1)


def test_the_lease_is_the_callers(sink: Sink) -> None:
    """The sink neither keeps, releases nor changes the picture."""
    image, returned = picture(96, 64), []
    lease = Lease(image, returned.append)
    sample = publication(image=image)
    sink.publish(Publication(msgspec.structs.replace(sample.result, lease=lease), sample.id, sample.age_ms))
    assert not returned
    lease.release()
    assert len(returned) == 1
    assert (image == 90).all()
    image[:] = 7
    sink.flush(1.0)
    sink.close()


def test_a_result_in_peace_logs_nothing_alarming(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    for one in publications(sink, 20):
        sink.publish(one)
    sink.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", sorted({"console", "jsonl", "picture"} & set(BUILTIN["sink"])))
def test_the_options_refuse_what_they_do_not_know(kind: str) -> None:
    plugin = resolve("sink", kind)
    assert plugin.options is plugin.Options
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"surprise": 1}, plugin.options)
    assert list(inspect.signature(plugin).parameters)[:2] == ["options", "context"]
