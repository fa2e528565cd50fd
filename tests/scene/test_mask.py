"""Privacy masks hide every pixel they touch, and nothing a pixel further."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgerun.polygon import check_polygon
from edgerun.scene.mask import Blackout, coverage

Points = list[tuple[float, float]]
CORNER = [(0.0, 0.0), (0.3, 0.0), (0.3, 0.2)]

coordinates = st.floats(-0.5, 1.5) | st.sampled_from((0.0, 0.25, 0.5, 1.0))
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7)
shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def winding(points: Points, x: float, y: float) -> int:
    """How often the polygon winds around a point (Sunday, 2001), in exact arithmetic."""
    exact = [(Fraction(px), Fraction(py)) for px, py in points]
    at_x, at_y, turns = Fraction(x), Fraction(y), 0
    for (x0, y0), (x1, y1) in zip(exact, exact[1:] + exact[:1], strict=True):
        side = (x1 - x0) * (at_y - y0) - (at_x - x0) * (y1 - y0)
        if y0 <= at_y < y1 and side > 0:
            turns += 1
        elif y1 <= at_y < y0 and side < 0:
            turns -= 1
    return turns


def distance(points: Points, x: float, y: float, width: int, height: int) -> float:
    """From a point to the nearest edge, in pixels."""
    nearest = math.inf
    scaled = [(px * width, py * height) for px, py in points]
    for (x0, y0), (x1, y1) in zip(scaled, scaled[1:] + scaled[:1], strict=True):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        t = 0.0 if length == 0 else min(1.0, max(0.0, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length))
        nearest = min(nearest, math.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0)))
    return nearest


def accepted(points: Points) -> bool:
    try:
        check_polygon(points)
    except ValueError:
        return False
    return True


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width), 200, np.uint8)


@settings(max_examples=300, deadline=None)
@given(points=polygons, shape=shapes)
def test_all_inside_is_black_and_nothing_beyond_a_pixel_of_the_edge(points: Points, shape: tuple[int, int]) -> None:
    assume(accepted(points))
    height, width = shape
    image = grey(height, width)
    Blackout([points]).apply(image)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            edge = distance(points, x, y, width, height)
            inside = winding(points, x / width, y / height) != 0
            if inside and edge > 1e-6:
                assert image[row, column] == 0, f"({column}, {row}) shows through"
            elif edge > 1:
                assert image[row, column] == 200, f"({column}, {row}) is hidden for nothing"


@settings(max_examples=200, deadline=None)
@given(points=polygons, shape=shapes, data=st.data())
def test_a_pixel_that_is_touched_at_all_is_black(points: Points, shape: tuple[int, int], data: st.DataObject) -> None:
    assume(accepted(points))
    height, width = shape
    image = grey(height, width)
    Blackout([points]).apply(image)
    x = data.draw(st.floats(0, width, exclude_max=True))
    y = data.draw(st.floats(0, height, exclude_max=True))
    near_border = min(x % 1, 1 - x % 1, y % 1, 1 - y % 1) < 1e-6
    assume(not near_border and distance(points, x, y, width, height) > 1e-6)
    if winding(points, x / width, y / height):
        assert image[int(y), int(x)] == 0


@settings(max_examples=200, deadline=None)
@given(several=st.lists(polygons, min_size=1, max_size=4), shape=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_the_filled_outlines_are_the_coverage(several: list[Points], shape: tuple[int, int]) -> None:
    """Overlapping polygons add up instead of cancelling out; colour and grey are alike."""
    several = [points for points in several if accepted(points)]
    height, width = shape
    colour = np.full((height, width, 3), 200, np.uint8)
    single = grey(height, width)
    blackout = Blackout(several)
    blackout.apply(colour)
    blackout.apply(single)
    touched = coverage(several, width, height) == 255
    assert ((colour == 0).all(axis=2) == touched).all()
    assert ((single == 0) == touched).all()


def test_a_mask_along_pixel_borders_takes_no_pixel_more() -> None:
    image = grey(8, 8)
    Blackout([[(0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0)]]).apply(image)
    assert (image[4:, 2:6] == 0).all()
    assert (image == 0).sum() == 16


def test_a_mask_smaller_than_a_pixel_still_hides_it() -> None:
    image = grey(10, 10)
    Blackout([[(0.55, 0.55), (0.551, 0.55), (0.55, 0.551)]]).apply(image)
    assert image[5, 5] == 0
    assert (image == 0).sum() == 1


def test_a_mask_as_flat_as_numbers_can_be_does_no_harm() -> None:
    flat = [(0.0, 0.0), (0.0, 5e-324), (1.0, 0.0)]
    assert coverage([flat], 4, 4)[1:].sum() == 0


def test_what_crosses_itself_is_hidden_in_the_middle_too() -> None:
    star = [(0.5 + 0.5 * math.sin(i * 0.8 * math.pi), 0.5 - 0.5 * math.cos(i * 0.8 * math.pi)) for i in range(5)]
    image = grey(50, 50)
    Blackout([star]).apply(image)
    assert image[25, 25] == 0


def test_each_resolution_is_masked_also_in_turn() -> None:
    blackout = Blackout([CORNER, [(0.5, 0.5), (2.0, 0.5), (2.0, 2.0), (0.5, 2.0)]])
    for _ in range(2):
        for height, width in ((576, 768), (72, 96), *((10 + i, 20) for i in range(9))):
            image = grey(height, width)
            blackout.apply(image)
            assert (image[height // 2 :, width // 2 :] == 0).all()
            assert image[0, int(width * 0.25)] == 0
            assert image[-1, 0] == 200


def test_no_array_is_made_for_later_pictures() -> None:
    blackout, image = Blackout([CORNER]), np.full((288, 384, 3), 200, np.uint8)
    blackout.apply(image)
    tracemalloc.start()
    try:
        for _ in range(20):
            blackout.apply(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4096


def test_no_polygons_no_mask() -> None:
    image = grey(4, 4)
    Blackout([]).apply(image)
    assert (image == 200).all()
    Blackout([CORNER]).apply(np.zeros((0, 4), np.uint8))


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "at least 3 points"),
        ([(0, 0), (1, 1)], "at least 3 points, this one has 2"),
        ([(0, 0), (1, 1), (1,)], "point 3 has 1 numbers"),
        ([(0, 0), (1, math.nan), (1, 0)], "point 2 is not finite"),
        ([(0, 0), (math.inf, 0), (1, 0)], "point 2 is not finite"),
        ([(0, 0), (640, 0), (640, 480)], "not pixels"),
        ([(0, 0), (0.5, 0.5), (1, 1)], "no area"),
        ([(0.3, 0.1), (0.3, 0.1), (0.3, 0.1)], "no area"),
        ([(0, 0.5), (1, 0.5), (0.2, 0.5)], "no area"),
        ([(0.1, 0.1), (0.9, 0.1), (0.5, 0.9), (0.9, 0.1)], "no area"),
        ([(1.1, 0), (1.5, 0), (1.5, 1)], "outside the frame"),
        ([(1, 0), (1.5, 0), (1.5, 1), (1, 1)], "outside the frame"),
        ([(-1, 0.5), (0.5, 2.1), (-1, 2)], "outside the frame"),
        ([(-1, -1), (-0.5, -1), (-0.5, 1.5), (2, 1.5), (2, 2), (-1, 2)], "outside the frame"),
    ],
)
def test_refuses_with_the_reason(points: Points, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_polygon(points)
    with pytest.raises(ValueError, match=reason):
        Blackout([points])


@pytest.mark.parametrize(
    "points",
    [
        CORNER,
        [(-1, -1), (3, -1), (3, 3), (-1, 3)],
        [(0, 0), (1, 1), (1, 0), (0, 1)],
        [(-0.5, 0.4), (1.5, 0.4), (1.5, 0.6), (-0.5, 0.6)],
        [(0.1, 0.1), (0.1, 0.1), (0.9, 0.1), (0.5, 0.9)],
    ],
)
def test_takes_what_hides_something(points: Points) -> None:
    check_polygon(points)
    assert coverage([points], 40, 30).any()


@pytest.mark.parametrize(
    "image",
    [
        np.ones((8, 8), np.float32),
        np.ones((8, 8, 4), np.uint8),
        np.ones(8, np.uint8),
        np.ones((8, 16), np.uint8)[:, ::2],
    ],
)
def test_never_passes_a_picture_on_that_it_cannot_mask(image: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Blackout([CORNER]).apply(image)  # type: ignore[arg-type]


def test_never_passes_on_a_picture_that_may_not_be_written() -> None:
    image = grey(8, 8)
    image.flags.writeable = False
    with pytest.raises(ValueError, match="not writable"):
        Blackout([CORNER]).apply(image)
