"""Calibration and evaluation sets: what the model sees of them, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.app.opening import open_model
from edgerun.config import ModelConfig
from edgerun.convert.pairs import Pair, choose, open_pair, refuse_overlap, split
from edgerun.convert.parts import Network, Samples
from edgerun.convert.preview import draw, look, restore, spread
from edgerun.convert.sets import Item, Labelled, Wanted, find_items
from edgerun.convert.subject import Said, Subject, describe, quantise
from edgerun.errors import ConfigError, ModelError
from edgerun.types import TensorSpec
from tests.convert.nets import CLASSES, SIZE, colour_net, pictures, quiet, write_pictures

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "models" / "clips" / "street.mp4"
PLAIN = Said(mean=(0.0,), std=(255.0,), labels=CLASSES)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(colour_net(tmp_path_factory.mktemp("net") / "net.onnx"), "onnx")


@pytest.fixture(scope="module")
def subject(network: Network) -> Subject:
    return describe(network, None, PLAIN)


def opened(subject: Subject, tmp_path: Path, *calibrate: object, evaluate: object = None) -> Pair:
    second = [str(evaluate)] if evaluate is not None else []
    return open_pair(subject, [str(one) for one in calibrate], second, tmp_path, quiet)


def test_what_the_samples_hold_is_what_run_would_feed(network: Network, subject: Subject, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", 24, 1)
    for fit in ("stretch", "letterbox", "crop"):
        chosen = describe(network, None, msgspec.structs.replace(PLAIN, fit=fit, color="BGR"))
        pair = opened(chosen, tmp_path, folder)
        # The daemon's own way in, with the same facts from a manifest.
        config = ModelConfig(network.path, pixels="0..1")
        model = open_model(config)
        described = msgspec.structs.asdict(chosen.bundle.picture)
        described.pop("name")
        preprocess = type(model.preprocess)(model.engine.inputs[0], **described)
        model.engine.close()
        for sample in (*pair.calibration, *pair.evaluation):
            wanted, placement = preprocess.prepare(cv2.imread(str(folder / sample.origin.split("/")[1])))
            np.testing.assert_allclose(sample.inputs["image"], wanted, atol=1e-6)
            assert sample.placement == placement
        pair.close()


def test_a_set_is_the_same_each_time_and_implements_the_protocol(subject: Subject, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", 30, 1)
    pair, again = opened(subject, tmp_path, folder), opened(subject, tmp_path, folder)
    samples: Samples = pair.calibration
    assert [one.origin for one in pair.calibration] == [one.origin for one in pair.calibration]
    assert pair.calibration.sha256 == again.calibration.sha256 != pair.evaluation.sha256
    assert samples[0].picture is not None
    assert samples[0].picture.shape == (SIZE, SIZE, 3)
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_labels_by_folder_and_by_table(subject: Subject, tmp_path: Path) -> None:
    by_folder = write_pictures(tmp_path / "folders", 24, 1, labelled=True)
    pair = opened(subject, tmp_path, by_folder)
    assert pair.evaluation.labelled
    assert sorted({one.label for one in pair.evaluation}) == [0, 1, 2], "each half has every class"
    flat = write_pictures(tmp_path / "flat", 24, 2)
    rows = [f"{at}.png,{['red', '1', 'BLUE'][at % 3]}" for at in range(20)]
    (flat / "labels.csv").write_text("\n".join(["file,label,more", *(f"{row},x" for row in rows)]))
    pair = opened(subject, tmp_path, flat)
    assert len(pair.calibration) + len(pair.evaluation) == 20, "only what the table names"
    assert {one.label for one in (*pair.calibration, *pair.evaluation)} == {0, 1, 2}


def test_objects_in_pixels_or_shares(subject: Subject, tmp_path: Path) -> None:
    flat = write_pictures(tmp_path / "flat", 20, 2)
    rows = [f"{at}.png,red,{'12,5,24,20' if at else '0.5,0.25,1,1'}" for at in range(19)]
    (flat / "labels.csv").write_text("\n".join(["file,label,x0,y0,x1,y1", *rows, "19.png,,,,,"]))
    pair = opened(subject, tmp_path, flat)
    found = {one.origin: one.objects for one in (*pair.calibration, *pair.evaluation)}
    assert found.pop("flat/19.png") == ()
    assert all(objects == ((0, (0.5, 0.25, 1.0, 1.0)),) for objects in found.values())


@pytest.mark.parametrize(
    ("label", "said"),
    [("gren", r"did you mean \"green\"|labels are not those of the model"), ("7", "got '7'")],
)
def test_labels_that_do_not_match_are_refused(subject: Subject, tmp_path: Path, label: str, said: str) -> None:
    flat = write_pictures(tmp_path / "flat", 20, 2)
    (flat / "labels.csv").write_text("\n".join(["file,label", *(f"{at}.png,{label}" for at in range(20))]))
    with pytest.raises(ConfigError, match=said):
        opened(subject, tmp_path, flat)


def test_frames_of_a_clip_are_those_of_their_number(subject: Subject, tmp_path: Path) -> None:
    pair = opened(subject, tmp_path, f"{CLIP}[0:40:3]", evaluate=f"{CLIP}[50::4]")
    assert [one.origin for one in pair.calibration][:3] == [f"street.mp4 frame {at}" for at in (0, 3, 6)]
    assert len(pair.evaluation) == 13
    capture = cv2.VideoCapture(str(CLIP))
    frames = [capture.read()[1] for _ in range(7)]
    capture.release()
    small = cv2.cvtColor(cv2.resize(frames[6], (SIZE, SIZE)), cv2.COLOR_BGR2RGB)
    assert (pair.calibration[2].picture == small).all()


def test_a_single_clip_is_split_in_the_middle(subject: Subject, tmp_path: Path) -> None:
    pair = opened(subject, tmp_path, CLIP)
    numbers = [[int(one.origin.split()[-1]) for one in samples] for samples in (pair.calibration, pair.evaluation)]
    assert max(numbers[0]) < min(numbers[1])
    assert any("was split: 50 items" in note for note in pair.notes)


def test_arrays_by_name_and_recorded_pictures(subject: Subject, tmp_path: Path) -> None:
    made, labels = pictures(24, 3)
    np.savez(tmp_path / "frames.npz", frames=made[..., ::-1], labels=np.array([CLASSES[one] for one in labels]))
    pair = opened(subject, tmp_path, tmp_path / "frames.npz")
    assert pair.evaluation.labelled
    assert pair.calibration[0].picture is not None
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "tensors.npz", image=rng.random((24, 3, SIZE, SIZE), np.float32))
    pair = opened(subject, tmp_path, tmp_path / "tensors.npz")
    assert pair.calibration[0].picture is None
    assert pair.calibration[0].inputs["image"].shape == (1, 3, SIZE, SIZE)
    np.savez(tmp_path / "wrong.npz", image=np.zeros((24, 3, 8, 8), np.float32))
    with pytest.raises(ConfigError, match=r"not inputs of this model.*expected image: rows×3×16×16"):
        opened(subject, tmp_path, tmp_path / "wrong.npz")


def test_windows_of_a_recording(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((16, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "sensor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    subject = describe(Network(tmp_path / "s.onnx", "onnx"), None, Said(mean=(1.0,), std=(2.0,)))
    assert subject.kind == "signal"
    rows = np.random.default_rng(1).normal(size=(8 * 24, 2))
    table = "\n".join(["time,ax,ay", *(f"{at / 50},{a:.6f},{b:.6f}" for at, (a, b) in enumerate(rows))])
    (tmp_path / "run.csv").write_text(table)
    pair = opened(subject, tmp_path, tmp_path / "run.csv")
    assert (len(pair.calibration), len(pair.evaluation)) == (12, 12)
    np.testing.assert_allclose(pair.calibration[1].inputs["x"][0], (rows[8:16] - 1) / 2, atol=1e-4)
    with pytest.raises(ConfigError, match="wrong kind"):
        opened(subject, tmp_path, CLIP)


def test_what_is_no_picture_is_named(subject: Subject, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", 30, 1)
    (folder / "3.png").write_text("this is a text")
    (folder / "4.png").write_bytes((folder / "5.png").read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"of 15 items of the (calibration|evaluation) set cannot be used.*[34]\.png"):
        opened(subject, tmp_path, folder)


def test_a_set_of_three_is_too_small(subject: Subject, tmp_path: Path) -> None:
    few, many = write_pictures(tmp_path / "few", 3, 1), write_pictures(tmp_path / "many", 12, 2)
    with pytest.raises(ConfigError, match=r"calibration set is too small.*at least 10 items.*got 3"):
        opened(subject, tmp_path, few, evaluate=many)
    with pytest.raises(ConfigError, match="evaluation set is too small"):
        opened(subject, tmp_path, many, evaluate=few)


@pytest.mark.parametrize(("shade", "said"), [(0, "is black"), (255, "is white"), (90, "is of one shade")])
def test_pictures_that_show_nothing_are_refused(subject: Subject, tmp_path: Path, shade: int, said: str) -> None:
    folder = tmp_path / "dark"
    folder.mkdir()
    for at in range(24):
        picture = np.full((20, 20, 3), shade, np.uint8)
        picture[at // 5, at % 5] ^= 1  # a file of its own
        assert cv2.imwrite(str(folder / f"{at}.png"), picture)
    with pytest.raises(ConfigError, match=f"every item of the calibration set {said}"):
        opened(subject, tmp_path, folder)


def test_equal_pictures_are_refused(subject: Subject, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", 1, 1)
    for at in range(1, 24):
        shutil.copy(folder / "0.png", folder / f"{at}.png")
    with pytest.raises(ConfigError, match="too small"):  # equal files count once
        opened(subject, tmp_path, folder)


def test_an_overlap_is_refused_whatever_the_files_are_called(subject: Subject, tmp_path: Path) -> None:
    first, second = write_pictures(tmp_path / "a", 20, 1), write_pictures(tmp_path / "b", 20, 2)
    shutil.copy(first / "7.png", second / "renamed.png")
    with pytest.raises(ConfigError, match=r"overlaps the calibration set.*renamed\.png"):
        opened(subject, tmp_path, first, evaluate=second)
    (second / "renamed.png").unlink()
    assert cv2.imwrite(str(second / "rewritten.bmp"), cv2.imread(str(first / "7.png")))
    with pytest.raises(ConfigError, match="1 items that look the same to the model"):
        opened(subject, tmp_path, first, evaluate=second)


def test_frames_between_frames_are_an_overlap(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one recording, 0 to 98 of it here and 1 to 99 there"):
        opened(subject, tmp_path, f"{CLIP}[0::2]", evaluate=f"{CLIP}[1::2]")


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "no such calibration"), (f"{CLIP}[5:5]", "choose nothing"), (f"{CLIP}[::0]", "step of 0")],
)
def test_a_set_that_is_not_there(subject: Subject, tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(subject, tmp_path, source)


def test_nothing_to_calibrate_with(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to calibrate and judge with"):
        open_pair(subject, [], [], tmp_path, quiet)


def items_of(rows: list[tuple[int, int]]) -> list[Item]:
    """Pairs of a recording (0: none) and a class."""
    return [
        Item(f"{at}", bytes([at]), lambda: None, Labelled(str(label)), (f"r{run}", at) if run else None)
        for at, (run, label) in enumerate(rows)
    ]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=60), st.integers(0, 99), st.integers(1, 40))
def test_splitting_and_choosing(rows: list[tuple[int, int]], seed: int, most: int) -> None:
    items = items_of(rows)
    first, second = split(items, seed)
    assert sorted(one.key for one in (*first, *second)) == sorted(one.key for one in items)
    refuse_overlap(first, second, ("a", "b"))
    assert split(items, seed) == (first, second)
    loose = [sum(one.recording is None for one in half) for half in (first, second)]
    assert abs(loose[0] - loose[1]) <= 1
    for label in "0123":
        counts = [sum(one.recording is None and one.label.name == label for one in half) for half in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1
    chosen = choose(items, most, seed)
    assert len(chosen) <= max(most, 0) + 3
    assert [one.key for one in chosen] == [one.key for one in choose(items, most, seed)]
    if len(items) <= most:
        assert chosen == items


@given(st.integers(0, 300), st.integers(1, 50))
def test_places_are_spread_from_end_to_end(count: int, most: int) -> None:
    places = spread(count, most)
    assert places == sorted(set(places))
    assert len(places) == min(count, most)
    if most > 1 and count:
        assert (places[0], places[-1]) == (0, count - 1)


def test_the_preview_shows_the_pictures_and_warns(network: Network, subject: Subject, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", 24, 1)
    pair = opened(subject, tmp_path, folder)
    found = draw(subject, pair.calibration, tmp_path / "seen.png")
    assert found.warnings == ()
    assert [one.name for one in found.channels] == ["R", "G", "B"]
    assert all(0 <= one.min < one.mean < one.max <= 1 for one in found.channels)
    sheet = cv2.imread(str(tmp_path / "seen.png"))
    assert sheet.shape[1] > 900
    assert sheet.std() > 20
    sample = pair.calibration[0]
    assert (restore(subject, sample.inputs["image"]) == sample.picture[..., ::-1]).all()  # type: ignore[index]
    raw = describe(network, None, msgspec.structs.replace(PLAIN, std=(1.0,)))
    assert "few float models want raw pixels" in look(raw, opened(raw, tmp_path, folder).calibration).warnings[0]
    twice = describe(network, None, msgspec.structs.replace(PLAIN, std=(65025.0,)))
    assert "normalised twice" in look(twice, opened(twice, tmp_path, folder).calibration).warnings[0]


def test_how_pixels_go_in_is_asked_for_by_flag(network: Network) -> None:
    with pytest.raises(ModelError, match="Give --mean and --std"):
        describe(network, None, Said())


def test_quantising_rounds_and_saturates_as_the_specification_says() -> None:
    spec = TensorSpec("x", (1, 5), "int8", (0.5,), (3,))
    made = quantise(np.array([[0.0, 0.25, -0.25, 1000.0, -1000.0]]), spec)
    assert made.tolist() == [[3, 4, 2, 127, -128]]


def test_a_picture_set_for_a_model_of_arrays_is_of_the_wrong_kind(tmp_path: Path) -> None:
    wanted = Wanted(arrays={"x": ((1, 4), "float32")})
    with pytest.raises(ConfigError, match="takes no pictures"):
        find_items(str(write_pictures(tmp_path / "set", 2, 1)), wanted)
