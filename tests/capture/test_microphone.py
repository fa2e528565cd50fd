"""The microphone through the real `arecord`, whose ALSA device is a recording."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from edgerun.capture.microphone import MicrophoneSource, Options
from edgerun.errors import MissingError, SourceError
from tests.capture.scenes import context
from tests.mosquitto import wait_until

TONE = np.round(8000 * np.sin(np.arange(48_000) / 9)).astype("<i2")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an ALSA device that plays TONE (alsa-lib, pcm_file.c)."""
    if shutil.which("arecord") is None:
        pytest.skip("arecord is not installed (apt-get install alsa-utils)")
    (tmp_path / "in.raw").write_bytes(TONE.tobytes())
    (tmp_path / ".asoundrc").write_text(
        "pcm.recorded { type file; slave.pcm null; file /dev/null; format raw; "
        f'infile "{tmp_path / "in.raw"}" }}\n'
    )  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    return "recorded"


def opened(device: str, **changed: object) -> MicrophoneSource:
    return MicrophoneSource(Options(**{"device": device, "window_samples": 480, **changed}), context())


def all_windows(source: MicrophoneSource) -> int:
    """Whatever still comes."""
    count = 0
    while source.grab() is not None:
        count += 1
    return count


def test_windows_of_sound_from_minus_one_to_one(device: str) -> None:
    source = opened(device, hop_samples=160)
    gaps, windows = [], []
    for _ in range(5):
        grab = source.grab()
        assert grab is not None
        gaps.append(grab.gap)
        windows.append(source.retrieve(None)[:, 0])
    assert gaps == [True, False, False, False, False]
    for number, window in enumerate(windows):
        assert np.array_equal(window, (TONE[number * 160 : number * 160 + 480] / 32768).astype(np.float32))
    assert source.frame_size == (1, 480)
    source.close()
    source.close()


def test_a_recorder_that_dies_is_a_loss_and_another_one_starts(device: str) -> None:
    source = opened(device)
    assert source.grab() is not None
    os.kill(source._child._process.pid, signal.SIGKILL)
    with pytest.raises(SourceError, match="signal 9") as caught:
        all_windows(source)
    assert not caught.value.final
    source.close()
    again = opened(device)
    grab = again.grab()
    assert grab is not None
    assert grab.gap
    again.close()


def test_a_recorder_that_stands_still_is_silent(device: str) -> None:
    source = opened(device, stall_s=0.2)
    os.kill(source._child._process.pid, signal.SIGSTOP)
    with pytest.raises(SourceError, match="silent"):
        all_windows(source)
    pid = source._child._process.pid
    source.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_device_that_is_not_there_says_so(device: str) -> None:
    source = opened("no-such-microphone")
    with pytest.raises(SourceError, match="Unknown PCM no-such-microphone") as caught:
        source.grab()
    assert not caught.value.final
    source.close()


def test_what_arecord_says_of_overruns_and_rates_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No device here overruns at will, so a program in arecord's place says what arecord does (alsa-utils 1.2)."""
    go = [tmp_path / f"go{number}" for number in range(3)]  # one for each wait: a writer may still hold the last one
    for fifo in go:
        os.mkfifo(fifo)
    script = tmp_path / "arecord"
    waits = [f"read _ <'{fifo}'" for fifo in go]
    script.write_text(
        f"""#!/bin/sh
        head -c 960 /dev/zero; {waits[0]}
        echo 'overrun!!! (at least 12.345 ms long)' >&2; head -c 1920 /dev/zero; {waits[1]}
        echo 'Warning: rate is not accurate (requested = 16000Hz, got = 48000Hz)' >&2; head -c 960 /dev/zero; {waits[2]}
        """
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    source = opened("hw:1")
    first = source.grab()
    go[0].write_text("\n")
    second, third = source.grab(), source.grab()
    go[1].write_text("\n")
    assert [grab.gap for grab in (first, second, third) if grab] == [True, True, False]
    with pytest.raises(SourceError, match=r"got = 48000Hz.*plughw") as caught:
        source.grab()
    assert caught.value.final
    source.close()


def test_without_arecord_the_remedy_is_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt-get install alsa-utils"):
        opened("default")
