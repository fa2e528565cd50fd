from __future__ import annotations

from typing import Literal

import pytest

from edgerun.errors import ModelError
from edgerun.infer.content import check_content


@pytest.mark.parametrize(("kind", "named"), [("onnx", "not an ONNX model"), ("tflite", "not a TensorFlow Lite model")])
def test_what_it_is_not(kind: Literal["tflite", "onnx"], named: str) -> None:
    with pytest.raises(ModelError, match=f"^m: {named}; expected .*; got text"):
        check_content(b"<!DOCTYPE html>", kind, "m")
