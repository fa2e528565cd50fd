"""Pruning and distilling: how far, what stays, what comes back, and the same bits every time."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the convert-torch extra is not installed")
pytest.importorskip("torch_pruning", reason="the convert-torch extra is not installed")

from edgerun.convert.torch.cost import cost  # noqa: E402
from edgerun.convert.torch.data import Inputs, augment  # noqa: E402
from edgerun.convert.torch.distil import Learned, Lesson, distil  # noqa: E402
from edgerun.convert.torch.loading import Options, load  # noqa: E402
from edgerun.convert.torch.prune import Goal, prune  # noqa: E402
from edgerun.errors import ConfigError, ModelError  # noqa: E402
from tests.convert import torch_nets  # noqa: E402

pytestmark = pytest.mark.timeout(300)


def quiet(step: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def joined() -> torch.nn.Module:
    torch.manual_seed(3)
    net = torch_nets.Joined().train()
    for _ in range(60):  # its normalisation is that of the pictures
        net(PICTURES)
    return net.eval()


PICTURES = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(1))
ONE = PICTURES[:1]


@pytest.mark.parametrize("of", ["macs", "size"])
def test_what_was_asked_for_goes_and_inputs_and_outputs_stay(joined: torch.nn.Module, of: str) -> None:
    before = cost(joined, (ONE,))
    pruned = prune(joined, ONE, Goal(0.4, of=of, rounds=3), PICTURES, quiet)
    after = cost(pruned, (ONE,))
    left = after.macs / before.macs if of == "macs" else after.weights / before.weights
    assert 0.3 < left <= 0.6, "one block of channels too many at most"
    assert {name: part.shape for name, part in pruned(ONE).items()} == {"map": (1, 6, 8, 8), "values": (1, 4)}
    assert cost(joined, (ONE,)) == before, "the original is left alone"
    widths = [layer.out_channels for layer in pruned.modules() if isinstance(layer, torch.nn.Conv2d)][:-1]
    assert all(width % 4 == 0 for width in widths)


def test_channels_that_nothing_depends_on_go_first() -> None:
    """Half of the channels are read by weights of 0: without them the answers are the same to the last digits."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 5, 3)).eval()
    with torch.no_grad():
        net[2].weight[:, 1::2] = 0
        net[0].weight[1::2] *= 100  # by their size they would be the last to go
    pruned = prune(net, ONE, Goal(0.5, rounds=1), PICTURES, quiet)
    assert pruned[0].out_channels == 8
    assert torch.allclose(pruned(PICTURES), net(PICTURES), atol=1e-5)


def test_a_layer_that_is_to_be_left_alone_keeps_its_channels(joined: torch.nn.Module) -> None:
    pruned = prune(joined, ONE, Goal(0.2, rounds=2, ignore=("side",)), PICTURES, quiet)
    assert pruned.side[0].out_channels == 24


def test_too_far_and_too_odd_is_refused(joined: torch.nn.Module) -> None:
    with pytest.raises(ModelError, match="cannot be pruned that far"):
        prune(joined, ONE, Goal(0.99, rounds=2), PICTURES, quiet)
    with pytest.raises(ConfigError, match="makes no sense"):
        prune(joined, ONE, 1.5, PICTURES, quiet)
    with pytest.raises(ConfigError, match="no such part"):
        prune(joined, ONE, Goal(ignore=("sied",)), PICTURES, quiet)
    with pytest.raises(ConfigError, match="too few inputs"):
        prune(joined, ONE, 0.3, PICTURES[:3], quiet)
    wired, example = torch_nets.hard_wired()
    with pytest.raises(ModelError, match="number of channels is written into"):
        prune(wired, example, 0.5, torch.rand(16, 3, 8, 8), quiet)


def test_a_program_can_be_neither_pruned_nor_taught(tmp_path: Path, joined: torch.nn.Module) -> None:
    file = tmp_path / "joined.pt2"
    torch.export.save(torch.export.export(joined, (ONE,)), file)
    loaded = load(file, Options())
    with pytest.raises(ModelError, match="no layers to take channels from"):
        prune(loaded.module, loaded.inputs, 0.5, PICTURES, quiet)
    with pytest.raises(ModelError, match="no layers to take channels from"):
        distil(loaded.module, loaded.module, PICTURES, quiet)


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_values_come_back_and_twice_the_same_bits(joined: torch.nn.Module) -> None:
    pruned = prune(joined, ONE, Goal(0.3, rounds=2), PICTURES, quiet, seed=5)
    assert _same(pruned, prune(joined, ONE, Goal(0.3, rounds=2), PICTURES, quiet, seed=5))
    with torch.no_grad():
        pruned.values.weight.zero_()
    told: list[Learned] = []
    lesson = Lesson(epochs=8, batch=8, rate=3e-3)
    state = torch.random.get_rng_state()
    taught = [distil(pruned, joined, PICTURES, quiet, seed=5, lesson=lesson, told=told.append) for _ in range(2)]
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random numbers are its own"
    assert _same(*taught)
    assert told[0].measure == "variance of the outputs explained"
    assert told[0].after > max(told[0].before, 0.0)
    assert not told[0].cut


def test_the_best_state_is_returned_and_it_may_be_the_first(joined: torch.nn.Module) -> None:
    told: list[Learned] = []
    taught = distil(joined, joined, PICTURES, quiet, lesson=Lesson(epochs=2, batch=8, rate=1.0), told=told.append)
    assert told[0].before == told[0].after == 1.0
    assert _same(taught, joined)


def test_no_time_at_all_ends_after_one_step(joined: torch.nn.Module) -> None:
    told: list[Learned] = []
    distil(joined, joined, PICTURES, quiet, lesson=Lesson(epochs=9, batch=8, minutes=0.0), told=told.append)
    assert told[0].steps == 1
    assert told[0].cut


def test_whoever_watches_can_end_it(joined: torch.nn.Module) -> None:
    def stop(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(joined, ONE, 0.3, PICTURES, stop)
    with pytest.raises(KeyboardInterrupt):
        distil(joined, joined, PICTURES, stop)


def test_a_loader_with_labels_is_a_source_of_inputs_too() -> None:
    dataset = torch.utils.data.TensorDataset(PICTURES, torch.zeros(len(PICTURES)))
    data = Inputs(torch.utils.data.DataLoader(dataset, batch_size=7), ["image"])
    assert len(data) == len(PICTURES)
    assert torch.equal(data.take([3, 40])[0], PICTURES[[3, 40]])


def test_other_views_have_the_shape_and_the_range_of_the_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        (seen,) = augment([PICTURES], generator)
        assert seen.shape == PICTURES.shape
        assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    assert not torch.equal(seen, PICTURES)
    integers = torch.arange(32)
    assert augment([integers], generator)[0] is integers
