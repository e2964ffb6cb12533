"""K models of one architecture as one function of their weights, and the ways in which it can be computed.

`grouped` joins the convolutions of K models to a grouped one; `bmm` makes of each a batched product with unfolded
images; `lanes` computes them by kernels of its own with the model index innermost (`stack_lanes`). All three compute
linear layers as a batched product. `single` is one model alone, which any module can be.
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

from zoo.engines.stack_lanes import has_kernels, in_lanes
from zoo.landscape.stacked import answer_alike, side_by_side, trial_of
from zoo.landscape.weights import flatten


class Way(NamedTuple):
    """How models are computed.

    Attributes:
        kind: "grouped", "bmm", "lanes" or "single".
        channels_last: Whether on CUDA the channels of an image lie beside each other in memory; in lanes they do.
    """

    kind: str
    channels_last: bool = False


SINGLE, GROUPED = Way("single"), Way("grouped")

WAYS: tuple[tuple[int, Way], ...] = ((16, Way("lanes")),)
"""The way up to each width, and single models beyond: a guess, until `benchmarks/bench_gpu_engine.py` prints the
table of a GPU. Models without convolutions are not asked for: side by side they are batched products."""


def way_for(model: nn.Module, width: int) -> Way:
    """The fastest way for models of an architecture and width, as far as is known."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return GROUPED
    return next((way for widest, way in WAYS if width <= widest), SINGLE)


def possible_way(way: Way, models: Sequence[nn.Module], images: Tensor, device: str) -> Way:
    """The way if models train so on a device as each alone would, else grouped, else one after the other.

    Args:
        way: What is wanted.
        models: Of one architecture, on the CPU.
        images: A few of theirs, [B, C, H, W], on the CPU.
        device: Where they are to train.
    """
    if way.kind == "single":
        return way
    if len(models) == 1:
        return SINGLE
    missing = torch.device(device).type == "cuda" and not has_kernels()
    if way.kind == "lanes" and (missing or not can_be_joined(models[0], images, way)):
        way = GROUPED
    return way if can_be_joined(models[0], images, way) else SINGLE


def can_be_joined(model: nn.Module, images: Tensor, way: Way = GROUPED) -> bool:
    """Whether models side by side train as each alone would.

    Args:
        model: One of them, on the CPU.
        images: A few of theirs, [B, C, H, W].
        way: How they would be computed.
    """
    named = (model.named_parameters, model.named_buffers)
    once, all_places = (sum(len(list(of(remove_duplicate=once))) for of in named) for once in (True, False))
    scalar = any(not tensor.dim() for tensor in (*_trained(model).values(), *_others(model).values()))
    # Side by side, what two layers share would be two tensors, and a scalar one of all models.
    if once != all_places or scalar:
        return False
    trial = trial_of(model)

    def answers(both: Tensor) -> Tensor:
        network = Network(trial, len(both), way, "cpu")
        network.module.eval()
        trained, others = zip(*[network.vectors(trial)] * len(both), strict=True)
        rows = torch.arange(both.shape[0] * both.shape[1]).view(both.shape[:2])
        return network(torch.stack(trained), network.join(others), both.flatten(0, 1), rows)

    return answer_alike(trial, answers, images)


class Network:
    """K models of one architecture that compute in one pass.

    Their trainable parameters are a matrix [K, P], a model a row. What else they go by, running statistics and frozen
    parameters, is a vector [K x Q]: the first such tensor of all models, then the second, as modules side by side
    update it in place.

    Attributes:
        count: Number of models, K.
        module: Maps images [B, K x channels, H, W] to logits [B, K x classes], or with the models innermost
            [B, channels x K, H, W] to [B, classes x K]; its own tensors are not used.
        owner: Which model an entry of the vector belongs to, [K x Q].
    """

    def __init__(self, model: nn.Module, count: int, way: Way, device: str) -> None:
        """Take the architecture of a model, which is left as it was.

        Raises:
            ValueError: If a BatchNorm averages over all batches that it has seen.
        """
        self.count, self._way, self._innermost = count, way, way.kind == "lanes"
        self._trained = {name: tensor.shape for name, tensor in _trained(model).items()}
        self._others = {name: tensor.shape for name, tensor in _others(model).items()}
        lanes = torch.arange(count)
        none = lanes[:0]  # a model may have no such tensors
        sizes = [shape.numel() for shape in self._others.values()]
        owners = [lanes.repeat(size) if self._innermost else lanes.repeat_interleave(size) for size in sizes]
        self.owner = torch.cat([none, *owners]).to(device)
        module = _module(model, count, way.kind)
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
        return flatten([others[0][:0], *(part.t() if self._innermost else part for part in parts)])

    def __call__(self, weights: Tensor, others: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        """Logits [K, B, classes] of images [N, C, H, W] of which each model sees rows [K, B] of its own.

        In training mode running statistics in `others` change.
        """
        size = rows.shape[1]
        seen = images.index_select(0, rows.t().reshape(-1)).view(size, self.count, *images.shape[1:])
        # In lanes, [B, H, W, channels, K] seen as channels_last.
        innermost = self._innermost
        seen = seen.permute(0, 3, 4, 2, 1).flatten(3).permute(0, 3, 1, 2) if innermost else seen.flatten(1, 2)
        # On CPUs oneDNN corrupts memory in this layout: the backward pass of a 1x1 convolution of stride 2 and fewer
        # than 8 channels in float32, seen with torch 2.15.
        if self._way.channels_last and seen.is_cuda:
            seen = seen.contiguous(memory_format=torch.channels_last)
        logits = functional_call(self.module, dict(self._tensors(weights, others)), (seen,))
        if innermost:
            return logits.reshape(size, -1, self.count).permute(2, 0, 1)
        return logits.reshape(size, self.count, -1).transpose(0, 1)

    def _tensors(self, weights: Tensor, others: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the module has to have."""
        if self._innermost:
            weights = weights.t().contiguous()
        sizes = [shape.numel() for shape in self._trained.values()]
        parts = weights.split(sizes, 0 if self._innermost else 1)
        for (name, shape), part in zip(self._trained.items(), parts, strict=True):
            yield name, part.reshape(self._joined(shape))
        parts = others.split([self.count * shape.numel() for shape in self._others.values()])
        for (name, shape), part in zip(self._others.items(), parts, strict=True):
            yield name, part.view(self._joined(shape))

    def _joined(self, shape: torch.Size) -> tuple[int, ...]:
        if self._innermost:
            return (shape[0] * self.count,) if len(shape) == 1 else (*shape, self.count)
        return (self.count * shape[0], *shape[1:]) if self.count > 1 else tuple(shape)


def _module(model: nn.Module, count: int, kind: str) -> nn.Module:
    """What computes the models; the model is left as it was."""
    if kind == "single":
        return copy.deepcopy(model)
    if kind == "lanes":
        return in_lanes(model, count)
    module = side_by_side([model] * count)
    return _with_products(module, count) if kind == "bmm" else module


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
