"""A bounded number of odd inputs for every reader. `tools/fuzz` goes on for longer, led by coverage."""

from __future__ import annotations

import os
import random

import pytest

from tests.fuzz import mutate, targets

EXECUTIONS = int(os.environ.get("EDGERUN_FUZZ_EXECUTIONS", "0"))
BOUNDED = {"board": 12, "decoder": 60, "bundle_zip": 250, "csv": 250, "wav": 250, "tflite": 300}
"""Those that open files or fill large outputs; the others run 600 times."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about numbers that are none
@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_whatever_it_is_given_it_is_used_or_refused(name: str) -> None:
    dice = random.Random(name)
    seeds = targets.seeds(name)
    for data in seeds:
        targets.run(name, data)
    for at in range(EXECUTIONS or BOUNDED.get(name, 600)):
        data = mutate.mutated(dice, dice.choice(seeds), seeds)
        try:
            targets.run(name, data)
        except Exception as error:
            raise AssertionError(f"execution {at}: {data[:400]!r} made it raise {error!r}") from error


def test_every_reader_has_its_seeds() -> None:
    assert len(targets.TARGETS) >= 18
    for name in targets.TARGETS:
        assert all(isinstance(one, bytes) for one in targets.seeds(name)), name
