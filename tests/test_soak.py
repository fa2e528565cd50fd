"""Long rounds of what the quick tests look at once (`tools/test --slow`)."""

from __future__ import annotations

import random
import signal
import threading

import pytest

from tests.test_end_to_end import CLIP, DETECTOR, start, summary_of

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_every_frame_is_accounted_for_at_forty_random_stops() -> None:
    """A flood and a live clip on one engine, ended by either signal at any moment of their run."""
    chance = random.Random(20261121)
    for number in range(40):
        process = start(
            "run", "--model", DETECTOR, "--source", "synthetic:320x240@3000", "--source", CLIP, "--loop", "--json",
            "--jsonl", "-", "--quiet", "--max-age-ms", chance.choice([30, 300]),
        )  # fmt: skip
        assert process.stdout is not None
        wanted = chance.randrange(1, 60)
        for _ in range(wanted):
            assert process.stdout.readline(), number
        timer = threading.Timer(
            chance.random() * 0.05, process.send_signal, (chance.choice([signal.SIGTERM, signal.SIGINT]),)
        )
        timer.start()
        out, err = process.communicate(timeout=30)
        timer.join()
        assert process.returncode == 0, (number, err)
        streams = summary_of(out)["streams"]
        assert sum(stream["published"] for stream in streams.values()) >= wanted
