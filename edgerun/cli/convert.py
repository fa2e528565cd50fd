"""Prepare a model: import, prune, calibrate, quantise, prove, measure, bundle and report.

The source is .onnx, float .tflite, .keras, a SavedModel, a torch.export program (.pt2), module:factory, or a bundle of
one. The result is held against the float original on samples that were not calibrated with; where it keeps too little,
layers stay in higher precision until it does. When nothing meets the gate no bundle is written and the exit code is 3:
DIR-report/report.html says which layers, which classes, and what to try.

Sets of samples are folders of pictures (labelled: one sub-folder per class, or labels.csv of file,label), videos, .npz
(arrays by input name) or .csv windows; PATH[start:stop:step] takes a part of one. Given one set only, it is split."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from edgerun.cli import logs, numbers, output
from edgerun.cli.parser import add_common

EXAMPLES = (
    "edgerun convert detector.onnx -o detector --calibrate frames/ --mean 0 --std 255 --labels labels.txt",
    "edgerun convert float.tflite -o small --calibrate street.mp4[0:400] --evaluate street.mp4[420:]",
    "edgerun convert mynet.py:build -o small --calibrate photos/ --evaluate labelled/ --prune 0.5 --distil",
    "edgerun convert detector.onnx --calibrate frames/ --mean 0 --std 255 --preview seen.png",
)

_GATE_MISSED = 3
_TERMINATED = 143


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("source", metavar="SRC", help="the model: a file, a bundle, or module:factory")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="the bundle to make (SRC's name)")
    parser.add_argument("--force", action="store_true", help="replace DIR where it is a bundle already")
    _add_result(parser)
    _add_samples(parser)
    _add_input(parser)
    _add_gate(parser)
    add_common(parser)


def _add_result(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is made")
    group.add_argument("--format", choices=("tflite", "onnx"), help="of the result (the source's own)")
    group.add_argument(
        "--precision",
        choices=("int8", "mixed", "fp16", "float"),
        help="int8: every layer or nothing; mixed: int8 but for the layers that the gate needs (mixed)",
    )
    group.add_argument(
        "--target", choices=("cpu", "edgetpu", "gpu", "ort"), default="cpu", help="what it is to run on (cpu)"
    )
    group.add_argument(
        "--calibration",
        choices=("minmax", "average", "percentile", "entropy", "mse"),
        help="how ranges of activations are chosen (the converter's own default)",
    )
    group.add_argument(
        "--prune", metavar="SHARE", type=_share, help="share of the MACs to prune, such as 0.5 (PyTorch)"
    )
    group.add_argument("--distil", action="store_true", help="train the result to answer as the original (PyTorch)")
    group.add_argument("--name", metavar="NAME", help="the bundle's name (SRC's)")
    group.add_argument("--version", dest="bundle_version", metavar="TEXT", default="1", help="the bundle's version (1)")
    group.add_argument(
        "--license", metavar="TEXT|FILE", help="the model's licence: a name such as Apache-2.0, or a file"
    )


def _add_samples(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("samples")
    group.add_argument(
        "--calibrate", metavar="PATH", action="append", default=[], help="set to calibrate with; may be repeated"
    )
    group.add_argument(
        "--evaluate", metavar="PATH", action="append", default=[], help="set to judge by; may be repeated"
    )
    group.add_argument("--preview", metavar="FILE.png", type=Path, help="only draw what the model will see of the set")
    group.add_argument("--seed", metavar="N", type=int, default=0, help="of every random choice (0)")


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model's input and outputs, where it does not say")
    group.add_argument("--mean", metavar="N,…", type=_floats, help="of 0–255 pixels, for all channels or each")
    group.add_argument("--std", metavar="N,…", type=_floats, help="pixels become (pixel - mean) / std")
    group.add_argument("--color", choices=("RGB", "BGR", "GRAY"), help="order of the channels (RGB)")
    group.add_argument("--fit", choices=("stretch", "letterbox", "crop"), help="how a picture is put into the input")
    group.add_argument("--size", metavar="WxH", type=numbers.size, help="of the input, where it is open")
    group.add_argument(
        "--shape",
        metavar="INPUT=N,…",
        type=_shape,
        action="append",
        default=[],
        help="sides of an input that is left open, batch included; may be repeated",
    )
    group.add_argument("--labels", metavar="FILE", type=Path, help="names of the classes, one a line")
    group.add_argument("--decoder", metavar="KIND", help="what reads the outputs")
    group.add_argument("--threshold", metavar="T", type=_score, help="lowest score reported, in the manifest too")


def _add_gate(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("gate and measurement")
    group.add_argument(
        "--min-quality", metavar="SHARE", type=_share_or_all, default=0.99, help="of the original's metric (0.99)"
    )
    group.add_argument("--max-drop", metavar="N", type=_drop, help="instead: how much the metric itself may lose")
    group.add_argument(
        "--time-budget", metavar="MIN", type=numbers.positive, default=20.0, help="for choosing layers, minutes (20)"
    )
    group.add_argument("--on", metavar="HOST", help="measure on this device too, over ssh")
    group.add_argument(
        "--compression", action="store_true", help="tell what zeroed or clustered weights would save (no speed)"
    )
    group.add_argument("--no-measure", action="store_true", help="leave latency and memory out")


def run(args: argparse.Namespace) -> int:
    """Convert; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    os.environ.setdefault("TQDM_DISABLE", "1")  # converters draw bars of their own, terminal or not
    from edgerun.convert import job as jobs
    from edgerun.convert.place import report_folder

    job = make_job(args)
    with _terminable(), _bar() as progress:
        if args.preview is not None:
            return _tell_preview(jobs.preview(job, args.preview, progress), args)
        outcome = jobs.run(job, progress)
    folder = outcome.bundle or report_folder(job.output)
    output.tell("\n".join(summary(outcome)))
    output.tell(f"report: {folder / 'report.html'}")
    if args.json:
        found = msgspec.to_builtins(outcome, enc_hook=str)
        output.say_json({"v": 1, **found, "report": str(folder / "report.html")})
    elif outcome.bundle is not None:
        output.say(str(outcome.bundle))
    return 0 if outcome.passed else _GATE_MISSED


