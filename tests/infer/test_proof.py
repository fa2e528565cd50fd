"""What is taken for the same answer, what is refused, and what is kept."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import EngineError, ModelError
from edgerun.infer.board import Board
from edgerun.infer.golden import Tolerance, Unproven, agreement, golden_inputs
from edgerun.infer.proof import Prover, cache_folder
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.infer.verdicts import Verdicts
from edgerun.ports import Engine, EngineContext
from edgerun.types import EngineInfo, Tensor, TensorSpec

FLOAT = TensorSpec("y", (1, 8), "float32")
INT8 = TensorSpec("y", (1, 8), "int8", (0.5,), (3,))
COUNT = TensorSpec("n", (1, 8), "int64")
CPU = np.arange(8, dtype=np.float32).reshape(1, 8) - 3


class Made:
    """An accelerator that answers as it is told, from the CPU's own answer."""

    options: ClassVar[type[msgspec.Struct]] = Options

    def __init__(self, change: Callable[[Tensor], Tensor], spec: TensorSpec = FLOAT) -> None:
        self.info = EngineInfo("made 1", "npu", 1)
        self.inputs = (TensorSpec("x", (1, 4, 4, 3), "uint8"),)
        self.outputs = (spec,)
        self._change = change

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        answer = CPU * (1 + float(inputs[0].mean()) / 255)
        return [self._change(answer.astype(self.outputs[0].dtype))]

    def close(self) -> None:
        pass


def prove(change: Callable[[Tensor], Tensor], spec: TensorSpec = FLOAT, cpu: bool = True) -> float | None:
    prover = Prover("net", (lambda: Made(lambda y: y, spec)) if cpu else None)
    return prover.prove(Made(change, spec)).agreed


def test_the_same_numbers_agree() -> None:
    assert prove(lambda y: y) == 1.0
    assert prove(lambda y: y + np.float32(0.05)) == 1.0  # 2 % of the largest, 4, is 0.08


@pytest.mark.parametrize(
    ("change", "spec", "why"),
    [
        (lambda y: y * np.float32(1.2), FLOAT, "not those of the CPU; expected 98% .*; got 25.0%|got"),
        (lambda y: y * np.nan, FLOAT, "answers nonsense; expected .*; got NaN"),
        (lambda y: y * 0, FLOAT, "answers nonsense; expected .*; got zeros only"),
        (lambda y: np.full_like(y, 7), FLOAT, "answers nonsense; expected .*; got 7.0 everywhere"),
        (lambda y: y[:, ::-1], FLOAT, "not those of the CPU"),
        (lambda y: y[:, :4], FLOAT, "not those of the CPU"),
        (lambda y: y + np.int8(7), INT8, "not those of the CPU"),
        (lambda y: y + 1, COUNT, "not those of the CPU"),
    ],
)
def test_other_numbers_are_refused(change: Callable[[Tensor], Tensor], spec: TensorSpec, why: str) -> None:
    with pytest.raises(Unproven, match=why):
        prove(change, spec)


def test_some_quanta_are_tolerated() -> None:
    assert prove(lambda y: y + np.int8(6), INT8) == 1.0


