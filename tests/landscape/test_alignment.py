"""Weight matching: a network whose units are permuted is the same network, and is brought back."""

from itertools import permutations

import pytest
import torch
from torch import nn

from zoo.landscape.alignment import Permutations, UnknownArchitectureError, aligned
from zoo.landscape.connectivity import CurveRecipe, Pair, errors_of_curves
from zoo.landscape.path_summaries import barrier
from zoo.landscape.weights import flat_weights
from zoo.models import ImageShape, initial_model

SHAPE = ImageShape(1, 8, 10)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """The network with the units of each layer in another order."""
    spec, state = Permutations(model), model.state_dict()
    sizes = {number: state[axes[0].name].shape[axes[0].dimension] for number, axes in spec.axes.items()}
    orders = {number: torch.randperm(size, generator=stream(seed + number)) for number, size in sizes.items()}
    return spec.permuted(model, orders)


@pytest.fixture(params=["mlp", "cnn", "resnet18"])
def model(request, digits) -> nn.Module:
    """A network of each of our architectures, with running statistics of its own."""
    made = initial_model(request.param, 5, SHAPE, 0)
    with torch.no_grad():
        made.train()(digits.train.images[:200])
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=stream(3))
    return made.eval()


def test_a_network_with_its_units_permuted_answers_alike(model, digits) -> None:
    other, images = shuffled(model, 1), digits.validation.images[:50]
    assert not torch.equal(flat_weights(other), flat_weights(model))
    torch.testing.assert_close(other(images), model(images), rtol=1e-4, atol=1e-4)
    spec = Permutations(model)
    named = [axis for axes in spec.axes.values() for axis in axes]
    assert len(set(named)) == len(named)
    last = list(dict(model.named_parameters()))[-2:]
    assert not {(last[0], 0), (last[1], 0)} & {tuple(axis) for axis in named}, "classes keep their order"


def test_a_permuted_copy_is_brought_back_and_there_is_no_barrier(model, digits) -> None:
    other = shuffled(model, 1)
    back = aligned(model, other, stream())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor)
    recipe = CurveRecipe(form="line")
    plain, straightened = errors_of_curves(
        [Pair(model, other), Pair(model, back)], digits.train, digits.validation, recipe, [stream()] * 2
    )
    assert barrier(straightened.train_loss) == pytest.approx(0, abs=1e-5)
    assert barrier(straightened.train) == 0
    assert plain.train_loss != straightened.train_loss


def test_matching_two_layers_finds_the_nearest_of_all_permutations() -> None:
    """The oracle: one hidden layer of four units, all 24 orders tried."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2))
    found = aligned(first, second, stream())

    def distance(model: nn.Module) -> float:
        return (flat_weights(model) - flat_weights(first)).norm().item()

    spec = Permutations(second)
    (number,) = spec.axes
    all_of_them = [spec.permuted(second, {number: torch.tensor(order)}) for order in permutations(range(4))]
    assert distance(found) == pytest.approx(min(map(distance, all_of_them)))


def test_alignment_brings_networks_nearer_and_leaves_them_alone() -> None:
    other = initial_model("mlp", 12, SHAPE, 1)
    first = initial_model("mlp", 12, SHAPE, 2)
    before = flat_weights(other).clone()
    moved = aligned(first, other, stream())
    assert torch.equal(flat_weights(other), before)
    target = flat_weights(first)
    assert (flat_weights(moved) - target).norm() < 0.99 * (before - target).norm()


@pytest.mark.parametrize(
    ("net", "what"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU()), "0. is a grouped convolution"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)),
            "2.weight takes several features",
        ),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "LayerNorm is not known"),
    ],
)
def test_what_is_not_known_is_refused(net, what) -> None:
    with pytest.raises(UnknownArchitectureError, match=what):
        Permutations(net)


def test_networks_that_cannot_be_matched_are_refused() -> None:
    nets = [nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2)) for width in (4, 5)]
    with pytest.raises(ValueError, match="different architectures"):
        aligned(*nets, stream())
    with torch.no_grad():
        nets[0][0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite cannot be matched"):
        aligned(nets[0], nets[0], stream())
