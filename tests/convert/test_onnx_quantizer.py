"""Int8 ONNX of a network for Fashion-MNIST: as good as the float one, layer by layer as asked, the same every time."""

from __future__ import annotations

import collections
from pathlib import Path

import msgspec
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

from onnx import numpy_helper  # noqa: E402

from edgerun.convert.onnx.importing import read  # noqa: E402
from edgerun.convert.onnx.quantizer import MOST_SQNR_DB, OnnxOptions, OnnxQuantizer  # noqa: E402
from edgerun.convert.onnx.sessions import open_session  # noqa: E402
from edgerun.convert.parts import Network, Quantizer, Sample  # noqa: E402
from edgerun.errors import ConfigError, ModelError  # noqa: E402
from tests.convert import fashion  # noqa: E402

LAYERS = ["first", "depth", "wide", "side", "join", "pool", "out"]


def quiet(step: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("fashion")
    path = folder / "fashion.onnx"
    path.write_bytes(fashion.build().SerializeToString())
    return read(path, folder)


@pytest.fixture(scope="module")
def calibration() -> fashion.Fashion:
    return fashion.Fashion("train", 64, start=10_000)


@pytest.fixture(scope="module")
def unseen() -> fashion.Fashion:
    return fashion.Fashion("t10k", 1000)


@pytest.fixture(scope="module")
def quantizer(network: Network, calibration: fashion.Fashion) -> OnnxQuantizer:
    return OnnxQuantizer(network, calibration, OnnxOptions(), quiet)


def scores(model: bytes, samples: fashion.Fashion, count: int | None = None) -> np.ndarray:
    session = open_session(model, "test")
    many = range(count or len(samples))
    return np.concatenate([session.run(None, dict(samples[index].inputs))[0] for index in many])


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))


def ops(model: bytes) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load_model_from_string(model).graph.node)


def test_it_keeps_what_the_float_network_knows(
    quantizer: OnnxQuantizer, network: Network, unseen: fashion.Fashion
) -> None:
    made = quantizer.build(frozenset())
    wanted, got = (scores(model, unseen).argmax(axis=1) for model in (network.path.read_bytes(), made))
    original = float((wanted == unseen.labels).mean())
    assert original > 0.8
    assert float((got == unseen.labels).mean()) >= 0.99 * original
    assert float((got == wanted).mean()) >= 0.97
    assert len(made) < 0.4 * network.path.stat().st_size


def test_its_layers_are_those_of_the_graph(quantizer: OnnxQuantizer) -> None:
    as_protocol: Quantizer = quantizer
    found = {layer.name: layer for layer in as_protocol.layers}
    assert list(found) == LAYERS
    assert found["first"].macs == 28 * 28 * 16 * 25
    assert found["depth"].macs == 14 * 14 * 16 * 9
    assert found["out"].macs == fashion.WIDE * 49 * 10
    assert found["join"].macs == 0
    assert found["wide"].weights == fashion.WIDE * fashion.CHANNELS + fashion.WIDE


def test_activations_are_absorbed_and_the_scores_stay_float(quantizer: OnnxQuantizer) -> None:
    found = ops(quantizer.build(frozenset()))
    assert found["Relu"] == found["Clip"] == 0
    graph = onnx.load_model_from_string(quantizer.build(frozenset())).graph
    readers = {name: node.op_type for node in graph.node for name in node.input}
    logits = next(node.output[0] for node in graph.node if node.op_type == "Gemm")
    assert readers[logits] == "Softmax"


def test_kept_layers_are_float(quantizer: OnnxQuantizer, network: Network, unseen: fashion.Fashion) -> None:
    every = scores(quantizer.build(frozenset(LAYERS)), unseen, 50)
    wanted = scores(network.path.read_bytes(), unseen, 50)
    np.testing.assert_allclose(every, wanted, rtol=1e-4, atol=1e-6)
    some = onnx.load_model_from_string(quantizer.build(frozenset({"side", "out"})))
    held = {one.name for one in some.graph.initializer}
    assert {"side", "out"} <= held
    assert not {"first", "wide"} & held
    assert ops(some.SerializeToString())["Relu"] == 1


@pytest.mark.parametrize("kept", [{"wide"}, {"side"}, {"wide", "side"}, {"depth", "out"}])
def test_the_runtime_does_not_quantise_kept_layers_again(
    quantizer: OnnxQuantizer, network: Network, unseen: fashion.Fashion, tmp_path: Path, kept: set[str]
) -> None:
    made = quantizer.build(frozenset(kept))
    wanted = scores(network.path.read_bytes(), unseen, 200)
    noise = [sqnr_db(wanted, scores(model, unseen, 200)) for model in (quantizer.build(frozenset()), made)]
    assert noise[1] > noise[0] + 0.5
    open_session(made, "test", saved=(tmp_path / "seen.onnx", "ONNX"))
    seen = onnx.load_model(str(tmp_path / "seen.onnx")).graph
    left = [one for one in seen.initializer if one.name in kept and one.data_type == onnx.TensorProto.FLOAT]
    assert len(left) == len(kept)


