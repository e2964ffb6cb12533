"""K models of one architecture as one function of their weights, and the ways in which it can be computed.

`grouped` joins the convolutions of K models to a grouped one; `bmm` makes of each a batched product with unfolded
images; both compute linear layers as a batched product. `single` is one model alone, which any module can be.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.landscape.stacked import can_be_stacked, side_by_side
from zoo.landscape.weights import flatten


class Way(NamedTuple):
    """How models are computed.

    Attributes:
        kind: "grouped", "bmm" or "single".
        channels_last: Whether on CUDA the channels of an image lie beside each other in memory.
    """

    kind: str
    channels_last: bool = False


SINGLE = Way("single")

WAYS: tuple[tuple[int, Way], ...] = ((2, Way("bmm")), (16, Way("grouped")))
"""The way up to each width, and single models beyond: a guess, until `benchmarks/bench_gpu_engine.py` prints the
table of a GPU. Models without convolutions are not asked for: side by side they are batched products."""


def way_for(model: nn.Module, width: int) -> Way:
    """The fastest way for models of an architecture and width, as far as is known."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return Way("grouped")
    return next((way for widest, way in WAYS if width <= widest), SINGLE)


def can_be_joined(model: nn.Module, images: Tensor) -> bool:
    """Whether models side by side train as each alone would.

    Args:
        model: One of them.
        images: A few of theirs, [B, C, H, W].
    """
    named = (model.named_parameters, model.named_buffers)
    once, all_places = (sum(len(list(of(remove_duplicate=once))) for of in named) for once in (True, False))
    scalar = any(not tensor.dim() for tensor in (*_trained(model).values(), *_others(model).values()))
    # Side by side, what two layers share would be two tensors, and a scalar one of all models.
    return once == all_places and not scalar and can_be_stacked(model, images)


