"""Models that listen: samples in, events out, through the whole of edgerun and on real recordings."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
import wave
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edgerun.app.listening import check_listener, rate_of_sources, source_options
from edgerun.app.opening import check_models, open_model
from edgerun.capture.samples import WindowOptions
from edgerun.cli.flags import options_of
from edgerun.config import Config, build
from edgerun.errors import ConfigError, ConfigErrors, EdgerunError
from edgerun.ports import Incoming
from edgerun.slot import Slot
from tests import mosquitto
from tests.broker.parts import connection
from tests.real_models import model_file
from tests.test_end_to_end import DETECTOR, edgerun, start

VOICE = "librivox_0870.wav"


def listen(model: str, source: Path | str, tmp_path: Path, *flags: str) -> list[dict[str, Any]]:
    """Every result of one run."""
    out = tmp_path / "results.jsonl"
    given = ("--model", model_file(model), "--source", source, "--jsonl", out, *flags)
    done = edgerun("run", *given, "--quiet", "--as-fast")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def events(results: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["kind"], one["label"]) for result in results for one in result.get("events", [])]


def spoken(folder: Path, text: str, voice: str) -> Path:
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("espeak-ng is not installed (apt-get install espeak-ng)")
    path = folder / "spoken.wav"
    subprocess.run([program, "-v", voice, "-s", "150", "-w", path, text], check=True)
    return path


def config(text: str) -> Config:
    return build(tomllib.loads(text), options_of)


@pytest.mark.parametrize("voice", ["en-us", "en-gb", "en-us+m3", "en-gb-scotland"])
def test_a_wake_word_is_heard_once(tmp_path: Path, voice: str) -> None:
    results = listen("okay_nabu.tflite", spoken(tmp_path, "okay nabu", voice), tmp_path)
    assert events(results) == [("heard", "0")]
    assert results[0]["window"] == {"samples": 480, "channels": 1}
    assert "frame" not in results[0]
    assert [one["item"] for one in results[:3]] == ["0", "480", "960"]


@pytest.mark.parametrize("text", ["hello there my friend", "okay google, what is new", "the lights in the kitchen"])
def test_other_words_are_not(tmp_path: Path, text: str) -> None:
    results = listen("okay_nabu.tflite", spoken(tmp_path, text, "en-us"), tmp_path)
    assert results
    assert events(results) == []


def test_speech_begins_and_ends(tmp_path: Path) -> None:
    """A reading voice between two seconds of faint noise, at the rate of a CD."""
    with wave.open(str(model_file(VOICE))) as file:
        voice = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        rate = file.getframerate()
    noise = np.random.default_rng(0).normal(0, 30, 2 * rate).astype("<i2")
    path = tmp_path / "scene.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.concatenate([noise, voice, noise]).tobytes())
    results = listen("silero_vad.onnx", path, tmp_path)
    told = [(one, result) for result in results for one in result.get("events", [])]
    assert {one["label"] for one, _ in told} == {"speech"}
    kinds = [one["kind"] for one, _ in told]
    assert kinds[::2] == ["began"] * (len(kinds) // 2)
    assert kinds[1::2] == ["ended"] * (len(kinds) // 2)
    first, last = (int(told[at][1]["item"]) / 16_000 for at in (0, -1))
    assert 2.0 < first < 3.5
    assert last > 2.0 + 0.9 * len(voice) / rate
    spoke_s = sum(one.get("seconds", 0.0) for one, _ in told)
    assert spoke_s > 0.7 * len(voice) / rate
    assert not any(result.get("gap") for result in results)


def test_a_gesture_model_reads_an_accelerometer(tmp_path: Path) -> None:
    """A watch on a runner's wrist, ten times a second in m/s², for a model of 25 times a second in milli-g."""
    lines = model_file("BasicMotions_TRAIN.ts").read_text().splitlines()
    parts = next(line for line in lines if line.endswith(":Running")).split(":")[:3]
    axes = [[float(cell) for cell in part.split(",")] for part in parts]
    table = tmp_path / "watch.csv"
    rows = [f"{at / 10:g},{x},{y},{z}" for at, (x, y, z) in enumerate(zip(*axes, strict=True))]
    table.write_text("\n".join(["t,x,y,z", *rows]))
    bundle = tmp_path / "wand"
    bundle.mkdir()
    model = model_file("tflite_micro_magic_wand.tflite").read_bytes()
    (bundle / "model.tflite").write_bytes(model)
    manifest = {
        "v": 1, "name": "magic-wand", "version": "1",
        "files": {"model.tflite": {"sha256": hashlib.sha256(model).hexdigest()}},
        "artifacts": [{"file": "model.tflite"}], "task": "classify", "decoder": {"kind": "classify"},
        "signal": {"rate_hz": 25, "channels": 3, "samples": 128, "hop": 32, "std": [0.00980665]},
    }  # fmt: skip
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    file = tmp_path / "edge.toml"
    file.write_text(
        f'[models.wand]\npath = "{bundle}"\n[streams.wrist]\nmodel = "wand"\n'
        f'source = {{ kind = "csv", path = "{table}", time_column = "t", rate_hz = 10 }}\n'
    )
    out = tmp_path / "results.jsonl"
    done = edgerun("run", "--config", file, "--as-fast", "--quiet", "--jsonl", out)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [int(one["item"]) for one in results] == [0, 13, 26, 39]  # windows of 52, every 32 / 25 s
    assert all(one["window"] == {"samples": 52, "channels": 3} for one in results)
    best = [max(one["classes"], key=lambda each: each["score"]) for one in results]
    assert {one["label"] for one in best} == {"negative"}


