"""Norms of the weights against hand-made matrices, and the rescalings that they must not see."""

import math

import pytest
import torch
from torch import nn

from zoo.landscape.norms import layers, log_norm_products, parameter_norm
from zoo.models import ImageShape, initial_model

SHAPE = ImageShape(channels=1, image_size=8, classes=10)


def matrices(*diagonals: tuple[float, ...]) -> nn.Sequential:
    """Linear layers with these diagonals and no bias."""
    made = []
    for diagonal in diagonals:
        layer = nn.Linear(len(diagonal), len(diagonal), bias=False)
        layer.weight.data = torch.diag(torch.tensor(diagonal))
        made.append(layer)
    return nn.Sequential(*made)


def test_products_of_diagonal_matrices_are_the_closed_form() -> None:
    spectral, frobenius = log_norm_products(matrices((3.0, 4.0), (0.5, -2.0)))
    assert spectral.values == pytest.approx([2 * math.log(4), 2 * math.log(2)])
    assert spectral.value == pytest.approx(2 * math.log(8))
    assert frobenius.value == pytest.approx(math.log(25) + math.log(4.25))


def test_the_matrix_of_a_convolution_is_what_it_does_to_a_patch() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 2, bias=False)
    patches = torch.randn(50, 3, 2, 2)
    matrix = layers(nn.Sequential(convolution))[0].weight.flatten(1).float()
    torch.testing.assert_close(convolution(patches).flatten(1), patches.flatten(1) @ matrix.T)
    spectral, frobenius = log_norm_products(nn.Sequential(convolution))
    singular = torch.linalg.svdvals(matrix)
    assert spectral.value == pytest.approx(2 * math.log(singular[0]), rel=1e-5)
    assert frobenius.value == pytest.approx(math.log(singular.square().sum()), rel=1e-5)


def test_batch_norm_folded_in_gives_the_map_that_the_network_applies(make_cnn, digits) -> None:
    model = make_cnn(2, 0)
    model.train()(digits.train.images[:100])
    model.eval()
    nn.init.uniform_(model[1].weight, -2, 2)
    model[1].eps = 0.5
    plain, image = nn.Conv2d(1, 2, 3, padding=1, bias=False), digits.train.images[:1]
    plain.weight.data = layers(model)[0].weight.float()
    zero = torch.zeros_like(image)
    torch.testing.assert_close(plain(image), model[:2](image) - model[:2](zero))
    torch.testing.assert_close(layers(model, fold_batch_norm=False)[0].weight.float(), model[0].weight.data)


def test_scale_that_batch_norm_removes_is_not_seen(make_cnn, digits) -> None:
    models = [make_cnn(2, 0), make_cnn(2, 0)]
    models[1][0].weight.data *= 100
    for model in models:
        model.train()(digits.train.images)
        model[1].running_var[:] = model[0](digits.train.images).var((0, 2, 3))
        model[1].eps = 0.0
    for first, second in zip(*(log_norm_products(model) for model in models), strict=True):
        assert first.value == pytest.approx(second.value, rel=1e-4)
    unfolded = [log_norm_products(model, fold_batch_norm=False)[0].value for model in models]
    assert unfolded[1] - unfolded[0] == pytest.approx(2 * math.log(100))


def test_every_layer_of_the_registered_architectures_counts_once() -> None:
    """Eight blocks of two convolutions, three shortcuts, stem and head; BatchNorms all find their layer."""
    model = initial_model("resnet18", 2, SHAPE, seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 3.0)
            module.eps = 0.0
    folded, plain = layers(model), layers(model, fold_batch_norm=False)
    assert len(folded) == 2 * 8 + 3 + 2
    ratios = [(f.weight.norm() / p.weight.norm()).item() for f, p in zip(folded, plain, strict=True)]
    assert ratios == pytest.approx([3.0] * 20 + [1.0])


def test_a_batch_norm_of_no_layer_or_without_statistics_is_not_folded() -> None:
    norm = nn.BatchNorm1d(2, track_running_stats=False)
    alone = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(3), nn.Linear(2, 2), norm)
    for module in alone:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.constant_(module.weight, 5.0)
    for layer, module in zip(layers(alone), (alone[1], alone[3]), strict=True):
        torch.testing.assert_close(layer.weight.float(), module.weight.data)
    bare = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False, eps=0.0))
    bare[1].running_var[:] = 4.0
    torch.testing.assert_close(layers(bare)[0].weight.float(), bare[0].weight.data / 2)


def test_the_norm_of_the_parameters_is_euclidean() -> None:
    model = matrices((3.0, 4.0), (12.0,))
    assert parameter_norm(model).value == pytest.approx(13)


def test_what_cannot_be_had_has_a_reason() -> None:
    spoilt, dead = matrices((math.nan, 1.0)), matrices((1.0, 2.0), (0.0, 0.0))
    assert {e.reason for e in log_norm_products(spoilt)} == {"not_finite"}
    assert parameter_norm(spoilt).reason == "not_finite"
    assert {e.reason for e in log_norm_products(dead)} == {"collapsed"}
    assert {e.reason for e in log_norm_products(nn.BatchNorm1d(2))} == {"no_layers"}
