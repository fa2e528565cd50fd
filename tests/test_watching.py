"""Gates, regions, masks, tracks, zones, cascades and several models, as a config asks for them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests import mosquitto, schemas
from tests.real_models import model_file
from tests.test_end_to_end import CLIP, DETECTOR, edgerun, results_of, summary_of

MODELS = f"""
[models.detector]
path = "{DETECTOR}"
threads = 1
[models.other]
path = "{{classifier}}"
threads = 1
"""


def run(tmp_path: Path, stream: str, *more: object, source: object = CLIP) -> tuple[dict[str, Any], list[Any]]:
    """The summary and the result lines of a run of one stream called `street`."""
    config, lines = tmp_path / "edge.toml", tmp_path / "r.jsonl"
    models = MODELS.format(classifier=model_file("efficientnet_lite0_int8.tflite"))
    config.write_text(f'{models}\n[streams.street]\nsource = "{source}"\n{stream}', encoding="utf-8")
    done = edgerun("run", "--config", config, "--quiet", "--json", "--jsonl", lines, *more)
    assert done.returncode == 0, done.stderr
    return summary_of(done.stdout), results_of(lines)


def middle(box: list[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_a_second_model_looks_at_what_the_first_one_found(tmp_path: Path) -> None:
    summary, results = run(
        tmp_path,
        'model = "detector"\nthreshold = 0.4\n[streams.street.then]\nmodel = "other"\non = ["person"]\nmax_crops = 2\n',
        "--as-fast", "--frames", 30,
    )  # fmt: skip
    people = {r["seq"]: [d for d in r["detections"] if d["label"] == "person"] for r in results if "crop" not in r}
    crops = [r for r in results if "crop" in r]
    account = summary["streams"]["street/other"]
    assert account["grabbed"] == sum(map(len, people.values())) > 60
    assert account["published"] == len(crops) == sum(min(2, len(found)) for found in people.values())
    assert account["limited"] == account["grabbed"] - account["published"]
    for crop in crops:
        assert crop["model"]["name"] == "efficientnet_lite0_int8"
        assert crop["crop"] in people[crop["seq"]], "the object is one of the same frame"
        assert len(crop["classes"]) == 5
    per_frame = Counter(crop["seq"] for crop in crops)
    assert max(per_frame.values()) == 2
    # The crop is really what was looked at: two people of one frame do not look the same.
    tops = {crop["classes"][0]["score"] for crop in crops}
    assert len(tops) > 10


def test_an_object_is_looked_at_once_while_it_is_followed(tmp_path: Path) -> None:
    _, results = run(
        tmp_path,
        'model = "detector"\ntrack = true\nthreshold = 0.4\n'
        '[streams.street.then]\nmodel = "other"\non = ["person"]\nevery_s = 3600\nmax_crops = 100\n',
        "--as-fast", "--frames", 40,
    )  # fmt: skip
    looked = [r["crop"]["track"] for r in results if "crop" in r]
    followed = {d["track"] for r in results if "crop" not in r for d in r["detections"] if "track" in d}
    assert len(looked) == len(set(looked)) > 3
    assert set(looked) <= followed


def test_several_models_get_every_frame(tmp_path: Path) -> None:
    summary, results = run(tmp_path, 'model = ["detector", "other"]\n', "--as-fast", "--frames", 20)
    assert {name: s["published"] for name, s in summary["streams"].items()} == {
        "street/detector": 20,
        "street/other": 20,
    }
    seen = {(r["seq"], r["model"]["name"]) for r in results}
    assert len(seen) == 40


def test_boxes_of_a_region_are_those_of_the_frame(tmp_path: Path) -> None:
    """What is found in a half of the picture lies in that half, and is where the whole picture has it too."""
    _, results = run(tmp_path, 'model = "detector"\nregion = [0.5, 0.0, 1.0, 1.0]\n', "--as-fast", "--frames", 20)
    _, whole = run(tmp_path / "..", 'model = "detector"\n', "--as-fast", "--frames", 20)
    found = [(r["seq"], d) for r in results for d in r["detections"] if d["label"] == "person"]
    assert len(found) > 20
    assert all(d["box"][0] >= 0.499 for _, d in found)
    people = {r["seq"]: [middle(d["box"]) for d in r["detections"] if d["label"] == "person"] for r in whole}
    met = 0
    for seq, one in found:
        x, y = middle(one["box"])
        met += any(abs(x - u) < 0.03 and abs(y - v) < 0.06 for u, v in people[seq])
    assert met > 0.5 * len(found)


def test_nothing_is_found_behind_a_mask(tmp_path: Path) -> None:
    snapshot = tmp_path / "s.jpg"
    _, results = run(
        tmp_path,
        'model = "detector"\n[streams.street.privacy]\nmask = [[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]\n',
        "--as-fast", "--frames", 20, "--snapshot", snapshot,
    )  # fmt: skip
    people = [middle(d["box"]) for r in results for d in r["detections"] if d["label"] == "person"]
    assert len(people) > 20
    assert max(x for x, _ in people) < 0.55
    picture = cv2.imread(str(snapshot))
    assert (picture[50:, 560:] < 12).mean() > 0.97, "the picture that leaves is masked too"


def test_zones_and_tracks_are_told_as_events(tmp_path: Path) -> None:
    stream = (
        'model = "detector"\ntrack = { lost_s = 0.5 }\nthreshold = 0.4\nlabels = ["person"]\n'
        "[streams.street.zones.left]\npolygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]\n"
    )
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/#") as seen:
        _, results = run(tmp_path, stream, "--frames", 70, "--broker", broker.url)
        told = [one for r in results for one in r.get("events", ())]
        messages = seen.wait(
            lambda ms: sum(m.topic.endswith("/event") and b"track" in m.payload for m in ms) >= len(told)
        )
    events = [json.loads(m.payload) for m in messages if m.topic.endswith("/event") and b"track" in m.payload]
    assert len(events) == len(told) > 5
    for event in events:
        schemas.validate("event", event)
    assert len({event["id"] for event in events}) == len(events)
    kinds = Counter(event["kind"] for event in events)
    assert kinds["appeared"] >= kinds["lost"] > 0
    assert kinds["entered"] > 0
    inside = {d["track"] for r in results for d in r["detections"] if "left" in d.get("zones", ())}
    assert inside == {event["track"] for event in events if event["kind"] == "entered"}
    ids = {d["track"] for r in results for d in r["detections"] if "track" in d}
    assert ids == {event["track"] for event in events if event["kind"] == "appeared"}


@pytest.fixture(scope="module")
def quiet_street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds in which nothing moves but the sensor's noise, then eight in which people walk."""
    path = tmp_path_factory.mktemp("clip") / "quiet.avi"
    capture = cv2.VideoCapture(str(CLIP))
    frames = [capture.read()[1] for _ in range(40)]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (width, height))
    noise = np.random.default_rng(0)
    for _ in range(30):
        writer.write(cv2.add(frames[0], noise.integers(0, 5, frames[0].shape, np.uint8)))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def test_while_nothing_moves_nothing_is_inferred(tmp_path: Path, quiet_street: Path) -> None:
    summary, results = run(
        tmp_path, 'model = "detector"\n[streams.street.gate]\nhold_s = 0.5\n', "--as-fast", source=quiet_street
    )
    account = summary["streams"]["street"]
    assert account["gated"] >= 15
    assert all(r["seq"] < 15 or r["seq"] >= 28 for r in results)
    assert sum(r["seq"] >= 30 for r in results) >= 30, "people who walk open the gate"


