"""Models side by side with the model index innermost: channel c of model k is channel c x K + k of all.

In channels_last that is the layout of `stack_kernels`, [B, H, W, C, K]. Convolutions, linear layers and flattening
are replaced by those of this module; BatchNorm, ReLU, pooling and all else that treats every channel alike stays.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def has_kernels() -> bool:
    """Whether Triton is there, which comes with PyTorch for GPUs, and what it compiles its launchers with."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return importlib.util.find_spec("triton") is not None and compiler is not None and header.exists()


def by_kernels(x: Tensor) -> bool:
    """Whether kernels compute with a tensor."""
    return x.is_cuda


def in_lanes(module: nn.Module, count: int) -> nn.Module:
    """A copy of a module that computes K models; its parameters are put in with each call.

    Raises:
        ValueError: If a convolution is not a plain one.
    """
    return _in_lanes(copy.deepcopy(module), count)


def _in_lanes(module: nn.Module, count: int) -> nn.Module:
    if type(module) is nn.Conv2d:
        return LaneConvolution(module, count)
    if type(module) is nn.Linear:
        return LaneLinear(module, count)
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return LaneFlatten(count)
    for name, child in module.named_children():
        setattr(module, name, _in_lanes(child, count))
    return module


class LaneLinear(nn.Module):
    """K linear layers: [B, in x K] -> [B, out x K]; weights are [out, in, K] and biases [out x K]."""

    def __init__(self, layer: nn.Linear, count: int) -> None:
        super().__init__()
        self.weight, self.bias, self.count = layer.weight, layer.bias, count

    def forward(self, x: Tensor) -> Tensor:
        """A batched product."""
        made = torch.bmm(x.reshape(len(x), -1, self.count).permute(2, 0, 1), self.weight.permute(2, 1, 0))
        made = made.permute(1, 2, 0).flatten(1)
        return made if self.bias is None else made + self.bias


class LaneFlatten(nn.Module):
    """Flattening that keeps the models innermost: [B, C x K, ...] -> [B, C x ... x K]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """The numbers of an image in their own order."""
        return x.unflatten(1, (-1, self.count)).movedim(2, -1).flatten(1)


class LaneConvolution(nn.Module):
    """K convolutions: [B, in x K, H, W] -> [B, out x K, H', W'] in channels_last.

    Weights are [out, in, kernel height, kernel width, K] and biases [out x K].
    """

    def __init__(self, convolution: nn.Conv2d, count: int) -> None:
        super().__init__()
        plain = convolution.groups == 1 and convolution.dilation == (1, 1)
        zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        if not (plain and zeros and len(set(convolution.stride)) == 1):
            raise ValueError(
                f"{convolution} has no kernel: groups, dilation, a margin other than of zeros in numbers, or two "
                "strides; compute these models another way, as Way('grouped')"
            )
        self.weight, self.bias, self.count = convolution.weight, convolution.bias, count
        assert not isinstance(convolution.padding, str)
        self.stride, self.margins = convolution.stride[0], (convolution.padding[0], convolution.padding[1])

    def forward(self, x: Tensor) -> Tensor:
        """By the kernels on a GPU, elsewhere by a grouped convolution."""
        if by_kernels(x):
            source, weight = x.permute(0, 2, 3, 1), self.weight
            if torch.is_autocast_enabled(x.device.type):
                wanted = torch.get_autocast_dtype(x.device.type)
                source, weight = source.to(wanted), weight.to(wanted)
            made = convolve(source.unflatten(3, (-1, self.count)), weight, self.stride, self.margins)
            made = made.flatten(3).permute(0, 3, 1, 2)
        else:
            grouped = x.unflatten(1, (-1, self.count)).transpose(1, 2).flatten(1, 2)
            weight = self.weight.movedim(4, 0).flatten(0, 1)
            made = F.conv2d(grouped, weight, None, self.stride, self.margins, groups=self.count)
            made = made.unflatten(1, (self.count, -1)).transpose(1, 2).flatten(1, 2)
        return made if self.bias is None else made + self.bias.view(-1, 1, 1)


def convolve(source: Tensor, weight: Tensor, stride: int, margins: tuple[int, int]) -> Tensor:
    """Convolutions of K models by the kernels, differentiable once.

    Args:
        source: Images [B, H, W, in, K].
        weight: [out, in, kernel height, kernel width, K].
        stride: Of rows and columns.
        margins: Zeros above and below, left and right of the images.

    Returns:
        [B, H', W', out, K]
    """
    made: Tensor = _Convolution.apply(source, weight, stride, margins)
    return made


class _Convolution(torch.autograd.Function):
    """`convolve`, with what its backward pass needs."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, weight: Tensor, stride: int, margins: tuple[int, int]) -> Tensor:
        from zoo.engines import stack_kernels  # Triton is not everywhere

        source, weight = source.contiguous(), weight.contiguous()
        ctx.save_for_backward(source, weight)
        ctx.stride, ctx.margins = stride, margins
        height, width = (
            (own + 2 * margin - kernel) // stride + 1
            for own, margin, kernel in zip(source.shape[1:3], margins, weight.shape[2:4], strict=True)
        )
        with torch.cuda.device_of(source):
            return stack_kernels.outputs(source, weight, (height, width), stride, margins)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        from zoo.engines import stack_kernels

        (source, weight), delta = ctx.saved_tensors, gradients[0].contiguous()
        height, width = source.shape[1:3]
        by_source = by_weight = None
        with torch.cuda.device_of(source):
            if ctx.needs_input_grad[0]:
                by_source = stack_kernels.input_gradients(
                    delta, weight, (height, width), ctx.stride, ctx.margins
                )
            if ctx.needs_input_grad[1]:
                kernel = (weight.shape[2], weight.shape[3])
                by_weight = stack_kernels.weight_gradients(source, delta, kernel, ctx.stride, ctx.margins)
        return by_source, by_weight, None, None
