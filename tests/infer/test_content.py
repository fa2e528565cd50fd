from __future__ import annotations

from typing import Literal

import pytest

from edgerun.errors import ModelError
from edgerun.infer.content import check_content, refuse_huge


@pytest.mark.parametrize(("kind", "named"), [("onnx", "not an ONNX model"), ("tflite", "not a TensorFlow Lite model")])
def test_what_it_is_not(kind: Literal["tflite", "onnx"], named: str) -> None:
    with pytest.raises(ModelError, match=f"^m: {named}; expected .*; got text"):
        check_content(b"<!DOCTYPE html>", kind, "m")


def test_a_huge_declared_shape_is_refused_before_memory_is_taken() -> None:
    refuse_huge([("x", (1, 300, 300, 3), 4), ("open", (-1, 64, 0), 8)], "m")
    with pytest.raises(ModelError, match=r"^m: .* too large .*; got 12.0 GiB for 'y', 32768×64×64×24\. "):
        refuse_huge([("x", (1,), 4), ("y", (32768, 64, 64, 24), 4)], "m")
