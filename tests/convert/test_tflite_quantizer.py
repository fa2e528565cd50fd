"""Quantising small nets for real: what is written, what it answers, and that each repair does what it claims."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("litert_quantizer", reason="the convert extra is not installed: pip install 'edgerun[convert]'")

from edgerun.convert.parts import Layer, Quantizer
from edgerun.convert.tflite.casting import fp16, plain
from edgerun.convert.tflite.graph import Graph
from edgerun.convert.tflite.plan import WEIGHTS, ranked
from edgerun.convert.tflite.quantizer import QuantizerOptions, TfliteQuantizer, sqnr_db
from edgerun.errors import ModelError
from tests.convert.tflite_nets import INPUT, Writer, pictures, run, saved, small_net


def _silent(step: str, done: int, of: int) -> None:
    pass


def _quantizer(folder: Path, writer: Writer | None = None, **options: object) -> TfliteQuantizer:
    network = saved(writer or small_net(), folder)
    return TfliteQuantizer(network, pictures(24), QuantizerOptions(**options), _silent)  # type: ignore[arg-type]


def _kinds(content: bytes) -> dict[str, str]:
    """Layer → dtype of its weights and of its output."""
    graph = Graph(content, "test")
    return {
        graph.layer(op).removesuffix(
            "_quantized"
        ): f"{graph.dtype(int(op.inputs[1]))}→{graph.dtype(int(op.outputs[0]))}"
        for op in graph.ops
        if graph.kind(op) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    }


def test_everything_int8_answers_like_the_float_model(tmp_path: Path) -> None:
    quantizer: Quantizer = _quantizer(tmp_path)
    content = quantizer.build(frozenset())
    assert set(_kinds(content).values()) == {"int8→int8"}
    graph = Graph(content, "test")
    assert graph.dtype(int(graph.main.inputs[0])) == "int8"
    assert [graph.name(int(i)) for i in graph.main.outputs] == ["scores"]
    assert graph.dtype(int(graph.main.outputs[0])) == "float32"
    error = np.abs(run(content, pictures(8, 9)) - run(small_net().bytes(), pictures(8, 9)))
    assert error.max() < 0.06


def test_weights_have_one_scale_per_output_channel(tmp_path: Path) -> None:
    graph = Graph(_quantizer(tmp_path).build(frozenset()), "test")
    for op in graph.ops:
        if graph.kind(op) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            stated = graph.scales(int(op.inputs[1]))
            assert stated is not None
            assert len(stated[0]) == graph.shape(int(op.outputs[0]))[-1]


def test_a_layer_steps_up_from_int8_to_dynamic_to_float16(tmp_path: Path) -> None:
    quantizer = _quantizer(tmp_path, half=True)
    assert [layer.name for layer in quantizer.layers][:3] == ["conv", "conv" + WEIGHTS, "depth"]
    assert "scores" not in {layer.name for layer in quantizer.layers}  # a softmax at the end is float in any case
    dynamic = quantizer.build(frozenset({"left"}))
    assert _kinds(dynamic)["left"] == "int8→float32"
    assert _kinds(dynamic)["right"] == "int8→int8"
    assert quantizer.build(frozenset({"left" + WEIGHTS})) == quantizer.build(frozenset())  # no step up by itself
    kept = frozenset({"left", "left" + WEIGHTS, "depth"})
    content = quantizer.build(kept)
    assert _kinds(content)["depth"] == "float32→float32"
    assert quantizer.precisions(kept)["both"] == "float32"  # an addition of float and int8 is one of floats
    error = np.abs(run(content, pictures(8, 9)) - run(small_net().bytes(), pictures(8, 9))).max()
    assert error < 0.06


def test_keeping_everything_gives_the_float_answers(tmp_path: Path) -> None:
    quantizer = _quantizer(tmp_path, half=False)
    content = quantizer.build(frozenset(layer.name for layer in quantizer.layers))
    np.testing.assert_allclose(run(content, pictures(4)), run(small_net().bytes(), pictures(4)), atol=1e-5)


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    kept = frozenset({"left"})
    one = _quantizer(tmp_path).build(kept)
    assert _quantizer(tmp_path).build(kept) == one


def test_the_constants_of_dead_channels_survive_int8(tmp_path: Path) -> None:
    writer = small_net(dead=4)
    quantizer = _quantizer(tmp_path, writer)
    alive = run(quantizer.build(frozenset()), pictures(8, 9))
    wanted = run(writer.bytes(), pictures(8, 9))
    assert np.abs(alive - wanted).max() < 0.06


def test_sensitivity_ranks_a_ruined_layer_first(tmp_path: Path) -> None:
    writer = small_net()
    number = next(i for i, t in enumerate(writer.graph.tensors) if t.name == b"depth/weights")
    graph = Graph(writer.bytes(), "test")
    weights = graph.constant(number)
    assert weights is not None
    weights[0, 0, 0, :] *= 400  # one corner tap needs the whole range of every channel
    writer.model.buffers[writer.graph.tensors[number].buffer].data = np.frombuffer(weights.tobytes(), np.uint8)
    quantizer = _quantizer(tmp_path, writer)
    told: list[tuple[int, int]] = []
    found = quantizer.sensitivity(pictures(4, 5), lambda step, done, of: told.append((done, of)))
    assert set(found) == {layer.name for layer in quantizer.layers}
    assert told[-1] == (len(found), len(found))
    assert all(np.isfinite(value) for value in found.values())
    assert min(found, key=lambda name: found[name]) == "depth"
    assert found["left" + WEIGHTS] > found["left"]  # float activations cost less than int8 ones


def test_the_order_weighs_noise_against_cost() -> None:
    layers = [
        Layer("large", "CONV_2D", 1000, 0),
        Layer("large" + WEIGHTS, "CONV_2D", 0, 9000),
        Layer("small", "CONV_2D", 1000, 0),
        Layer("small" + WEIGHTS, "CONV_2D", 0, 10),
        Layer("depth", "DEPTHWISE_CONV_2D", 10, 90),
    ]
    noise = dict.fromkeys((layer.name for layer in layers), 40.0)
    order = ranked(layers, noise)
    assert sorted(order) == sorted(noise)
    assert order[0] == "depth"  # as noisy as the others, and next to free
    assert order.index("small" + WEIGHTS) < order.index("large" + WEIGHTS)
    # where float activations alone take nothing out, both steps are taken together
    assert order.index("small") + 1 == order.index("small" + WEIGHTS)
    noise["large" + WEIGHTS] = 70.0
    assert ranked(layers, noise)[-1] == "large" + WEIGHTS


@pytest.mark.parametrize("method", ["minmax", "average", "percentile", "entropy", "mse"])
def test_every_way_to_choose_ranges_gives_a_model_that_works(tmp_path: Path, method: str) -> None:
    content = _quantizer(tmp_path, ranges=method).build(frozenset())
    error = np.abs(run(content, pictures(8, 9)) - run(small_net().bytes(), pictures(8, 9)))
    assert error.mean() < 0.03


def test_an_inputs_range_may_be_stated(tmp_path: Path) -> None:
    content = _quantizer(tmp_path, input_ranges={INPUT: (-128 / 127.5, 127 / 127.5)}).build(frozenset())
    graph = Graph(content, "test")
    stated = graph.scales(int(graph.main.inputs[0]))
    assert stated is not None
    assert stated[0][0] == pytest.approx(1 / 127.5)
    assert stated[1][0] == 0


def test_fp16_halves_the_weights_and_plain_is_the_float_model(tmp_path: Path) -> None:
    writer = small_net()
    network = saved(writer, tmp_path)
    half, full = fp16(network), plain(network)
    np.testing.assert_allclose(run(half, pictures(4)), run(writer.bytes(), pictures(4)), atol=2e-3)
    np.testing.assert_array_equal(run(full, pictures(4)), run(writer.bytes(), pictures(4)))
    graph = Graph(half, "test")
    assert "float16" in {graph.dtype(i) for i in range(len(graph.main.tensors))}


def test_unknown_layers_and_unusable_calibration_are_refused(tmp_path: Path) -> None:
    quantizer = _quantizer(tmp_path)
    with pytest.raises(ModelError, match=r"unknown layers.*nothing_like_it"):
        quantizer.build(frozenset({"nothing_like_it"}))
    network = saved(small_net(), tmp_path)
    with pytest.raises(ModelError, match="nothing to calibrate on"):
        TfliteQuantizer(network, pictures(0), None, _silent)
    broken = pictures(2)
    broken[1].inputs[INPUT][0, 0, 0, 0] = np.nan  # type: ignore[index]
    with pytest.raises(ModelError, match="no finite numbers"):
        TfliteQuantizer(network, broken, None, _silent)
    wrong = pictures(1)
    wrong[0] = type(wrong[0])("wrong", {INPUT: np.zeros((1, 8, 8, 3), np.float32)})
    with pytest.raises(ModelError, match=r"wrong: a sample does not fit"):
        TfliteQuantizer(network, wrong, None, _silent)


def test_an_operator_without_an_int8_form_stays_float_and_is_named(tmp_path: Path) -> None:
    writer = small_net()
    out = writer.tensor("rounded", (1, 5))
    writer.op("FLOOR", [writer.graph.outputs[0]], [out])
    writer.graph.outputs = [out]
    quantizer = _quantizer(tmp_path, writer)
    assert quantizer.refused == {"rounded": "FLOOR"}
    assert _kinds(quantizer.build(frozenset()))["conv"] == "int8→int8"
    with pytest.raises(ModelError, match=re.escape("rounded (FLOOR)")):
        _quantizer(tmp_path, writer, target="edgetpu")


def test_sqnr_of_a_known_noise() -> None:
    random = np.random.default_rng(0)
    wanted = [[random.standard_normal((100, 3)).astype(np.float32)] for _ in range(10)]
    noisy = [[one[0] + random.standard_normal((100, 3)).astype(np.float32) * 0.1] for one in wanted]
    assert sqnr_db(wanted, noisy) == pytest.approx(20, abs=0.5)
    assert sqnr_db(wanted, wanted) == 120
