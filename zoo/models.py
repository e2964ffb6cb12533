"""Architectures by name and width.

A builder takes the width and the shape of the data and returns an ordinary module that maps images
[B, C, H, W] to logits [B, classes]. A user adds one by name:

    @register_architecture("tiny")
    def tiny(width, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape.pixels, width), nn.ReLU(), nn.Linear(width, shape.classes))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from zoo.config import TrainConfig, seed_of

if TYPE_CHECKING:
    from zoo.datasets import Dataset


class ImageShape(NamedTuple):
    """The shape of a data set: channels, height and width in pixels, number of classes."""

    channels: int
    image_size: int
    classes: int

    @property
    def pixels(self) -> int:
        """Values an image."""
        return self.channels * self.image_size**2


Builder = Callable[[int, ImageShape], nn.Module]

ARCHITECTURES: dict[str, Builder] = {}


def register_architecture(name: str) -> Callable[[Builder], Builder]:
    """Make a builder known by name to specs, training and `Zoo.model`.

    Raises:
        ValueError: If the name is taken by another builder.
    """

    def register(builder: Builder) -> Builder:
        taken = ARCHITECTURES.get(name)
        if taken is not None and _origin(taken) != _origin(builder):
            raise ValueError(f"architecture {name!r} is taken by {_origin(taken)}; choose another name")
        ARCHITECTURES[name] = builder
        return builder

    return register


def _origin(builder: Builder) -> str:
    return f"{builder.__module__}.{builder.__qualname__}"


def build_model(architecture: str, width: int, shape: ImageShape) -> nn.Module:
    """A new model with the weights of the current global random state.

    Raises:
        ValueError: If the architecture is not registered, or the width is below 1.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}; known: {', '.join(sorted(ARCHITECTURES))}; "
            "register another with zoo.models.register_architecture before it is used"
        )
    if width < 1:
        raise ValueError(f"width is {width}; it has to be at least 1")
    return ARCHITECTURES[architecture](width, shape)


def initial_model(architecture: str, width: int, shape: ImageShape, seed: int) -> nn.Module:
    """The model at the start of training: its weights depend on nothing but the arguments.

    The stream is drawn on the CPU; the global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("initial weights", architecture, width, *shape, seed))
        return build_model(architecture, width, shape)


def image_shape(dataset: Dataset, config: TrainConfig) -> ImageShape:
    """The shape that a configuration's models see."""
    channels, size = dataset.train_images.shape[1:3]
    return ImageShape(channels, config.image_size or size, dataset.classes)


def cannot_train(architecture: str, width: int, shape: ImageShape, batch_size: int) -> str | None:
    """Why a model cannot take a training step on such a batch; None if it can."""
    try:
        model = initial_model(architecture, width, shape, seed=0).train()
        model(torch.zeros(batch_size, shape.channels, shape.image_size, shape.image_size)).sum().backward()
    except (RuntimeError, ValueError) as error:
        return str(error).partition("\n")[0]
    return None


@cache
def count_parameters(architecture: str, width: int, shape: ImageShape) -> int:
    """Number of trainable parameters, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(architecture, width, shape).parameters() if p.requires_grad)


class Work(NamedTuple):
    """What an architecture makes of one image.

    Attributes:
        modules: Modules that compute, each at least a call.
        parameters: Trainable parameters.
        values: Numbers that its modules put out.
        multiply_adds: Multiplications and additions of its convolutions and linear layers.
    """

    modules: int
    parameters: int
    values: int
    multiply_adds: int


@cache
def work_of(architecture: str, width: int, shape: ImageShape) -> Work | None:
    """The work of an image's forward pass, counted without doing it.

    Returns:
        None for a model that looks at values, as it has none to look at.
    """
    modules = values = multiply_adds = 0

    def count(module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal modules, values, multiply_adds
        made = output.numel() if isinstance(output, Tensor) else 0
        modules, values = modules + 1, values + made
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            multiply_adds += made * module.weight[0].numel()

    with torch.device("meta"):
        model = build_model(architecture, width, shape).eval()
        for module in model.modules():
            if not list(module.children()):
                module.register_forward_hook(count)
        try:
            model(torch.empty(1, shape.channels, shape.image_size, shape.image_size))
        except Exception:  # whatever a user's model may raise
            return None
    return Work(modules, count_parameters(architecture, width, shape), values, multiply_adds)


@register_architecture("mlp")
def mlp(width: int, shape: ImageShape) -> nn.Module:
    """Two hidden layers of `width` units with ReLU."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(shape.pixels, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, shape.classes),
    )


class GlobalAverage(nn.Module):
    """Mean over height and width: [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return x.mean((2, 3))


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias and its BatchNorm."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


@register_architecture("cnn")
def cnn(width: int, shape: ImageShape) -> nn.Module:
    """Three 3x3 convolutions of w, 2w and 4w channels with BatchNorm and ReLU, two poolings, a linear head."""
    w = width
    return nn.Sequential(
        *_convolution(shape.channels, w),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *_convolution(w, 2 * w),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *_convolution(2 * w, 4 * w),
        nn.ReLU(),
        GlobalAverage(),
        nn.Linear(4 * w, shape.classes),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, stride=stride), nn.ReLU(), *_convolution(outputs, outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum of both ways."""
        return torch.relu(self.body(x) + self.shortcut(x))


@register_architecture("resnet18")
def resnet18(width: int, shape: ImageShape) -> nn.Module:
    """ResNet-18 with the CIFAR stem (3x3, no pooling) and w, 2w, 4w, 8w channels (He et al., 2016).

    The parameter counts are those of Zhou et al. (2024): 11,420 at width 2 to 44,662,922 at width 128 for
    3 channels and 10 classes.
    """
    blocks: list[nn.Module] = []
    channels = width
    for stage in range(4):
        outputs = width * 2**stage
        for stride in (1 if stage == 0 else 2, 1):
            blocks.append(BasicBlock(channels, outputs, stride))
            channels = outputs
    return nn.Sequential(
        *_convolution(shape.channels, width),
        nn.ReLU(),
        *blocks,
        GlobalAverage(),
        nn.Linear(channels, shape.classes),
    )
