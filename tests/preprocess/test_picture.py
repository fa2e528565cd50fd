"""The preprocessor equals a scalar reference over layouts, types, fits, colours and odd sizes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgerun.errors import FrameError, ModelError
from edgerun.preprocess import PicturePreprocess
from edgerun.preprocess.fit import place
from edgerun.types import TensorSpec
from tests.preprocess.reference import tensor_of

DTYPES = ("float32", "float16", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64")
NORMALISATIONS = (
    ((0.0,), (1.0,)),
    ((0.0,), (255.0,)),
    ((127.5,), (127.5,)),
    ((127.0,), (128.0,)),
    ((128.0,), (1.0,)),
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_same(tensor: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    assert tensor.dtype == expected.dtype
    assert tensor.shape == expected.shape
    if tensor.dtype == np.float32:
        # The fused float path rounds intermediate values; the largest of them is about the table's largest.
        largest = max(1.0, float(np.abs(expected).max()))
        assert np.abs(tensor - expected).max() <= 16 * np.finfo(np.float32).eps * largest
    else:
        assert (tensor == expected).all()


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_equals_the_scalar_reference(data: st.DataObject) -> None:
    layout, color = data.draw(st.sampled_from(("NHWC", "NCHW"))), data.draw(st.sampled_from(("RGB", "BGR", "GRAY")))
    fit = data.draw(st.sampled_from(("stretch", "letterbox", "crop")))
    dtype = data.draw(st.sampled_from(DTYPES))
    mean, std = data.draw(st.sampled_from(NORMALISATIONS))
    channels = 1 if color == "GRAY" else 3
    if len(mean) > channels:
        mean, std = mean[:1], std[:1]
    width, height = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    shape = (1, height, width, channels) if layout == "NHWC" else (1, channels, height, width)
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    if dtype in ("uint8", "int8", "int16") and data.draw(st.booleans()):
        scale = (data.draw(st.sampled_from((0.012566016986966133, 1 / 127.5, 1 / 255, 0.0078125, 0.5, 1.0))),)
        zero = (data.draw(st.integers(-128, 127) if dtype == "int8" else st.integers(0, 255)),)
    spec = TensorSpec("x", shape, dtype, scale, zero)
    prepare = PicturePreprocess(spec, layout=layout, color=color, fit=fit, mean=mean, std=std).prepare
    for seed in range(2):  # the second picture of another size goes into the same buffers
        image = noise(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), seed)
        kept = image.copy()
        tensor, _ = prepare(image)
        assert_same(tensor, tensor_of(image, spec, layout, color, fit, mean, std))
        assert (image == kept).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_every_pixel_value_quantises_as_the_reference_does(dtype: str) -> None:
    """Over many scales and offsets, so that each of the fast ways to write bytes is taken and has to be right."""
    every = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    rng = np.random.default_rng(1)
    for _ in range(150):
        scale, zero = float(rng.choice([1 / 127.5, 1 / 255, 1.0, rng.uniform(0.002, 2)])), int(rng.integers(-128, 128))
        mean, std = float(rng.choice([0, 127, 127.5, 128])), float(rng.choice([1, 127.5, 128, 255]))
        spec = TensorSpec("x", (1, 16, 16, 3), dtype, (scale,), (zero + (128 if dtype == "uint8" else 0),))
        tensor, _ = PicturePreprocess(spec, color="BGR", mean=(mean,), std=(std,)).prepare(every)
        assert_same(tensor, tensor_of(every, spec, "NHWC", "BGR", "stretch", (mean,), (std,)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (7, 40000), (577, 769)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_extreme_sizes(height: int, width: int, fit: str) -> None:
    spec = TensorSpec("x", (1, 8, 12, 3), "uint8")
    image = noise(height, width)
    tensor, placement = PicturePreprocess(spec, fit=fit).prepare(image)  # type: ignore[arg-type]
    assert_same(tensor, tensor_of(image, spec, "NHWC", "RGB", fit, (0,), (1,)))
    assert placement.scale_x > 0
    assert placement.scale_y > 0


def test_a_real_size_through_the_vector_paths() -> None:
    image = noise(61, 83)
    for dtype, scale, zero in (("float32", (), ()), ("int8", (1 / 127.5,), (0,)), ("uint8", (0.0125660,), (131,))):
        spec = TensorSpec("x", (1, 33, 47, 3), dtype, scale, zero)
        tensor, _ = PicturePreprocess(spec, mean=(127.5,), std=(127.5,)).prepare(image)
        assert_same(tensor, tensor_of(image, spec, "NHWC", "RGB", "stretch", (127.5,), (127.5,)))


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    input_width=st.integers(1, 700),
    input_height=st.integers(1, 700),
    fit=st.sampled_from(("stretch", "letterbox", "crop")),
)
def test_the_placement_leads_back_to_the_picture(
    width: int, height: int, input_width: int, input_height: int, fit: str
) -> None:
    """The corners of the picture's part in the tensor are the corners of the part that was taken of the picture."""
    geometry = place(width, height, input_width, input_height, fit)  # type: ignore[arg-type]
    (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1), p = geometry.source, geometry.target, geometry.placement
    assert 0 <= sx0 < sx1 <= width
    assert 0 <= sy0 < sy1 <= height
    assert 0 <= tx0 < tx1 <= input_width
    assert 0 <= ty0 < ty1 <= input_height
    for tensor_x, frame_x in ((tx0, sx0), (tx1, sx1)):
        assert tensor_x / input_width * p.scale_x + p.shift_x == pytest.approx(frame_x / width, abs=1e-9)
    for tensor_y, frame_y in ((ty0, sy0), (ty1, sy1)):
        assert tensor_y / input_height * p.scale_y + p.shift_y == pytest.approx(frame_y / height, abs=1e-9)
    if fit == "letterbox":
        assert (tx1 - tx0, ty1 - ty0) in {(input_width, ty1 - ty0), (tx1 - tx0, input_height)}
        assert (sx1 - sx0, sy1 - sy0) == (width, height)


