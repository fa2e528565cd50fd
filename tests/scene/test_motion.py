"""The gate opens for people and stays shut for light and noise, on a clip of a real street."""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgerun.ports import Gate
from edgerun.scene.motion import MotionGate
from edgerun.types import Motion

CLIP = Path(__file__).resolve().parents[2] / "models" / "clips" / "street.mp4"
FPS = 10
SIZES = ((96, 72), (128, 96), (160, 120))
FLAT = np.full((72, 96), 100, np.uint8)
S = 1_000_000_000

Grey = NDArray[np.uint8]
Light = Callable[[NDArray[np.float32], float], NDArray[np.float32]]


@functools.cache
def street(size: tuple[int, int]) -> tuple[Grey, ...]:
    capture = cv2.VideoCapture(str(CLIP))
    pictures = []
    while (got := capture.read())[0]:
        small = cv2.resize(cv2.cvtColor(got[1], cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        pictures.append(small)
    capture.release()
    assert len(pictures) == 100
    return tuple(pictures)


def looks(gate: Gate, pictures: Iterator[Grey] | tuple[Grey, ...], fps: float = FPS) -> list[Motion]:
    return [gate.look(picture, int(i / fps * S)) for i, picture in enumerate(pictures)]


def scene(seconds: float, light: Light, size: tuple[int, int] = (128, 96), fps: float = FPS) -> Iterator[Grey]:
    """One frame of the street again and again, under `light(picture, seconds)`, with the noise of a small sensor."""
    still = street(size)[10].astype(np.float32)
    random = np.random.default_rng(1)
    for i in range(int(seconds * fps)):
        picture = light(still, i / fps) + random.normal(0, 2, still.shape)
        yield np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def opened(motions: list[Motion], fps: float = FPS) -> list[float]:
    """When it was open, in seconds, the first frame apart."""
    return [i / fps for i, motion in enumerate(motions) if motion.moving and i > 0]


def beside(x0: float, y0: float, x1: float, y1: float) -> list[list[tuple[float, float]]]:
    """Everything but this rectangle."""
    rectangles = ((0, 0, 1, y0), (0, y1, 1, 1), (0, y0, x0, y1), (x1, y0, 1, y1))
    return [[(a, b), (c, b), (c, d), (a, d)] for a, b, c, d in rectangles if a < c and b < d]


@pytest.mark.parametrize("size", SIZES)
def test_people_in_the_street_open_it_in_every_frame(size: tuple[int, int]) -> None:
    motions = looks(MotionGate(hold_s=0), street(size))
    assert all(motion.moving for motion in motions)
    assert all(motion.share >= 0.02 for motion in motions)


@pytest.mark.parametrize("size", SIZES)
def test_one_person_far_away_opens_it(size: tuple[int, int]) -> None:
    """The woman in red on the road at the back, 16 by 45 of 768×576 pixels, is the only one in this part."""
    part = (0.78, 0.15, 0.95, 0.35)
    motions = looks(MotionGate(share=0.02, hold_s=1.0, mask=beside(*part)), street(size))
    present = motions[64:]
    assert sum(motion.moving for motion in present) >= 0.9 * len(present)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", [(0.0, 0.8, 1.0, 1.0), (0.0, 0.0, 0.8, 0.2)], ids=["lawn", "building"])
def test_a_part_without_people_stays_shut(size: tuple[int, int], part: tuple[float, float, float, float]) -> None:
    assert opened(looks(MotionGate(mask=beside(*part)), street(size))) == [i / 10 for i in range(1, 10)]


@pytest.mark.parametrize("fps", [5, 10, 30])
def test_a_small_walker_opens_it_from_five_frames_a_second(fps: int) -> None:
    """4 by 10 of 128×96 pixels, a third of a percent: less than the share, but they walk."""

    def walker(picture: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
        x, changed = 8 + int(seconds * 6) % 100, picture.copy()
        changed[52:62, x : x + 4] -= 25
        return changed

    motions = looks(MotionGate(), scene(16, walker, fps=fps), fps)[fps * 2 :]
    assert sum(motion.moving for motion in motions) >= 0.9 * len(motions)


LIGHTS: dict[str, Light] = {
    "steady": lambda p, s: p,
    "brighter": lambda p, s: p * (1 + 0.5 * min(1, s / 20)),
    "darker": lambda p, s: p * (1 - 0.5 * min(1, s / 20)),
    "clouds": lambda p, s: p * (1 + 0.3 * np.sin(s / 6)),
    "gamma up": lambda p, s: 255 * (p / 255) ** (1 + 0.5 * min(1, s / 20)),
    "gamma down": lambda p, s: 255 * (p / 255) ** (1 - 0.4 * min(1, s / 20)),
    "flicker": lambda p, s: p * (1 + 0.05 * np.sin(s * 17.3)),
    "bands of a rolling shutter": lambda p, s: p * (1 + 0.04 * np.sin(s * 17.3 + np.linspace(0, 9, 96)[:, None])),
    "exposure hunts": lambda p, s: p * (1 + 0.12 * np.sin(int(s / 2) * 2.1)),
    "lamp on, everywhere": lambda p, s: p * (1.2 if s >= 10 else 1),
    "lamp off, everywhere": lambda p, s: p * (0.8 if s >= 10 else 1),
    "black level": lambda p, s: p + (20 if s >= 10 else 0),
    "sun from one side, slowly": lambda p, s: p * (1 + 0.4 * min(1, s / 20) * np.linspace(0, 1, 128)),
}


@pytest.mark.parametrize("light", LIGHTS)
def test_light_does_not_open_it(light: str) -> None:
    assert opened(looks(MotionGate(hold_s=0.05), scene(30, LIGHTS[light]))) == []


@pytest.mark.parametrize("fps", [1, 30])
def test_light_does_not_open_it_at_other_frame_rates(fps: int) -> None:
    assert opened(looks(MotionGate(hold_s=0.01), scene(25, LIGHTS["clouds"], fps=fps), fps)) == []


def test_a_lamp_on_one_side_opens_it_for_a_moment() -> None:
    motions = looks(MotionGate(), scene(20, lambda p, s: p * (1 + 0.3 * (s >= 10) * np.linspace(0, 1, 128))))
    assert all(10 <= at < 12.5 for at in opened(motions) if at >= 1)


@pytest.mark.parametrize("sigma", [1, 4, 8])
def test_sensor_noise_does_not_open_it(sigma: float) -> None:
    random = np.random.default_rng(2)
    still = street((128, 96))[50].astype(np.float32)
    noisy = (np.clip(still + random.normal(0, sigma, still.shape), 0, 255).astype(np.uint8) for _ in range(200))
    assert opened(looks(MotionGate(hold_s=0.05), noisy)) == []


def test_what_stays_is_absorbed_after_some_tens_of_seconds() -> None:
    def parked(picture: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
        changed = picture.copy()
        if seconds >= 5:
            changed[50:66, 84:100] -= 60
        return changed

    motions = looks(MotionGate(hold_s=0), scene(80, parked))
    at = opened(motions)
    assert at[0] == 5
    assert 15 < at[-1] < 60
    assert len(at) == round((at[-1] - at[0]) * FPS) + 1, "open without a break"


def test_somebody_who_fills_most_of_the_picture_is_not_light() -> None:
    def close(picture: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
        changed = picture.copy()
        if seconds >= 5:
            changed[:, : 40 + int((seconds - 5) * 20)] = 45
        return changed

    motions = looks(MotionGate(hold_s=0), scene(8, close))
    assert all(motion.moving for motion in motions[51:])


def test_another_picture_is_learnt_at_once() -> None:
    def turned(picture: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
        return picture if seconds < 5 else picture[::-1, ::-1]

    motions = looks(MotionGate(), scene(12, turned))
    assert motions[50].moving
    assert motions[50].box is None
    assert opened(motions)[-1] < 7


def moved(x: int, y: int, size: int = 10) -> Grey:
    picture = FLAT.copy()
    picture[y : y + size, x : x + size] = 200
    return picture


def test_moving_lasts_hold_s_after_the_last_change() -> None:
    gate = MotionGate(hold_s=1.0)
    assert gate.look(FLAT, 0) == Motion(1.0, True)
    assert gate.look(FLAT, int(0.9 * S)).moving
    assert gate.look(FLAT, int(1.0 * S)) == Motion(0.0, False)
    for i in range(2, 8):
        assert not gate.look(FLAT, i * S).moving
    seen = gate.look(moved(20, 30), 8 * S)
    assert seen.moving
    held = gate.look(FLAT, int(8.9 * S))
    assert held.moving
    assert held.box == seen.box
    assert gate.look(FLAT, 9 * S) == Motion(0.0, False)


def test_the_box_is_around_all_that_moved() -> None:
    gate = MotionGate()
    gate.look(FLAT, 0)
    both = moved(20, 10)
    both[50:60, 70:80] = 20
    box = gate.look(both, S).box
    assert box is not None
    x0, y0, x1, y1 = box
    assert 10 / 96 < x0 <= 20 / 96
    assert 3 / 72 < y0 <= 10 / 72
    assert 80 / 96 <= x1 < 90 / 96
    assert 60 / 72 <= y1 < 67 / 72


def test_share_is_of_the_watched_pixels() -> None:
    whole, half = MotionGate(), MotionGate(mask=[[(0.5, -1), (2, -1), (2, 2), (0.5, 2)]])
    for gate in (whole, half):
        gate.look(FLAT, 0)
    shares = [gate.look(moved(20, 30), S).share for gate in (whole, half)]
    assert shares[1] == pytest.approx(2 * shares[0])


def test_another_resolution_starts_again() -> None:
    gate = MotionGate(hold_s=0)
    for i in range(3):
        gate.look(FLAT, i * S)
    assert gate.look(np.ascontiguousarray(FLAT[:60]), 3 * S) == Motion(1.0, True)
    assert not gate.look(np.ascontiguousarray(FLAT[:60]), 4 * S).moving


def test_a_mask_over_everything_leaves_nothing_to_move() -> None:
    gate = MotionGate(share=0, hold_s=0, mask=[[(-1, -1), (3, -1), (3, 3), (-1, 3)]])
    gate.look(FLAT, 0)
    assert gate.look(moved(10, 10), S) == Motion(0.0, False)


stamps = st.one_of(st.integers(0, 5 * S), st.integers(-S, 2**62))
tiny = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shape=tiny, share=st.floats(0, 1), hold_s=st.floats(0, 3))
def test_any_pictures_at_any_times_keep_the_values_in_range(
    data: st.DataObject, shape: tuple[int, int], share: float, hold_s: float
) -> None:
    gate = MotionGate(share, hold_s)
    for at in data.draw(st.lists(stamps, min_size=1, max_size=8)):
        seed = data.draw(st.integers(0, 5))
        picture = np.random.default_rng(seed).integers(0, 256, shape, np.uint8) if seed else np.zeros(shape, np.uint8)
        motion = gate.look(picture, at)
        assert 0 <= motion.share <= 1
        assert motion.box is None or motion.moving
        if motion.box is not None:
            x0, y0, x1, y1 = motion.box
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 4), (4, 4)])
def test_pictures_of_a_few_pixels(shape: tuple[int, int]) -> None:
    gate = MotionGate(hold_s=0)
    gate.look(np.full(shape, 90, np.uint8), 0)
    assert gate.look(np.full(shape, 200, np.uint8), S).moving


def test_a_clock_that_stands_or_jumps_back_neither_blinds_nor_holds_it() -> None:
    gate = MotionGate(hold_s=1.0)
    for at in (100 * S, 100 * S, 100 * S):
        gate.look(FLAT, at)
    gate.look(FLAT, 5 * S)
    assert not gate.look(FLAT, 7 * S).moving
    assert gate.look(moved(20, 20), 6 * S).moving
    assert gate.look(FLAT, int(6.5 * S)).moving
    assert not gate.look(FLAT, int(7.6 * S)).moving


@settings(max_examples=60, deadline=None)
@given(a=st.integers(0, 99), b=st.integers(0, 99), seed=st.integers(0, 2**16), width=st.floats(0.1, 0.9))
def test_what_is_masked_never_matters(a: int, b: int, seed: int, width: float) -> None:
    mask = [[(0.05, 0.1), (0.05 + width, 0.3), (0.2, 1.4)]]
    clean, dirty = MotionGate(hold_s=0.2, mask=mask), MotionGate(hold_s=0.2, mask=mask)
    random = np.random.default_rng(seed)
    pictures = street((96, 72))
    inside = np.zeros((72, 96), np.uint8)
    cv2.fillPoly(inside, [np.array([[int(x * 95), int(y * 71)] for x, y in mask[0]])], 255)
    # Well within the polygon, by OpenCV's own idea of it.
    inside = cv2.erode(inside, np.ones((3, 3), np.uint8))
    for i, picture in enumerate((pictures[a], pictures[b], pictures[a], pictures[b], pictures[b])):
        other = np.where(inside > 0, random.integers(0, 256, picture.shape, np.uint8), picture)
        assert clean.look(picture, i * S // 10) == dirty.look(other, i * S // 10)


def test_no_array_is_made_after_the_first_pictures() -> None:
    gate = MotionGate(mask=[[(0, 0), (0.3, 0), (0.3, 0.2)]])
    pictures = street((384, 288))
    for i in range(3):
        gate.look(pictures[i], i * S // 10)
    tracemalloc.start()
    try:
        for i in range(3, 60):
            gate.look(pictures[i], i * S // 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 288 * 384 / 8, "bytes: far less than any picture"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MotionGate(share=1.5), "share"),
        (lambda: MotionGate(share=float("nan")), "share"),
        (lambda: MotionGate(hold_s=-1), "held"),
        (lambda: MotionGate(hold_s=float("inf")), "held"),
        (lambda: MotionGate(mask=[[(0, 0), (1, 1)]]), "3 points"),
        (lambda: MotionGate().look(np.zeros((4, 4, 3), np.uint8), 0), "H×W uint8"),
        (lambda: MotionGate().look(np.zeros((4, 4), np.float32), 0), "H×W uint8"),  # type: ignore[arg-type]
        (lambda: MotionGate().look(np.zeros((0, 4), np.uint8), 0), "H×W uint8"),
    ],
)
def test_refuses_with_the_reason(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()
