"""What the page remembers, and the difference that it makes of totals."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.meter import Histogram, StreamMeter
from edgerun.telemetry.ledger import StreamTotals
from edgerun.web.recent import Recent
from edgerun.web.timeline import Journal, Timeline


def test_values_stand_under_their_times_and_what_is_not_known_is_null() -> None:
    line = Timeline(5.0, 4)
    line.add(1.0, {"device": {"temp_c": 40.0}})
    line.add(6.0, {"device": {"temp_c": None}, "stream:dock": {"fps": 9.87654321}})
    assert line.view() == {
        "step_s": 5.0,
        "ts": [1.0, 6.0],
        "series": {"device": {"temp_c": [40.0, None]}, "stream:dock": {"fps": [None, 9.8765]}},
    }
    msgspec.json.encode(line.view())


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.floats(-1e6, 1e6, width=32)), max_size=40))
def test_it_never_holds_more_than_its_steps(steps: list[dict[str, float | None]]) -> None:
    line = Timeline(1.0, 8)
    for at, values in enumerate(steps):
        line.add(float(at), {"g": values})
    view = line.view()
    assert view["ts"] == [float(at) for at in range(len(steps))][-8:]
    for name, series in view["series"].get("g", {}).items():
        assert len(series) == len(view["ts"])
        wanted = [values.get(name) for values in steps[-8:]]
        assert [one is None for one in series] == [one is None for one in wanted]
    kept = {name for values in steps[-8:] for name, value in values.items() if value is not None}
    assert set(view["series"].get("g", {})) == kept


def test_the_newest_events_come_first_and_the_oldest_go() -> None:
    journal = Journal(3)
    for n in range(5):
        journal.add(float(n), "stalled", f"event {n}", "dock" if n else None, grave=True)
    assert [entry.text for entry in journal.entries()] == ["event 4", "event 3", "event 2"]
    assert (journal.count, journal.entries()[0].number) == (5, 5)


def test_the_last_seconds_are_told_apart_from_the_whole() -> None:
    clock, meter = FakeClock(), StreamMeter()
    recent = Recent(lambda: {"dock": _totals(meter)}, clock)
    assert "fps" not in recent.mark()["dock"]
    for _ in range(3):
        for _ in range(50):
            _publish(meter, 20.0)
        clock.advance(5)
        recent.mark()
    for _ in range(20):
        _publish(meter, 80.0)
    clock.advance(5)
    now = recent.view()["dock"]
    assert (now["grabbed"], now["published"], now["in_flight"]) == (170, 170, 0)
    assert (now["lately"]["published"], now["fps"], now["grabbed_fps"]) == (20, 4.0, 4.0)
    assert 80 <= now["age_ms"]["p50"] <= 83
    clock.advance(5)
    assert "age_ms" not in (recent.mark(), recent.mark(), clock.advance(5), recent.view())[3]["dock"]


@given(st.lists(st.floats(0.001, 5000), max_size=60), st.lists(st.floats(0.001, 5000), max_size=60))
def test_a_histogram_since_an_earlier_one_is_that_of_what_came_between(old: list[float], new: list[float]) -> None:
    whole, earlier, wanted = Histogram(), Histogram(), Histogram()
    for value in old:
        whole.record(value)
        earlier.record(value)
    for value in new:
        whole.record(value)
        wanted.record(value)
    later = whole.since(earlier)
    assert later.count == len(new)
    assert later.cumulative((5, 10, 15, 20)) == wanted.cumulative((5, 10, 15, 20))
    for percent in (50, 99):
        told, true = later.percentile(percent), wanted.percentile(percent)
        assert (told is None) == (true is None)
        if told is not None and true is not None:
            assert true <= told <= true * 1.04 + 0.001


def _totals(meter: StreamMeter) -> StreamTotals:
    stages = {name: one.since(None) for name, one in meter.stages.items()}
    return StreamTotals(meter.account.view(), meter.age.since(None), stages)


def _publish(meter: StreamMeter, age_ms: float) -> None:
    meter.account.grab()
    meter.account.end("published")
    meter.age.record(age_ms)
    meter.stages["infer"].record(5.0)
