"""Where the time of a model goes, op by op."""

from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ConfigError, EngineError, MissingError, ModelError
from edgerun.infer.profile import op_profile
from edgerun.ports import EngineContext
from tests.infer.onnx_models import quantised_convolution
from tests.real_models import model_file

SPEECH = [np.zeros((1, 512), np.float32), np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)]


def test_every_op_is_counted_once_a_run_slowest_first() -> None:
    ops = op_profile("onnx", EngineContext(model_file("silero_vad.onnx"), "vad"), SPEECH, 5)
    assert {op.calls for op in ops} == {5}
    assert {"Conv", "LSTM"} & {op.kind for op in ops}
    assert all(op.name and op.total_ms >= 0 for op in ops)
    assert [op.total_ms for op in ops] == sorted((op.total_ms for op in ops), reverse=True)


def test_a_runtime_without_a_profiler_says_so() -> None:
    context = EngineContext(model_file("visual_wake_words.tflite"), "vww")
    with pytest.raises(MissingError, match=r"vww: the tflite engine has no per-op profile; .*benchmark_model"):
        op_profile("tflite", context, [], 1)
    with pytest.raises(MissingError, match="the teapot engine"):
        op_profile("teapot", context, [], 1)


def test_what_cannot_be_profiled_is_an_error_of_the_tree() -> None:
    with pytest.raises(ConfigError, match="one run at least"):
        op_profile("onnx", EngineContext(quantised_convolution(), "q"), [], 0)
    with pytest.raises(ModelError):
        op_profile("onnx", EngineContext(b"\0" * 600, "q"), [], 1)
    with pytest.raises(EngineError):
        op_profile("onnx", EngineContext(quantised_convolution(), "q"), [np.zeros(3, np.uint8)], 1)
