"""Faults made from real pictures are found and told once; two real clips raise no alarm."""

from __future__ import annotations

import functools
import wave
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgerun.scene.health import Change, PictureHealth
from edgerun.scene.inspector import PictureInspector, SignalInspector
from edgerun.scene.lasting import Lasting, Stillness
from edgerun.scene.signal_health import SignalHealth
from edgerun.types import Image
from tests.real_models import ROOT, model_file

SECOND_NS = 1_000_000_000
MASK = [((0.0, 0.0), (0.35, 0.0), (0.35, 0.5), (0.0, 0.5))]


@functools.cache
def clip(name: str) -> Sequence[Image]:
    """Its frames, 256×192."""
    path = ROOT / "models" / "clips" / name if name.endswith(".mp4") else model_file(name)
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(cv2.resize(read[1], (256, 192), interpolation=cv2.INTER_AREA))
    capture.release()
    return frames


CLIPS = ("vtest.avi", "street.mp4")


class Guard:
    """An inspector that looks at pictures a second apart, and what it told."""

    def __init__(self, mask: Sequence[tuple[tuple[float, float], ...]] = ()) -> None:
        self.told: list[Change] = []
        self._inspector = PictureInspector(self.told.append, mask)
        self._seconds = 0

    def watch(self, images: Iterable[Image], every_s: float = 1.0) -> list[str]:
        """The events told meanwhile."""
        before = len(self.told)
        for image in images:
            self._inspector.inspect(image, round(self._seconds * SECOND_NS))
            self._seconds += every_s  # type: ignore[assignment]
        return [change.event for change in self.told[before:]]


def usual(frames: Sequence[Image], count: int, start: int = 0) -> list[Image]:
    return [frames[(start + i) % len(frames)] for i in range(count)]


@functools.cache
def noise(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).normal(0, 1, (192, 256, 3)).astype(np.float32)


