"""Real models on real recordings: from the file through the windows and the tensor to the engine's answer."""

from __future__ import annotations

import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgerun.capture.csv_file import CsvSource
from edgerun.capture.wav import WavSource
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import EngineContext
from edgerun.preprocess.features import MicroFeatures
from edgerun.preprocess.signal import SignalPreprocess
from tests.capture.scenes import context
from tests.real_models import model_file

G = 9.80665  # m/s², standard gravity (CODATA)
NEGATIVE = 3
SURE = 0.8


def tflite(name: str) -> TfliteEngine:
    return TfliteEngine(TfliteEngine.options(), EngineContext(model_file(name).read_bytes(), name))


def recorded(label: str) -> list[NDArray[np.float64]]:
    """The accelerometer's x, y, z of every recording with this label, m/s², ten a second (UEA BasicMotions)."""
    found = []
    for line in model_file("BasicMotions_TRAIN.ts").read_text().splitlines():
        *dimensions, name = line.split(":")
        if name == label and len(dimensions) == 6:
            found.append(np.array([[float(cell) for cell in part.split(",")] for part in dimensions[:3]]).T)
    assert len(found) == 10
    return found


@pytest.mark.parametrize("label", ["Running", "Badminton"])
def test_magic_wand_sees_no_spell_in_a_watch(tmp_path: Path, label: str) -> None:
    engine = tflite("tflite_micro_magic_wand.tflite")
    preprocess = SignalPreprocess(engine.inputs[0], channels=3, rates=(10, 25), std=(G / 1000,))  # it counts in milli-g
    channels, samples = preprocess.size
    assert (channels, samples) == (3, 52)
    judged = 0
    for number, samples_of in enumerate(recorded(label)):
        path = tmp_path / f"{number}.csv"
        rows = [f"{at / 10:g},{x},{y},{z}" for at, (x, y, z) in enumerate(samples_of)]
        path.write_text("\n".join(["t,x,y,z", *rows]))
        options = CsvSource.options(
            path=str(path), time_column="t", rate_hz=10.0, window_samples=samples, hop_samples=12
        )
        source = CsvSource(options, context(as_fast=True))
        while (grab := source.grab()) is not None:
            assert not grab.gap
            tensor, _ = preprocess.prepare(source.retrieve(None))
            scores = engine.infer([tensor])[0][0]
            assert scores[:NEGATIVE].max() < SURE, (number, grab.item, scores)
            judged += 1
    assert judged == 50
    engine.close()


def test_the_tensor_of_a_recording_is_the_recording(tmp_path: Path) -> None:
    engine = tflite("tflite_micro_magic_wand.tflite")
    preprocess = SignalPreprocess(engine.inputs[0], channels=3, std=(G / 1000,))
    samples = np.concatenate(recorded("Walking"))[:128]
    path = tmp_path / "walk.csv"
    np.savetxt(path, samples, delimiter=",", header="x,y,z", comments="")
    source = CsvSource(CsvSource.options(path=str(path), rate_hz=25.0, window_samples=128), context(as_fast=True))
    source.grab()
    tensor, _ = preprocess.prepare(source.retrieve(None))
    assert tensor.shape == (1, 128, 3, 1)
    assert np.allclose(tensor[0, :, :, 0], samples * 1000 / G, rtol=1e-4, atol=0.01)
    engine.close()


def spoken(folder: Path, text: str, voice: str) -> Path:
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("espeak-ng is not installed (apt-get install espeak-ng)")
    path = folder / "spoken.wav"
    subprocess.run([program, "-v", voice, "-s", "150", "-w", path, text], check=True)
    return path


def wake_probability(path: Path) -> float:
    """The largest mean of five answers in a row, as microWakeWord's okay_nabu.json has it (it wakes above 0.85)."""
    pytest.importorskip("pymicro_features", reason="pymicro-features is not installed (pip install pymicro-features)")
    engine = tflite("okay_nabu.tflite")
    frames = engine.inputs[0].shape[1]
    preprocess = SignalPreprocess(engine.inputs[0], features=MicroFeatures(frames))
    assert preprocess.stateful
    options = WavSource.options(path=str(path), rate_hz=16_000, window_samples=preprocess.size[1])
    source, scores = WavSource(options, context(as_fast=True)), []
    (scale,), (zero_point,) = engine.outputs[0].scale, engine.outputs[0].zero_point
    while source.grab() is not None:
        tensor, _ = preprocess.prepare(source.retrieve(None))
        scores.append((float(engine.infer([tensor])[0][0, 0]) - zero_point) * scale)
    source.close()
    engine.close()
    return float(np.convolve(scores, np.ones(5) / 5, "valid").max())


@pytest.mark.parametrize("voice", ["en-us", "en-gb", "en-us+m3", "en-gb-scotland"])
def test_okay_nabu_wakes(tmp_path: Path, voice: str) -> None:
    assert wake_probability(spoken(tmp_path, "okay nabu", voice)) > 0.85


@pytest.mark.parametrize("text", ["hello there my friend", "okay google, what is new", "the lights in the kitchen"])
def test_other_phrases_do_not_wake(tmp_path: Path, text: str) -> None:
    assert wake_probability(spoken(tmp_path, text, "en-us")) < 0.85


def speech_probabilities(path: Path, rate_hz: int | None) -> NDArray[np.float64]:
    """Silero VAD 6 (silero_vad/utils_vad.py): 512 new samples behind 64 old ones, its state fed back."""
    model = model_file("silero_vad.onnx").read_bytes()
    engine = OnnxEngine(OnnxEngine.options(), EngineContext(model, "silero"))
    preprocess = SignalPreprocess(engine.inputs[0], samples=576)
    options = WavSource.options(path=str(path), rate_hz=rate_hz, window_samples=576, hop_samples=512)
    source, state, found = WavSource(options, context(as_fast=True)), np.zeros((2, 1, 128), np.float32), []
    rate = np.array(16_000, np.int64)
    while source.grab() is not None:
        tensor, _ = preprocess.prepare(source.retrieve(None))
        given = {"input": tensor, "state": state, "sr": rate}
        answer, state = (array.copy() for array in engine.infer([given[spec.name] for spec in engine.inputs]))
        found.append(float(answer[0, 0]))
    source.close()
    engine.close()
    return np.array(found)


def test_silero_hears_a_real_voice_and_not_the_noise(tmp_path: Path) -> None:
    voice = speech_probabilities(model_file("librivox_0870.wav"), None)
    assert (voice > 0.5).mean() > 0.8
    noise = tmp_path / "noise.wav"
    with wave.open(str(noise), "wb") as file:
        file.setparams((2, 2, 44_100, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).normal(0, 1000, 44_100 * 4).astype("<i2").tobytes())
    assert (speech_probabilities(noise, 16_000) > 0.5).mean() == 0