def test_while_nothing_moves_the_last_result_stands(tmp_path: Path, quiet_street: Path) -> None:
    summary, results = run(
        tmp_path,
        'model = "detector"\n[streams.street.gate]\nhold_s = 0.5\nstill_s = 0.6\ncrop = true\n',
        source=quiet_street,
    )
    account = summary["streams"]["street"]
    assert account["gated"] + account["published"] >= 65
    still = [r for r in results if r.get("reused") == "still"]
    assert len(still) >= 10
    looked = [r["seq"] for r in results if r["seq"] < 28 and "reused" not in r]
    assert len(looked) >= 3, "the model looks again when the last look is 0.6 s old"
    for one in still:
        assert "infer" not in one["latency_ms"]
        source = max((r for r in results if r["seq"] < one["seq"] and "reused" not in r), key=lambda r: r["seq"])
        assert one["detections"] == source["detections"]


def test_the_same_picture_is_answered_from_memory(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    capture = cv2.VideoCapture(str(CLIP))
    for n in range(3):
        cv2.imwrite(str(folder / f"{n}.jpg"), capture.read()[1])
    config, lines = tmp_path / "edge.toml", tmp_path / "r.jsonl"
    config.write_text(
        f'[models.detector]\npath = "{DETECTOR}"\ncache = "1MiB"\n'
        f'[streams.street]\nsource = "{folder}"\nmodel = "detector"\nloop = true\n',
        encoding="utf-8",
    )
    done = edgerun("run", "--config", config, "--frames", 12, "--quiet", "--json", "--jsonl", lines)
    assert done.returncode == 0, done.stderr
    summary, results = summary_of(done.stdout), results_of(lines)
    assert summary["engines"]["detector"]["cache"]["hits"] == 9
    assert [r.get("reused") for r in results] == [None] * 3 + ["cache"] * 9
    for n, one in enumerate(results[3:]):
        assert one["detections"] == results[n % 3]["detections"]
        assert one["frame"] == results[n % 3]["frame"]


@pytest.mark.parametrize(
    ("stream", "place"),
    [
        ('model = ["detector", "other"]\nlabels = ["persn"]\n', "streams.street.labels"),
        ('model = "detector"\n[streams.street.then]\nmodel = "other"\non = ["persn"]\n', "streams.street.then.on"),
        (
            'model = "detector"\ntrack = true\n[streams.street.zones.a]\npolygon = [[0, 0], [1, 0], [1, 1]]\n'
            'labels = ["persn"]\n',
            "streams.street.zones.a.labels",
        ),
    ],
)
def test_a_label_that_no_model_has_is_refused(tmp_path: Path, stream: str, place: str) -> None:
    config = tmp_path / "edge.toml"
    models = MODELS.format(classifier=model_file("efficientnet_lite0_int8.tflite"))
    config.write_text(f'{models}\n[streams.street]\nsource = "{CLIP}"\n{stream}', encoding="utf-8")
    for command in ("check", "run"):
        done = edgerun(command, "--config", config)
        assert done.returncode == 2, done.stderr
        assert f"{place}: no such label" in done.stderr + done.stdout
        assert 'Did you mean "person"?' in done.stderr + done.stdout


def test_of_several_models_each_reports_the_labels_it_has(tmp_path: Path) -> None:
    _, results = run(tmp_path, 'model = ["detector", "other"]\nlabels = ["person"]\n', "--as-fast", "--frames", 5)
    for result in results:
        if result["model"]["name"] == "efficientnet_lite0_int8":
            assert result["classes"] == []
        else:
            assert {one["label"] for one in result["detections"]} == {"person"}
