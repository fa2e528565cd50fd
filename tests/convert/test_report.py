"""report.html and report.json: self-contained, well-formed, and with every figure of the Outcome in them."""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.bench.samples import Spread
from edgerun.config import ModelConfig
from edgerun.convert.explain import Predictor
from edgerun.convert.parts import (
    ClassQuality,
    Layer,
    LayerChoice,
    Measured,
    Network,
    Outcome,
    Quality,
    Sample,
    Step,
    Worst,
)
from edgerun.convert.report import encode, schema, write
from edgerun.convert.report.charts import layers
from edgerun.convert.report.markup import join, percent, tag
from edgerun.convert.report.pictures import odd_one
from edgerun.errors import ConfigError
from edgerun.types import Answer, Detection
from tests.real_models import ROOT, model_file

GOLDEN = Path(__file__).parent / "golden" / "report.json"
RATIOS = {"result": {"p50_ms": Spread(0.61, 0.55, 0.7)}}
PAGE_CSS = (ROOT / "edgerun" / "convert" / "report" / "page.css").read_text(encoding="utf-8")
VOID = {"img", "meta", "br", "hr", "link"}


def outcome(**changed: Any) -> Outcome:
    kept = {3, 17}
    chosen = tuple(
        LayerChoice(
            Layer(f"block_{at}/conv", "CONV_2D" if at % 2 else "DEPTHWISE_CONV_2D", 1000 * (at + 1), 64 * at),
            "float" if at in kept else "int8",
            None if at == 5 else math.inf if at == 6 else 50.0 - at,
        )
        for at in range(20)
    )
    made = Outcome(
        source="detector_fp16.tflite",
        name="street <detector>",
        task="detect",
        format="tflite",
        precision="mixed",
        passed=True,
        gate="at least 99 % of the original's recall & at most 2 % extra boxes",
        original=Network(Path("detector.tflite"), "tflite", ("fp16 weights were folded",), {"quantizer": "0.10"}),
        quality=Quality(
            "recall",
            0.9912,
            1.0,
            0.9912,
            220,
            {"precision": 0.98, "boxes": 1212.0},
            (ClassQuality("person", 118, 117, 1), ClassQuality("dog", 108, 54, 2), ClassQuality("chair", 0, 0, 3)),
            (Worst("clip.mp4, frame 10", 0.51, "person 0.60, person 0.55", "person 0.60", 0),),
        ),
        quality_naive=Quality("recall", 0.78, 1.0, 0.78, 220, {"precision": 0.97}),
        measured=(
            Measured("original", "Raspberry Pi 5", 1, 25.0, 31.25, 9_987_728, 157.5, 0.11),
            Measured("result", "Raspberry Pi 5", 1, 15.25, 18.5, 5_829_024, 125.0),
        ),
        layers=chosen,
        steps=(Step("calibrate", "40 frames, min-max", 6.25), Step("search", "2 layers meet the gate", 41.5)),
        repeat={
            "seed": 7,
            "command": ["edgerun", "convert", "a b.tflite"],
            "versions": {"edgerun": "0.1"},
            "sha256": {"x": "ab"},
        },
        advice=("Give more pictures of dogs.",),
        bundle=Path("out/street"),
    )
    return msgspec.structs.replace(made, **changed)


