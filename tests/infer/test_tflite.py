"""TFLite models: what is read of them, and which runtime runs them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from edgerun.errors import MissingError, ModelError
from edgerun.infer.runtime import _numpy_refusal, find_runtime, try_in_child
from edgerun.infer.tflite import Options, TfliteEngine, _remedy
from edgerun.ports import EngineContext
from tests.infer.fuzz_loaders import mutated
from tests.real_models import model_file

NUMPY_2 = int(np.__version__.partition(".")[0]) >= 2
INSTALLED = importlib.util.find_spec("tflite_runtime") is not None
USABLE = INSTALLED and not NUMPY_2


def open_file(name: str, runtime: str = "auto") -> TfliteEngine:
    return TfliteEngine(Options(runtime), EngineContext(model_file(name), name))  # type: ignore[arg-type]


def test_quantisation_and_shapes_are_read_from_the_model() -> None:
    engine = open_file("efficientnet_lite0_int8.tflite")
    (image,), (scores,) = engine.inputs, engine.outputs
    assert (image.name, image.shape, image.dtype) == ("images", (1, 224, 224, 3), "uint8")
    assert image.scale == (pytest.approx(0.012566016986966133),)
    assert image.zero_point == (131,)
    assert (scores.shape, scores.dtype, scores.scale, scores.zero_point) == ((1, 1000), "uint8", (1 / 256,), (0,))


def test_a_float_model_has_no_quantisation_and_an_open_batch_is_one() -> None:
    engine = open_file("visual_wake_words.tflite")
    assert engine.inputs[0].shape == (1, 96, 96, 3)
    assert engine.inputs[0].scale == engine.inputs[0].zero_point == ()


def test_auto_takes_litert_first() -> None:
    assert find_runtime().name == "litert"


def test_tflite_runtime_with_numpy_2_is_refused_before_it_is_used() -> None:
    reason = _numpy_refusal("tflite-runtime")
    if NUMPY_2:
        assert reason == f"built for numpy 1, but numpy {np.__version__} is installed"
    else:
        assert reason is None


@pytest.mark.skipif(USABLE, reason="tflite-runtime can be used here, so there is nothing to refuse")
def test_a_runtime_that_cannot_be_used_names_the_command() -> None:
    with pytest.raises(MissingError) as caught:
        open_file("visual_wake_words.tflite", "tflite-runtime")
    assert str(caught.value).endswith('pip install "edgerun[tflite-runtime]"')
    assert "the TFLite runtime tflite-runtime cannot be used" in str(caught.value)


@pytest.mark.skipif(not USABLE, reason="tflite-runtime needs numpy 1 and Python up to 3.11")
def test_a_model_that_kills_tflite_runtime_is_a_model_error() -> None:
    model = model_file("efficientnet_lite0_int8.tflite").read_bytes()
    runtime = find_runtime("tflite-runtime")
    with pytest.raises(ModelError, match=r"a crash \(SIG\w+\) when it was tried in a process of its own"):
        try_in_child(runtime, model[:5000], "a model")
    try_in_child(runtime, model_file("image_classification.tflite"), "a model")


@pytest.mark.skipif(not USABLE, reason="tflite-runtime needs numpy 1 and Python up to 3.11")
def test_both_runtimes_agree() -> None:
    """±1 of the output's last place on int8, both from the same inputs."""
    picture = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3), np.int8)
    ours, theirs = (
        open_file("image_classification.tflite", name).infer((picture,))[0].astype(int)
        for name in ("litert", "tflite-runtime")
    )
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("Encountered unresolved custom op: Foo2.See instructions: https://…", "the custom op Foo2, which"),
        ("Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'.", "FULLY_CONNECTED version 12 is newer"),
        ("anything else", "damaged"),
    ],
)
def test_the_remedy_fits_what_the_runtime_says(text: str, remedy: str) -> None:
    assert remedy in _remedy(text)


def test_a_custom_op_is_named() -> None:
    """The op of the Edge TPU compiler, put in the place of a builtin's code in a real model."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(model_file("image_classification.tflite").read_bytes())
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, b"edgetpu-custom-op"
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ModelError, match="the custom op edgetpu-custom-op"):
        TfliteEngine(Options("litert"), EngineContext(bytes(builder.Output()), "a model"))


def test_a_name_that_is_not_text_is_a_model_error() -> None:
    """Found by `fuzz_loaders`: the runtime opens the model and fails only when it is asked what its inputs are."""
    model = mutated(model_file("tflite_micro_magic_wand.tflite").read_bytes(), 4795)
    with pytest.raises(ModelError, match="cannot be described; got 'utf-8' codec can't decode"):
        TfliteEngine(Options("litert"), EngineContext(model, "a model"))