def test_more_float_layers_give_less_noise(quantizer: OnnxQuantizer, network: Network, unseen: fashion.Fashion) -> None:
    wanted = scores(network.path.read_bytes(), unseen, 100)
    kept = [frozenset(LAYERS[:count]) for count in (0, 4, 6)]
    noise = [sqnr_db(wanted, scores(quantizer.build(names), unseen, 100)) for names in kept]
    assert noise == sorted(noise)


def test_a_name_that_is_no_layer_is_refused(quantizer: OnnxQuantizer) -> None:
    with pytest.raises(ConfigError, match=r"no such layer.*got softmax"):
        quantizer.build(frozenset({"softmax"}))


def test_two_builds_are_equal_bit_for_bit(
    quantizer: OnnxQuantizer, network: Network, calibration: fashion.Fashion
) -> None:
    again = OnnxQuantizer(network, calibration, OnnxOptions(), quiet)
    kept = frozenset({"wide"})
    assert quantizer.build(kept) == quantizer.build(kept) == again.build(kept)


def test_sensitivity_names_the_layer_that_was_spoilt(
    network: Network, calibration: fashion.Fashion, tmp_path: Path
) -> None:
    model = onnx.load_model(str(network.path))
    for tensor in model.graph.initializer:
        if tensor.name == "side":  # one weight a channel that takes all of its 8 bits, on an input channel of next to 0
            values = numpy_helper.to_array(tensor).copy()
            values[:, 0, 0, 0] = 60
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        if tensor.name in ("wide", "wide_bias"):
            values = numpy_helper.to_array(tensor).copy()
            values[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "spoilt.onnx"
    path.write_bytes(model.SerializeToString())
    spoilt = OnnxQuantizer(Network(path, "onnx"), calibration, OnnxOptions(), quiet)
    found = spoilt.sensitivity(fashion.Fashion("train", 8, start=20_000), quiet)
    assert list(found) == LAYERS
    assert min(found, key=lambda name: found[name]) == "side"
    assert all(0 < one <= MOST_SQNR_DB for one in found.values())


@pytest.mark.parametrize(
    ("method", "least"), [("minmax", 0.82), ("average", 0.8), ("percentile", 0.82), ("entropy", 0.6), ("mse", 0.82)]
)
def test_every_method_keeps_the_network_useful(
    network: Network, calibration: fashion.Fashion, unseen: fashion.Fashion, method: str, least: float
) -> None:
    """The pictures' black background is one value in each channel, a peak that draws the entropy's cut towards it."""
    options = msgspec.convert({"method": method}, OnnxOptions)
    made = OnnxQuantizer(network, calibration, options, quiet).build(frozenset())
    right = scores(made, unseen, 400).argmax(axis=1) == unseen.labels[:400]
    assert float(right.mean()) > least


def test_bias_correction_brings_the_means_back(
    network: Network, calibration: fashion.Fashion, unseen: fashion.Fashion
) -> None:
    """Of the logits, which the softmax reads: the mean over many pictures is nearer to that of the float network."""

    def means(correct: bool) -> np.ndarray:
        quantizer = OnnxQuantizer(network, calibration, OnnxOptions(bias_correction=correct), quiet)
        return logits(quantizer.build(frozenset()))

    def logits(model: bytes) -> np.ndarray:
        opened = onnx.load_model_from_string(model)
        name = next(node.input[0] for node in opened.graph.node if node.op_type == "Softmax")
        opened.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 10]))
        session = open_session(opened.SerializeToString(), "test")
        return np.mean([session.run([name], dict(unseen[index].inputs))[0] for index in range(300)], axis=0)

    wanted = logits(network.path.read_bytes())
    without, corrected = np.abs(means(False) - wanted).mean(), np.abs(means(True) - wanted).mean()
    assert corrected < 0.7 * without


def test_equalising_saves_channels_of_unequal_range(
    network: Network, calibration: fashion.Fashion, unseen: fashion.Fashion, tmp_path: Path
) -> None:
    """The same function, but most channels of an activation use a twelfth of its range."""
    model = onnx.load_model(str(network.path))
    shrink = np.where(np.arange(fashion.CHANNELS) % 4 == 0, 1, 1 / 12).astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name in ("first", "first_bias", "depth"):
            values = numpy_helper.to_array(tensor)
            factors = shrink.reshape(-1, *[1] * (values.ndim - 1))
            values = values / factors if tensor.name == "depth" else values * factors
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "unequal.onnx"
    path.write_bytes(model.SerializeToString())
    wanted = scores(path.read_bytes(), unseen, 100)
    noise = {}
    for equal in (False, True):
        options = OnnxOptions(equalise=equal)
        quantizer = OnnxQuantizer(Network(path, "onnx"), calibration, options, quiet)
        noise[equal] = sqnr_db(wanted, scores(quantizer.build(frozenset()), unseen, 100))
        assert len(quantizer.notes) == equal
        float_again = scores(quantizer.build(frozenset(LAYERS)), unseen, 100)
        np.testing.assert_allclose(float_again, wanted, rtol=1e-3, atol=1e-4)
    assert noise[True] > noise[False] + 2