def noisy(image: Image, number: int, sigma: float = 2.0) -> Image:
    return np.clip(image + sigma * noise(number % 16), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("every_s", [0.1, 1.0])
def test_a_clip_raises_no_alarm(name: str, every_s: float) -> None:
    frames = clip(name)
    assert Guard().watch(usual(frames, max(len(frames), 400)), every_s) == []


def test_a_frozen_picture_is_found_even_with_a_running_clock_and_comes_to_life() -> None:
    frames = clip("vtest.avi")
    for clock in (False, True):
        guard = Guard()
        guard.watch(usual(frames, 100))
        held = []
        for i in range(90):
            picture = frames[100].copy()
            if clock:
                cv2.putText(picture, f"12:00:{i:02}", (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
            held.append(picture)
        assert guard.watch(held) == ["input_frozen"]
        assert guard.watch(usual(frames, 60, 200)) == ["input_ok"]


def test_a_scene_that_stands_still_by_itself_is_not_frozen() -> None:
    frames, guard = clip("vtest.avi"), Guard()
    for turn in range(12):  # the pauses grow, up to half an hour
        assert guard.watch(usual(frames, 5, turn * 7)) == []
        assert guard.watch([frames[turn]] * min(1800, 20 * 2**turn)) == []


def test_the_same_false_alarm_is_not_raised_again() -> None:
    frames, guard = clip("vtest.avi"), Guard()
    told = []
    for turn in range(10):
        guard.watch(usual(frames, 5, turn * 7))
        told.append(guard.watch([frames[turn]] * 200))
    assert sum(bool(events) for events in told) <= 2
    assert told[-1] == []


DARK: dict[str, Callable[[Image, int], Image]] = {
    "lens cap": lambda image, i: np.zeros_like(image),
    "night with noise": lambda image, i: noisy((image * 0.02).astype(np.uint8), i, 3.0),
}
COVERED: dict[str, Callable[[Image, int], Image]] = {
    "hand": lambda image, i: noisy(cv2.addWeighted(image, 0.06, np.full_like(image, 90), 0.94, 0), i),
    "paint": lambda image, i: noisy(np.full_like(image, 230), i),
    "lamp": lambda image, i: np.clip(image * 0.15 + 235, 0, 255).astype(np.uint8),
}
BLURRED: dict[str, Callable[[Image, int], Image]] = {
    f"{share:.1%} of the width": lambda image, i, s=256 * share: cv2.GaussianBlur(image, (0, 0), s)  # type: ignore[misc]
    for share in (0.005, 0.008, 0.013)
}
FAULTS = [
    *(("dark", name, spoil) for name, spoil in DARK.items()),
    *(("covered", name, spoil) for name, spoil in COVERED.items()),
    *(("blurred", name, spoil) for name, spoil in BLURRED.items()),
]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(("fault", "kind", "spoil"), FAULTS, ids=[f"{one[0]}-{one[1]}" for one in FAULTS])
@pytest.mark.parametrize("mask", [[], MASK], ids=["whole", "masked"])
def test_a_fault_is_found_told_once_and_its_end_too(
    name: str, fault: str, kind: str, spoil: Callable[[Image, int], Image], mask: list
) -> None:
    frames, guard = clip(name), Guard(mask)
    assert guard.watch(usual(frames, 60)) == []
    spoiled = [spoil(image, i) for i, image in enumerate(usual(frames, 45, 60))]
    assert guard.watch(spoiled) == [f"input_{fault}"]
    assert guard.watch(usual(frames, 30, 90)) == ["input_ok"]
    assert [(change.fault, change.present) for change in guard.told] == [(fault, True), (fault, False)]
    assert all(change.text for change in guard.told)


@pytest.mark.parametrize(
    ("spoil", "event"),
    [(DARK["lens cap"], "input_dark"), (BLURRED["0.8% of the width"], "input_blurred")],
)
def test_what_lies_under_a_mask_says_nothing(spoil: Callable[[Image, int], Image], event: str) -> None:
    def scribbled(image: Image, i: int) -> Image:
        image = image.copy()
        image[:96, :90] = np.random.default_rng(i).integers(0, 255, (96, 90, 3))
        return image

    frames, guard = clip("vtest.avi"), Guard(MASK)
    assert guard.watch(scribbled(image, i) for i, image in enumerate(usual(frames, 60))) == []
    assert guard.watch(scribbled(spoil(image, i), i) for i, image in enumerate(usual(frames, 45, 60))) == [event]


@pytest.mark.parametrize("name", CLIPS)
def test_what_passes_by_quickly_is_no_fault(name: str) -> None:
    frames, guard = clip(name), Guard()
    guard.watch(usual(frames, 60))
    for spoil in (*DARK.values(), *COVERED.values(), *BLURRED.values()):
        assert guard.watch([spoil(image, i) for i, image in enumerate(usual(frames, 6))]) == []
        assert guard.watch(usual(frames, 10)) == []


@pytest.mark.parametrize("name", CLIPS)
def test_nightfall_is_no_cover_and_no_blur(name: str) -> None:
    frames, guard = clip(name), Guard()
    guard.watch(usual(frames, 60))
    fades = [
        noisy((image * (1 - 0.8 * i / 1800)).astype(np.uint8), i, 1.5) for i, image in enumerate(usual(frames, 1800))
    ]
    assert guard.watch(fades) == []


def test_of_a_camera_that_was_always_blurred_nothing_is_known() -> None:
    frames, guard = clip("vtest.avi"), Guard()
    assert guard.watch(cv2.GaussianBlur(image, (0, 0), 5) for image in usual(frames, 100)) == []


def test_another_resolution_is_learnt_anew_and_grey_pictures_will_do() -> None:
    frames, guard = clip("vtest.avi"), Guard()
    guard.watch(usual(frames, 60))
    grey = [cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (96, 72)) for image in usual(frames, 60)]
    assert guard.watch(grey) == []
    assert guard.watch(cv2.GaussianBlur(image, (0, 0), 2) for image in grey) == ["input_blurred"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 255), st.integers(0, 3)), max_size=40),
    st.integers(0, 2),
)
def test_any_picture_will_do(looks: list[tuple[int, int, int, int]], masked: int) -> None:
    health = PictureHealth(MASK[:masked])
    at_ns = 0
    for height, width, level, passed_s in looks:
        at_ns += passed_s * SECOND_NS
        for change in health.look(np.full((height, width), level, np.uint8), at_ns):
            assert change.present == (change.fault in health.present)


def test_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="H×W"):
        PictureHealth().look(np.zeros((0, 4), np.uint8), 0)
    with pytest.raises(ValueError, match="point"):
        PictureHealth([((0.0, 0.0), (1.0, 1.0))])


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.floats(0, 5)), max_size=60))
def test_what_lasts_changes_only_after_its_time(looks: list[tuple[bool | None, float]]) -> None:
    lasting, changed_at, now_s = Lasting(10, 5), [], 0.0
    for there, passed_s in looks:
        now_s += passed_s
        if lasting.feed(there, passed_s):
            assert lasting.present == there
            changed_at.append(now_s)
    assert all(changed_at[i] >= (10 if i % 2 == 0 else 5) for i in range(len(changed_at)))


