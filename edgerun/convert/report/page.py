"""An Outcome as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerun.bench.samples import Spread
from edgerun.convert.parts import ClassQuality, Measured, Outcome, Quality
from edgerun.convert.report.charts import Bar, bars, is_int8, layers, measured
from edgerun.convert.report.markup import Content, Markup, join, percent, table, tag
from edgerun.convert.report.pictures import Example

Ratios = Mapping[str, Mapping[str, Spread]]
"""As in `measure.Measurement`, of the first device."""

_CSS = Path(__file__).with_name("page.css")
_CLASSES = 15
"""Rows shown before the rest is folded away."""
_PRECISIONS = {"int8": "8-bit integers", "mixed": "mixed precision", "fp16": "16-bit floats", "float": "32-bit floats"}


def page(
    outcome: Outcome, examples: Sequence[Example], preview: str | None, ratios: Ratios, notes: Sequence[str] = ()
) -> str:
    """The whole page. `preview`: the calibration set's contact sheet as a data: URL; `notes`: on what was measured."""
    advice = _advice(outcome)
    sections = [
        _head(outcome, ratios),
        None if outcome.passed else advice,
        _before_and_after(outcome, ratios, notes),
        _quality(outcome.quality, outcome.quality_naive),
        _worst(examples),
        _preview(preview),
        _layers(outcome),
        _steps(outcome),
        advice if outcome.passed else None,
        _repeat(outcome),
    ]
    title = f"{outcome.name}: conversion report"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(_CSS.read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *sections)), lang='en')}\n"


def verdict(outcome: Outcome, ratios: Ratios) -> str:
    """What came of it, in one sentence."""
    quality = outcome.quality
    kept = f"keeps {percent(quality.kept)} of the original's {words(quality.metric)} on {quality.samples} samples"
    if not outcome.passed:
        return f"The best that was found {kept}, which is not enough. No bundle was written."
    told = [f"The result {kept}"]
    first, result = _pair(outcome.measured)
    if first is not None and result is not None:
        told.append(f"is {_smaller(first.size_bytes, result.size_bytes)}")
        told.append(f"and {_faster(first, result, ratios)} on {result.device}")
    return ", ".join(told) + "."


def _head(outcome: Outcome, ratios: Ratios) -> Markup:
    word = "Passed" if outcome.passed else "Refused"
    banner = tag(
        "div",
        tag("strong", f"{word}. "),
        verdict(outcome, ratios),
        tag("p", f"Gate: {outcome.gate}"),
        class_=f"verdict {word.lower()}",
    )
    facts = f"{Path(outcome.source).name} → {outcome.format}, {_PRECISIONS[outcome.precision]}; task: {outcome.task}"
    return join(tag("h1", outcome.name), tag("p", facts, class_="quiet"), banner)


def _before_and_after(outcome: Outcome, ratios: Ratios, notes: Sequence[str]) -> Markup:
    groups: dict[str, list[Measured]] = {}
    for one in outcome.measured:
        groups.setdefault(one.device, []).append(one)
    figures: list[Content] = []
    for device, rows in groups.items():
        where = f" on {device}" if len(groups) > 1 else ""
        figures += [
            bars(
                f"Latency, p50{where}",
                [_bar(at, one, one.p50_ms, f"{one.p50_ms:.2f} ms") for at, one in enumerate(rows)],
            ),
            bars(
                f"Latency, p99{where}",
                [_bar(at, one, one.p99_ms, f"{one.p99_ms:.2f} ms") for at, one in enumerate(rows)],
            ),
            bars(f"Peak memory of the process{where}", _known(rows, "peak_rss_mib", "{:.0f} MiB")),
            bars(f"Energy of an inference{where}", _known(rows, "energy_j", "{:.3g} J")),
        ]
    sizes = next(iter(groups.values()), [])
    size = bars("Size", [_bar(at, one, one.size_bytes, megabytes(one.size_bytes)) for at, one in enumerate(sizes)])
    return join(
        tag("h2", "Before and after"),
        tag("div", size, *figures, _quality_bars(outcome), class_="bars"),
        _measured_table(outcome.measured, ratios) if outcome.measured else tag("p", "Nothing was measured."),
        *(tag("p", note, class_="quiet") for note in notes),
    )


def _quality_bars(outcome: Outcome) -> Markup | None:
    quality, naive = outcome.quality, outcome.quality_naive
    rows: list[Bar] = [
        ("original", quality.original, f"{quality.original:.3f}", "original"),
        ("result", quality.value, f"{quality.value:.3f}", "result"),
    ]
    if naive is not None:
        rows.append(("int8 throughout", naive.value, f"{naive.value:.3f}", "other"))
    return bars(f"Quality: {words(quality.metric)}", rows, "the higher the better")


