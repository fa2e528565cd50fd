"""A saved run as Markdown: medians over the rounds with minimum and maximum, and ratios within each round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from plan import EDGERUN, LATEST, SUBJECTS

FORMAT = 1
NOISE = 0.03
"""Medians closer than this are told as equal."""
Row = dict[str, Any]


class Metric(NamedTuple):
    title: str
    of: Callable[[Row], float]
    more_is_better: bool = False
    digits: int = 1


RATE = Metric("results per second", lambda row: row["results"] / row["seconds"], True)
CHEAP = Metric("results per CPU-second", lambda row: row["results"] / row["cpu_s"], True)
P50 = Metric("age p50, ms", lambda row: row["ages_ms"]["p50"])
P95 = Metric("age p95, ms", lambda row: row["ages_ms"]["p95"])
P99 = Metric("age p99, ms", lambda row: row["ages_ms"]["p99"])
CPU = Metric("CPU per result, ms", lambda row: 1000 * row["cpu_s"] / row["results"], digits=2)
DECODED = Metric("pictures decoded per result", lambda row: row["decoded_per_result"], digits=2)
START = Metric("start to first result, s", lambda row: row["start_s"], digits=2)
PSS = Metric("PSS, MiB", lambda row: row["pss_mib"], digits=0)
RSS = Metric("RSS, MiB", lambda row: row["rss_mib"], digits=0)
PER_LOAD = (CHEAP, RATE, P50, P99)
PLACEMENTS = {"one": "One CPU for the subject, the camera on another", "free": "Not pinned: subject and camera share"}


class Spread(NamedTuple):
    median: float
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread | None:
        numbers = sorted(values)
        return cls(statistics.median(numbers), numbers[0], numbers[-1]) if numbers else None


class Run:
    """A saved run, asked for medians and for ratios of rows of the same round."""

    def __init__(self, saved: dict[str, Any]) -> None:
        if saved.get("format") != FORMAT:
            raise SystemExit(f"this is no run that this tool understands: format {saved.get('format')!r}")
        self.saved = saved
        self.rows: list[Row] = saved["runs"]
        self.subjects = [one for one in SUBJECTS if any(row["subject"] == one.name for row in self.rows)]

    def loads(self, placement: str) -> list[float]:
        return sorted({row["load"] for row in self.rows if row["placement"] == placement})

    def pick(self, subject: str, placement: str, load: float | None = None) -> list[Row]:
        return [
            row
            for row in self.rows
            if row["subject"] == subject
            and row["placement"] == placement
            and load in (None, row["load"])
            and row.get("results")
        ]

    def value(self, metric: Metric, subject: str, placement: str, load: float | None = None) -> Spread | None:
        rows = self.pick(subject, placement, load)
        return Spread.over(metric.of(row) for row in rows if _known(metric, row))

    def ratio(self, metric: Metric, subject: str, to: str, placement: str, load: float | None = None) -> Spread | None:
        """`subject` / `to`, each pair measured in the same round at the same load."""
        others = {(row["round"], row["load"]): row for row in self.pick(to, placement, load)}
        pairs = [
            (row, others[key])
            for row in self.pick(subject, placement, load)
            if (key := (row["round"], row["load"])) in others
        ]
        return Spread.over(
            metric.of(one) / metric.of(two) for one, two in pairs if _known(metric, one) and _known(metric, two)
        )


def render(saved: dict[str, Any]) -> str:
    """The whole page."""
    run = Run(saved)
    parts = [_head(run), _short(run)]
    for placement, title in PLACEMENTS.items():
        loads = run.loads(placement)
        if loads:
            parts.append(f"## {title}\n")
            parts += [_by_load(run, metric, placement, loads) for metric in PER_LOAD]
            parts.append(_by_load(run, DECODED, placement, loads, ratios=False))
    parts += [_memory(run), _targets(run), _behind(run), _missing(run)]
    return "\n".join(part for part in parts if part)


_FIRST_MODEL = "ssd-mobilenet-v2-oid, int8"
"""What ran before runs said so."""


def _head(run: Run) -> str:
    saved, settings = run.saved, run.saved["settings"]
    libraries = ", ".join(f"{name} {number}" for name, number in saved["versions"].items())
    lines = [
        f"# edgerun and its peers, {saved['when']}\n",
        f"{saved['machine'][:1].upper()}{saved['machine'][1:]}. {libraries}. One HTTP-MJPEG camera of 768×576, one "
        f"detector ({saved.get('model', _FIRST_MODEL)}, 300×300), one inference thread; "
        f"{settings['rounds']} rounds of {settings['seconds']:g} s each, alternating. What stands behind each row and "
        "how it was measured: [README](README.md).\n",
        f"1× is the bare loop's rate, {settings['rate']:.0f} results/s here. A cell is the median over the rounds "
        "[lowest–highest]; behind · the ratio to edgerun, the median of the ratios within each round.\n",
    ]
    if settings["same_cpu"]:
        lines.append("This machine has one CPU: camera and subject shared it.\n")
    shares = (row["neighbours_s"] / row["seconds"] * 100 for row in run.rows if row.get("neighbours_s") is not None)
    if others := Spread.over(shares):
        lines.append(f"Other processes took {_cell(others, 0)} % of the subject's CPU while it was measured.\n")
    bare = _bare(run)
    return "\n".join([*lines, bare]) if bare else "\n".join(lines)


def _short(run: Run) -> str:
    """One row per subject at the load nearest to 3×, with the ratios that count."""
    if not run.loads("one"):
        return ""
    load = min(run.loads("one"), key=lambda one: abs(one - 3))
    rows = []
    for subject in run.subjects:
        cells = [_median(run.value(metric, subject.name, "one", load), metric.digits) for metric in (RATE, CHEAP)]
        cells += [_median(run.ratio(CHEAP, subject.name, to, "one", load), 2, "×") for to in (EDGERUN, LATEST)]
        cells += [_median(run.value(metric, subject.name, "one", load), metric.digits) for metric in (P50, P99, PSS)]
        rows.append([subject.title, *cells, _median(run.value(START, subject.name, "one"), 2)])
    titles = ["", "results/s", "per CPU-second", "to edgerun", "to latest slot", "age p50, ms", "age p99, ms"]
    return f"## In short: one CPU, {load:g}×\n\n{_table([*titles, 'PSS, MiB', 'start, s'], rows)}"


def _bare(run: Run) -> str:
    lines = []
    for placement in PLACEMENTS:
        rows = [row for row in run.saved["bare"] if row["placement"] == placement]
        rate = Spread.over(row["results"] / row["seconds"] for row in rows)
        if rate:
            cheap = Spread.over(row["results"] / row["cpu_s"] for row in rows)
            p50, p99 = (Spread.over(row["invoke_ms"][name] for row in rows) for name in ("p50", "p99"))
            where = "pinned" if placement == "one" else "not pinned"
            lines.append(
                f"Bare loop, {where}: {_cell(rate, 1)} results/s, {_cell(cheap, 1)} per CPU-second, "
                f"invoke p50 {_cell(p50, 2)} ms, p99 {_cell(p99, 2)} ms.\n"
            )
    return "\n".join(lines)


def _by_load(run: Run, metric: Metric, placement: str, loads: list[float], ratios: bool = True) -> str:
    rate = run.saved["settings"]["rate"]
    better = "more is better" if metric.more_is_better else "less is better"
    titles = [f"{load:g}× ({load * rate:.0f} fps)" for load in loads]
    rows = []
    for subject in run.subjects:
        cells = []
        for load in loads:
            cell = _cell(run.value(metric, subject.name, placement, load), metric.digits)
            if ratios and subject.name != EDGERUN:
                ratio = run.ratio(metric, subject.name, EDGERUN, placement, load)
                cell += f" · {_times(ratio)}" if ratio else ""
            cells.append(cell)
        rows.append([subject.title, *cells])
    return f"### {metric.title[0].upper()}{metric.title[1:]}; {better}\n\n{_table(['', *titles], rows)}"


def _memory(run: Run) -> str:
    loads = run.loads("one")
    if not loads:
        return ""
    rows = []
    for subject in run.subjects:
        low, high = (run.value(PSS, subject.name, "one", load) for load in (loads[0], loads[-1]))
        cells = [_cell(run.value(START, subject.name, "one"), 2), _cell(low, 0), _cell(high, 0)]
        rows.append([subject.title, *cells, _cell(run.value(RSS, subject.name, "one", loads[-1]), 0)])
    titles = ["", "start to first result, s", *(f"PSS at {load:g}×, MiB" for load in (loads[0], loads[-1]))]
    return f"## Start and memory\n\n{_table([*titles, f'highest RSS at {loads[-1]:g}×, MiB'], rows)}"


def _targets(run: Run) -> str:
    """edgerun against the best that is usually written by hand, with the targets the project set itself."""
    rows: list[list[str]] = []

    def add(what: str, spread: Spread | None, limit: float, at_least: bool = False, unit: str = "×") -> None:
        if spread is not None:
            met = spread.median >= limit if at_least else spread.median <= limit
            cell = _times(spread) if unit == "×" else f"{_cell(spread, 2)}{unit}"
            rows.append([what, cell, f"{'≥' if at_least else '≤'} {limit:.3g}{unit}", "met" if met else "**missed**"])

    for load in run.loads("one"):
        mine = {metric: run.ratio(metric, EDGERUN, LATEST, "one", load) for metric in (RATE, CPU, P95)}
        if load > 1:
            add(f"rate at {load:g}×", mine[RATE], 1.25, at_least=True)
        if load != 1:  # there the targets say nothing: it is neither a slow camera nor a clear overload
            add(f"CPU per result at {load:g}×", mine[CPU], 0.80 if load > 1 else 1.05)
            add(f"age p95 at {load:g}×", mine[P95], 0.75 if load > 1 else 1.1)
        intervals = Spread.over(
            row["ages_ms"]["p99"] * row["results"] / row["seconds"] / 1000 for row in run.pick(EDGERUN, "one", load)
        )
        if load >= 1:
            add(f"age p99 at {load:g}×, in result intervals", intervals, 2.5, unit=" intervals")
    add("PSS", run.value(PSS, EDGERUN, "one"), 110 / 1.048576, unit=" MiB")
    add("start to first result", run.value(START, EDGERUN, "one"), 0.6, unit=" s")
    table = _table(["edgerun / latest slot", "measured", "target", ""], rows)
    return f"## Targets against the latest slot, one CPU\n\n{table}" if rows else ""


def _behind(run: Run) -> str:
    """Wherever a peer's median ratio is better than edgerun by more than `NOISE`."""
    if not run.pick(EDGERUN, "one") and not run.pick(EDGERUN, "free"):
        return ""
    lines = []
    for placement in PLACEMENTS:
        for metric in (*PER_LOAD, START, PSS):
            loads: list[float | None] = [*run.loads(placement)] if metric in (*PER_LOAD, PSS) else [None]
            for load in loads:
                better = _better(run, metric, placement, load)
                if better:
                    at = "" if load is None else f" at {load:g}×"
                    where = "" if placement == "one" else ", not pinned"
                    lines.append(f"- {metric.title}{at}{where}: {'; '.join(better)}")
    text = "\n".join(lines) or f"Nowhere by more than {NOISE:.0%}."
    lead = (
        f"Peers whose median is better than edgerun's by more than {NOISE:.0%} (their ratio to it [lowest–highest]).\n"
    )
    return f"## Where edgerun is behind\n\n{lead}\n{text}\n"


