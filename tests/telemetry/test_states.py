"""What the retained state of a stream says, and when it is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgerun.telemetry.states import StateKeeper, StreamState
from edgerun.types import Answer, Classification, Detection, ModelInfo, Publication, Result, Stamp


def seen(*labels: str, stream: str = "dock", accelerator: str = "cpu") -> Publication:
    found = tuple(Detection(label, 1, 0.9, (0.0, 0.0, 1.0, 1.0)) for label in labels)
    return published(Answer(detections=found), stream, accelerator)


def published(answer: Answer, stream: str = "dock", accelerator: str = "cpu") -> Publication:
    model = ModelInfo("ssd", "1", accelerator)
    result = Result(Stamp(stream, 0, 0, 0.0), answer, model, (8, 8), latency_ns={}, dropped={})
    return Publication(result, "0123abcd-000000", 1.0)


def keeper(*streams: str) -> StateKeeper:
    return StateKeeper(dict.fromkeys(streams or ("dock",), "cpu"))


def test_before_the_first_frame_a_stream_is_stalled_and_nothing_has_changed() -> None:
    states = keeper("dock", "gate")
    assert states.all() == {"dock": StreamState(), "gate": StreamState()}
    assert states.all()["dock"].state == "stalled"
    assert states.take_changed() == {}


def test_a_change_is_taken_once() -> None:
    states = keeper("dock", "gate")
    states.set_state("gate", "running", "")
    assert states.take_changed() == {"gate": StreamState("running", "")}
    states.set_state("gate", "running", "")
    assert states.take_changed() == {}


def test_counts_are_those_of_the_last_result() -> None:
    states = keeper()
    states.set_state("dock", "running", "")
    states.publish(seen("person", "car", "person"))
    assert states.take_changed()["dock"].counts == {"person": 2, "car": 1}
    states.publish(seen("car", "person", "person"))
    assert states.take_changed() == {}
    states.publish(seen())
    assert states.take_changed()["dock"].counts == {}


def test_a_classification_counts_nothing() -> None:
    states = keeper()
    states.set_state("dock", "running", "")
    states.publish(published(Answer(classes=(Classification("cat", 1, 0.9),))))
    assert states.all()["dock"].counts is None


def test_another_accelerator_is_a_change() -> None:
    states = keeper()
    states.publish(seen(accelerator="edgetpu"))
    assert states.take_changed()["dock"].accelerator == "edgetpu"


@given(
    st.sampled_from(["stalled", "paused", "ended"]),
    st.lists(st.lists(st.sampled_from(["person", "car"]), max_size=3), max_size=4),
)
def test_a_stream_that_does_not_run_counts_nothing_whatever_is_still_on_its_way(
    state: str, late: list[list[str]]
) -> None:
    states = keeper()
    states.set_state("dock", "running", "")
    states.publish(seen("person"))
    states.set_state("dock", state, "the camera is gone")  # type: ignore[arg-type]
    for labels in late:
        states.publish(seen(*labels))
    assert states.all()["dock"] == StreamState(state, "the camera is gone")  # type: ignore[arg-type]
    states.set_state("dock", "running", "frames come again")
    assert states.all()["dock"].counts is None
    states.publish(seen("car"))
    assert states.all()["dock"].counts == {"car": 1}


def test_at_the_stop_everything_has_ended_and_what_ended_before_keeps_its_reason() -> None:
    states = keeper("dock", "gate")
    states.set_state("dock", "running", "")
    states.set_state("gate", "ended", "the source has no more frames")
    states.end_all("edgerun was stopped")
    ended = states.take_changed()
    assert ended["dock"] == StreamState("ended", "edgerun was stopped")
    assert ended["gate"] == StreamState("ended", "the source has no more frames")
