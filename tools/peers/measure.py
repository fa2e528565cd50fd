"""One run of one subject against the camera, watched from outside: all are measured alike, whatever they say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tally import percentiles

ROOT = Path(__file__).resolve().parents[2]
FIRST_RESULT_S = 30.0
SETTLE_S = 0.5
"""After the first result, before the window opens: a player's start-up is no part of its steady state."""
_LOOK_EVERY_S = 0.25
_END_S = 10.0


class Failed(Exception):
    """A run that gave no figures, and why."""


@contextlib.contextmanager
def pinned(cpus: set[int] | None) -> Iterator[None]:
    """What is started inside runs on these CPUs only, its threads too. `None`: on all."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def camera(fps: float, cpus: set[int] | None) -> Iterator[str]:
    """The emulated camera in a process of its own; its address."""
    command = [sys.executable, "-m", "edgerun.bench.camera", "--fps", f"{fps:.4f}", "--with-parent"]
    with pinned(cpus):
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if not said:
            raise Failed(f"the camera did not start; exit code {process.wait()}")
        yield json.loads(said)["url"]
    finally:
        process.stdin.close()
        process.stdout.read()
        process.stdout.close()
        process.wait()


def bare_loop(command: list[str], seconds: float, cpus: set[int] | None) -> dict[str, Any]:
    """What the yardstick says of itself: results, seconds, cpu_s, invoke_ms."""
    with pinned(cpus):
        done = subprocess.run([*command, "--seconds", str(seconds)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip()[-300:])
    return json.loads(done.stdout.splitlines()[-1])


def subject(command: list[str], seconds: float, cpus: set[int] | None) -> dict[str, Any]:
    """Run `command` (`--out` is added) until it has given results for `seconds`; the figures of that window.

    `start_s` is from the start of its process to its first result; `pss_mib` the highest of samples of
    /proc/PID/smaps_rollup, `rss_mib` the kernel's own high-water mark (VmHWM); `neighbours_s` what other processes
    took of the subject's CPU meanwhile. Raises `Failed`.
    """
    with tempfile.TemporaryDirectory(prefix="edgerun-peers-") as folder, contextlib.ExitStack() as stack:
        out = Path(folder) / "results.jsonl"
        out.touch()
        files = [stack.enter_context((Path(folder) / name).open("w+")) for name in ("stdout", "stderr")]
        began_ns = time.monotonic_ns()
        with pinned(cpus):
            process = subprocess.Popen([*command, "--out", str(out)], cwd=ROOT, stdout=files[0], stderr=files[1])
        try:
            figures = _watch(process, out, seconds, cpus)
        except Failed as failed:
            _end(process)
            raise Failed(f"{failed} {_tail(files[1])}".strip()) from None
        used = _end(process)
        if used is None:
            raise Failed(f"ended by itself. {_tail(files[1])}".strip())
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        figures |= _of_window(lines, figures.pop("from_ns"), figures.pop("until_ns"))
        figures["start_s"] = round((lines[0]["ready_ns"] - began_ns) / 1e9, 4)
        figures["whole_run_cpu_s"] = round(used.ru_utime + used.ru_stime, 4)
        figures["decoded_per_result"] = _decoded(_tail(files[0]), len(lines))
    if not figures["ages_ms"]:
        raise Failed("its results carry no readable stamp")
    return figures


def _watch(process: subprocess.Popen[bytes], out: Path, seconds: float, cpus: set[int] | None) -> dict[str, Any]:
    deadline = time.monotonic() + FIRST_RESULT_S
    while out.stat().st_size == 0:
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode} before its first result.")
        if time.monotonic() > deadline:
            raise Failed(f"no result within {FIRST_RESULT_S:g} s.")
        time.sleep(0.01)
    time.sleep(SETTLE_S)
    from_ns, cpu_ns = time.monotonic_ns(), _cpu_ns(process.pid)
    busy_s, pss_kib = _busy_s(cpus), _smaps(process.pid)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_EVERY_S))
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode} while it was measured.")
        pss_kib = max(pss_kib, _smaps(process.pid))
    cpu_s, busy_s = (_cpu_ns(process.pid) - cpu_ns) / 1e9, _busy_s(cpus) - busy_s
    return {
        "from_ns": from_ns,
        "until_ns": time.monotonic_ns(),
        "cpu_s": round(cpu_s, 4),
        "neighbours_s": round(max(0.0, busy_s - cpu_s), 3) if cpus else None,
        "pss_mib": round(pss_kib / 1024, 1),
        "rss_mib": round(_status_kib(process.pid, "VmHWM") / 1024, 1),
    }


def _of_window(lines: list[dict[str, Any]], from_ns: int, until_ns: int) -> dict[str, Any]:
    inside = [line for line in lines if from_ns <= line["ready_ns"] <= until_ns]
    ages_ms = [(line["ready_ns"] - line["made_ns"]) / 1e6 for line in inside if "made_ns" in line]
    seconds = (until_ns - from_ns) / 1e9
    return {
        "results": len(inside),
        "seconds": round(seconds, 4),
        "unreadable": len(inside) - len(ages_ms),
        "ages_ms": percentiles(ages_ms),
        "detections": sum(len(line["detections"]) for line in inside),
    }


def _decoded(said: str, results: int) -> float | None:
    """Pictures decoded for each result, from the subject's last line; edgerun's skipped frames were never decoded."""
    try:
        summary = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        return None
    if "streams" in summary:
        (stream,) = summary["streams"].values()
        decoded = stream["grabbed"] - stream["skipped"]
    else:
        decoded = summary["decoded"]
    return round(decoded / results, 3)


def _end(process: subprocess.Popen[bytes]) -> Any:
    """End it by its own pid; its resource usage."""
    if process.returncode is not None:  # it ended before
        return None
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _END_S
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used
        if time.monotonic() > deadline:
            process.kill()
            deadline = float("inf")
        time.sleep(0.01)


def _cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, to the nanosecond: clock_getcpuclockid(3), as the kernel numbers it."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def _busy_s(cpus: set[int] | None) -> float:
    """CPU time that anything took of `cpus` since boot; /proc/stat in proc(5), idle and iowait are the 4th and 5th."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if cpus and name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            ticks += sum(map(int, fields[:8])) - int(fields[3]) - int(fields[4])
    return ticks / os.sysconf("SC_CLK_TCK")


def _smaps(pid: int) -> int:
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _status_kib(pid: int, name: str) -> int:
    return _field(Path(f"/proc/{pid}/status"), name)


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise Failed(f"{path} does not tell {name}.")


def _tail(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()[-4000:]
