"""Show which part of a picture carried a model's result, as a heat-map.

The model is a black box: parts of the picture are covered, and what is left of the result tells which of them counted.
A detection is explained by random masks (D-RISE), any other result by a patch that is moved over the picture
(occlusion)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgerun.cli import flags, logs, numbers, output
from edgerun.cli.parser import add_common
from edgerun.cli.progress import progress
from edgerun.errors import ConfigError

EXAMPLES = (
    "edgerun explain ssd-mobilenet-v2-oid cat.jpg -o heat.png",
    "edgerun explain classifier.tflite photo.jpg --class 'tabby cat' --inferences 400",
    "edgerun explain detector.onnx street.png --index 2 --json | jq .regions",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("model", metavar="MODEL", help="a bundle, .tflite, .onnx or bundled model's name")
    parser.add_argument("picture", metavar="PICTURE", help="a JPEG, PNG or other picture")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="the heat-map (PICTURE-heat.png)")
    which = parser.add_argument_group("which result")
    which.add_argument("--class", dest="label", metavar="LABEL", help="of this class: its label or its number")
    which.add_argument(
        "--index",
        metavar="N",
        type=_index,
        default=0,
        help="the N-th result, the surest being 0 (0); with --class of it",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--inferences", metavar="N", type=numbers.count, default=200, help="at most so many: more is finer (200)"
    )
    how.add_argument("--seed", metavar="N", type=_index, default=0, help="of the random masks (0)")
    model = parser.add_argument_group("model")
    model.add_argument("--engine", choices=("tflite", "onnx"), help="by default what the file says")
    model.add_argument(
        "--accelerators", metavar="A,B", type=numbers.names, default=("cpu",), help="in this order (cpu)"
    )
    model.add_argument("--threads", metavar="N", type=numbers.count, help="CPU threads (2, or 1 on a single core)")
    model.add_argument("--decoder", metavar="KIND", help="how outputs are read, where the model does not say")
    model.add_argument("--labels", metavar="FILE", help="one label a line, instead of the model's own")
    flags.add_model_key(model)
    model.add_argument(
        "--pixels",
        choices=("0..255", "0..1", "-1..1", "imagenet"),
        help="what its pixels were normalised to in training",
    )
    model.add_argument("--size", metavar="WxH", type=numbers.size, help="of its picture, where the file leaves it open")
    model.add_argument(
        "--threshold", metavar="T", type=_share, help="lowest score of a result (the bundle's, else 0.5)"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Explain; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    from edgerun.convert.explain import Predictor, as_dict, explain
    from edgerun.convert.heatmap import draw_heat, read_picture, write_picture
    from edgerun.convert.likeness import Wanted

    source = Path(args.picture)
    target = Path(args.output) if args.output else Path(f"{source.stem}-heat.png")
    if target.suffix.lower() != ".png":
        raise ConfigError("the heat-map is a PNG", where="-o", expected="a name that ends in .png", got=str(target))
    picture = read_picture(source)
    with progress() as show, Predictor(_model_config(args)) as predictor:
        found = explain(
            predictor,
            picture,
            Wanted(args.label, args.index),
            inferences=args.inferences,
            seed=args.seed,
            where=str(source),
            done=lambda done, total: show(f"inference {done} of {total}"),
        )
        name = predictor.name
    write_picture(target, draw_heat(picture, found))
    if args.json:
        output.say_json({"v": 1, "model": name, "picture": str(source), **as_dict(found), "heat_map": str(target)})
    else:
        output.say("\n".join(_lines(name, found, target)))
    return 0


def _model_config(args: argparse.Namespace) -> Any:
    from edgerun.config import ModelConfig
    from edgerun.models.finding import model_path

    keys = ("engine", "accelerators", "threads", "decoder", "pixels", "size", "threshold")
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if args.labels is not None:
        given["labels"] = Path(args.labels)
    return ModelConfig(model_path(args.model), key=flags.model_key(args), **given)


def _lines(name: str, found: Any, target: Path) -> list[str]:
    lines = [f"{name}: {found.target.text}"]
    if not found.regions:
        lines.append("  no part of the picture carries it alone: covering any one of them changes nothing")
    for at, region in enumerate(found.regions, 1):
        x0, y0, x1, y1 = region.box
        lines.append(f"  {at}. {region.share:4.0%} of the heat in x {x0:.2f}–{x1:.2f}, y {y0:.2f}–{y1:.2f}")
    lines.append(f"{found.method}, {found.inferences} inferences in {found.seconds:.1f} s, seed {found.seed}")
    lines.append(f"heat-map: {target}")
    return lines


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    value = numbers.positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value