@given(st.lists(st.floats(1, 500), min_size=1, max_size=30))
def test_what_stood_still_for_as_long_before_is_not_dead(pauses_s: list[float]) -> None:
    stillness, longest_s = Stillness(60), 0.0
    for pause_s in pauses_s:
        dead = stillness.feed(True, pause_s)
        if pause_s <= 4 * longest_s or pause_s < 60:
            assert not dead
        longest_s = max(longest_s, 0.0 if dead else pause_s)
        stillness.feed(False, 1.0)


def speech() -> NDArray[np.float32]:
    """A voice: samples×1, -1..1."""
    with wave.open(str(model_file("librivox_0870.wav"))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return (samples.reshape(-1, file.getnchannels())[:, :1] / 32768).astype(np.float32)


def told_of(windows: Iterable[NDArray[np.float32]], window_s: float) -> list[str]:
    told: list[Change] = []
    inspector = SignalInspector(told.append)
    for i, window in enumerate(windows):
        inspector.inspect(window, round(i * window_s * SECOND_NS))
    return [change.event for change in told]


def voice(count: int) -> list[NDArray[np.float32]]:
    samples = speech()
    size = 8000  # half a second
    whole = len(samples) // size
    return [samples[(i % whole) * size : (i % whole + 1) * size] for i in range(count)]


def test_a_voice_raises_no_alarm() -> None:
    assert told_of(voice(120), 0.5) == []


def test_a_muted_microphone_is_flat() -> None:
    assert told_of([*voice(20), *[np.zeros((8000, 1), np.float32)] * 100, *voice(20)], 0.5) == [
        "input_flat",
        "input_ok",
    ]


def test_a_voice_that_is_too_loud_is_saturated() -> None:
    loud = [np.clip(window * 30, -1, 1) for window in voice(60)]
    assert told_of([*loud, *voice(60)], 0.5) == ["input_saturated", "input_ok"]


def moving(name: str, amplitude: float, count: int, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Windows of a second of 100 samples of three axes."""
    at = np.arange(count * 100) / 100
    waves = {
        "tone": np.sin(2 * np.pi * 1.3 * at),
        "noise": rng.normal(0, 0.3, len(at)),
        "rest": rng.normal(0, 0.001, len(at)),
        "switch": (np.sin(2 * np.pi * 0.2 * at) > 0).astype(float),
    }
    axis = np.round(waves[name] * amplitude)
    axes = np.stack([axis, rng.normal(0, 20, len(at)).round(), rng.normal(0, 20, len(at)).round()], 1)
    return list(axes.astype(np.float32).reshape(count, 100, 3))


@pytest.mark.parametrize("name", ["tone", "noise", "switch"])
@pytest.mark.parametrize("amplitude", [1, 20, 200, 5000])
def test_sensors_that_do_what_they_should_raise_no_alarm(name: str, amplitude: float) -> None:
    assert told_of(moving(name, amplitude, 120, np.random.default_rng(3)), 1.0) == []


@pytest.mark.parametrize("amplitude", [40, 100, 1000, 32000])
def test_the_crest_of_a_pure_tone_is_no_saturation(amplitude: int) -> None:
    at = np.arange(8000 * 40) / 16000
    tone = np.round(np.sin(2 * np.pi * 50.3 * at) * amplitude).astype(np.float32)
    assert told_of(list(tone.reshape(40, 8000, 1)), 0.5) == []
    clipped = np.clip(tone, -0.8 * amplitude, 0.8 * amplitude).round()
    assert told_of(list(clipped.reshape(40, 8000, 1)), 0.5) == ["input_saturated"]


def test_one_dead_axis_is_enough() -> None:
    windows = moving("noise", 1000, 100, np.random.default_rng(4))
    for window in windows[40:80]:
        window[:, 1] = 7.0
    told: list[Change] = []
    inspector = SignalInspector(told.append)
    for i, window in enumerate(windows):
        inspector.inspect(window, i * SECOND_NS)
    assert [change.event for change in told] == ["input_flat", "input_ok"]
    assert "channel 1" in told[0].text


def test_a_thermometer_that_rests_is_known_to_rest() -> None:
    values = [20.0] * 25 + [20.1] * 80 + [20.2] * 200 + [20.1] * 500
    assert told_of([np.full((1, 1), value, np.float32) for value in values], 1.0) == []


def test_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="samples×channels"):
        SignalHealth().look(np.zeros((0, 2), np.float32), 0)


def test_the_clips_are_those_that_were_measured() -> None:
    assert len(clip("vtest.avi")) == 795
    assert len(clip("street.mp4")) == 100
