"""Forms by Taylor series against double backward, layer by layer and network by network."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape import hessian
from zoo.landscape.hessian import HessianOperator
from zoo.models import ARCHITECTURES, ImageShape, build_model


class Residual(nn.Module):
    """Two paths that meet, one of them through an activation in place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        active = F.relu(x, inplace=self.in_place)
        y = x + self.second(active)
        return y.add_(active) if self.in_place else y + active


class Scaled(nn.Module):
    """A parameter outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Standardised(nn.Conv2d):
    """A convolution with a weight computed from its parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


class Means(nn.Module):
    """The mean over the batch, which no eval mode forbids."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def on_images(*layers: nn.Module) -> nn.Module:
    """Some layers that keep three channels, between a convolution and a linear head."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    )


def frozen_scale() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.weight.requires_grad_(False)
    return norm


SUPPORTED = {
    "batch norm": lambda: on_images(nn.BatchNorm2d(3), nn.ReLU()),
    "batch norm without scale": lambda: on_images(nn.BatchNorm2d(3, affine=False), nn.ReLU()),
    "a frozen scale": lambda: on_images(frozen_scale(), nn.ReLU()),
    "batch norm on features": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)
    ),
    "batch norm on images": lambda: nn.Sequential(nn.BatchNorm2d(2), on_images(nn.ReLU())),
    "strides and dilation": lambda: on_images(nn.Conv2d(3, 3, 3, stride=2, dilation=2, padding=2), nn.ReLU()),
    "padding by name": lambda: on_images(nn.ReLU(), nn.Conv2d(3, 3, 3, padding="same", bias=False)),
    "max pooling": lambda: on_images(nn.MaxPool2d(3, stride=2, padding=1)),
    "average pooling": lambda: on_images(nn.ReLU(), nn.AvgPool2d(2)),
    "smooth": lambda: on_images(nn.GELU(), nn.Conv2d(3, 3, 1), nn.SiLU(), nn.Tanh(), nn.Sigmoid()),
    "dropout": lambda: on_images(nn.ReLU(), nn.Dropout(0.5)),
    "residual": lambda: nn.Sequential(Residual(False), nn.Flatten(), nn.Linear(108, 4)),
    "in place": lambda: nn.Sequential(Residual(True), nn.Flatten(), nn.Linear(108, 4)),
    "linear only": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 4)),
}

UNSUPPORTED = {
    "groups": lambda: on_images(nn.Conv2d(3, 3, 3, groups=3, padding=1)),
    "layer norm": lambda: on_images(nn.LayerNorm([6, 6])),
    "batch statistics": lambda: on_images(nn.BatchNorm2d(3, track_running_stats=False)),
    "loose parameter": lambda: on_images(Scaled()),
    "computed weight": lambda: on_images(Standardised(3, 3, 3)),
    "mean over images": lambda: on_images(Means()),
}


def operator_of(model: nn.Module, shape: tuple[int, ...], loss=F.cross_entropy) -> HessianOperator:
    """In float64, with running statistics and scales away from where they start."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().train()
    images = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    model(images)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (6,), generator=generator)
    return HessianOperator(model, images, labels, loss)


def forms_and_products(operator: HessianOperator) -> tuple[Tensor, Tensor]:
    directions = torch.randn(
        3, operator.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    return operator.forms(directions).whole, torch.stack([z @ (operator @ z) for z in directions])


@pytest.mark.parametrize("name", SUPPORTED)
def test_forms_of_every_layer_equal_double_backward(name: str) -> None:
    torch.manual_seed(0)
    operator = operator_of(SUPPORTED[name](), (2, 6, 6))
    forms, products = forms_and_products(operator)
    assert operator.taylor
    torch.testing.assert_close(forms, products)
    assert products.abs().min() > 1e-6


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_rule_goes_by_double_backward(name: str) -> None:
    torch.manual_seed(0)
    operator = operator_of(UNSUPPORTED[name](), (2, 6, 6))
    if name in ("batch statistics", "mean over images"):
        directions = torch.randn(3, operator.size, dtype=torch.float64)
        operator.forms(directions)
    else:
        torch.testing.assert_close(*forms_and_products(operator))
    assert not operator.taylor


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_every_architecture_has_its_rules(name: str) -> None:
    assert name in ARCHITECTURES
    torch.manual_seed(0)
    operator = operator_of(build_model(name, 2, ImageShape(1, 8, 4)), (1, 8, 8))
    forms, products = forms_and_products(operator)
    assert operator.taylor
    torch.testing.assert_close(forms, products)


def test_forms_are_those_of_each_image() -> None:
    torch.manual_seed(0)
    operator = operator_of(SUPPORTED["batch norm"](), (2, 6, 6))
    directions = torch.randn(3, operator.size, dtype=torch.float64)
    forms = operator.forms(directions)
    images, labels = operator._data
    for place in range(6):
        one = HessianOperator(operator._model, images[[place]], labels[[place]])
        torch.testing.assert_close(forms.values[:, place], one.forms(directions).whole)
        torch.testing.assert_close(forms.values[0, place], directions[0] @ (one @ directions[0]))


def test_forms_of_groups_are_weighted_by_their_images(monkeypatch) -> None:
    monkeypatch.setattr("zoo.landscape.hessian.GROUPS", 4)
    torch.manual_seed(0)
    operator = operator_of(SUPPORTED["batch norm"](), (2, 6, 6))
    operator.taylor = False
    directions = torch.randn(3, operator.size, dtype=torch.float64)
    forms = operator.forms(directions)
    assert forms.images.tolist() == [2, 2, 1, 1]
    torch.testing.assert_close(forms.whole, torch.stack([z @ (operator @ z) for z in directions]))


def test_chunks_of_images_make_no_difference(monkeypatch) -> None:
    torch.manual_seed(0)
    operator = operator_of(SUPPORTED["batch norm"](), (2, 6, 6))
    directions = torch.randn(3, operator.size, dtype=torch.float64)
    whole = operator.forms(directions).values
    monkeypatch.setattr("zoo.landscape.hessian.SMALLEST_CHUNK", 1)
    monkeypatch.setitem(hessian.CHUNK, "cpu", 4 * 72 * 3)
    torch.testing.assert_close(operator.forms(directions).values, whole)


def test_another_loss_keeps_its_curvature() -> None:
    """Half the squared error has a Hessian of the outputs that is the identity, a linear loss none."""
    torch.manual_seed(0)

    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs, F.one_hot(labels, 4).to(outputs)) / 2

    operator = operator_of(SUPPORTED["batch norm"](), (2, 6, 6), squared)
    torch.testing.assert_close(*forms_and_products(operator))
    operator = operator_of(SUPPORTED["smooth"](), (2, 6, 6), lambda outputs, labels: outputs.mean())
    torch.testing.assert_close(*forms_and_products(operator))


def test_the_model_is_left_as_it_was() -> None:
    operator = operator_of(SUPPORTED["batch norm"](), (2, 6, 6))
    model = operator._model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forms_and_products(operator)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