def _measured_table(measured: Sequence[Measured], ratios: Ratios) -> Markup:
    header = ("model", "device", "threads", "p50, ms", "p99, ms", "size", "peak memory, MiB", "energy, J", "p50 ratio")
    rows = []
    for one in measured:
        first = next(each for each in measured if each.device == one.device)
        rows.append(
            (
                one.name,
                one.device,
                one.threads,
                f"{one.p50_ms:.2f}",
                f"{one.p99_ms:.2f}",
                megabytes(one.size_bytes),
                None if one.peak_rss_mib is None else f"{one.peak_rss_mib:.1f}",
                None if one.energy_j is None else f"{one.energy_j:.3g}",
                None if one is first else _ratio_text(first, one, ratios if first is measured[0] else {}),
            )
        )
    note = "Measured in turn, each model in a process of its own; medians over the rounds."
    if ratios:
        note += " Ratio: to the original, with the smallest and largest of the pairs of rounds."
    return table(note, header, rows, numbers=2)


def _ratio_text(first: Measured, one: Measured, ratios: Ratios) -> str | None:
    """How many times as long as the first takes; the spread is known of the device that `ratios` are of."""
    spread = ratios.get(one.name, {}).get("p50_ms")
    if spread is not None:
        return f"{spread.median:.2f} ({spread.min:.2f}–{spread.max:.2f})"
    return f"{one.p50_ms / first.p50_ms:.2f}" if first.p50_ms else None


def _quality(quality: Quality, naive: Quality | None) -> Markup:
    header = ("", "result", *(("int8 throughout",) if naive is not None else ()))
    both = [quality, *([naive] if naive is not None else [])]
    rows: list[tuple[Content, ...]] = [
        (words(quality.metric), *(f"{one.value:.4f}" for one in both)),
        ("the original's own", *(f"{one.original:.4f}" for one in both)),
        ("kept", *(percent(one.kept) for one in both)),
        ("samples", *(str(one.samples) for one in both)),
    ]
    rows += [(words(key), *(_number(one.more.get(key)) for one in both)) for key in quality.more]
    shown = table("Compared with the original, on samples that were not used for calibration", header, rows)
    return join(tag("h2", "Quality"), shown, _classes(quality.classes))


def _classes(classes: Sequence[ClassQuality]) -> Markup | None:
    if not classes:
        return None
    header = ("class", "in the original", "of these kept", "kept", "extra")
    whole = [one.kept == one.reference and not one.extra for one in classes]
    order = [one.kept / one.reference if one.reference else 2.0 for one in classes]
    places = sorted(range(len(classes)), key=lambda at: (whole[at], order[at], -classes[at].reference))
    ranked = [classes[at] for at in places]
    rows: list[tuple[Content, ...]] = [
        (
            one.name,
            one.reference,
            one.kept,
            percent(one.kept / one.reference) if one.reference else None,
            one.extra,
        )
        for one in ranked
    ]
    changed = sum(one.kept != one.reference or one.extra > 0 for one in ranked)
    shown = len(rows) if len(rows) <= _CLASSES else min(changed, _CLASSES)
    first: Content = table("The class that lost most first", header, rows[:shown])
    if not shown:
        first = tag("p", f"None of the {len(rows)} classes lost or gained anything.")
    rest = None
    if len(rows) > shown:
        said = f"the other {len(rows) - shown} classes" if shown else "all classes"
        rest = tag("details", tag("summary", said), table("The other classes", header, rows[shown:]))
    return join(tag("h3", "Class by class"), first, rest)


def _worst(examples: Sequence[Example]) -> Markup | None:
    if not examples:
        return None
    shown = []
    for one in examples:
        worst = one.worst
        figures = [
            tag("figure", tag("img", src=url, alt=f"{worst.origin}, {caption}"), tag("figcaption", caption))
            for caption, url in one.pictures
        ]
        shown.append(
            tag(
                "section",
                tag("h3", f"{worst.origin} (score {worst.score:.3f})"),
                tag("p", tag("b", "original: "), worst.reference),
                tag("p", tag("b", "result: "), worst.candidate),
                tag("div", *figures, class_="pictures") if figures else None,
                class_="worst card",
            )
        )
    note = "The samples on which original and result differ most."
    if any(len(one.pictures) > 2 for one in examples):
        note += (
            " In the grey pictures colour marks the parts that carried a result: covering them takes most of it away."
        )
    return join(tag("h2", "Worst examples"), tag("p", note, class_="quiet"), *shown)


