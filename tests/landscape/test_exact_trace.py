"""The trace without probes against the dense Hessian of automatic differentiation, and who has it."""

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.datasets import RunData, Split
from zoo.landscape import exact_trace as module
from zoo.landscape.estimate import NOT_FINITE
from zoo.landscape.exact_trace import MOST_CLASSES, exact_trace, image_traces
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.measure import RECIPES, measure_run
from zoo.landscape.trace import piloted_trace
from zoo.landscape.weights import flat_weights
from zoo.models import ImageShape, initial_model

NETWORKS = [("mlp", 4, 1, 3), ("cnn", 1, 2, 7), ("resnet18", 1, 1, 5)]
IMAGES = 13


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(architecture: str, width: int, channels: int, pixels: int) -> tuple[nn.Module, Tensor]:
    """A network with weights, BatchNorm and statistics of its own, in double precision, and images."""
    model = initial_model(architecture, width, ImageShape(channels, pixels, 3), 0).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=stream(1), dtype=torch.float64)
    images = torch.randn(IMAGES, channels, pixels, pixels, generator=stream(2), dtype=torch.float64)
    model.train()
    model(images)
    return model.eval(), images


def dense_trace(model: nn.Module, image: Tensor, label: int) -> float:
    """By automatic differentiation of the loss of one image, one diagonal entry after the other."""
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        weights = {name: part.view(p.shape) for (name, p), part in parts}
        outputs = torch.func.functional_call(model, weights, (image.unsqueeze(0),))
        return nn.functional.cross_entropy(outputs, torch.tensor([label]))

    flat = flat_weights(model)
    _, product = torch.func.vjp(torch.func.grad(loss), flat)
    unit = torch.eye(len(flat), dtype=torch.float64)
    return torch.func.vmap(lambda own: product(own)[0] @ own, chunk_size=256)(unit).sum().item()


@pytest.mark.parametrize("facts", NETWORKS)
def test_it_is_the_trace_of_the_dense_hessian_whatever_the_labels(facts):
    model, images = network(*facts)
    found = image_traces(model, images)
    for place, label in ((0, 0), (0, 2), (IMAGES - 1, 1)):
        assert found[place].item() == pytest.approx(dense_trace(model, images[place], label), rel=1e-10)


@pytest.mark.parametrize("facts", NETWORKS)
def test_lanes_and_the_plain_way_give_the_same(facts, monkeypatch):
    model, images = network(*facts)
    fast = exact_trace(model, images)
    monkeypatch.setattr(module, "described", lambda *_: None)
    slow = exact_trace(model, images)
    assert fast.value == pytest.approx(slow.value, rel=1e-11)
    assert fast.sampling_error == pytest.approx(slow.sampling_error, rel=1e-9)
    assert (fast.samples, fast.sample_passes) == (IMAGES, IMAGES * (1 + 2 * 3))


def test_probes_scatter_about_it():
    model, images = network(*NETWORKS[1])
    exact = exact_trace(model, images)
    labels = torch.arange(IMAGES) % 3
    probed = piloted_trace(HessianOperator(model, images, labels), stream(), most=512)
    assert abs(probed.value - exact.value) < 3 * probed.standard_error
    assert exact.standard_error is None


def test_its_error_is_that_of_the_choice_of_images():
    model, images = network(*NETWORKS[1])
    traces = image_traces(model, images)
    found = exact_trace(model, images)
    assert found.value == pytest.approx(traces.mean().item())
    assert found.sampling_error == pytest.approx(traces.std().item() / math.sqrt(IMAGES))
    assert exact_trace(model, images, population=IMAGES).sampling_error == 0
    with pytest.raises(ValueError, match="over 0 images"):
        exact_trace(model, images[:0])


def test_frozen_parameters_are_no_part_of_it():
    model, images = network(*NETWORKS[1])
    whole = image_traces(model, images)
    parts = torch.zeros_like(whole)
    for kept in (True, False):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("0.") == kept)
        parts += image_traces(model, images)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=0)


@pytest.mark.parametrize("classes", [MOST_CLASSES, MOST_CLASSES + 1])
def test_other_models_and_many_classes_have_probes(classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
    assert (exact_trace(model, torch.randn(3, 1, 2, 2)) is None) == (classes > MOST_CLASSES)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, classes))
    assert exact_trace(smooth, torch.randn(3, 1, 2, 2)) is None


def test_without_trainable_parameters_there_is_no_hessian():
    model, images = network(*NETWORKS[1])
    with pytest.raises(ValueError, match="no trainable parameters"):
        exact_trace(model.requires_grad_(False), images)


def test_weights_that_are_not_finite():
    model, images = network(*NETWORKS[1])
    next(model.parameters()).data[0] = torch.nan
    assert exact_trace(model, images).reason == NOT_FINITE


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_the_default_is_exact_and_the_published_one_has_probes(recipe):
    model, images = network(*NETWORKS[1])
    split = Split(images, torch.arange(IMAGES) % 3)
    data = RunData(split, split, split, 3)
    (row,) = measure_run(model, data, RECIPES[recipe], ("run",), only=["hessian_trace"])
    assert row["value"] == pytest.approx(exact_trace(model, images).value, rel=0.2)
    assert (row["standard_error"] is None) == (row["iterations"] is None) == (recipe == "default")
