"""The original and what was made of it, side by side: latency, memory, size and, where the machine tells it, energy.

Here each model has a process of its own and the rounds alternate, so that whatever else the machine does reaches all of
them. On another device `edgerun bench --compare` does the same there, over ssh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from edgerun.bench.child import SubjectProcess
from edgerun.bench.compare import ratios as ratios_of
from edgerun.bench.engine import Plan, Report, Round
from edgerun.bench.samples import Spread
from edgerun.bench.subject import Subject
from edgerun.convert.parts import Measured, Progress
from edgerun.device.board import identify, processors
from edgerun.device.machine import Machine
from edgerun.errors import DeviceError

USUAL = Plan(warmup=10, rounds=5, duration_s=1.0)
"""Medians of five rounds of a second each."""


class Entry(msgspec.Struct, frozen=True):
    """A model to be measured, and what it is called in tables."""

    name: str
    path: Path


class Measurement(msgspec.Struct, frozen=True):
    """`measured` in the order given; `ratios` of each but the first to the first, by name, then figure.

    The figures are those of `bench.compare.METRICS` (`p50_ms`, `p99_ms`, `cpu_ms`, `energy_j` …): the ratio of the
    medians, with the smallest and largest of the pairs of rounds. `notes`, a sentence each: where energy comes from,
    and what slowed the machine down meanwhile.
    """

    measured: tuple[Measured, ...]
    ratios: Mapping[str, Mapping[str, Spread]]
    notes: tuple[str, ...] = ()


def measure(
    entries: Sequence[Entry], *, on: str | None = None, threads: int = 1, plan: Plan = USUAL, progress: Progress
) -> Measurement:
    """Measure `entries` (the original first) here, or on the host `on` as ssh knows it.

    Raises `ModelError`, `EngineError` or `MissingError` where one cannot be opened or run; for another host also
    `DeviceError` where it cannot be reached.
    """
    if on is not None:
        from edgerun.convert.remote import measure_on

        return measure_on(on, entries, threads, plan, progress)
    return _measure_here(entries, threads, plan, progress)


def size_of(path: Path) -> int:
    """Bytes of a model: of the file, or of all files of a bundle's folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def _measure_here(entries: Sequence[Entry], threads: int, plan: Plan, progress: Progress) -> Measurement:
    rounds: dict[str, list[Round]] = {one.name: [] for one in entries}
    with ExitStack() as stack:
        processes: dict[str, _Process] = {}
        for one in entries:
            progress(f"loading {one.name}", 0, plan.rounds)
            child = _Process(Subject(str(one.path), threads=threads), plan)
            processes[one.name] = stack.enter_context(closing(child))
        for number in range(plan.rounds):
            order = entries if number % 2 == 0 else entries[::-1]
            for one in order:
                progress(f"measuring {one.name}", number, plan.rounds)
                rounds[one.name].append(processes[one.name].run_round(plan))
        device = this_device()
        reports = {one.name: processes[one.name].report(rounds[one.name]) for one in entries}
        peaks = {one.name: processes[one.name].peak_rss_mib() for one in entries}
    progress("measuring", plan.rounds, plan.rounds)
    measured = [as_measured(one, device, reports[one.name], peaks[one.name]) for one in entries]
    first = rounds[entries[0].name]
    ratios = {one.name: ratios_of(first, rounds[one.name]) for one in entries[1:]}
    return Measurement(tuple(measured), ratios, notes_on(reports, device))


class _Process(SubjectProcess):
    """A model's process that also tells the most memory it has had."""

    def peak_rss_mib(self, machine: Path = Path("/")) -> float | None:
        """The high-water mark of its resident memory (proc(5): VmHWM); None where the kernel does not tell it."""
        try:
            lines = (machine / "proc" / str(self._child.pid) / "status").read_text().splitlines()
        except OSError:
            return None
        kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
        return round(kib / 1024, 1) if kib is not None else None


def as_measured(entry: Entry, device: str, report: Report, peak_rss_mib: float | None) -> Measured:
    """A report of `bench` as a row of the table."""
    return Measured(
        name=entry.name,
        device=device,
        threads=report.threads,
        p50_ms=report.latency_ms["p50"],
        p99_ms=report.latency_ms["p99"],
        size_bytes=size_of(entry.path),
        peak_rss_mib=peak_rss_mib,
        energy_j=report.energy_j_per_inference,
    )


def notes_on(reports: Mapping[str, Report], device: str) -> tuple[str, ...]:
    """What a reader of the figures must know besides, of `reports` by name."""
    notes = []
    told = next((one for one in reports.values() if one.energy_source is not None), None)
    if told is not None and told.energy_j_per_inference is not None:
        rest = f", beyond the {told.idle_w:.2f} W that it draws at rest" if told.idle_w is not None else ""
        notes.append(f"Energy is that of the whole machine as {told.energy_source} tells it{rest}.")
    for name, one in reports.items():
        if one.unfit:
            notes.append(f"{name} on {device} was slowed down while it was measured: {', '.join(one.unfit)}.")
    return tuple(notes)


def this_device(root: Path = Path("/")) -> str:
    """What this machine calls itself: its board, else its processor, else its architecture."""
    machine = Machine(root)
    try:
        board, (_, processor) = identify(machine), processors(machine)
    except DeviceError:  # a name is not worth the measurement
        return "this device"
    return board.model or processor or board.architecture
