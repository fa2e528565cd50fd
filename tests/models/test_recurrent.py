"""Which outputs go back into which inputs is told by names, shapes and types together, or not at all."""

from __future__ import annotations

import msgspec
import pytest

from edgerun.errors import ModelError
from edgerun.models import load, recurrence
from edgerun.models.recurrent import find_state, plan
from edgerun.models.structure import Signature, Structure
from edgerun.types import TensorSpec
from tests.real_models import model_file

STATE = (2, -1, 128)


def file(inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]], dtype: str = "float32") -> Structure:
    return Structure(
        tuple(TensorSpec(name, shape, "float32") for name, shape in inputs.items()),
        tuple(TensorSpec(name, shape, dtype) for name, shape in outputs.items()),
    )


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("h0", "hn"),
        ("hidden_in", "hidden_out"),
        ("in_state", "new_state"),
        ("state_in_0", "state_out_0"),
        ("past_kv", "present_kv"),
        ("prevCache", "nextCache"),
        ("serving_default_state:0", "state:0"),
    ],
)
def test_pairs_by_name(given: str, out: str) -> None:
    assert find_state(file({"x": (1, 8), given: STATE}, {"y": (1, 8), out: (-1, -1, -1)})) == ((given, out),)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"input": (1, 8), "other": (1,)}, {"output": (1, 8), "z": (1,)}),
        ({"x": (1, 8), "image": (1, 8)}, {"y": (1,), "image_out": (1, 8)}),
        ({"x": (1,), "state": STATE}, {"y": (1,), "stateN": (3, -1, 128)}),
        ({"x": (1,), "state": STATE}, {"y": (1,), "stateN": (2, 128)}),
        ({"x": (1,), "state": STATE}, {"y": (1,), "state_out": STATE, "new_state": STATE}),
        ({"state": STATE}, {"y": (1,), "stateN": STATE}),
        ({"x": (1,), "state": STATE}, {"stateN": STATE}),
    ],
)
def test_what_leaves_a_doubt_is_not_paired(
    inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]
) -> None:
    assert find_state(file(inputs, outputs)) == ()


def test_another_type_is_no_pair() -> None:
    assert find_state(file({"x": (1,), "h": STATE}, {"y": (1,), "hn": STATE}, "float16")) == ()


def test_a_signature_names_what_the_tensors_do_not() -> None:
    made = msgspec.structs.replace(
        file({"a:0": (1,), "b:0": STATE}, {"Call:0": STATE, "Call:1": (1,)}),
        signatures=(Signature("serving_default", {"x": 0, "h": 1}, {"h_out": 0, "y": 1}),),
    )
    pairs = find_state(made)
    assert pairs == (("h", "h_out"),)
    assert plan(made, pairs, {}, {}, "m").state == ((1, 0),)


@pytest.mark.parametrize(
    ("state", "constants", "shapes", "message"),
    [
        (
            [("nope", "hn")],
            {},
            {},
            "state names a tensor that the model does not have; expected one of x, h; got 'nope'",
        ),
        ([("h", "nope")], {}, {}, "expected one of y, hn; got 'nope'"),
        ([], {"nope": 1}, {}, "constants names a tensor"),
        ([], {}, {"h": (3, 1, 128)}, "shapes gives input 'h' a shape it cannot have; expected 2×.×128; got 3×1×128"),
        ([], {}, {"h": (2, 1)}, "a shape it cannot have"),
        ([("h", "hn")], {"h": 0}, {}, "used twice"),
        ([("h", "hn")], {"x": 0}, {}, "leave no input"),
    ],
)
def test_a_manifest_that_does_not_fit(
    state: list[tuple[str, str]], constants: dict[str, int], shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    made = file({"x": (1, -1), "h": STATE}, {"y": (1,), "hn": STATE})
    with pytest.raises(ModelError, match=message):
        plan(made, state, constants, shapes, "m")


def test_silero_is_known_and_its_names_alone_would_do() -> None:
    bundle = load(model_file("silero_vad.onnx"))
    found = recurrence(bundle)
    assert (found.state, found.constants, found.variables, found.stateful) == (((1, 1),), {2: 16000}, False, True)
    assert found.shapes == {0: (1, 576), 1: (2, 1, 128)}
    assert bundle.main.structure is not None
    assert find_state(bundle.main.structure) == (("state", "stateN"),)


def test_a_plain_model_is_run_as_it_is() -> None:
    assert recurrence(load(model_file("image_classification.tflite"))).plain
