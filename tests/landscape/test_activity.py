"""Dead units that were made by hand, in modules and in functions, and shares that can be counted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.activity import relu_activity
from zoo.models import ImageShape, initial_model

SHAPE = ImageShape(channels=1, image_size=8, classes=10)


class Functional(nn.Module):
    """A network that applies `relu` to twice its two inputs, and keeps what came out."""

    def __init__(self, relu: object) -> None:
        super().__init__()
        self.relu, self.head = relu, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(2 * x))


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        torch.relu,
        torch.relu_,
        F.relu,
        lambda x: F.relu(x, inplace=True),
        lambda x: x.relu(),
        lambda x: x.relu_(),
    ],
)
def test_every_way_to_write_relu_is_seen_once(relu: object) -> None:
    images = torch.tensor([[1.0, -1.0], [-1.0, -2.0], [3.0, 0.0], [4.0, -1.0]])
    dead, zeros = relu_activity(Functional(relu), images, batch_size=3)
    assert (dead.value, dead.values) == (0.5, (0.5,))
    assert (zeros.value, zeros.values) == (5 / 8, (5 / 8,))
    assert {(e.samples, e.sample_passes, e.standard_error) for e in (dead, zeros)} == {(4, 4.0, None)}


def test_channels_made_dead_by_hand(make_cnn, digits) -> None:
    """BatchNorm's shift pushes one channel of the first layer and three of the last below zero."""
    model = make_cnn(4, 0)
    with torch.no_grad():
        model[1].bias[2] = -1e3
        model[9].bias[:3] = -1e3
    dead, zeros = relu_activity(model, digits.train.images)
    assert dead.values == (1 / 4, 0, 3 / 16)
    assert dead.value == 4 / 28
    assert all(share >= d for share, d in zip(zeros.values, dead.values, strict=True))


def test_one_image_that_fires_at_one_place_is_enough(make_cnn, digits) -> None:
    model, images = make_cnn(1, 0), torch.zeros(300, 1, 8, 8)
    model[0].weight.data.copy_(F.one_hot(torch.tensor(4), 9).view(1, 1, 3, 3))
    assert relu_activity(model, images)[0].values[0] == 1
    images[50, 0, 3, 5] = 1.0
    dead, zeros = relu_activity(model, images, batch_size=100)
    assert dead.values[0] == 0
    assert zeros.values[0] == 1 - 1 / (300 * 64)


@pytest.mark.parametrize(("architecture", "relus"), [("mlp", 2), ("cnn", 3), ("resnet18", 17)])
def test_registered_architectures(architecture: str, relus: int, digits) -> None:
    """Of a residual block, both the ReLU inside and the one after the shortcut; batches change nothing."""
    model = initial_model(architecture, 2, SHAPE, seed=0)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    dead, zeros = relu_activity(model, digits.train.images)
    assert len(dead.values) == len(zeros.values) == relus
    assert (dead, zeros) == tuple(relu_activity(model, digits.train.images, batch_size=77))
    assert model.training
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_shares_do_not_see_positive_scale(make_cnn, digits) -> None:
    models = [make_cnn(2, 0), make_cnn(2, 0)]
    models[1][0].weight.data *= 4
    models[1][1].running_var *= 16
    models[1][1].eps *= 16
    assert relu_activity(models[0], digits.train.images) == relu_activity(models[1], digits.train.images)


def test_what_cannot_be_had_has_a_reason(make_cnn, digits) -> None:
    spoilt = make_cnn(1, 0)
    spoilt[4].weight.data.fill_(math.nan)
    for model, reason in ((nn.Linear(8, 2), "no_relu"), (spoilt, "not_finite")):
        for estimate in relu_activity(model, digits.train.images):
            assert (estimate.value, estimate.values, estimate.reason) == (None, None, reason)
    overflowing = Functional(torch.relu)
    overflowing.head.weight.data.fill_(3e38)
    assert relu_activity(overflowing, torch.full((2, 2), 100.0))[0].reason == "not_finite"
    hidden = nn.Sequential(nn.Linear(8, 2), nn.ReLU())
    hidden[0].bias.data.fill_(-math.inf)
    assert relu_activity(hidden, digits.train.images)[0].reason == "not_finite"
    with pytest.raises(ValueError, match="activity over 0 images is undefined; give at least 1"):
        relu_activity(spoilt, digits.train.images[:0])
