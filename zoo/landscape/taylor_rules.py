r"""How value, first and second derivative of an activation pass through the layers of a classifier.

Every rule treats the images apart from each other, which eval mode grants. Derivatives are [N, m, ...]: what
acts on each image alike acts on [N m, ...], and the directions of a weight are so many more output channels.
Parts that are zero are None, so that the layers next to the images cost what they have to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.landscape.jet import Directions, Jet, UnsupportedFunctionError, rule


@rule(torch.conv2d)
def _conv2d(
    directions: Directions,
    x: Jet,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Jet:
    """The directions of the weight as m times the channels; on derivatives, as m groups."""
    if groups != 1 or (isinstance(x.first, Tensor) and x.first.dim() != 5):
        raise UnsupportedFunctionError(f"conv2d in {groups} groups has no Taylor rule; use one group")
    shape = stride, padding, dilation
    value = F.conv2d(x.value, weight, bias, *shape)
    move = directions.get(id(weight))
    first, second = (_each(part, lambda t: F.conv2d(t, weight, None, *shape)) for part in (x.first, x.second))
    if move is not None:
        filters, split = move.flatten(0, 1), (len(move), len(weight))
        first = _onto(F.conv2d(x.value, filters, None, *shape).unflatten(1, split), first)
        if x.first is not None:
            turned = F.conv2d(x.first.flatten(1, 2), filters, None, *shape, len(move)).unflatten(1, split)
            second = _onto(turned.mul_(2), second)
    return Jet(value, _shifted(first, value, directions, bias, 2), second)


@rule(F.linear)
def _linear(directions: Directions, x: Jet, weight: Tensor, bias: Tensor | None = None) -> Jet:
    if x.dim() != 2:
        raise UnsupportedFunctionError(
            f"linear on {x.dim()} axes has no Taylor rule; flatten to [N, features]"
        )
    value, move = F.linear(x.value, weight, bias), directions.get(id(weight))
    first, second = (None if part is None else part @ weight.T for part in (x.first, x.second))
    if move is not None:
        turned = F.linear(x.value, move.flatten(0, 1)).unflatten(1, move.shape[:2])
        first = _onto(turned, first)
        if x.first is not None:
            across = torch.bmm(x.first.transpose(0, 1), move.transpose(1, 2)).transpose(0, 1)
            second = _onto(2 * across, second)
    return Jet(value, _shifted(first, value, directions, bias, 0), second)


@rule(F.batch_norm)
def _batch_norm(
    directions: Directions,
    x: Jet,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Jet:
    """With fixed statistics, a scale and a shift of each channel."""
    if training or mean is None or variance is None:
        raise UnsupportedFunctionError(
            "batch_norm on a batch's own statistics couples images; use running ones"
        )
    axes = x.dim() - 2
    scale = torch.rsqrt(variance + eps)
    unit = (x.value - _spread(mean, axes)) * _spread(scale, axes)
    whole = _spread(scale if weight is None else scale * weight, axes)
    value = unit if weight is None else unit * _spread(weight, axes)
    value = value if bias is None else value + _spread(bias, axes)
    first, second = (None if part is None else part * whole for part in (x.first, x.second))
    move = directions.get(id(weight))
    if move is not None:
        if x.first is not None:
            second = _onto(x.first * _spread(2 * move * scale, axes), second)
        turn = _spread(move, axes)
        first = unit.unsqueeze(1) * turn if first is None else first.addcmul_(unit.unsqueeze(1), turn)
    return Jet(value, _shifted(first, value, directions, bias, axes), second)


@rule(F.relu, torch.relu, Tensor.relu)
def _relu(directions: Directions, x: Jet, inplace: bool = False) -> Jet:
    passes = (x.value > 0).to(x.value.dtype).unsqueeze(1)
    first, second = (None if part is None else part * passes for part in (x.first, x.second))
    made = Jet(x.value.relu(), first, second)
    return x.become(made) if inplace else made


@rule(torch.relu_, Tensor.relu_)
def _relu_in_place(directions: Directions, x: Jet) -> Jet:
    return _relu(directions, x, inplace=True)


def _smooth(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """The rule of a smooth function of each entry: y' = f' x', y'' = f' x'' + f'' x'^2."""

    def apply(directions: Directions, x: Jet, *arguments: Any, **options: Any) -> Jet:
        if options.pop("inplace", False):
            raise UnsupportedFunctionError(
                f"{function.__name__} in place has no Taylor rule; use inplace=False"
            )
        if x.first is None:
            return Jet(function(x.value, *arguments, **options), None, None)
        with torch.enable_grad():
            point = x.value.detach().requires_grad_()
            value = function(point, *arguments, **options)
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), point)
        slope, bend = slope.detach().unsqueeze(1), bend.unsqueeze(1)
        second = bend * x.first.square()
        return Jet(value.detach(), slope * x.first, _onto(second, _scaled(x.second, slope)))

    return apply


