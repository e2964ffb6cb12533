"""The trainable parameters of a model as one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes: BatchNorm's scale and shift in, running statistics out."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """One vector of all entries, in order; differentiable."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def flat_weights(model: nn.Module) -> Tensor:
    """A copy of the trainable parameters as one vector [P], on their device.

    Raises:
        ValueError: If no parameter is trainable.
    """
    parameters = trainable(model)
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no trainable parameters; set requires_grad on some")
    return flatten(parameter.detach() for parameter in parameters)


def flat_pair(first: nn.Module, second: nn.Module) -> tuple[Tensor, Tensor]:
    """The weights of two models of one architecture, each as a vector [P].

    Raises:
        ValueError: If their parameters differ in name or shape.
    """
    shapes = [
        {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        for model in (first, second)
    ]
    if shapes[0] != shapes[1]:
        differing = sorted(name for name, _ in set(shapes[0].items()) ^ set(shapes[1].items()))
        raise ValueError(
            f"the two models have different architectures: parameter {differing[0]} is "
            f"{shapes[0].get(differing[0])} and {shapes[1].get(differing[0])}; compare models of one architecture"
        )
    return flat_weights(first), flat_weights(second)


def is_finite(model: nn.Module) -> bool:
    """Whether every parameter and every buffer is finite."""
    return all(bool(tensor.isfinite().all()) for tensor in (*model.parameters(), *model.buffers()))


class FlatModel:
    """A copy of a model whose trainable parameters are windows on one flat vector, and their gradients too.

    Writing to `weights` sets all parameters at once, and `backward` adds to `gradient` in place, so that an
    optimiser step is a few operations on vectors instead of a few for each parameter.

    Attributes:
        module: The copy.
        weights: Its trainable parameters [P].
        gradient: Their gradients [P], zero at first.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the model and move its parameters into the vector."""
        self.module = copy.deepcopy(model)
        self.weights = flat_weights(self.module)
        self.gradient = torch.zeros_like(self.weights)
        parameters = trainable(self.module)
        sizes = [parameter.numel() for parameter in parameters]
        windows = zip(parameters, self.weights.split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, weights, gradient in windows:
            parameter.data, parameter.grad = weights.view(parameter.shape), gradient.view(parameter.shape)
