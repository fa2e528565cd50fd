from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mosquitto
from tests.rollout.runs import Device


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Not started yet; the bundled detector is its model."""
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "#") as seen:
        made = Device(tmp_path, broker, seen, monkeypatch)
        yield made
        made.kill()