def test_a_request_is_answered_where_it_asks_for_it(tmp_path: Path) -> None:
    picture = cv2.imread(str(model_file("astronaut.png")))
    with mosquitto.broker() as broker:
        file = tmp_path / "edge.toml"
        file.write_text(
            f'[device]\nid = "ask-1"\n[mqtt]\nurl = "{broker.url}"\n[models.m]\npath = "{DETECTOR}"\n'
            '[streams.ask]\nmodel = "m"\nsource = { kind = "mqtt", topic = "$share/g/ask/#" }\n'
        )
        answers: Slot[Incoming] = Slot(8)
        process = start("run", "--config", file, "--quiet")
        try:
            with connection(broker.url) as link:
                ready: Slot[Incoming] = Slot(8)
                link.subscribe("edgerun/ask-1/state/ask", ready)
                link.subscribe("answers/7", answers)
                assert ready.take(30) is not None
                (tmp_path / "p.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
                command = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-V", "5"]
                asked = ("-D", "PUBLISH", "response-topic", "answers/7", "-D", "PUBLISH", "correlation-data", "job-1")
                for _ in range(40):  # its own subscription may be a moment behind its state
                    subprocess.run([*command, "-q", "1", "-t", "ask/1", "-f", tmp_path / "p.jpg", *asked], check=True)
                    if (answer := answers.take(1)) is not None:
                        break
                assert answer is not None
        finally:
            process.terminate()
            _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert answer.correlation == b"job-1"
    message = json.loads(answer.payload)
    assert message["item"] == "job-1"
    assert "person" in {one["label"] for one in message["detections"]}


def wake_config(stream: str, model: str = "") -> str:
    return f'[models.m]\npath = "{model_file("okay_nabu.tflite")}"\n{model}[streams.s]\nmodel = "m"\n{stream}\n'


WAV = 'source = { kind = "wav", path = "/dev/null"'


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        ('source = "synthetic"', "does not take what this source gives"),
        (WAV + ", window_samples = 400 }", "another length than the model takes; expected window_samples 480; got 400"),
        (WAV + ", hop_samples = 160 }", "one behind the other; expected 480; got 160"),
        (WAV + " }\nmax_fps = 3", "max_fps has no meaning for samples"),
        (WAV + " }\ngate = {}", "takes no gate"),
        (WAV + " }\nactivity = {}", "not read by vad"),
        (WAV + " }\nregion = [0, 0, 0.5, 0.5]", "region has no meaning for samples"),
        (WAV + ' }\nkeyword = { labels = [""] }', "labels[0]: empty"),
        (WAV + ' }\nkeyword = { labels = ["nabu"] }', "keyword.labels: no such label; expected the number of a class"),
        (WAV + " }\nkeyword = { min_scores = 7 }", "no word would ever be heard"),
        (WAV + " }\nkeyword = { window_s = 0.05 }", "no word would ever be heard"),
        (
            'source = { kind = "exec", command = ["x"], channels = 2 }',
            "channels than the model takes; expected channels 1",
        ),
        (
            'source = { kind = "mqtt", topic = "a", payload = "samples", window_samples = 9 }\n[mqtt]\nurl = "mqtt://b"',
            "window_samples 480; got 9",
        ),
    ],
)
def test_what_cannot_be_is_told_before_the_start(stream: str, what: str) -> None:
    try:
        errors: list[EdgerunError] = check_models(config(wake_config(stream)))
    except ConfigErrors as error:
        errors = list(error.errors)
    assert any(what in str(error) for error in errors), errors


def test_samples_for_a_model_of_pictures() -> None:
    text = f'[models.m]\npath = "{DETECTOR}"\n[streams.s]\nmodel = "m"\n{WAV} }}\n'
    assert any("does not take what this source gives" in str(error) for error in check_models(config(text)))


