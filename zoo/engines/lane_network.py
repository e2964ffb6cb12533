"""What a network of lanes is made of: the layers of an ordinary module, and what lies between them.

`describe` reads modules that are built of 3x3 and 1x1 convolutions with BatchNorm, ReLU, 2x2 max pooling, a global
average, linear layers and residual blocks, which are the architectures of `zoo.models` at any width. Others are left
to the plain engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.models import BasicBlock, GlobalAverage

NORM_MOMENTUM, NORM_EPSILON = 0.1, 1e-5
"""What PyTorch's BatchNorm has by default, and the kernels take for granted."""

NO_POOL, MAX_POOL, AVERAGE_POOL = 0, 1, 2
"""How an activation is pooled."""


class UnsupportedModelError(ValueError):
    """A module that is not made of what lanes know."""


class Layer(NamedTuple):
    """A convolution or linear map, with BatchNorm or a bias.

    Attributes:
        source: The activation that it reads; 0 is the image.
        inputs: Its input channels.
        outputs: Its output channels.
        kernel: 1 or 3.
        stride: Step between outputs.
        pixels: Outputs an image and channel.
        module: Name of its module.
        norm: Name of its BatchNorm's module; None: it has a bias.
    """

    source: int
    inputs: int
    outputs: int
    kernel: int
    stride: int
    pixels: int
    module: str
    norm: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters in the state dict, in the kernels' order."""
        weight = f"{self.module}.weight"
        rest = [f"{self.module}.bias"] if self.norm is None else [f"{self.norm}.weight", f"{self.norm}.bias"]
        return (weight, *rest)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of its running statistics, in the kernels' order."""
        return () if self.norm is None else (f"{self.norm}.running_mean", f"{self.norm}.running_var")


class Activation(NamedTuple):
    """ReLU of a sum of layers and of an earlier activation, pooled.

    Attributes:
        terms: One or two layers.
        identity: The earlier activation; None without one.
        pool: One of `NO_POOL`, `MAX_POOL`, `AVERAGE_POOL`.
    """

    terms: tuple[int, ...]
    identity: int | None = None
    pool: int = NO_POOL


@dataclass
class Description:
    """A network of lanes.

    Attributes:
        image: Channels, height and width of an image as the first layer sees it: a flattened one has its values as
            channels.
        layers: Its layers; the last gives the logits.
        activations: Its activations after the image, in the order in which they are computed.
    """

    image: tuple[int, int, int]
    layers: list[Layer] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.layers[-1].outputs

    @property
    def least_normed(self) -> int:
        """Fewest values an image that a BatchNorm takes its moments of; 0 without BatchNorm."""
        return min((layer.pixels for layer in self.layers if layer.norm is not None), default=0)

    def parameters(self) -> Iterator[str]:
        """Names of all parameters, in the kernels' order."""
        for layer in self.layers:
            yield from layer.parameters

    def statistics(self) -> Iterator[str]:
        """Names of all running statistics, in the kernels' order."""
        for layer in self.layers:
            yield from layer.statistics

    def counters(self) -> Iterator[str]:
        """Names of the counts of training batches that BatchNorm keeps."""
        for layer in self.layers:
            if layer.norm is not None:
                yield f"{layer.norm}.num_batches_tracked"


def describe(model: nn.Module, image: tuple[int, int, int]) -> Description:
    """The network of lanes that computes what a module does.

    A layer that stands in it twice, or shares its weights with another, is unknown, as is a module with hooks.

    Args:
        model: Any module.
        image: Channels, height and width of its images.

    Raises:
        UnsupportedModelError: If the module holds something that lanes do not know.
    """
    reader = _Reader(Description(image))
    reader.read("", model)
    return reader.end()


