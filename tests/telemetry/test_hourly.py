"""What happened in the last hour, and no longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.telemetry.hourly import LastHour
from edgerun.telemetry.states import StateKeeper


@given(st.lists(st.floats(0, 7200), max_size=60))
def test_it_counts_what_is_less_than_an_hour_old_to_the_minute(gaps_s: list[float]) -> None:
    clock = FakeClock()
    hour, happened_ns = LastHour(clock), []
    for gap_s in gaps_s:
        clock.advance(gap_s)
        hour.add()
        happened_ns.append(clock.mono_ns())
        ages_s = [(clock.mono_ns() - at_ns) / 1e9 for at_ns in happened_ns]
        assert sum(age < 59 * 60 for age in ages_s) <= hour.count <= sum(age <= 60 * 60 for age in ages_s)
    clock.advance(3601)
    assert hour.count == 0


def test_stalls_and_reconnects_are_counted_and_coming_up_is_neither() -> None:
    clock = FakeClock()
    states = StateKeeper({"dock": "cpu", "gate": "cpu"}, clock)
    states.set_state("dock", "running", "")
    assert states.interruptions("dock") == {"stalls_1h": 0, "reconnects_1h": 0}
    for _ in range(3):
        states.set_state("dock", "stalled", "no frame for 5 s")
        clock.advance(60)
        states.set_state("dock", "running", "frames come again")
        clock.advance(60)
    states.set_state("dock", "paused", "")
    states.set_state("dock", "running", "")
    states.set_state("gate", "stalled", "refused")
    assert states.interruptions("dock") == {"stalls_1h": 3, "reconnects_1h": 3}
    assert states.interruptions("gate") == {"stalls_1h": 1, "reconnects_1h": 0}
    clock.advance(3600)
    assert states.interruptions("dock") == {"stalls_1h": 0, "reconnects_1h": 0}


def test_faults_of_the_input_come_and_go() -> None:
    states = StateKeeper({"dock": "cpu"})
    states.set_fault("dock", "dark", True)
    states.set_fault("dock", "frozen", True)
    states.set_fault("dock", "dark", True)
    assert set(states.faults("dock")) == {"dark", "frozen"}
    states.set_fault("dock", "dark", False)
    states.set_fault("dock", "blurred", False)
    assert states.faults("dock") == ("frozen",)