for _entrywise in (F.gelu, F.silu, torch.tanh, torch.sigmoid):
    rule(_entrywise)(_smooth(_entrywise))
rule(Tensor.tanh)(_smooth(torch.tanh))
rule(Tensor.sigmoid)(_smooth(torch.sigmoid))


@rule(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    directions: Directions,
    x: Jet,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Jet:
    """The derivatives of the largest entries."""
    if return_indices:
        raise UnsupportedFunctionError("max_pool2d with return_indices has no Taylor rule; leave them out")
    value, indices = F.max_pool2d(
        x.value, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True
    )
    flat = indices.flatten(2).unsqueeze(1)

    def pick(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        return part.flatten(3).gather(3, flat.expand(*part.shape[:3], -1)).unflatten(3, value.shape[2:])

    return Jet(value, pick(x.first), pick(x.second))


def _fixed(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """The rule of a linear map of each image that no weight enters."""

    def apply(directions: Directions, x: Jet, *arguments: Any, **options: Any) -> Jet:
        def act(tensor: Tensor) -> Tensor:
            return function(tensor, *arguments, **options)

        value = act(x.value)
        if value.shape[:1] != x.shape[:1]:
            raise UnsupportedFunctionError(f"{function.__name__} mixes images; it has no Taylor rule there")
        return Jet(value, _each(x.first, act), _each(x.second, act))

    return apply


for _map in (torch.flatten, Tensor.flatten, F.avg_pool2d, F.adaptive_avg_pool2d):
    rule(_map)(_fixed(_map))


@rule(torch.mean, Tensor.mean)
def _mean(directions: Directions, x: Jet, dim: Any = None, keepdim: bool = False) -> Jet:
    axes = (dim,) if isinstance(dim, int) else tuple(dim or ())
    if not axes or any(axis % x.dim() == 0 for axis in axes):
        raise UnsupportedFunctionError(f"mean over axes {dim} mixes images; it has no Taylor rule there")
    return _fixed(torch.mean)(directions, x, tuple(axis % x.dim() for axis in axes), keepdim)


@rule(Tensor.view, Tensor.reshape, torch.reshape)
def _reshape(directions: Directions, x: Jet, *shape: Any) -> Jet:
    sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if sizes[0] != len(x):
        raise UnsupportedFunctionError(
            f"view {tuple(sizes)} of {len(x)} images mixes them; keep the first axis"
        )
    return _fixed(lambda tensor: tensor.reshape(len(tensor), *sizes[1:]))(directions, x)


@rule(torch.add, Tensor.add, Tensor.__radd__)
def _add(directions: Directions, x: Any, other: Any) -> Jet:
    if not isinstance(x, Jet) or not isinstance(other, Jet) or x.shape != other.shape:
        raise UnsupportedFunctionError("add has a Taylor rule for two activations of one shape only")
    return Jet(x.value + other.value, _sum(x.first, other.first), _sum(x.second, other.second))


@rule(Tensor.add_)
def _add_in_place(directions: Directions, x: Any, other: Any) -> Jet:
    made = _add(directions, x, other)
    return x.become(made)


@rule(F.dropout)
def _dropout(
    directions: Directions, x: Jet, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Jet:
    if training:
        raise UnsupportedFunctionError("dropout in training has no Taylor rule; put the model in eval mode")
    return x


def _each(part: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor | None:
    """A function of each image on derivatives [N, m, ...]."""
    return None if part is None else function(part.flatten(0, 1)).unflatten(0, part.shape[:2])


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Their sum, where None is zero."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _onto(fresh: Tensor, part: Tensor | None) -> Tensor:
    """Their sum, written into the first, which nobody else holds."""
    return fresh if part is None else fresh.add_(part)


def _scaled(part: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if part is None else part * factor


def _spread(channels: Tensor, axes: int) -> Tensor:
    """[..., C] as [..., C, 1, 1] with so many axes of 1."""
    return channels[(..., *[None] * axes)]


def _shifted(
    first: Tensor | None, value: Tensor, directions: Directions, bias: Tensor | None, axes: int
) -> Tensor | None:
    """First derivatives with those of a bias added."""
    move = directions.get(id(bias))
    if move is None:
        return first
    shift = _spread(move, axes)
    return shift.expand(len(value), *move.shape[:1], *value.shape[1:]) if first is None else first + shift
