"""A soak as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools.soak_parts.account import WINDOW_S, Account
from tools.soak_parts.faults import Director
from tools.soak_parts.verdict import FATES, Row, passed, percentile
from tools.soak_parts.watch import Sample, by_window

CURVE_S = 300.0
_WORDS = {True: "holds", False: "**does not hold**", None: "cannot be told"}


def verdict_lines(rows: Sequence[Row]) -> list[str]:
    """The verdict alone, for a terminal."""
    width = max(len(row.what) for row in rows)
    mark = {True: "ok  ", False: "FAIL", None: "?   "}
    return [f"{mark[row.holds]} {row.what:<{width}}  {row.seen} ({row.bound})" for row in rows]


def report(
    told: Mapping[str, str],
    rows: Sequence[Row],
    summary: Mapping[str, Any] | None,
    account: Account,
    director: Director,
    samples: Sequence[Sample],
) -> str:
    """The whole of a run; `told` is what the head says of it."""
    streams = {} if summary is None else summary["streams"]
    parts = [
        f"# Soak: {'passed' if passed(rows) else 'failed'}",
        "\n".join(f"- {key}: {value}" for key, value in told.items()),
        "## Verdict",
        _table(["promise", "seen", "bound", ""], [[r.what, r.seen, r.bound, _WORDS[r.holds]] for r in rows]),
        "## Frames",
        _table(["stream", "grabbed", *FATES], [[n, s["grabbed"], *(s[f] for f in FATES)] for n, s in streams.items()]),
        "## Age of what was published, ms",
        _ages(account),
        "## Cost",
        _costs(samples),
        "## Faults",
        _table(
            ["fault", "times", "seconds in all"],
            [[name, times, f"{director.lasted_s[name]:.0f}"] for name, times in sorted(director.counts.items())],
        ),
        "Events published: " + (", ".join(f"{n} {kind}" for kind, n in account.events.most_common()) or "none") + ".",
        f"Commands done: {sum(account.answers.values())} of {len(account.answers)}; "
        f"commands without an id refused: {account.refused}.",
    ]
    return "\n\n".join(parts) + "\n"


def _ages(account: Account) -> str:
    windows = sorted({window for ages in account.ages.values() for window in ages})
    rows = []
    for name, ages in sorted(account.ages.items()):
        for percent in (50, 99):
            cells = [f"{percentile(ages[w], percent):.1f}" if w in ages else "" for w in windows]
            rows.append([f"{name} p{percent}", *cells])
    return _table(["", *(f"from {w * WINDOW_S // 60} min" for w in windows)], rows)


def _costs(samples: Sequence[Sample]) -> str:
    rows = []
    for window in by_window(samples, CURVE_S):
        span_s = window[-1].passed_s - window[0].passed_s
        rows.append([
            f"{window[0].passed_s // CURVE_S * CURVE_S / 60:.0f}",
            f"{statistics.median(one.rss_mib for one in window):.1f}",
            f"{max(one.rss_mib for one in window):.1f}",
            max(one.fds for one in window),
            max(one.threads for one in window),
            f"{(window[-1].cpu_s - window[0].cpu_s) / span_s:.2f}" if span_s else "",
            f"{statistics.mean(one.load for one in window):.1f}",
        ])  # fmt: skip
    head = ["from min", "RSS MiB, median", "most", "open files, most", "threads, most", "CPU s/s", "machine's load"]
    return _table(head, rows)


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
