"""Small networks and data that the landscape tests share."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from zoo.datasets import RunData, Split
from zoo.landscape.hessian import Forms, HessianOperator


def cnn(width: int, seed: int) -> nn.Module:
    """A network of three 3x3 convolutions with BatchNorm, for one channel and ten classes."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for given, made, pooling in (
        (1, width, nn.MaxPool2d(2)),
        (width, 2 * width, nn.MaxPool2d(2)),
        (2 * width, 4 * width, nn.AdaptiveAvgPool2d(1)),
    ):
        layers += [nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU(), pooling]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width, 10))


def trained(width: int, seed: int, train: Split) -> nn.Module:
    """That network after 400 steps of batch 32."""
    model, generator = cnn(width, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(400):
        chosen = torch.randint(0, len(train.labels), (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(train.images[chosen]), train.labels[chosen]).backward()
        optimizer.step()
    return model.eval()


class DenseOperator:
    """The operator of a symmetric matrix that is known, so that products and forms cost next to nothing."""

    device, images, at_once = torch.device("cpu"), 1, 256

    def __init__(self, dense: Tensor) -> None:
        self.dense, self.size, self.dtype = dense, len(dense), dense.dtype

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product."""
        return self.dense @ vector

    def forms(self, directions: Tensor) -> Forms:
        values = ((directions @ self.dense) * directions).sum(1, keepdim=True)
        return Forms(values.double(), torch.ones(1, dtype=torch.float64))

    def cost(self, products: int) -> float:
        return 3.0 + 6.0 * products

    def forms_cost(self, forms: int) -> float:
        return 4.0 * forms


@pytest.fixture(scope="session")
def dense_operator() -> Callable[[Tensor], DenseOperator]:
    """A symmetric matrix -> its operator."""
    return DenseOperator


@pytest.fixture(scope="session")
def with_eigenvalues() -> Callable[..., DenseOperator]:
    """Eigenvalues, number format -> the operator of a symmetric matrix that has them, in a random basis."""

    def made(values: Sequence[float], dtype: torch.dtype = torch.float64) -> DenseOperator:
        generator = torch.Generator().manual_seed(9)
        basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=dtype)).Q
        return DenseOperator(basis @ torch.diag(torch.as_tensor(values, dtype=dtype)) @ basis.T)

    return made


@pytest.fixture(scope="session")
def small_network(digits: RunData) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of width 1 after a few steps on 64 images, those images and their labels."""
    model, images, labels = cnn(1, 0), digits.train.images[:64], digits.train.labels[:64]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval(), images, labels


@pytest.fixture(scope="session")
def network(small_network: tuple[nn.Module, Tensor, Tensor]) -> HessianOperator:
    """Its operator."""
    return HessianOperator(*small_network)


@pytest.fixture(scope="session")
def dense(network: HessianOperator) -> Tensor:
    """Its Hessian [P, P] in double precision, product by product."""
    rows = torch.stack([network @ row for row in torch.eye(network.size)]).double()
    return (rows + rows.T) / 2


@pytest.fixture(scope="session")
def make_cnn() -> Callable[[int, int], nn.Module]:
    """Builds an untrained network from a width and a seed."""
    return cnn


@pytest.fixture(scope="session")
def make_split() -> type[Split]:
    """Makes a split of images and labels."""
    return Split


@pytest.fixture(scope="session")
def digits() -> RunData:
    """Scikit-learn's digits: 1,000 training, 400 validation and 397 test images."""
    raw = load_digits()
    images = torch.tensor(raw.data, dtype=torch.float32).view(-1, 1, 8, 8)
    images, labels = (images - images.mean()) / images.std(), torch.tensor(raw.target)
    parts = zip(images.split([1000, 400, 397]), labels.split([1000, 400, 397]), strict=True)
    return RunData(*(Split(*part) for part in parts), classes=10)


@pytest.fixture(scope="session")
def trained_pair(digits: RunData) -> tuple[nn.Module, nn.Module]:
    """Two networks of width 6, trained on the digits from different seeds, in eval mode."""
    return trained(6, 0, digits.train), trained(6, 1, digits.train)
