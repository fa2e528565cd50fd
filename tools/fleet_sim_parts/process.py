"""The processes that the devices live in, and what the parent asks of them."""

from __future__ import annotations

import gc
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from edgerun.broker.options import BrokerOptions
from tools.fleet_sim_parts.crowd import Crowd, Member, NoDice
from tools.fleet_sim_parts.device import Habits, SimDevice


class Orders(msgspec.Struct, frozen=True):
    """What one process is to be: devices `first` … `first + count - 1`, which connect over `over_s` seconds."""

    port: int
    first: int
    count: int
    over_s: float
    habits: Habits
    jitter: bool = True
    reconnect_max_s: float = 60.0


def live(orders: Orders, pipe: Connection) -> None:
    """The process's body, until the parent says stop or is gone."""
    crowd, start = Crowd(), time.monotonic() + 0.5
    for at in range(orders.count):
        name = f"sim-{orders.first + at:06d}"
        options = BrokerOptions(
            url=f"mqtt://127.0.0.1:{orders.port}", client_id=name, reconnect_max_s=orders.reconnect_max_s
        )
        dice = random.Random(name) if orders.jitter else NoDice()
        device = SimDevice(name, orders.habits, "edgerun", start + orders.over_s)
        crowd.add(Member(crowd, device, options, dice), start + orders.over_s * at / orders.count)
    gc.freeze()
    crowd.selector.register(pipe, 1)
    while True:
        crowd.turn()
        if pipe.poll():
            try:
                asked = pipe.recv()
            except EOFError:
                return
            if asked == "stop":
                return
            pipe.send(_told(crowd, asked))


def _told(crowd: Crowd, asked: str) -> Any:
    if asked == "up":
        return crowd.up
    if asked == "counts":
        return dict(crowd.counts)
    if asked == "accepted":
        told, crowd.accepted = crowd.accepted, []
        return told
    return [
        (one.device.name, one.device.version, one.device.rollout.state if one.device.rollout else "", one.device.asked)
        for one in crowd.members
    ]


class Crowds:
    """All processes, as the parent sees them."""

    def __init__(self, port: int, devices: int, processes: int, habits: Habits, **more: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.devices = devices
        self._pipes, self._processes = [], []
        over_s = more.pop("over_s", devices / 800)
        for at in range(processes):
            first, end = devices * at // processes, devices * (at + 1) // processes
            ours, theirs = context.Pipe()
            orders = Orders(port, first, end - first, over_s, habits, **more)
            process = context.Process(target=live, args=(orders, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def ask(self, what: str) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(what)
        return [pipe.recv() for pipe in self._pipes]

    @property
    def up(self) -> int:
        return sum(self.ask("up"))

    def counts(self) -> dict[str, int]:
        out: dict[str, int] = {}
        for counts in self.ask("counts"):
            for name, number in counts.items():
                out[name] = out.get(name, 0) + number
        return out

    def wait_up(self, number: int, timeout_s: float) -> bool:
        """Whether so many were up within that time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.up >= number:
                return True
            time.sleep(0.1)
        return False

    def cpu_s(self) -> float:
        import psutil

        return sum(sum(psutil.Process(one.pid).cpu_times()[:2]) for one in self._processes)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send("stop")
        for process in self._processes:
            process.join(15)
            if process.is_alive():
                process.terminate()
                process.join(5)
