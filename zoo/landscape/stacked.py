"""K models of one architecture as one module: layers side by side, each on images of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.landscape.weights import flat_weights, trainable

SAME = 1e-3
"""How far the outputs of a stack may lie from those of its models, relative to the largest."""


class StackedModel:
    """K copies of a model that compute side by side, their weights in one flat vector.

    Convolutions become grouped ones, linear layers a batched product, BatchNorm one over the channels of all. What
    else a model does has to treat every channel alike, as ReLU, pooling and flattening do. The flat vector has the
    entries of the first parameter of all models, then those of the second; `pack` brings vectors in that order.

    Attributes:
        count: Number of models, K.
        module: Maps images [B, K x channels, H, W] to outputs [B, K x classes].
        weights: The trainable parameters [K x P]; writing here sets them.
        gradient: Their gradients [K x P]; `backward` adds to it.
        lane: Which model an entry belongs to [K x P].
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        """Copy a model K times; it is left as it was."""
        self.count = count
        self.module = side_by_side([model] * count)
        self._sizes = [parameter.numel() for parameter in trainable(model)]
        parameters = trainable(self.module)
        self.weights = flat_weights(self.module)
        self.gradient = torch.zeros_like(self.weights)
        sizes = [parameter.numel() for parameter in parameters]
        windows = zip(parameters, self.weights.split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, weights, gradient in windows:
            parameter.data, parameter.grad = weights.view(parameter.shape), gradient.view(parameter.shape)
        self.lane = self.pack(torch.arange(count).unsqueeze(1).expand(count, sum(self._sizes)))
        self.lane = self.lane.to(self.weights.device)

    def pack(self, vectors: Tensor) -> Tensor:
        """Weights of the K models [..., K, P] as a flat vector [..., K x P]."""
        return torch.cat([part.flatten(-2) for part in vectors.split(self._sizes, dim=-1)], dim=-1)

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs [K, B, classes] for images [B, C, H, W] that all models see, or [K, B, C, H, W] of their own."""
        own = images.dim() == 5
        seen = images.transpose(0, 1).flatten(1, 2) if own else images.repeat(1, self.count, 1, 1)
        return self.module(seen).view(len(seen), self.count, -1).transpose(0, 1)


class SideBySideLinear(nn.Module):
    """K linear layers: [B, K x in] -> [B, K x out]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.count = len(layers)
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(
            torch.cat([layer.bias.detach() for layer in layers])
            if layers[0].bias is not None
            else self.weight.new_zeros(len(self.weight)),
            requires_grad=layers[0].bias is not None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Two batched products: the bias is added as one, so that its gradient does not depend on K, to the bit."""
        count = self.count
        own = x.view(len(x), count, -1).transpose(0, 1)
        weight = self.weight.view(count, -1, own.shape[2]).transpose(1, 2)
        shift = torch.bmm(x.new_ones(count, len(x), 1), self.bias.view(count, 1, -1))
        return (torch.bmm(own, weight) + shift).transpose(0, 1).flatten(1)


def side_by_side(models: Sequence[nn.Module]) -> nn.Module:
    """One module of several of one architecture, see `StackedModel`."""
    first = models[0]
    if isinstance(first, nn.Linear):
        return SideBySideLinear(models)  # type: ignore[arg-type]
    made = copy.copy(first)
    made._parameters, made._buffers = dict(first._parameters), dict(first._buffers)
    made._modules = {
        name: side_by_side([model._modules[name] for model in models])  # type: ignore[misc]
        for name in first._modules
    }
    for name, parameter in first._parameters.items():
        if parameter is not None:
            joined = torch.cat([model._parameters[name].detach() for model in models])  # type: ignore[union-attr]
            made._parameters[name] = nn.Parameter(joined, requires_grad=parameter.requires_grad)
    for name, buffer in first._buffers.items():
        if buffer is not None:
            own = [model._buffers[name] for model in models]
            made._buffers[name] = torch.cat(own) if buffer.dim() else buffer.clone()  # type: ignore[arg-type]
    count = len(models)
    for name in ("in_channels", "out_channels", "groups", "num_features"):
        if isinstance(getattr(first, name, None), int):
            setattr(made, name, count * getattr(first, name))
    return made


def can_be_stacked(model: nn.Module, images: Tensor) -> bool:
    """Whether copies of a model side by side answer as the model does, see `answer_alike`."""
    trial = trial_of(model)
    return answer_alike(trial, lambda both: StackedModel(trial, 2)(both), images)


@torch.no_grad()
def trial_of(model: nn.Module) -> nn.Module:
    """A copy in eval mode with weights drawn for it, so that what it answers is the architecture's."""
    trial, stream = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)
    for module in trial.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
    for parameter in trial.parameters():
        inputs = parameter[0].numel() if parameter.dim() else 1
        parameter.copy_(torch.randn(parameter.shape, generator=stream) / math.sqrt(inputs))
    return trial


@torch.no_grad()
def answer_alike(model: nn.Module, two: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """Whether two copies of a model side by side, on images each of its own, answer as the model does.

    Args:
        model: In eval mode.
        two: Maps images [2, B, C, H, W] to outputs [2, B, classes] of the copies.
        images: A few, [B, C, H, W].
    """
    both = torch.stack([images, images.flip(0)])
    wanted = torch.stack([model(own) for own in both])
    try:
        found = two(both)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return False
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= SAME * wanted.abs().max())