class _Few:
    """Samples of a given list."""

    source = "a few"

    def __init__(self, *inputs: dict[str, np.ndarray]) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"few #{index}", self._inputs[index])


def test_an_input_holds_the_range_it_is_given(network: Network, calibration: fashion.Fashion) -> None:
    options = OnnxOptions(input_ranges={"picture": (-1.0, 1.55)})
    made = onnx.load_model_from_string(OnnxQuantizer(network, calibration, options, quiet).build(frozenset()))
    held = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    assert float(held["picture_scale"]) == pytest.approx(0.01)
    assert int(held["picture_zero_point"]) == 100


def test_scores_joined_with_boxes_are_not_lost(tmp_path: Path) -> None:
    """As YOLO's exports end: boxes of 0..640 and scores of 0..1 in one tensor, which 8 bits cannot hold."""
    helper, chance = onnx.helper, np.random.default_rng(3)
    kind = onnx.TensorProto.FLOAT
    weights = {"box": chance.uniform(0, 300, (4, 2, 1, 1)), "class": chance.normal(size=(6, 2, 1, 1))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "box"], ["boxes"], "boxes"),
            helper.make_node("Conv", ["x", "class"], ["logits"], "logits"),
            helper.make_node("Sigmoid", ["logits"], ["scores"], "scores"),
            helper.make_node("Concat", ["boxes", "scores"], ["all"], "join", axis=1),
            helper.make_node("Reshape", ["all", "shape"], ["y"], "reshape"),
        ],
        "head",
        [helper.make_tensor_value_info("x", kind, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", kind, [1, 10, 16])],
        [
            *(numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()),
            numpy_helper.from_array(np.array([1, 10, 16], np.int64), "shape"),
        ],
    )
    path = tmp_path / "head.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    samples = _Few(*({"x": chance.uniform(0, 1, (1, 2, 4, 4)).astype(np.float32)} for _ in range(8)))
    quantizer = OnnxQuantizer(read(path, tmp_path), samples, OnnxOptions(), quiet)
    assert [layer.name for layer in quantizer.layers] == ["boxes", "logits"]
    wanted, got = (
        open_session(model, "test").run(None, dict(samples[0].inputs))[0]
        for model in (path.read_bytes(), quantizer.build(frozenset()))
    )
    np.testing.assert_allclose(got[:, 4:], wanted[:, 4:], atol=0.02)


def test_no_samples_are_refused(network: Network) -> None:
    with pytest.raises(ConfigError, match="nothing to calibrate with"):
        OnnxQuantizer(network, _Few(), OnnxOptions(), quiet)


@pytest.mark.parametrize(
    "inputs",
    [
        {"picture": np.zeros((1, 28, 28, 1), np.float32)},
        {"image": np.zeros((1, 1, 28, 28), np.float32)},
        {"picture": np.zeros((1, 1, 28, 28), np.uint8)},
    ],
)
def test_samples_that_do_not_fit_are_refused(network: Network, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="does not fit the model's input picture"):
        OnnxQuantizer(network, _Few(inputs), OnnxOptions(), quiet)


def test_values_that_are_not_finite_are_refused_by_name(network: Network) -> None:
    spoilt = np.zeros((1, 1, 28, 28), np.float32)
    spoilt[0, 0, 3, 3] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        OnnxQuantizer(network, _Few({"picture": spoilt}), OnnxOptions(), quiet)


def test_dynamic_quantisation_of_convolutions_is_refused(network: Network, calibration: fashion.Fashion) -> None:
    with pytest.raises(ModelError, match="4 to 13 times slower"):
        OnnxQuantizer(network, calibration, OnnxOptions(dynamic=True), quiet)


def test_a_network_without_weights_is_refused(calibration: fashion.Fashion, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["picture"], ["y"], "relu")],
        "empty",
        [value("picture", onnx.TensorProto.FLOAT, [1, 1, 28, 28])],
        [value("y", onnx.TensorProto.FLOAT, [1, 1, 28, 28])],
    )
    path = tmp_path / "empty.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"nothing that 8 bits would help.*got Relu"):
        OnnxQuantizer(Network(path, "onnx"), calibration, OnnxOptions(), quiet)


def test_what_watches_can_end_the_work(network: Network, calibration: fashion.Fashion) -> None:
    seen: list[tuple[int, int]] = []

    def stop(step: str, done: int, total: int) -> None:
        seen.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OnnxQuantizer(network, calibration, OnnxOptions(), stop)
    assert seen == [(done, 64) for done in range(6)]
