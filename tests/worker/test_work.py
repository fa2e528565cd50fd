"""Requests and answers on the wire: what is sent, and that nothing that comes can do harm."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import FrameError
from edgerun.infer.work import (
    MOST_ANSWER_BYTES,
    Ask,
    Packer,
    Refusal,
    Told,
    encode,
    level,
    read_ask,
    read_told,
    shared_filter,
    unpack_tensor,
    work_topic,
)
from edgerun.types import Answer, Detection

ASK = Ask("a" * 64, "b" * 16, "tensor", (1, 2, 2, 3), "uint8", bytes(12), 0.5, 5, (1.0, 0.0, 1.0, 0.0), 250.0)
ONE = Detection("person", 0, 0.9, (0.1, 0.2, 0.3, 0.4))


def told(**changed: Any) -> Told:
    return Told("w1", "a" * 64, answer=Answer(detections=(msgspec.structs.replace(ONE, **changed),)))


def test_both_come_back_as_they_went() -> None:
    assert read_ask(encode(ASK)) == ASK
    assert read_told(encode(told())) == told()
    refused = Told("w1", "a" * 64, refusal=Refusal("late", "too late"))
    assert read_told(encode(refused)) == refused


@given(st.binary(max_size=200))
def test_garbage_is_an_error_of_the_frame(payload: bytes) -> None:
    for read in (read_ask, read_told):
        with pytest.raises(FrameError):
            read(payload)


@given(st.data())
def test_a_damaged_message_is_read_or_refused(data: st.DataObject) -> None:
    for message, read in ((encode(ASK), read_ask), (encode(told()), read_told)):
        raw = bytearray(message)
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(FrameError):
            read(bytes(raw))


@pytest.mark.parametrize(
    "changed",
    [
        {"score": math.nan},
        {"score": 1.5},
        {"box": (0.1, 0.2, math.inf, 0.4)},
        {"box": (0.5, 0.2, 0.3, 0.4)},
        {"box": (-3.0, 0.2, 0.3, 0.4)},
        {"class_id": -1},
    ],
    ids=str,
)
def test_numbers_that_no_decoder_gives_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match="answer"):
        read_told(encode(told(**changed)))


def test_an_answer_without_end_is_not_even_read() -> None:
    with pytest.raises(FrameError, match="too long"):
        read_told(bytes(MOST_ANSWER_BYTES + 1))


@pytest.mark.parametrize(
    "changed",
    [{"threshold": math.nan}, {"threshold": -1.0}, {"top_k": 0}, {"patience_ms": math.inf}, {"v": 2}],
    ids=str,
)
def test_senseless_requests_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match="request"):
        read_ask(encode(msgspec.structs.replace(ASK, **changed)))


def test_a_tensor_must_be_the_models_own() -> None:
    assert unpack_tensor(ASK, (1, 2, 2, 3), "uint8").shape == (1, 2, 2, 3)
    for wrong in ({"shape": (1, 3, 2, 2)}, {"dtype": "int8"}, {"data": bytes(11)}, {"shape": (1, 2, 2, 2**40)}):
        with pytest.raises(FrameError, match="input"):
            unpack_tensor(msgspec.structs.replace(ASK, **wrong), (1, 2, 2, 3), "uint8")


def test_topics_fit_together_whatever_the_model_is_called() -> None:
    from paho.mqtt.client import topic_matches_sub

    for name in ("ssd-mobilenet-v2-oid", "Größe/+#", "", "..", "a b"):
        assert level(name)
        assert not set(level(name)) & set("/+# ")
        wanted = shared_filter("edgerun", name, "site")
        assert wanted.startswith("$share/site/")
        assert topic_matches_sub(wanted.split("/", 2)[2], work_topic("edgerun", name, device="dock-7"))


def test_small_inputs_go_as_they_are_and_pictures_as_jpeg() -> None:
    dice = np.random.default_rng(1)
    for side, settled in ((16, "tensor"), (300, "jpeg")):
        packer = Packer("auto")
        for _ in range(8):
            assert packer.settled is None
            rows = np.linspace(0, 255, side, dtype=np.uint8)[:, None, None]
            picture = np.clip(rows + dice.integers(0, 9, (side, side, 3)), 0, 255).astype(np.uint8)
            kind, shape, data = packer.pack(picture[None], picture)
            assert kind == settled
            assert shape == ((1, side, side, 3) if kind == "tensor" else (side, side))
            assert len(data) <= picture.nbytes
        assert packer.settled == settled
