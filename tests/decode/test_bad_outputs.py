"""Whatever numbers a model puts out, a decoder gives an answer that can be sent, or says why this frame has none."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.errors import FrameError
from edgerun.ports import Decoder
from edgerun.publish.wire import encode_result
from edgerun.types import Answer, Tensor
from tests.decode import drawing, heads
from tests.decode.test_garbage import CASES, WITHOUT_THRESHOLD
from tests.publish.samples import publication
from tests.schemas import validate

ODD = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0, 0.0, 1.0, -1.0, 0.5, 255.0, 1e9)
EVERY = sorted((set(CASES) | set(WITHOUT_THRESHOLD)) - {"ssd bundled", "classify bundled"})


@functools.cache
def made(case: str) -> tuple[Decoder, list[Tensor]]:
    return WITHOUT_THRESHOLD[case]() if case in WITHOUT_THRESHOLD else CASES[case](0.3)


def odd(raw: Tensor, seed: int, share: float) -> Tensor:
    """`raw` with some of its numbers, or all, replaced: by odd ones, by noise, or by its own in another order."""
    rng = np.random.default_rng(seed)
    raw = raw.copy()
    flat = raw.reshape(-1)
    at = rng.permutation(flat.size)[: max(1, round(share * flat.size))]
    kind = rng.integers(0, 3)
    if raw.dtype.kind != "f":
        limits = np.iinfo(raw.dtype)
        flat[at] = rng.integers(limits.min, limits.max + 1, len(at))
    elif kind == 0:
        flat[at] = rng.choice(np.array(ODD, np.float32), len(at))
    elif kind == 1:
        flat[at] = rng.normal(0, 10.0 ** rng.integers(-3, 38), len(at)).astype(np.float32)
    else:
        flat[at] = flat[rng.permutation(at)]
    return raw


@pytest.mark.parametrize("case", EVERY)
@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.001, 0.2, 1.0]), st.booleans(), drawing.placements)
def test_odd_numbers_give_an_answer_or_a_frame_error(
    case: str, seed: int, share: float, all_of_them: bool, placement: object
) -> None:
    decoder, outputs = made(case)
    chosen = seed % len(outputs)
    raw = [odd(one, seed + k, share) if all_of_them or k == chosen else one for k, one in enumerate(outputs)]
    check(decoder, raw, placement)


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (1, 3, 5), (1, 7, 7, 3)])
def test_another_shape_is_a_frame_error(case: str, shape: tuple[int, ...]) -> None:
    decoder, outputs = made(case)
    for at, one in enumerate(outputs):
        raw = list(outputs)
        raw[at] = np.full(shape, 0.9, np.float32).astype(one.dtype)
        check(decoder, raw, heads.STRETCH)


def check(decoder: Decoder, raw: Sequence[Tensor], placement: object) -> None:
    answer = decoded(decoder, raw, placement)
    if isinstance(answer, FrameError):
        assert answer.reason == "decode"
        assert "expected" in str(answer)
        return
    if answer.detections is not None:
        drawing.in_range(answer)
    message = encode_result(publication(answer=answer), "dock-7")
    validate("result", json.loads(message, parse_constant=_refuse))
    assert msgspec.json.decode(message)


def decoded(decoder: Decoder, raw: Sequence[Tensor], placement: object) -> Answer | FrameError:
    try:
        return decoder.decode(raw, placement)  # type: ignore[arg-type]
    except FrameError as error:
        return error


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
