"""Keras and SavedModel in: one float .tflite with a signature, a batch of one, and answers as TensorFlow gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the convert-tf extra is not installed", exc_type=ImportError)

from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from edgerun.convert.keras import Options, read  # noqa: E402
from edgerun.errors import ConfigError, ModelError  # noqa: E402

# Keras 3 and TensorFlow 2.21 warn of numpy's and their own future in every call.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


def _model(side: int | None = 16) -> Any:
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(4)
    return tf.keras.Sequential(
        [
            layers.Input((side, side, 3), name="picture"),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax", name="scores"),
        ]
    )


def test_a_keras_file_and_its_saved_model_come_out_alike_and_the_same_bytes_again(tmp_path: Path) -> None:
    model = _model()
    model.save(tmp_path / "net.keras")
    model.export(tmp_path / "net", verbose=False)
    first = read(tmp_path / "net.keras", tmp_path / "first")
    again = read(tmp_path / "net.keras", tmp_path / "again")
    folder = read(tmp_path / "net", tmp_path / "folder")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert "outputs differ by at most" in first.notes[0]
    for network in (first, folder):
        interpreter = Interpreter(str(network.path))
        assert list(interpreter.get_signature_list()) == ["serving_default"]
        assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 16, 16, 3]
    assert Interpreter(str(first.path)).get_signature_list()["serving_default"] == {
        "inputs": ["picture"],
        "outputs": ["output_0"],
    }


def test_a_trained_model_keeps_its_weights(tmp_path: Path) -> None:
    """Saved with its optimiser, it once came out with variables that nothing assigns: no answer was a number."""
    model = _model()
    model.compile("adam", "sparse_categorical_crossentropy")
    random = np.random.default_rng(0)
    pictures = random.random((64, 16, 16, 3), np.float32)
    model.fit(pictures, random.integers(0, 5, 64), verbose=0)
    model.save(tmp_path / "net.keras")
    network = read(tmp_path / "net.keras", tmp_path / "made")
    runner = Interpreter(str(network.path)).get_signature_runner()
    got = runner(picture=pictures[:1])["output_0"]
    np.testing.assert_allclose(got, model(pictures[:1], training=False).numpy(), atol=1e-4)
    assert "VAR_HANDLE" not in {one["op_name"] for one in Interpreter(str(network.path))._get_ops_details()}


def test_answers_that_are_no_numbers_are_no_match(tmp_path: Path) -> None:
    """A logarithm of what is below zero, in TensorFlow and in the file alike."""
    inputs = tf.keras.Input((4,), name="row")
    tf.keras.Model(inputs, tf.keras.ops.log(inputs - 2.0)).save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match="does not compute what the original does"):
        read(tmp_path / "net.keras", tmp_path / "made")


def test_open_sides_are_asked_for(tmp_path: Path) -> None:
    _model(None).save(tmp_path / "open.keras")
    with pytest.raises(ConfigError, match="sides of the input 'picture' are not known"):
        read(tmp_path / "open.keras", tmp_path)
    with pytest.raises(ConfigError, match="does not fit"):
        read(tmp_path / "open.keras", tmp_path, Options(shapes={"picture": (1, 20, 20, 4)}))
    network = read(tmp_path / "open.keras", tmp_path, Options(shapes={"picture": (1, 20, 24, 3)}))
    assert Interpreter(str(network.path)).get_input_details()[0]["shape"].tolist() == [1, 20, 24, 3]


def test_operators_that_tflite_has_not_are_named(tmp_path: Path) -> None:
    class Odd(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
        def serve(self, x: Any) -> Any:
            return {"y": tf.linalg.svd(tf.reshape(x, (2, 2)), compute_uv=False)}

    odd = Odd()
    tf.saved_model.save(odd, str(tmp_path / "odd"), signatures=odd.serve)
    with pytest.raises(ModelError, match=r"no operator for part of this model.*got Svd"):
        read(tmp_path / "odd", tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.keras").write_bytes(b"noise" * 99)
    with pytest.raises(ModelError, match="not a model that this Keras can load"):
        read(tmp_path / "noise.keras", tmp_path)
    with pytest.raises(ModelError, match="not a Keras model"):
        read(tmp_path / "gone.keras", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a SavedModel"):
        read(tmp_path / "empty", tmp_path)


def test_code_inside_a_file_is_not_run(tmp_path: Path) -> None:
    layers = tf.keras.layers
    inside = tf.keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x + 1)])
    inside.save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match="without Lambda layers"):
        read(tmp_path / "lambda.keras", tmp_path)
