"""What is tried: a storm after an outage, telemetry load, rollouts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tools.fleet_sim_parts.device import Habits
from tools.fleet_sim_parts.process import Crowds
from tools.fleet_sim_parts.site import Consumer, CpuPeak, Mosquitto

_SETTLE_S = 3.0
Row = dict[str, Any]


def storm(broker: Mosquitto, devices: int, processes: int, *, jitter: bool, outage_s: float) -> Row:
    """The broker is killed and comes back after `outage_s`: how long until all are back, and what that takes."""
    broker.start()
    crowds = Crowds(broker.port, devices, processes, Habits(), jitter=jitter)
    try:
        _all_up(crowds, devices)
        time.sleep(12.0)  # links that have held for 10 s are good ones: the back-off begins at the bottom
        crowds.ask("accepted")
        before = crowds.counts()
        broker.kill()
        time.sleep(outage_s)
        back = broker.start()
        with CpuPeak(broker) as cpu:
            whole = crowds.wait_up(devices, 240)
            time.sleep(1.0)
        after = crowds.counts()
        accepted = sorted((at - back, took) for one in crowds.ask("accepted") for at, took in one)
        return {
            "back-off": "full jitter" if jitter else "none (2ⁿ s, all in step)",
            "devices": devices,
            "outage s": outage_s,
            "all back": whole,
            **{f"{share:.0%} back s": round(_at(accepted, share, devices), 1) for share in (0.5, 0.9, 0.99, 1.0)},
            "peak CONNACKs/s": _peak([at for at, _ in accepted], 1.0),
            "peak in 100 ms": _peak([at for at, _ in accepted], 0.1),
            "CONNACK after ms p50": round(1e3 * _quantile([took for _, took in accepted], 0.5)),
            "p99": round(1e3 * _quantile([took for _, took in accepted], 0.99)),
            "attempts each": round((after["attempts"] - before["attempts"]) / devices, 2),
            "failed while it was up": sum(
                after.get(name, 0) - before.get(name, 0) for name in ("failed_silent",)
            ) + len(accepted) - min(len(accepted), devices),
            "broker cores, peak": round(cpu.peak, 2),
        }  # fmt: skip
    finally:
        crowds.close()
        broker.kill()


def spread(broker: Mosquitto, devices: int, processes: int, *, spread: bool, telemetry_s: float) -> Row:
    """All are switched on together: how many tell in one second."""
    broker.start()
    consumer = Consumer(broker, "edgerun/+/telemetry")
    crowds = Crowds(broker.port, devices, processes, Habits(telemetry_s=telemetry_s, spread=spread))
    try:
        _all_up(crowds, devices)
        first = int(time.monotonic()) + 1
        with CpuPeak(broker) as cpu:
            time.sleep(2 * telemetry_s + 1)
        seconds = [consumer.seconds.get("telemetry", {}).get(first + at, 0) for at in range(round(2 * telemetry_s))]
        return {
            "phase": "by hash" if spread else "all alike",
            "devices": devices,
            "interval s": telemetry_s,
            "mean/s": round(sum(seconds) / len(seconds)),
            "busiest second": max(seconds),
            "broker cores, peak": round(cpu.peak, 2),
        }
    finally:
        crowds.close()
        consumer.close()
        broker.kill()


def load(broker: Mosquitto, devices: int, processes: int, *, results_per_s: float, seconds: float) -> Row:
    """Everything a fleet says, with one consumer of it all: messages a second, and what they cost the broker."""
    broker.start()
    consumer = Consumer(broker, "$share/lake/edgerun/+/telemetry", "$share/lake/edgerun/+/detections/+")
    crowds = Crowds(broker.port, devices, processes, Habits(telemetry_s=30.0, results_per_s=results_per_s))
    try:
        _all_up(crowds, devices)
        time.sleep(_SETTLE_S)
        published, kinds, cost_s = crowds.counts()["published"], dict(consumer.kinds), broker.cpu_s()
        sim_s, size, began = crowds.cpu_s(), consumer.bytes, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        spent_s = broker.cpu_s() - cost_s
        published = crowds.counts()["published"] - published
        came = {name: consumer.kinds[name] - kinds.get(name, 0) for name in consumer.kinds}
        total = sum(came.values())
        return {
            "devices": devices,
            "results/s each": results_per_s,
            "published/s": round(published / took),
            "consumed/s": round(total / took),
            "bytes each": round((consumer.bytes - size) / max(1, total)),
            "broker cores": round(spent_s / took, 2),
            "broker µs a message": round(1e6 * spent_s / max(1, published)),
            "broker MiB": round(broker.rss_mib(), 1),
            "simulator cores": round((crowds.cpu_s() - sim_s) / took, 2),
        }
    finally:
        crowds.close()
        consumer.close()
        broker.kill()


def rollout(broker: Mosquitto, devices: int, processes: int, folder: Path, *, bad_share: float) -> Row:
    """`edgerun fleet rollout` as an operator runs it, of a version that `bad_share` of the devices find bad."""
    broker.start()
    habits = Habits(bad_versions=("3",) if bad_share else (), bad_share=bad_share)
    crowds = Crowds(broker.port, devices, processes, habits)
    try:
        _all_up(crowds, devices)
        time.sleep(_SETTLE_S)
        began = time.monotonic()
        status = _edgerun("status", "--broker", broker.url, "--json")
        status_s, began = time.monotonic() - began, time.monotonic()
        done = _edgerun(
            "rollout", "--broker", broker.url, "--model", "detector", "--version", "3", "--stages", "1%,10%,100%",
            "--rate", "200", "--take-back", "--json", "--state", str(folder / f"rollout-{bad_share}.json"),
        )  # fmt: skip
        took = time.monotonic() - began
        time.sleep(_SETTLE_S)
        found = [one for part in crowds.ask("devices") for one in part]
        states = Counter(state for _, _, state, _ in found if state)
        return {
            "bad on": f"{bad_share:.0%}",
            "devices": devices,
            "ended": done["state"],
            "at the share": done["share"],
            "after s": round(took, 1),
            "asked": sum(asked > 0 for _, _, _, asked in found),
            "went back": states["rolled_back"],
            "serve it": sum(version == "3" for _, version, _, _ in found),
            "status read s": round(status_s, 1),
            "status: devices": status["summary"]["devices"],
            "incomplete": len(status["incomplete"]),
            "why": done.get("reason", ""),
        }
    finally:
        crowds.close()
        broker.kill()


def _all_up(crowds: Crowds, devices: int) -> None:
    if not crowds.wait_up(devices, 60 + devices / 100):
        raise TimeoutError(f"only {crowds.up} of {devices} devices came up: {crowds.counts()}")


def _edgerun(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "edgerun", "fleet", *words], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _at(accepted: list[tuple[float, float]], share: float, devices: int) -> float:
    at = max(0, min(len(accepted), round(share * devices)) - 1)
    return accepted[at][0] if accepted else float("nan")


def _peak(times: list[float], width_s: float) -> int:
    return max(Counter(int(at / width_s) for at in times).values(), default=0)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