class _Reader:
    """Walks through a module; layers wait for what follows them until a ReLU makes an activation of them."""

    def __init__(self, made: Description) -> None:
        self._made = made
        self._size = made.image
        self._at = 0  # the activation that the next layer reads
        self._waiting: int | None = None
        self._tensors: set[int] = set()  # parameters of the layers so far
        self._convolutions: set[int] = set()  # which of the layers so far

    def read(self, name: str, module: nn.Module) -> None:
        """Take in a module and what it holds, in the order in which it computes."""
        hooked = module._forward_hooks or module._forward_pre_hooks
        tensors = [id(tensor) for tensor in module._parameters.values() if tensor is not None]
        self._check(not hooked and self._tensors.isdisjoint(tensors), name, module)
        self._tensors.update(tensors)
        if type(module) is nn.Sequential:
            # Not its named children: of a module that stands in it twice they are silent the second time.
            for own, child in module._modules.items():
                assert child is not None
                self.read(f"{name}.{own}" if name else own, child)
        elif type(module) is BasicBlock:
            self._block(name, module)
        elif type(module) in (nn.Conv2d, nn.Linear):
            self._layer(name, module)
        elif type(module) is nn.BatchNorm2d:
            self._norm(name, module)
        elif type(module) is nn.ReLU:
            self._activate(None)
        elif type(module) is nn.MaxPool2d:
            self._check(_pair(module.kernel_size) == _pair(module.stride) == (2, 2), name, module)
            self._check(_pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1), name, module)
            self._check(not module.ceil_mode and min(self._size[1:]) >= 2, name, module)
            self._pool(MAX_POOL, name, module)
        elif type(module) in (GlobalAverage, nn.AdaptiveAvgPool2d):
            self._check(getattr(module, "output_size", 1) in (1, (1, 1)), name, module)
            self._pool(AVERAGE_POOL, name, module)
        elif type(module) is nn.Flatten:
            self._flatten(name, module)
        elif type(module) is not nn.Identity:
            self._check(False, name, module)

    def end(self) -> Description:
        """The description, once the module is read."""
        layers = self._made.layers
        if self._waiting is None or not layers or layers[-1].norm is not None or self._size[1:] != (1, 1):
            raise UnsupportedModelError("the last layer of the model is not a linear one")
        self._check_complete(self._waiting)
        return self._made

    def _check_complete(self, layer: int) -> None:
        """Refuse a convolution without BatchNorm: it has no bias."""
        if self._made.layers[layer].norm is None and layer in self._convolutions:
            name = self._made.layers[layer].module
            raise UnsupportedModelError(
                f"module {name!r} is unknown to lanes: a convolution without BatchNorm"
            )

    def _check(self, holds: bool, name: str, module: nn.Module) -> None:
        if not holds:
            raise UnsupportedModelError(f"module {name or 'model'!r} is unknown to lanes: {module}")

    def _layer(self, name: str, module: nn.Module) -> None:
        self._check(self._waiting is None, name, module)
        channels, height, width = self._size
        kernel = stride = 1
        if isinstance(module, nn.Conv2d):
            kernel, stride = module.kernel_size[0], module.stride[0]
            plain = module.groups == 1 and module.bias is None and module.padding_mode == "zeros"
            square = module.kernel_size[1] == kernel in (1, 3) and module.stride == (stride, stride)
            padded = module.padding == (kernel // 2, kernel // 2) and module.dilation == (1, 1)
            self._check(plain and square and padded and stride in (1, 2), name, module)
            inputs, outputs = module.in_channels, module.out_channels
            self._convolutions.add(len(self._made.layers))
        else:
            assert isinstance(module, nn.Linear)
            self._check(module.bias is not None and (height, width) == (1, 1), name, module)
            inputs, outputs = module.in_features, module.out_features
        self._check(inputs == channels, name, module)
        self._waiting = len(self._made.layers)
        self._size = outputs, -(-height // stride), -(-width // stride)
        pixels = self._size[1] * self._size[2]
        self._made.layers.append(Layer(self._at, inputs, outputs, kernel, stride, pixels, name))

    def _norm(self, name: str, module: nn.BatchNorm2d) -> None:
        usual = module.affine and module.track_running_stats and module.momentum == NORM_MOMENTUM
        self._check(usual and module.eps == NORM_EPSILON and self._waiting is not None, name, module)
        assert self._waiting is not None
        layer = self._made.layers[self._waiting]
        self._check(layer.norm is None and module.num_features == layer.outputs, name, module)
        self._made.layers[self._waiting] = layer._replace(norm=name)

    def _activate(self, identity: int | None, *more: int) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            raise UnsupportedModelError("a ReLU follows no layer")
        self._check_complete(waiting)
        self._made.activations.append(Activation((waiting, *more), identity))
        self._at = len(self._made.activations)

    def _pool(self, pool: int, name: str, module: nn.Module) -> None:
        """Pool the last activation, which nothing has read yet."""
        made = self._made.activations
        read = {layer.source for layer in self._made.layers}
        self._check(self._waiting is None and self._at > 0 and self._at not in read, name, module)
        self._check(made[-1].pool == NO_POOL, name, module)
        made[-1] = made[-1]._replace(pool=pool)
        channels, height, width = self._size
        self._size = (channels, 1, 1) if pool == AVERAGE_POOL else (channels, height // 2, width // 2)

    def _flatten(self, name: str, module: nn.Flatten) -> None:
        channels, height, width = self._size
        whole = module.start_dim == 1 and module.end_dim == -1
        untouched = self._at == 0 and not self._made.layers
        self._check(whole and (untouched or (height, width) == (1, 1)), name, module)
        if untouched:
            self._size = self._made.image = channels * height * width, 1, 1

    def _block(self, name: str, module: BasicBlock) -> None:
        self._check(self._waiting is None and self._at > 0, name, module)
        start, size = self._at, self._size
        self.read(f"{name}.body", module.body)
        body, after = self._waiting, self._size
        if isinstance(module.shortcut, nn.Identity):
            self._check(size == after, name, module)
            self._activate(start)
            return
        self._at, self._size, self._waiting = start, size, None
        self.read(f"{name}.shortcut", module.shortcut)
        shortcut, self._waiting = self._waiting, body
        self._check(self._size == after and shortcut is not None, name, module)
        assert shortcut is not None
        self._activate(None, shortcut)


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def flat(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    """The tensors of those names, one after the other."""
    return torch.cat([tensors[name].reshape(-1) for name in names])