class Network:
    """K models of one architecture that compute in one pass.

    Their trainable parameters are a matrix [K, P], a model a row. What else they go by, running statistics and frozen
    parameters, is a vector [K x Q]: the first such tensor of all models, then the second, as modules side by side
    update it in place.

    Attributes:
        count: Number of models, K.
        module: Maps images [B, K x channels, H, W] to logits [B, K x classes]; its own tensors are not used.
        owner: Which model an entry of the vector belongs to, [K x Q].
    """

    def __init__(self, model: nn.Module, count: int, way: Way, device: str) -> None:
        """Take the architecture of a model, which is left as it was.

        Raises:
            ValueError: If a BatchNorm averages over all batches that it has seen.
        """
        self.count, self._way = count, way
        self._trained = {name: tensor.shape for name, tensor in _trained(model).items()}
        self._others = {name: tensor.shape for name, tensor in _others(model).items()}
        lanes = torch.arange(count)
        none = lanes[:0]  # a model may have no such tensors
        owners = [lanes.repeat_interleave(shape.numel()) for shape in self._others.values()]
        self.owner = torch.cat([none, *owners]).to(device)
        module = copy.deepcopy(model) if way.kind == "single" else side_by_side([model] * count)
        if way.kind == "bmm":
            module = _with_products(module, count)
        for name, norm in module.named_modules():
            if isinstance(norm, _BatchNorm):
                if norm.momentum is None and norm.track_running_stats:
                    raise ValueError(
                        f"BatchNorm {name!r} has momentum None and so needs a count at each step, which stays off "
                        "the device; give it a momentum, or use the engine 'loop'"
                    )
                norm.num_batches_tracked = None
        for name, parameter in module.named_parameters():
            if name in self._trained or name in self._others:
                parameter.data = parameter.data.new_empty(0)
        self.module = module.to(device).train()

    def vectors(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """The trainable parameters [P] of one model and its other tensors [Q], copied."""
        trained = flatten(tensor.detach() for tensor in _trained(model).values())
        return trained, flatten([trained[:0], *(tensor.detach() for tensor in _others(model).values())])

    @torch.no_grad()
    def put(self, model: nn.Module, trained: Tensor, others: Tensor) -> None:
        """Give one model its parameters [P] and other tensors [Q]."""
        for own, vector in ((_trained(model), trained), (_others(model), others)):
            parts = vector.split([tensor.numel() for tensor in own.values()])
            for tensor, part in zip(own.values(), parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def named(self, trained: Tensor) -> dict[str, Tensor]:
        """The trainable parameters [P] of one model by name."""
        parts = trained.split([shape.numel() for shape in self._trained.values()])
        return {name: part.view(self._trained[name]) for name, part in zip(self._trained, parts, strict=True)}

    def join(self, others: Sequence[Tensor]) -> Tensor:
        """Other tensors [Q] of each of the models as one vector [K x Q]."""
        parts = torch.stack(list(others)).split([shape.numel() for shape in self._others.values()], 1)
        return flatten([others[0][:0], *parts])

    def __call__(self, weights: Tensor, others: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        """Logits [K, B, classes] of images [N, C, H, W] of which each model sees rows [K, B] of its own.

        In training mode running statistics in `others` change.
        """
        size = rows.shape[1]
        seen = images.index_select(0, rows.t().reshape(-1)).view(size, -1, *images.shape[2:])
        # On CPUs oneDNN corrupts memory in this layout: the backward pass of a 1x1 convolution of stride 2 and fewer
        # than 8 channels in float32, seen with torch 2.15.
        if self._way.channels_last and seen.is_cuda:
            seen = seen.contiguous(memory_format=torch.channels_last)
        logits = functional_call(self.module, dict(self._tensors(weights, others)), (seen,))
        return logits.reshape(size, self.count, -1).transpose(0, 1)

    def _tensors(self, weights: Tensor, others: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the module has to have."""
        parts = weights.split([shape.numel() for shape in self._trained.values()], 1)
        for (name, shape), part in zip(self._trained.items(), parts, strict=True):
            yield name, part.reshape(self._joined(shape))
        parts = others.split([self.count * shape.numel() for shape in self._others.values()])
        for (name, shape), part in zip(self._others.items(), parts, strict=True):
            yield name, part.view(self._joined(shape))

    def _joined(self, shape: torch.Size) -> tuple[int, ...]:
        return (self.count * shape[0], *shape[1:]) if self.count > 1 else tuple(shape)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """What SGD changes, by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def _others(model: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters and buffers by name; those of whole numbers are taken for the architecture's."""
    frozen = {name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    return frozen | {name: tensor for name, tensor in model.named_buffers() if tensor.is_floating_point()}


class ProductConvolution(nn.Module):
    """K convolutions as one batched product: [B, K x in, H, W] -> [B, K x out, H', W']."""

    def __init__(self, convolution: nn.Conv2d, count: int) -> None:
        super().__init__()
        self.weight, self.bias, self.count = convolution.weight, convolution.bias, count
        self.kernel, self.stride = convolution.kernel_size, convolution.stride
        assert not isinstance(convolution.padding, str)
        vertical, horizontal = convolution.padding
        self.margins = horizontal, horizontal, vertical, vertical

    def forward(self, x: Tensor) -> Tensor:
        """Weights [K, out, in x kernel] times unfolded images [K, in x kernel, B x H' x W']."""
        windows = F.pad(x, self.margins)
        for axis, (size, step) in enumerate(zip(self.kernel, self.stride, strict=True), 2):
            windows = windows.unfold(axis, size, step)
        batch, _, height, width = windows.shape[:4]
        weight = self.weight.view(self.count, len(self.weight) // self.count, -1)
        columns = windows.unflatten(1, (self.count, -1)).permute(1, 2, 5, 6, 0, 3, 4)
        made = torch.bmm(weight, columns.reshape(self.count, weight.shape[2], -1))
        if self.bias is not None:
            made = made + self.bias.view(self.count, -1, 1)
        return made.view(-1, batch, height, width).transpose(0, 1)


def _with_products(module: nn.Module, count: int) -> nn.Module:
    """The module with its convolutions as batched products where they are plain ones."""
    if type(module) is nn.Conv2d:
        plain = module.groups == count and module.dilation == (1, 1) and module.padding_mode == "zeros"
        return ProductConvolution(module, count) if plain and not isinstance(module.padding, str) else module
    for name, child in module.named_children():
        setattr(module, name, _with_products(child, count))
    return module
