"""LiteRT's GPU accelerator: refused for what it is where there is no GPU, proved where Vulkan shows one.

Mesa's llvmpipe (Debian: mesa-vulkan-drivers, 23 or newer) is one that every machine can have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgerun.errors import EngineError, MissingError
from edgerun.infer import open_engine
from edgerun.infer.compiled import overheard
from edgerun.infer.fallback import Fallback
from edgerun.infer.golden import golden_inputs
from edgerun.infer.host import HostedEngine
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.infer.vulkan import Adapter, adapters
from edgerun.ports import EngineContext
from tests.real_models import model_file

SEEN, WHY_NONE = adapters()
needs_vulkan = pytest.mark.skipif(not SEEN, reason=f"Vulkan shows no device here: {WHY_NONE}")


def opened(model: bytes, **options: Any) -> HostedEngine:
    context = EngineContext(model, "net", accelerator="gpu", accelerator_options=options)
    return HostedEngine(TfliteEngine, Options(), context)


@pytest.mark.skipif(any(not one.software for one in SEEN), reason="this machine has a GPU")
def test_without_a_gpu_it_says_what_vulkan_shows(classifier: bytes) -> None:
    why = "the only Vulkan driver computes on the CPU; got .*software" if SEEN else f"got {WHY_NONE}"
    with pytest.raises(MissingError, match=f"{why}.*[Ii]nstall a Vulkan driver"):
        opened(classifier)


def test_no_driver_is_told_from_no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, "/nonexistent.json")
    assert adapters()[0] == []
    assert "Vulkan" in adapters()[1]


def test_an_adapter_reads_as_one() -> None:
    assert str(Adapter("V3D 7.1.7.0", "integrated GPU", "1.3.305")) == "V3D 7.1.7.0 (integrated GPU, Vulkan 1.3.305)"


def test_a_gpu_is_proved_in_half_precision_or_else_exactly(
    closing: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    if not SEEN:
        pytest.skip(f"Vulkan shows no device here: {WHY_NONE}")
    model = model_file("visual_wake_words.tflite").read_bytes()
    declared = {"kind": "gpu", "software": True}
    engine = closing(open_engine(TfliteEngine, Options(), EngineContext(model, "net"), [declared, "cpu"]))
    assert isinstance(engine, Fallback)
    assert (engine.info.accelerator, engine.info.fallbacks) == ("gpu", ())
    done, of = engine.engine.delegated  # type: ignore[union-attr]
    assert done == of > 20
    cpu = closing(TfliteEngine(Options(), EngineContext(model, "net")))
    for number in (0, 1, 2):
        inputs = golden_inputs(cpu.inputs, number)
        assert np.allclose(engine.infer(inputs)[0], cpu.infer(inputs)[0], atol=0.02)
    if "tried again with {'exact': True}" in caplog.text:
        assert "outputs are not those of the CPU" in caplog.text


@needs_vulkan
def test_ops_that_the_gpu_does_not_know_run_on_the_cpu_or_are_a_refusal(closing: Callable[[Any], Any]) -> None:
    model = model_file("okay_nabu.tflite").read_bytes()
    done, of = closing(opened(model, software=True)).delegated
    assert 0 < done < of
    with pytest.raises(EngineError, match="the GPU does not run every op of the model"):
        opened(model, software=True, cpu_ops=False)


@needs_vulkan
def test_inputs_that_do_not_fit_are_refused(closing: Callable[[Any], Any]) -> None:
    engine = closing(opened(model_file("tflite_micro_magic_wand.tflite").read_bytes(), software=True))
    with pytest.raises(EngineError, match=r"expected \(1, 128, 3, 1\) float32, got \(1, 128, 3, 1\) float64"):
        engine.infer([np.zeros((1, 128, 3, 1))])
    assert engine.infer([np.zeros((1, 128, 3, 1), np.float32)])[0].shape == (1, 4)


def test_what_is_overheard_still_reaches_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with overheard() as said:
        os.write(2, b"3 operations\n")
        assert said() == "3 operations\n"
    assert capfd.readouterr().err == "3 operations\n"