def _better(run: Run, metric: Metric, placement: str, load: float | None) -> list[str]:
    found = []
    for subject in run.subjects:
        if subject.name == EDGERUN:
            continue
        ratio = run.ratio(metric, subject.name, EDGERUN, placement, load)
        if ratio and (ratio.median > 1 + NOISE if metric.more_is_better else ratio.median < 1 - NOISE):
            unsure = " (not in every round)" if ratio.low < 1 < ratio.high else ""
            found.append(f"{subject.title} {_times(ratio)}{unsure}")
    return found


def _missing(run: Run) -> str:
    lines = [f"- {name}: {why}." for name, why in run.saved["missing"].items()]
    failed = [row for row in run.rows if "failed" in row]
    for row in failed:
        where = f"round {row['round'] + 1}, {row['load']:g}×, {row['placement']}"
        lines.append(f"- {row['subject']} ({where}) gave no figures: {row['failed']}")
    return "## Not measured\n\n" + "\n".join(lines) + "\n" if lines else ""


def _known(metric: Metric, row: Row) -> bool:
    return metric is not DECODED or row["decoded_per_result"] is not None


def _cell(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "—"
    return f"{spread.median:.{digits}f} [{spread.low:.{digits}f}–{spread.high:.{digits}f}]"


def _median(spread: Spread | None, digits: int, unit: str = "") -> str:
    return f"{spread.median:.{digits}f}{unit}" if spread else "—"


def _times(spread: Spread) -> str:
    return f"{spread.median:.2f}× [{spread.low:.2f}–{spread.high:.2f}]"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