@pytest.mark.parametrize(("change", "why"), [(lambda y: y * np.nan, "NaN"), (lambda y: y * 0, "one value everywhere")])
def test_without_a_cpu_nonsense_is_refused_all_the_same(change: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(Unproven, match=why):
        prove(change, cpu=False)


def test_without_a_cpu_it_says_that_nothing_was_compared(caplog: pytest.LogCaptureFixture) -> None:
    assert prove(lambda y: y, cpu=False) is None
    assert "net on npu: not proved: there is no file of this model that the CPU runs" in caplog.text


def test_a_cpu_that_cannot_open_it_is_no_reference(caplog: pytest.LogCaptureFixture) -> None:
    def no_cpu() -> Engine:
        raise ModelError("the custom op edgetpu-custom-op")

    assert Prover("net", no_cpu).prove(Made(lambda y: y)).agreed is None
    assert "no answers of the CPU to compare with: the custom op edgetpu-custom-op" in caplog.text


def test_a_file_with_other_tensors_is_refused() -> None:
    other = msgspec.structs.replace(INT8, scale=(0.25,))
    prover = Prover("net", lambda: Made(lambda y: y, INT8))
    with pytest.raises(Unproven, match=r"other tensors than the CPU's; expected 1×8 int8 scale 0.5 zero 3; got .*0.25"):
        prover.prove(Made(lambda y: y, other))


def test_a_file_whose_inputs_the_cpu_cannot_take_is_refused_and_no_reason_to_trust_the_next(
    classifier: bytes,
) -> None:
    def cpu() -> Engine:
        return TfliteEngine(Options(), EngineContext(classifier, "net"))

    prover = Prover("net", cpu)
    with pytest.raises(Unproven, match="other tensors than the CPU's"):
        prover.prove(Made(lambda y: y))
    assert prover.prove(cpu()).agreed == 1.0


def test_golden_inputs_are_those_given(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    golden = tuple((np.full((1, 4, 4, 3), value, np.uint8),) for value in (3, 250))

    class Watched(Made):
        def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            seen.append(inputs[0])
            return super().infer(inputs)

    Prover("net", lambda: Made(lambda y: y), lambda engine: golden).prove(Watched(lambda y: y))
    assert {int(each.flat[0]) for each in seen} == {3, 250}
    Prover("net", lambda: Made(lambda y: y), lambda engine: ()).prove(Watched(lambda y: y))
    assert len(np.unique(seen[-1])) > 10  # made up


def test_the_cpu_is_asked_once_and_its_answers_are_kept(tmp_path: Path) -> None:
    asked: list[int] = []

    def cpu() -> Engine:
        asked.append(1)
        return Made(lambda y: y)

    def prover(*key: bytes) -> Prover:
        return Prover("net", cpu, cache=tmp_path, key=key)

    first = prover(b"model", b"runtime")
    first.prove(Made(lambda y: y))
    first.prove(Made(lambda y: y))
    prover(b"model", b"runtime").prove(Made(lambda y: y))
    assert len(asked) == 1
    with pytest.raises(Unproven):  # kept answers are compared with, at every opening
        prover(b"model", b"runtime").prove(Made(lambda y: y * 2))
    assert len(asked) == 1
    prover(b"model", b"another").prove(Made(lambda y: y))
    assert len(asked) == 2
    for damage in (b"", b"\xc1garbage", None):
        for path in (tmp_path / "proof").iterdir():
            path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
        prover(b"model", b"runtime").prove(Made(lambda y: y))
    assert len(asked) == 5
    assert {path.suffix for path in (tmp_path / "proof").iterdir()} == {".msgpack"}


def test_two_may_prove_at_once_where_the_cpu_does_not_open() -> None:
    both = threading.Barrier(2)

    def no_cpu() -> Engine:
        raise ModelError("the custom op edgetpu-custom-op")

    def prove_one(prover: Prover) -> float | None:
        both.wait(30)
        return prover.prove(Made(lambda y: y)).agreed

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(300):
                prover = Prover("net", no_cpu, cache=Path("/nonexistent"), key=(b"model",))
                assert list(pool.map(prove_one, (prover, prover))) == [None, None]
    finally:
        sys.setswitchinterval(before)


def test_a_verdict_is_read_whole_while_it_is_written(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path, (b"model",), Board(tmp_path))
    told = [f"slower than the CPU: {milliseconds}" * 20 for milliseconds in (31, 32)]
    verdicts.keep("npu", told[0])
    ended = threading.Event()

    def write() -> None:
        for number in range(300):
            verdicts.keep("npu", told[number % 2])
        ended.set()

    writing = threading.Thread(target=write)
    writing.start()
    read = set()
    while not ended.is_set():
        read.add(verdicts.why_not("npu"))
    writing.join()
    assert read <= set(told)
    (path,) = (tmp_path / "proof").iterdir()
    path.write_bytes(b"")  # the power was cut
    assert verdicts.why_not("npu") is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert Prover("net", lambda: Made(lambda y: y), cache=tmp_path / "file").prove(Made(lambda y: y)).agreed == 1.0


def test_where_proofs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    assert cache_folder() == Path("/home/x/.cache/edgerun")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_folder() == Path("/c/edgerun")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/edgerun:/other")
    assert cache_folder() == Path("/var/cache/edgerun")


def test_golden_inputs_of_a_real_model_move_its_outputs(classifier: bytes) -> None:
    engine = TfliteEngine(Options(), EngineContext(classifier, "net"))
    answers = [engine.infer(golden_inputs(engine.inputs, number))[0].copy() for number in (0, 1)]
    assert len({int(one) for one in answers[0].flat}) > 1
    assert (golden_inputs(engine.inputs, 0)[0] == golden_inputs(engine.inputs, 0)[0]).all()
    assert (golden_inputs(engine.inputs, 0)[0] != golden_inputs(engine.inputs, 1)[0]).any()
    engine.close()


def test_a_failure_while_proving_is_not_a_wrong_answer() -> None:
    def fails(answer: Tensor) -> Tensor:
        raise EngineError("gone")

    with pytest.raises(EngineError, match="gone") as caught:
        prove(fails)
    assert not isinstance(caught.value, Unproven)


def test_slower_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def slowly(answer: Tensor) -> Tensor:
        for _ in range(200):
            answer = np.sort(np.concatenate([answer] * 1), axis=1)
        return answer

    with caplog.at_level(logging.WARNING):
        prove(slowly)
    assert "net on npu: slower than the CPU: " in caplog.text


dtypes = st.sampled_from(["float32", "int8", "uint8", "int64", "float16"])


@given(dtypes, st.lists(st.integers(1, 5), min_size=0, max_size=4), st.integers(0, 3), st.booleans())
def test_golden_inputs_have_the_shape_and_type_and_are_finite(
    dtype: str, sides: list[int], number: int, quantised: bool
) -> None:
    spec = TensorSpec("x", tuple(-1 if side == 5 else side for side in sides), dtype, (0.5,) * quantised)
    (made,) = golden_inputs([spec], number)
    assert made.dtype == dtype
    assert len(made.shape) == len(spec.shape)
    assert all(stated in (-1, real) for stated, real in zip(spec.shape, made.shape, strict=True))
    assert np.isfinite(made.astype(np.float64)).all()


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=30), st.integers(0, 20))
def test_agreement_is_the_share_within_the_tolerance(values: list[int], shift: int) -> None:
    want = np.array(values, np.int8)
    moved = want.astype(np.int64) + shift
    got = np.clip(moved, -128, 127).astype(np.int8)
    near = np.abs(got.astype(int) - want.astype(int)) <= 6
    assert agreement(got, want, INT8, Tolerance()) == pytest.approx(float(near.mean()))
    assert agreement(want, want, INT8, Tolerance()) == 1.0
