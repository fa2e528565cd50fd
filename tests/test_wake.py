"""Waking by a descriptor: what is set stays set, and nothing is written to a number that was given back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from edgerun.wake import Wake


def test_set_until_cleared() -> None:
    wake = Wake()
    assert not wake.wait(0)
    wake.set()
    wake.set()
    assert wake.wait(0)
    assert wake.wait(0)
    wake.clear()
    wake.clear()
    assert not wake.wait(0)
    wake.close()
    wake.close()
    wake.set()


def test_one_sets_while_another_closes() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    met = Barrier(2)

    def use(wake: Wake, close: bool) -> None:
        met.wait()
        for _ in range(20):
            wake.set()
        if close:
            wake.close()
        for _ in range(20):
            wake.set()

    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(500):
                wake = Wake()
                list(pool.map(use, [wake, wake], [True, False]))
    finally:
        sys.setswitchinterval(before)
