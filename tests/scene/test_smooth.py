"""Scores of sounds made into events: words heard once, activity with a beginning and an end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.scene.smooth import ActivityOptions, ActivityWatch, KeywordOptions, KeywordWatch
from edgerun.types import Answer, Classification, Detection, SceneEvent

STEP_NS = 100_000_000


def answer(**scores: float) -> Answer:
    ids = {"yes": 1, "no": 2, "speech": 0}
    return Answer(classes=tuple(Classification(label, ids[label], score) for label, score in scores.items()))


def events(watch: KeywordWatch | ActivityWatch, scores: list[Answer], start: int = 0) -> list[tuple[int, SceneEvent]]:
    """What `watch` tells of answers every 100 ms, each with the number of its answer."""
    told = []
    for number, one in enumerate(scores, start):
        seen = watch.observe(one, number * STEP_NS)
        assert seen.answer is one
        told += [(number, event) for event in seen.events]
    return told


def words(**options: object) -> KeywordWatch:
    return KeywordWatch(KeywordOptions(**options))  # type: ignore[arg-type]


def activity(**options: object) -> ActivityWatch:
    return ActivityWatch(ActivityOptions(**options))  # type: ignore[arg-type]


def test_a_word_in_several_windows_is_heard_once() -> None:
    watch = words(window_s=0.5, threshold=0.5, refractory_s=1.0)
    spoken = [answer(yes=0.05)] * 5 + [answer(yes=0.9)] * 5 + [answer(yes=0.05)] * 10 + [answer(yes=0.9)] * 4
    told = events(watch, spoken)
    assert [(number, one.kind, one.label, one.class_id) for number, one in told] == [
        (7, "heard", "yes", 1),
        (22, "heard", "yes", 1),
    ]
    assert told[0][1].score == pytest.approx((0.05 * 2 + 0.9 * 3) / 5)
    assert (told[0][1].track, told[0][1].box) == (None, None)


def test_one_loud_window_is_no_word() -> None:
    assert events(words(), [answer(yes=0.1)] * 5 + [answer(yes=1.0)] + [answer(yes=0.1)] * 5) == []


def test_the_first_scores_do_not_make_an_average() -> None:
    assert [number for number, _ in events(words(min_scores=4), [answer(yes=1.0)] * 4)] == [3]


def test_after_a_gap_the_average_begins_anew() -> None:
    watch = words(min_scores=3)
    assert events(watch, [answer(yes=1.0)] * 2) == []
    assert [number for number, _ in events(watch, [answer(yes=1.0)] * 3, start=50)] == [52]


def test_a_class_left_out_counts_as_nothing() -> None:
    assert events(words(window_s=0.4, min_scores=4), [answer(yes=1.0), answer(), answer(), answer(yes=0.9)]) == []


def test_only_the_words_listened_for_and_the_surest_of_them() -> None:
    assert events(words(labels=("no",)), [answer(yes=0.9, no=0.2)] * 6) == []
    told = events(words(), [answer(yes=0.6, no=0.8)] * 4)
    assert [one.label for _, one in told] == ["no"]


def scalar_words(scores: list[float], window: int, threshold: float, refractory: int) -> list[int]:
    """The same, looking back over the whole past for each answer."""
    told: list[int] = []
    begin = 0
    for number in range(len(scores)):
        if told and number < told[-1] + refractory:
            continue
        recent = scores[max(begin, number - window + 1) : number + 1]
        if len(recent) >= 3 and sum(recent) / len(recent) >= threshold:
            told.append(number)
            begin = number + 1
    return told


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=60), st.integers(3, 8), st.integers(0, 12))
def test_words_are_heard_as_the_scalar_reading_hears_them(scores: list[float], window: int, refractory: int) -> None:
    watch = words(window_s=window / 10, threshold=0.5, refractory_s=refractory / 10)
    told = [number for number, _ in events(watch, [answer(yes=score) for score in scores])]
    assert told == scalar_words(scores, window, 0.5, refractory)


def test_speech_begins_and_ends_once_over_pauses_for_breath() -> None:
    watch = activity(min_on_s=0.2, hangover_s=0.3)
    loud, breath, quiet = [answer(speech=0.9)], [answer(speech=0.1)], [answer(speech=0.05)]
    told = events(watch, quiet * 3 + loud * 6 + breath * 2 + loud * 4 + quiet * 6)
    assert [(number, one.kind) for number, one in told] == [(5, "began"), (17, "ended")]
    assert told[0][1].score == pytest.approx(0.9)
    assert told[1][1].seconds == pytest.approx(1.1)  # from the 4th answer to the 15th
    assert (told[1][1].label, told[1][1].class_id, told[1][1].track) == ("speech", 0, None)


def test_hysteresis_holds_what_has_begun_and_begins_nothing() -> None:
    between = [answer(speech=0.4)]
    assert events(activity(min_on_s=0), between * 20) == []
    told = events(activity(min_on_s=0), [answer(speech=0.6)] + between * 20)
    assert [one.kind for _, one in told] == ["began"]


def test_a_click_is_no_speech() -> None:
    assert events(activity(min_on_s=0.2), [answer(speech=1.0)] + [answer(speech=0.0)] * 9) == []


def test_a_class_left_out_by_the_threshold_is_silence() -> None:
    told = events(activity(min_on_s=0.1, hangover_s=0.2, label="speech"), [answer(speech=0.9)] * 3 + [answer()] * 4)
    assert [one.kind for _, one in told] == ["began", "ended"]


def test_after_a_long_gap_nothing_goes_on_any_more() -> None:
    watch = activity(min_on_s=0.1, max_gap_s=2)
    assert [one.kind for _, one in events(watch, [answer(speech=0.9)] * 3)] == ["began"]
    told = events(watch, [answer(speech=0.9)] * 3, start=100)
    assert [(number, one.kind) for number, one in told] == [(100, "ended"), (101, "began")]
    assert told[0][1].seconds == pytest.approx(0.2)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=80), st.integers(0, 4), st.integers(0, 5))
def test_beginnings_and_ends_take_turns(scores: list[float], least: int, hangover: int) -> None:
    watch = activity(min_on_s=least / 10, hangover_s=hangover / 10)
    told = events(watch, [answer(speech=score) for score in scores])
    assert [one.kind for _, one in told] == ["began", "ended"] * (len(told) // 2) + ["began"] * (len(told) % 2)
    for number, one in told:
        if one.kind == "began":
            assert scores[number] >= 0.35
            assert max(scores[: number + 1]) >= 0.5
        else:
            assert one.seconds is not None
            assert one.seconds >= least / 10 - 1e-9
            assert all(score < 0.35 for score in scores[number - max(hangover, 1) + 1 : number + 1])


def test_answers_without_classes_pass_untouched() -> None:
    other = Answer(detections=(Detection("person", 1, 0.9, (0, 0, 1, 1)),))
    for watch in (words(), activity()):
        assert events(watch, [other] * 5) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (KeywordOptions(threshold=1.5), r"threshold is 1\.5"),
        (KeywordOptions(window_s=0), "window_s is 0: it must be a number of seconds above 0"),
        (KeywordOptions(refractory_s=-1), "refractory_s is -1: it must be a number of seconds from 0"),
        (KeywordOptions(window_s=float("nan")), "window_s is nan"),
        (KeywordOptions(min_scores=0), "min_scores is 0"),
        (ActivityOptions(on=-0.1), r"on is -0\.1"),
        (ActivityOptions(on=0.3, off=0.4), r"off is 0\.4, above on, 0\.3"),
        (ActivityOptions(hangover_s=float("inf")), "hangover_s is inf"),
        (ActivityOptions(max_gap_s=0), "max_gap_s is 0"),
    ],
)
def test_options_that_cannot_be_meant(options: KeywordOptions | ActivityOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeywordWatch(options) if isinstance(options, KeywordOptions) else ActivityWatch(options)
