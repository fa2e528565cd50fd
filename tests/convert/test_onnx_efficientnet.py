"""EfficientNet-Lite0 on photographs that may be kept: what float is sure of, int8 says too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

from edgerun.convert.onnx.importing import read  # noqa: E402
from edgerun.convert.onnx.quantizer import OnnxOptions, OnnxQuantizer  # noqa: E402
from edgerun.convert.onnx.sessions import open_session  # noqa: E402
from edgerun.convert.parts import Sample  # noqa: E402
from tests.convert.efficientnet import SIZE, float_onnx  # noqa: E402
from tests.real_models import model_file  # noqa: E402

CALIBRATION = ("apple.jpg", "baboon.jpg", "fruits.jpg", "building.jpg", "butterfly.jpg", "coffee.png", "home.jpg")
UNSEEN = ("astronaut.png", "chelsea.png", "rocket.jpg", "orange.jpg", "squirrel_cls.jpg", "motorcycle_left.png")


class Photographs:
    """`parts.Samples` of named pictures as the network sees them: RGB, (px−127)/128, channels first."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.source = ", ".join(names)
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        picture = cv2.imread(str(model_file(self._names[index])))
        assert picture is not None
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = cv2.resize(
            picture[top : top + side, left : left + side, ::-1], (SIZE, SIZE), interpolation=cv2.INTER_AREA
        )
        values = (square.astype(np.float32) - 127) / 128
        return Sample(self._names[index], {"input": np.ascontiguousarray(values.transpose(2, 0, 1)[None])})


def scores(model: bytes, samples: Photographs) -> np.ndarray:
    session = open_session(model, "test")
    return np.concatenate([session.run(None, dict(samples[at].inputs))[0] for at in range(len(samples))])


@pytest.mark.slow
def test_int8_says_what_float_says(tmp_path: Path) -> None:
    network = read(float_onnx(), tmp_path)
    quantizer = OnnxQuantizer(network, Photographs(CALIBRATION), OnnxOptions(), lambda *_: None)
    unseen = Photographs(UNSEEN)
    wanted = scores(network.path.read_bytes(), unseen)
    made = quantizer.build(frozenset())
    got = scores(made, unseen)
    sure = wanted.max(axis=1) > 0.5
    assert sure.sum() >= 3
    np.testing.assert_array_equal(got.argmax(axis=1)[sure], wanted.argmax(axis=1)[sure])
    assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()) > 20
    assert len(made) < 0.3 * network.path.stat().st_size