def test_a_letterboxed_mark_is_found_where_it_was() -> None:
    image = np.zeros((200, 400, 3), np.uint8)
    image[100:104, 300:304] = 255
    tensor, p = PicturePreprocess(TensorSpec("x", (1, 100, 100, 3), "uint8"), fit="letterbox").prepare(image)
    y, x = np.unravel_index(int(np.where(tensor == 114, 0, tensor)[0, :, :, 0].argmax()), (100, 100))
    assert ((x + 0.5) / 100 * p.scale_x + p.shift_x) * 400 == pytest.approx(302, abs=3)
    assert ((y + 0.5) / 100 * p.scale_y + p.shift_y) * 200 == pytest.approx(102, abs=3)


def test_the_letterbox_of_a_new_size_leaves_nothing_of_the_old() -> None:
    prepare = PicturePreprocess(TensorSpec("x", (1, 20, 20, 3), "uint8"), fit="letterbox").prepare
    prepare(np.full((40, 20, 3), 255, np.uint8))
    tensor, _ = prepare(np.full((20, 40, 3), 7, np.uint8))
    assert np.unique(tensor).tolist() == [7, 114]
    assert (tensor[0, :5] == 114).all()
    assert (tensor[0, 5:15] == 7).all()


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4), np.uint8), "got 4×4 uint8"),
        (np.zeros((4, 4, 4), np.uint8), "got 4×4×4 uint8"),
        (np.zeros((4, 4, 1), np.uint8), "got 4×4×1 uint8"),
        (np.zeros((0, 4, 3), np.uint8), "got 0×4×3 uint8"),
        (np.zeros((4, 4, 3), np.float32), "got 4×4×3 float32"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_what_is_not_a_colour_picture_fails_alone(image: NDArray[np.uint8], got: str, warm: bool) -> None:
    preprocess = PicturePreprocess(TensorSpec("x", (1, 8, 8, 3), "uint8"))
    if warm:
        preprocess.prepare(noise(4, 4))
    with pytest.raises(FrameError, match=got) as caught:
        preprocess.prepare(image)
    assert caught.value.reason == "preprocess"
    assert_same(preprocess.prepare(noise(8, 8))[0], noise(8, 8)[None, :, :, ::-1])


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (TensorSpec("x", (1, 3, 8, 8), "uint8"), {}, r"1×height×width×channels \(NHWC\) with 3 channels; got 1×3×8×8"),
        (TensorSpec("x", (1, 8, 8, 3), "uint8"), {"color": "GRAY"}, "with 1 channels"),
        (TensorSpec("x", (4, 8, 8, 3), "uint8"), {}, "got 4×8×8×3"),
        (TensorSpec("x", (1, -1, -1, 3), "uint8"), {}, r"got 1×\?×\?×3"),
        (TensorSpec("x", (1, 8, 8, 3), "uint8"), {"size": (8, 9)}, "8×9 pixels"),
        (TensorSpec("x", (1, 100), "float32"), {}, "got 1×100"),
        (TensorSpec("x", (1, 8, 8, 3), "uint8"), {"std": (0.0,)}, "std does not fit"),
        (TensorSpec("x", (1, 8, 8, 3), "uint8"), {"mean": (1.0, 2.0)}, "3 finite numbers"),
        (TensorSpec("x", (1, 8, 8, 3), "bool"), {}, "a float or integer type"),
        (TensorSpec("x", (1, 8, 8, 3), "int8", (1.0, 2.0, 3.0), (0, 0, 0)), {}, "per channel"),
    ],
)
def test_an_input_that_cannot_take_the_picture(spec: TensorSpec, options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PicturePreprocess(spec, **options)  # type: ignore[arg-type]


def test_open_sides_take_the_size_that_is_given() -> None:
    preprocess = PicturePreprocess(TensorSpec("x", (-1, 3, -1, -1), "float32"), size=(10, 6), layout="NCHW")
    assert preprocess.prepare(noise(4, 4))[0].shape == (1, 3, 6, 10)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8", "int32"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("mean", [(127.5,), (123.0, 116.0, 103.0)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_nothing_is_allocated_per_picture(dtype: str, layout: str, mean: tuple[float, ...], fit: str) -> None:
    """An array of the frame would be 27 kB, one of the tensor at least 7.5 kB, one of its plane 2.5 kB."""
    shape = (1, 50, 50, 3) if layout == "NHWC" else (1, 3, 50, 50)
    std = tuple(value / 2 for value in mean)
    preprocess = PicturePreprocess(
        TensorSpec("x", shape, dtype, (0.01,) if "int" in dtype else (), (0,) if "int" in dtype else ()),
        layout=layout,  # type: ignore[arg-type]
        fit=fit,  # type: ignore[arg-type]
        mean=mean,
        std=std,
    )
    image = noise(90, 100)
    first, _ = preprocess.prepare(image)
    tracemalloc.start()
    try:
        preprocess.prepare(image)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        again, _ = preprocess.prepare(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert again is first
    assert peak - before < 2000


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_region_is_prepared_like_a_picture_cut_to_it(data: st.DataObject) -> None:
    fit = data.draw(st.sampled_from(("stretch", "letterbox", "crop")))
    width, height = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    image = noise(height, width)
    preprocess = PicturePreprocess(TensorSpec("x", (1, 12, 10, 3), "uint8"), fit=fit, rows=2)
    # A hair inside, so that rounding does not touch the next pixel.
    region = ((left + 1e-6) / width, (top + 1e-6) / height, (right - 1e-6) / width, (bottom - 1e-6) / height)
    whole, outer = preprocess.prepare(image[top:bottom, left:right], row=0)
    part, inner = preprocess.prepare(image, region, row=1)
    assert (part == whole).all()
    assert preprocess.batch(2).shape == (2, 12, 10, 3)
    assert (preprocess.batch(2)[1] == part[0]).all()
    for at in (0.0, 0.5, 1.0):
        x = left + (at * outer.scale_x + outer.shift_x) * (right - left)
        y = top + (at * outer.scale_y + outer.shift_y) * (bottom - top)
        assert at * inner.scale_x + inner.shift_x == pytest.approx(x / width)
        assert at * inner.scale_y + inner.shift_y == pytest.approx(y / height)


@pytest.mark.parametrize("region", [(0.5, 0.0, 0.5, 1.0), (1.2, 0.0, 1.5, 1.0), (0.8, 0.1, 0.2, 0.9)])
def test_a_region_without_pixels_is_refused(region: tuple[float, float, float, float]) -> None:
    preprocess = PicturePreprocess(TensorSpec("x", (1, 8, 8, 3), "uint8"))
    with pytest.raises(FrameError, match="nothing of the picture"):
        preprocess.prepare(noise(10, 10), region)
