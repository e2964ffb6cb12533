"""Architectures: the published sizes, initial weights by key, and the registry."""

import pandas as pd
import pytest
import torch
from torch import nn

from zoo.models import (
    ARCHITECTURES,
    ImageShape,
    build_model,
    count_parameters,
    initial_model,
    register_architecture,
)

CIFAR = ImageShape(3, 32, 10)


@pytest.mark.parametrize("table", ["dataframe_normal_public.csv", "dataframe_noise_public.csv"])
def test_resnet18_has_the_published_parameter_counts(shared_data, table):
    published = pd.read_csv(shared_data / "mdtree" / table).groupby("width")["para_amount"].unique()
    assert len(published) == 13
    for width, (count,) in published.items():
        assert count_parameters("resnet18", int(width), CIFAR) == count


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "resnet18"])
@pytest.mark.parametrize("shape", [ImageShape(1, 8, 10), ImageShape(3, 14, 7), ImageShape(1, 13, 2)])
def test_images_become_logits(architecture, shape):
    model = build_model(architecture, 3, shape)
    logits = model(torch.zeros(5, shape.channels, shape.image_size, shape.image_size))
    assert logits.shape == (5, shape.classes)


def test_counting_equals_building():
    for name in ("mlp", "cnn", "resnet18"):
        model = build_model(name, 5, CIFAR)
        assert count_parameters(name, 5, CIFAR) == sum(p.numel() for p in model.parameters())


def test_initial_weights_depend_on_the_key_alone():
    state = torch.random.get_rng_state()
    first = initial_model("cnn", 4, CIFAR, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    again, other = initial_model("cnn", 4, CIFAR, seed=1), initial_model("cnn", 4, CIFAR, seed=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first[0].weight, other[0].weight)


def test_a_user_registers_an_architecture():
    @register_architecture("linear")
    def linear(width, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape.pixels, shape.classes))

    try:
        assert count_parameters("linear", 1, CIFAR) == 3072 * 10 + 10
        with pytest.raises(
            ValueError, match=r"architecture 'linear' is taken by .*linear; choose another name"
        ):
            register_architecture("linear")(lambda width, shape: nn.Identity())
    finally:
        del ARCHITECTURES["linear"]


def test_unknown_architecture_and_width():
    with pytest.raises(
        ValueError, match=r"unknown architecture 'vgg'; known: cnn, mlp, resnet18; register another"
    ):
        build_model("vgg", 1, CIFAR)
    with pytest.raises(ValueError, match="width is 0; it has to be at least 1"):
        build_model("cnn", 0, CIFAR)
