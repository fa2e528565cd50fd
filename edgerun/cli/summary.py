"""The end of a run in words: what became of every frame, how fresh the results were, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgerun.cli import output
from edgerun.config import RunOptions

_SHORT_RUN_S = 5.0
"""The CPU time is that of the process: in a shorter run, loading the model is most of it."""
_FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed", "in_flight")


def show(account: Mapping[str, Any], options: RunOptions) -> None:
    """Print `account` (the summary of contracts.md); for a program as JSON, last on stdout, when `options.json`.

    Raises `EdgerunError` when standard output cannot be written.
    """
    if options.console:
        show_lines = output.tell if options.json or options.jsonl == "-" else output.say
        show_lines("\n".join(lines(account)))
    if options.json:
        output.say_json(account)


def lines(account: Mapping[str, Any]) -> Iterator[str]:
    """The summary as lines of text. What the account does not hold is left out."""
    streams = account.get("streams", {})
    yield ""
    yield from _table(streams)
    for name, stream in streams.items():
        parts = [f"{stream['fps']:.1f} results/s"] if "fps" in stream else []
        parts += _percentiles("age", stream.get("age_ms", {}))
        for stage, values in stream.get("latency_ms", {}).items():
            if stage == "infer":
                parts += _percentiles(stage, values)
        if reasons := stream.get("failed_reasons"):
            parts.append("failed by " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()))
        if parts:
            yield f"{name}: " + ", ".join(parts)
    for name, engine in account.get("engines", {}).items():
        threads = engine.get("threads")
        after = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
        words = f"{engine.get('model', '')}, {engine.get('runtime', '')} on {engine.get('accelerator', '')}"
        yield f"engine {name}: {words}{after}"
    if mqtt := account.get("mqtt"):
        yield "mqtt: " + ", ".join(_delivery(mqtt))
    if cost := list(_cost(account)):
        yield ", ".join(cost)


def _table(streams: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """`grabbed = published + …`, a row per stream; fates that nobody met are left out."""
    fates = [f for f in _FATES if f == "published" or any(stream.get(f) for stream in streams.values())]
    heads = ["grabbed", *(fate.replace("_", " ") for fate in fates)]
    width = max((len(name) for name in streams), default=0)
    width = max(width, len("stream"))

    def row(first: str, cells: list[str]) -> str:
        cells = [cell.rjust(max(len(head), 7)) for cell, head in zip(cells, heads, strict=True)]
        return f"{first.ljust(width)}  {cells[0]} = " + " + ".join(cells[1:])

    if streams:
        yield row("stream", heads)
    for name, stream in streams.items():
        yield row(name, [str(stream.get(key, 0)) for key in ("grabbed", *fates)])


def _percentiles(what: str, values: Mapping[str, float]) -> list[str]:
    shown = [f"{key} {value:.1f}" for key, value in values.items()]
    return [f"{what} " + " · ".join(shown) + " ms"] if shown else []


def _delivery(mqtt: Mapping[str, Any]) -> Iterator[str]:
    yield f"{mqtt.get('acked', 0)} acknowledged"
    if mqtt.get("waiting"):
        yield f"{mqtt['waiting']} waiting"
    reasons = {reason: count for reason, count in mqtt.get("dropped", {}).items() if count}
    unsaid = reasons.pop("unsaid", 0)
    if reasons:
        yield f"{sum(reasons.values())} lost (" + ", ".join(f"{why} {n}" for why, n in reasons.items()) + ")"
    if unsaid:
        yield f"{unsaid} states not said"


def _cost(account: Mapping[str, Any]) -> Iterator[str]:
    seconds = account.get("seconds")
    if seconds is not None:
        yield f"{seconds:.1f} s"
    if "start_to_first_result_s" in account and account["start_to_first_result_s"] is not None:
        yield f"first result after {account['start_to_first_result_s']:.2f} s"
    if "rss_mib" in account:
        yield f"{account['rss_mib']:.0f} MiB resident"
    if "cpu_s" in account:
        share = f" ({account['cpu_s'] / seconds:.2f} cores)" if seconds and seconds >= _SHORT_RUN_S else ""
        yield f"{account['cpu_s']:.1f} s of CPU{share}"