def test_models_of_one_stream_must_want_the_same_windows() -> None:
    text = (
        f'[models.word]\npath = "{model_file("okay_nabu.tflite")}"\n'
        f'[models.voice]\npath = "{model_file("silero_vad.onnx")}"\n'
        f'[streams.s]\nmodel = ["word", "voice"]\n{WAV} }}\n'
    )
    assert any("want different windows" in str(error) for error in check_models(config(text)))


def test_crops_are_not_samples() -> None:
    text = (
        f'[models.m]\npath = "{DETECTOR}"\n[models.w]\npath = "{model_file("tflite_micro_magic_wand.tflite")}"\n'
        '[streams.s]\nmodel = "m"\nsource = "synthetic"\nthen = { model = "w" }\n'
    )
    assert any("cannot look at crops" in str(error) for error in check_models(config(text)))


def test_a_source_is_told_what_the_model_wants() -> None:
    settings = config(wake_config(WAV + " }"))
    model = open_model(settings.models["m"])
    options = source_options("s", settings.streams["s"], model.bundle, model.preprocess)
    assert isinstance(options, WindowOptions)
    assert (options.window_samples, options.hop_samples, options.rate_hz) == (480, 480, 16_000)
    check_listener("s", settings.streams["s"], model.bundle)
    model.engine.close()


@pytest.mark.parametrize(
    ("source", "filled"),
    [
        ('kind = "exec", command = ["x"], rate_hz = 48000', (1438, 1440, 48_000)),
        ('kind = "exec", command = ["x"], rate_hz = 44100', (1322, 1323, 44_100)),
        ('kind = "microphone", rate_hz = 8000', (241, 240, 8000)),
        ('kind = "wav", path = "/dev/null", rate_hz = 8000', (241, 240, 8000)),
        ('kind = "csv", path = "/dev/null", rate_hz = 8000', (241, 240, 8000)),
        ('kind = "microphone"', (480, 480, 16_000)),
        ('kind = "exec", command = ["x"]', (480, 480, None)),
    ],
)
def test_a_rate_that_is_given_is_converted_and_none_is_lost(source: str, filled: tuple[Any, ...]) -> None:
    settings = config(wake_config(f"source = {{ {source} }}"))
    model = open_model(settings.models["m"], rate_hz=rate_of_sources(settings, "m"))
    options = source_options("s", settings.streams["s"], model.bundle, model.preprocess)
    assert isinstance(options, WindowOptions)
    assert (options.window_samples, options.hop_samples, options.rate_hz) == filled
    model.engine.close()


def test_a_source_of_any_rate_follows_the_others_of_its_model() -> None:
    settings = config(
        wake_config('source = { kind = "csv", path = "/dev/null", rate_hz = 8000 }')
        + f'[streams.t]\nmodel = "m"\n{WAV} }}\n'
    )
    model = open_model(settings.models["m"], rate_hz=rate_of_sources(settings, "m"))
    options = source_options("t", settings.streams["t"], model.bundle, model.preprocess)
    assert isinstance(options, WindowOptions)
    assert options.rate_hz == 8000
    model.engine.close()


def test_what_remembers_takes_no_overlap() -> None:
    text = (
        f'[models.m]\npath = "{model_file("silero_vad.onnx")}"\n[streams.s]\nmodel = "m"\n{WAV}, hop_samples = 100 }}\n'
    )
    assert any("one behind the other; expected 512; got 100" in str(error) for error in check_models(config(text)))


def test_a_label_of_no_class() -> None:
    text = f'[models.m]\npath = "{model_file("silero_vad.onnx")}"\n[streams.s]\nmodel = "m"\n{WAV} }}\n'
    errors = check_models(config(text + 'activity = { label = "speach" }'))
    assert any('did you mean "speech"' in str(error).lower() for error in errors), errors


def test_streams_of_different_rates_need_models_of_their_own() -> None:
    source = 'source = {{ kind = "exec", command = ["x"], rate_hz = {} }}'
    text = wake_config(source.format(8000)) + '[streams.t]\nmodel = "m"\n' + source.format(16000)
    with pytest.raises(ConfigError, match="different rates"):
        rate_of_sources(config(text), "m")
    assert rate_of_sources(config(wake_config(source.format(8000))), "m") == 8000


def test_the_options_of_a_wake_word_fit_what_watches_it() -> None:
    settings = config(wake_config(WAV + " }\nthreshold = 0.9\nkeyword = { refractory_s = 3 }"))
    assert msgspec.structs.asdict(settings.streams["s"].keyword)["refractory_s"] == 3  # type: ignore[arg-type]