class Strict(HTMLParser):
    """Refuses elements that are not closed in order, attributes given twice, and anything from outside the page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.text = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert len(given) == len(attributes), f"{name} says {attributes}"
        self.counts[name] = self.counts.get(name, 0) + 1
        assert name not in ("script", "iframe", "object", "link")
        assert not [key for key in given if key.startswith("on")]
        for key in ("src", "href", "data", "action", "srcset"):
            assert (given.get(key) or "data:image/jpeg;base64,").startswith("data:image/"), f"{name} {key}"
        if name == "img":
            assert given.get("alt")
            assert (
                cv2.imdecode(np.frombuffer(base64.b64decode((given["src"] or "").partition(",")[2]), np.uint8), 1)
                is not None
            )
        if name == "svg":
            assert given.get("role") == "img"
        if name == "th":
            assert given.get("scope") in ("row", "col")
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert name in VOID
        self.handle_starttag(name, attributes)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert "@import" not in data
            assert "url(" not in data
        else:
            self.text += data.replace("\N{NO-BREAK SPACE}", " ") + "\n"


def read(folder: Path) -> Strict:
    page = Strict()
    text = (folder / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    page.close()
    assert page.open == []
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg\")\S+", text)
    return page


def test_the_page_says_everything_that_was_found(tmp_path: Path) -> None:
    write(outcome(), tmp_path, ratios=RATIOS, notes=["The board was hot."])
    page = read(tmp_path)
    flat = " ".join(page.text.split())
    for told in (
        "street <detector>",
        "Passed.",
        "keeps 99.1 % of the original's recall on 220 samples, is 41.6 % smaller (5.83 MB after 9.99 MB)",
        "and 1.64 times as fast on Raspberry Pi 5.",
        "Gate: at least 99 % of the original's recall & at most 2 % extra boxes",
        "The board was hot.", "25.00 ms", "15.25 ms", "18.50 ms", "158 MiB", "0.11 J", "0.780", "0.61 (0.55–0.70)",
        "precision 0.9800 0.9700", "boxes 1,212 –",
        "dog 108 54 50.0 % 2", "chair 0 0 – 3",
        "clip.mp4, frame 10 (score 0.510)", "person 0.60, person 0.55",
        "2 of 20 layers stay in higher precision; they do 10.4 % of the multiply-accumulates.",
        "block_3/conv CONV_2D float 47.0 1.9 % 192", "block_5/conv (CONV_2D): int8, not measured",
        "the other 5 layers",
        "calibrate 40 frames, min-max 6.2", "48 s in all",
        "Give more pictures of dogs.",
        "seed 7", "command edgerun convert a b.tflite", "versions.edgerun 0.1", "sha256.x ab", "tool: quantizer 0.10",
        "fp16 weights were folded", "bundle out/street",
    ):  # fmt: skip
        assert told in flat, told
    assert page.text.index("Gate:") < page.text.index("What to try next")
    assert page.counts["svg"] == 1
    assert "img" not in page.counts


def luminance(color: str) -> float:
    """WCAG 2.1, relative luminance."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_texts_and_bars_stand_out_light_and_dark() -> None:
    light, _, dark = PAGE_CSS.partition("prefers-color-scheme: dark")
    for part in (light, dark):
        colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part))
        pairs = [("ink", "paper", 7), ("ink", "card", 7), ("quiet", "paper", 4.5), ("quiet", "card", 4.5)]
        pairs += [
            ("ink", "good-paper", 7),
            ("ink", "bad-paper", 7),
            ("good", "good-paper", 4.5),
            ("bad", "bad-paper", 4.5),
        ]
        pairs += [(bar, paper, 3) for bar in ("original", "result", "other") for paper in ("paper", "card")]
        for above, below, least in pairs:
            bright, dim = sorted((luminance(colors[above]), luminance(colors[below])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (above, below)


def test_a_refusal_says_so_first_and_what_to_try(tmp_path: Path) -> None:
    write(outcome(passed=False, bundle=None), tmp_path)
    page = read(tmp_path)
    flat = " ".join(page.text.split())
    assert "Refused. The best that was found keeps 99.1 % of the original's recall on 220 samples" in flat
    assert "which is not enough. No bundle was written." in flat
    assert flat.index("What to try next") < flat.index("Before and after")


def test_the_least_that_can_be_known_makes_a_page(tmp_path: Path) -> None:
    bare = outcome(
        quality=Quality("cosine", 1.0, 1.0, 1.0, 3), quality_naive=None, measured=(), layers=(), steps=(), repeat={},
        advice=(), bundle=None,
    )  # fmt: skip
    write(bare, tmp_path)
    page = read(tmp_path)
    assert "Nothing was measured." in page.text
    assert "svg" not in page.counts


def test_what_was_not_measured_and_not_lost_takes_no_room(tmp_path: Path) -> None:
    """Where int8 met the gate at once: no empty chart of sensitivities, no table of classes that all are whole."""
    made = outcome()
    names = [f"class {at}" for at in range(30)]
    plain = msgspec.structs.replace(
        made,
        source="/home/someone/models/net.onnx",
        layers=tuple(msgspec.structs.replace(one, precision="int8", sqnr_db=None) for one in made.layers),
        quality=msgspec.structs.replace(made.quality, classes=tuple(ClassQuality(one, 4, 4, 0) for one in names)),
        repeat={"tools": {"quantizer": "0.10"}},
    )
    write(plain, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in text
    assert "was not measured" in text
    assert "In order of execution" in text
    assert "None of the 30 classes lost or gained anything." in text
    assert '<p class="quiet">net.onnx → ' in text
    assert text.count("quantizer") == 1


def test_classes_that_only_gain_are_shown_before_those_that_are_whole(tmp_path: Path) -> None:
    made = outcome()
    classes = [ClassQuality(f"whole {at}", 9, 9, 0) for at in range(20)]
    classes += [ClassQuality("gains", 9, 9, 2), ClassQuality("loses", 9, 8, 0)]
    write(
        msgspec.structs.replace(made, quality=msgspec.structs.replace(made.quality, classes=tuple(classes))), tmp_path
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.index("loses") < text.index("gains") < text.index("the other 20 classes") < text.index("whole 0")


def test_devices_are_compared_each_for_itself(tmp_path: Path) -> None:
    there = tuple(msgspec.structs.replace(one, device="board", p50_ms=2 * one.p50_ms**2) for one in outcome().measured)
    write(outcome(measured=outcome().measured + there), tmp_path, ratios=RATIOS)
    flat = " ".join(read(tmp_path).text.split())
    assert "Latency, p50 on Raspberry Pi 5" in flat
    assert "Latency, p50 on board" in flat
    assert flat.count("0.61 (0.55–0.70)") == 1
    assert "0.37" in flat


def test_the_json_is_the_outcome_in_a_stable_order(golden: Callable[[Path, str], None]) -> None:
    content = encode(outcome(), RATIOS)
    golden(GOLDEN, content.decode())
    assert content == encode(outcome(), {"result": dict(reversed(RATIOS["result"].items()))})
    told = msgspec.json.decode(content)
    assert (told["v"], told["bundle"], told["layers"][6]["sqnr_db"]) == (1, "out/street", None)
    assert list(told["repeat"]) == ["command", "seed", "sha256", "versions"]


def test_the_json_fits_its_schema() -> None:
    for one in (outcome(), outcome(passed=False, bundle=None, quality_naive=None)):
        jsonschema.validate(msgspec.json.decode(encode(one, RATIOS, ["hot"])), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"v": 1}, schema())


class Frames:
    """Frames of the street as the detector's input has them, and a sample without a picture."""

    source = "street.mp4"

    def __init__(self) -> None:
        video = cv2.VideoCapture(str(ROOT / "models" / "clips" / "street.mp4"))
        self._frames = [cv2.resize(video.read()[1], (300, 300))[:, :, ::-1] for _ in range(2)]
        video.release()

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"frame {index}", {}, self._frames[index] if index < 2 else None)


def test_the_worst_samples_are_shown_as_both_models_see_them(tmp_path: Path) -> None:
    bundle = ROOT / "models" / "ssd-mobilenet-v2-oid"
    original = ModelConfig(
        model_file("ssd_mobilenetv2_oidv4_fp16.tflite"),
        decoder="ssd-anchors",
        pixels="-1..1",
        labels=bundle / "labels.txt",
    )
    worst = tuple(Worst(f"frame {at}", 0.5, "person", "nothing", at) for at in (1, 2, 7))
    sheet = tmp_path / "sheet.png"
    cv2.imwrite(str(sheet), np.zeros((40, 60, 3), np.uint8))
    write(
        outcome(quality=msgspec.structs.replace(outcome().quality, worst=worst)),
        tmp_path,
        Frames(),
        original=functools.partial(Predictor, original),
        result=functools.partial(Predictor, ModelConfig(bundle)),
        preview=sheet,
        inferences=24,
    )
    page = read(tmp_path)
    assert page.counts["img"] == 5  # one sample has a picture: original, result, two heat-maps; and the contact sheet
    assert "original: what carried “person 0." in page.text
    assert "result: what carried “person 0." in page.text


def test_without_models_the_worst_samples_are_shown_bare(tmp_path: Path) -> None:
    write(outcome(), tmp_path, Frames(), preview=tmp_path / "none.png")
    assert read(tmp_path).counts["img"] == 1


def test_names_that_are_no_text_are_told_as_far_as_they_are(tmp_path: Path) -> None:
    write(outcome(source="net\udcff.tflite", bundle=Path("out\udcff")), tmp_path)
    assert "net?.tflite" in read(tmp_path).text
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes())["bundle"] == "out?"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.html: the report cannot be written; got No such file"):
        write(outcome(), tmp_path / "none")


def test_the_detection_that_the_other_lacks_is_explained() -> None:
    own = Answer(detections=tuple(Detection("cat", 1, 0.9, (x, 0.1, x + 0.2, 0.4)) for x in (0.0, 0.3, 0.6)))
    theirs = Answer(detections=(Detection("dog", 2, 0.9, (0.3, 0.1, 0.5, 0.4)), *(own.detections or ())[::2]))
    assert odd_one(own, theirs) == 1
    assert odd_one(Answer(classes=()), theirs) == 0


@given(st.text(), st.text())
def test_whatever_text_there_is_the_markup_stays_whole(text: str, value: str) -> None:
    page = Strict()
    page.feed(tag("p", text, tag("b", value), title=value))
    page.close()
    assert page.open == []
    assert page.counts == {"p": 1, "b": 1}


@given(st.floats(0, 1))
def test_a_share_is_never_rounded_up_to_a_bound_it_misses(share: float) -> None:
    told = float(percent(share).rstrip("%\N{NO-BREAK SPACE}")) / 100
    assert told <= share + 1e-6
    assert share - told < 0.0011


@given(st.lists(st.tuples(st.integers(0, 10**9), st.one_of(st.none(), st.floats())), max_size=40))
def test_any_layers_can_be_drawn(values: list[tuple[int, float | None]]) -> None:
    chosen = [LayerChoice(Layer(f"l{at}", "ADD", macs, 0), "int8", db) for at, (macs, db) in enumerate(values)]
    page = Strict()
    page.feed(join(layers(chosen)))
    page.close()
    assert page.open == []