def _preview(preview: str | None) -> Markup | None:
    if preview is None:
        return None
    note = (
        "Calibration samples as the model gets them, after resizing and normalisation, back in colours. "
        "If these look wrong, so is the preprocessing."
    )
    image = tag("img", src=preview, alt="contact sheet of the calibration samples as the model gets them")
    return join(tag("h2", "What the model was shown"), tag("p", note, class_="quiet"), image)


def _layers(outcome: Outcome) -> Markup | None:
    if not outcome.layers:
        return None
    kept = [one for one in outcome.layers if not is_int8(one)]
    total = sum(one.layer.macs for one in outcome.layers) or 1
    macs = sum(one.layer.macs for one in kept)
    said = (
        f"{len(kept)} of {len(outcome.layers)} layers stay in higher precision; they do {percent(macs / total)} of the "
        "multiply-accumulates. "
    )
    if measured(outcome.layers):
        said += "SQNR: how far the outputs stand above the error when that layer alone is quantised."
    else:
        said += "How sensitive each one is was not measured: there was nothing to choose by it."
    return join(tag("h2", "Layer by layer"), tag("p", said), layers(outcome.layers))


def _steps(outcome: Outcome) -> Markup | None:
    if not outcome.steps:
        return None
    rows: list[tuple[Content, ...]] = [(one.name, one.text, f"{one.seconds:.1f}") for one in outcome.steps]
    total = sum(one.seconds for one in outcome.steps)
    shown = table(f"{total:.0f} s in all", ("step", "how it came out", "seconds"), rows, numbers=2)
    return join(tag("h2", "What was done"), shown)


def _advice(outcome: Outcome) -> Markup | None:
    if not outcome.advice:
        return None
    return join(tag("h2", "What to try next"), tag("ul", *(tag("li", one) for one in outcome.advice)))


def _repeat(outcome: Outcome) -> Markup:
    rows: list[tuple[Content, ...]] = [(name, tag("code", text)) for name, text in _flat(outcome.repeat)]
    told = outcome.repeat.get("tools", {})
    tools = [(name, version) for name, version in outcome.original.tools.items() if told.get(name) != version]
    rows += [(f"tool: {name}", tag("code", version)) for name, version in tools]
    if outcome.bundle is not None:
        rows.append(("bundle", tag("code", str(outcome.bundle))))
    notes = [tag("li", note) for note in outcome.original.notes]
    return join(
        tag("h2", "To repeat this"),
        tag("ul", *notes) if notes else None,
        table("Versions, hashes, seed and command", ("what", "value"), rows, numbers=9) if rows else None,
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested tables as dotted names; lists as their items parted by spaces."""
    found: list[tuple[str, str]] = []
    for key, one in value.items():
        if isinstance(one, Mapping):
            found += _flat(one, f"{prefix}{key}.")
        elif isinstance(one, (list, tuple)):
            found.append((f"{prefix}{key}", " ".join(map(str, one))))
        else:
            found.append((f"{prefix}{key}", str(one)))
    return found


def _bar(at: int, one: Measured, value: float, text: str) -> Bar:
    return one.name, value, text, ("original", "result")[at] if at < 2 else "other"


def _known(rows: Sequence[Measured], field: str, form: str) -> list[Bar]:
    known = [(at, one, getattr(one, field)) for at, one in enumerate(rows)]
    return [_bar(at, one, value, form.format(value)) for at, one, value in known if value is not None]


def _pair(measured: Sequence[Measured]) -> tuple[Measured | None, Measured | None]:
    """The original and the result on the first device."""
    first = measured[0] if measured else None
    same = [one for one in measured[1:] if first is not None and one.device == first.device]
    return first, same[0] if same else None


def _smaller(before: int, after: int) -> str:
    if not before or after >= before:
        return f"no smaller ({megabytes(after)} after {megabytes(before)})"
    return f"{percent(1 - after / before)} smaller ({megabytes(after)} after {megabytes(before)})"


def _faster(first: Measured, result: Measured, ratios: Ratios) -> str:
    spread = ratios.get(result.name, {}).get("p50_ms")
    ratio = spread.median if spread is not None else result.p50_ms / first.p50_ms if first.p50_ms else 1.0
    return f"{1 / ratio:.2f} times as fast" if ratio > 0 else "faster than can be measured"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def words(name: str) -> str:
    """A metric's name for a reader."""
    return name.replace("_", " ")


def megabytes(count: int) -> str:
    """Bytes as MB (10⁶), or kB for little ones."""
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