def make_job(args: argparse.Namespace) -> Any:
    """What the flags ask for. Raises `ConfigError`."""
    from edgerun.convert.order import Job
    from edgerun.convert.subject import Said
    from edgerun.models import read_labels

    said = Said(
        mean=args.mean,
        std=args.std,
        color=args.color,
        fit=args.fit,
        size=args.size,
        labels=read_labels(args.labels) if args.labels is not None else None,
        decoder=args.decoder,
        threshold=args.threshold,
    )
    stem = Path(args.source.rpartition(":")[2]).stem
    return Job(
        source=args.source,
        output=args.output or Path(f"{stem}-{args.precision or 'int8'}"),
        format=args.format,
        precision=args.precision,
        target=args.target,
        calibrate=tuple(args.calibrate),
        evaluate=tuple(args.evaluate),
        said=said,
        shapes=dict(args.shape),
        min_quality=args.min_quality,
        max_drop=args.max_drop,
        prune=args.prune,
        distil=args.distil,
        time_budget_min=args.time_budget,
        seed=args.seed,
        calibration=args.calibration,
        name=args.name,
        version=args.bundle_version,
        licence=args.license,
        on=args.on,
        measure=not args.no_measure,
        compression=args.compression,
        force=args.force,
        command="edgerun " + shlex.join(sys.argv[1:]) if sys.argv[1:2] == ["convert"] else "",
    )


def summary(outcome: Any) -> list[str]:
    """What was found out, for a person."""
    quality = outcome.quality
    lines = [f"{one.name:<12} {one.text}  [{one.seconds:.1f} s]" for one in outcome.steps]
    lines.append("")
    for one in outcome.measured:
        memory = f", {one.peak_rss_mib:.0f} MiB at most" if one.peak_rss_mib is not None else ""
        size = f"{one.size_bytes / 1e6:.2f} MB"
        lines.append(f"{one.name:<12} p50 {one.p50_ms:.2f} ms, p99 {one.p99_ms:.2f} ms, {size}{memory} ({one.device})")
    lines.append(
        f"{'quality':<12} {quality.metric} {quality.value:.4f}, the original's {quality.original:.4f}: "
        f"{quality.kept:.2%} kept on {quality.samples} samples"
    )
    lines += [f"{'':<12} {key} {value:.4f}" for key, value in sorted(quality.more.items())]
    lines.append(f"{'gate':<12} {outcome.gate}: {'met' if outcome.passed else 'MISSED, no bundle was written'}")
    return lines + [f"{'advice':<12} {one}" for one in outcome.advice]


def _tell_preview(found: Any, args: argparse.Namespace) -> int:
    for one in found.channels:
        output.tell(f"{one.name}: min {one.min:.4g}, mean {one.mean:.4g}, max {one.max:.4g}")
    output.tell("\n".join(found.warnings) or "Nothing looks wrong.")
    if args.json:
        output.say_json({"v": 1, **msgspec.to_builtins(found), "preview": str(args.preview)})
    else:
        output.say(str(args.preview))
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: whatever was begun is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar in one line of standard error where that is a terminal; nothing else."""
    from edgerun.cli.progress import progress

    with progress() as show:
        last = [""]

        def told(step: str, done: int, of: int) -> None:
            filled = round(20 * done / of) if of else 0
            text = f"{step} [{'#' * filled}{'.' * (20 - filled)}] {done}/{of}" if of else step
            if text != last[0]:
                last[0] = text
                show(text)

        yield told


def _floats(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(one) for one in text.split(","))
    except ValueError:
        values = ()
    if not values or any(value != value or abs(value) == float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"expected a number, or one per channel parted by commas, got {text!r}")
    return values


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sides = text.rpartition("=")
    found = tuple(int(one) for one in sides.split(",") if one.strip().isdecimal())
    if not name or len(found) != len(sides.split(",")) or 0 in found:
        raise argparse.ArgumentTypeError(f"expected INPUT=N,… such as audio=1,16000, got {text!r}")
    return name, found


def _number(text: str, low: float, high: float, *, least: bool, most: bool, said: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    inside = (low < value or (least and value == low)) and (value < high or (most and value == high))
    if not inside:
        raise argparse.ArgumentTypeError(f"expected {said}, got {text!r}")
    return value


def _share(text: str) -> float:
    return _number(text, 0, 1, least=False, most=False, said="a number between 0 and 1")


def _share_or_all(text: str) -> float:
    return _number(text, 0, 1, least=False, most=True, said="a number above 0, up to 1")


def _score(text: str) -> float:
    return _number(text, 0, 1, least=True, most=True, said="a number from 0 to 1")


def _drop(text: str) -> float:
    return _number(text, 0, float("inf"), least=True, most=False, said="a number from 0")
