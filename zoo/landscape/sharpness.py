"""How far the loss rises when the weights are moved: along the gradient, and at random."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.datasets import Split
from zoo.engines.lane_copies import LaneCopies, described
from zoo.landscape.estimate import NOT_FINITE, Estimate, mean_and_standard_error
from zoo.landscape.evaluation import outputs
from zoo.landscape.gradients import Loss, mean_gradient
from zoo.landscape.hessian import GRADIENT_PASSES
from zoo.landscape.weights import FlatModel, flat_weights, flatten, trainable

NO_STEP = "no_step"
"""Reason of a sharpness without a value: the gradient, or the weights that a step is relative to, are zero."""

Relative = Literal["absolute", "norm", "filter", "element"]
"""What a step is relative to: see `perturbation_scale`."""


def perturbation_scale(model: nn.Module, relative: Relative) -> Tensor:
    r"""The size $s$ of a perturbation in each trainable parameter, [P].

    - `absolute`: 1, as in SAM (Foret et al. 2021).
    - `norm`: $\|\theta\| / \sqrt P$, the same in all directions.
    - `filter`: root mean square of the parameter's filter (a row of a matrix, an output channel of a
      convolution), so that rescaling a filter before BatchNorm changes nothing (Li et al., Visualizing the
      Loss Landscape of Neural Nets, NeurIPS 2018, section 4). Entries of vectors, as biases and BatchNorm's, are
      filters of their own.
    - `element`: $|\theta_i|$, so that no positive rescaling of units of a ReLU network changes anything (Kwon et
      al., ASAM, ICML 2021, section 3).

    The last three have the norm $\|\theta\|$.

    Raises:
        ValueError: If `relative` is none of these, or no parameter is trainable.
    """
    weights = flat_weights(model)
    if relative == "absolute":
        return torch.ones_like(weights)
    if relative == "norm":
        return torch.full_like(weights, (torch.linalg.vector_norm(weights) / math.sqrt(len(weights))).item())
    if relative == "filter":
        return flatten(_filter_size(parameter.detach()) for parameter in trainable(model))
    if relative == "element":
        return weights.abs()
    raise ValueError(f"a step cannot be relative to {relative!r}; choose one of {get_args(Relative)}")


def worst_case_sharpness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float = 0.01,
    relative: Relative = "norm",
    loss: Loss = F.cross_entropy,
    batch_size: int = 1000,
) -> Estimate:
    r"""Rise of the loss after one step up the gradient: $L(\theta + \epsilon) - L(\theta)$.

    $\epsilon = r \, g / \|g\|$ with the gradient $g$ over the same images maximises the linearised loss in the ball
    $\|\epsilon\| \le r$ (Foret et al., Sharpness-Aware Minimization, ICLR 2021, eq. 2). With sizes $s$ from
    `perturbation_scale`, $\epsilon = r \, s^2 g / \|s g\|$ does so in $\|\epsilon / s\| \le r$ (Kwon et al., ASAM:
    Adaptive Sharpness-Aware Minimization, ICML 2021, section 3), where $r$ is `radius` if absolute, else
    `radius` $\cdot \sqrt P$: a radius of 0.01 is then 1% of the norm of the weights for `norm`, and of that order
    for the others. The model is in eval mode.

    Args:
        model: A model, left as it was.
        images: [N, C, H, W], on any device.
        labels: [N].
        radius: Length of the step, absolute or relative.
        relative: To what.
        loss: Mean loss of outputs and labels.
        batch_size: Images a pass.

    Returns:
        The rise in nats; `values` are the losses before and after. Without a value for the reason `NO_STEP` if
        the gradient is zero.

    Raises:
        ValueError: If the radius is not above 0, or there are no images.
    """
    _check_positive("radius", radius)
    flat, scale = FlatModel(model), perturbation_scale(model, relative)
    before, gradient = mean_gradient(flat, images, labels, loss, batch_size)
    samples, passes = len(images), float(len(images) * (GRADIENT_PASSES + 1))
    scaled = scale * gradient
    length = torch.linalg.vector_norm(scaled.double()).item()
    if not math.isfinite(before) or not math.isfinite(length):
        return Estimate(value=None, reason=NOT_FINITE, samples=samples, sample_passes=passes)
    if length == 0:
        return Estimate(value=None, reason=NO_STEP, samples=samples, sample_passes=passes)
    reach = radius if relative == "absolute" else radius * math.sqrt(len(scaled))
    flat.weights.addcmul_(scale, scaled / length, value=reach)
    after = _mean_loss(flat.module, images, labels, loss, batch_size)
    return Estimate(
        value=after - before, values=(before, after), samples=samples, sample_passes=passes
    ).finite()


def random_sharpness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    deviation: float = 0.1,
    relative: Relative = "filter",
    draws: int = 16,
    loss: Loss = F.cross_entropy,
    batch_size: int = 1000,
) -> Estimate:
    r"""Mean rise of the loss under Gaussian noise in the weights.

    $E_z[L(\theta + \sigma s z)] - L(\theta)$ for standard normal $z$ and sizes $s$ from `perturbation_scale`
    (Andriushchenko et al., A Modern Look at the Relationship between Sharpness and Generalization, ICML 2023,
    eq. 1; cf. Jiang et al., Fantastic Generalization Measures and Where to Find Them, ICLR 2020, who look for
    the noise that costs a given accuracy). To second order it is $\frac{\sigma^2}{2} \sum_i s_i^2 H_{ii}$. The
    model is in eval mode. Draws are independent: on trained networks, the same number of passes spent on pairs
    of opposite signs gave larger errors.

    Args:
        model: A model, left as it was.
        images: [N, C, H, W], on any device.
        labels: [N].
        generator: Draws the noise, on the CPU.
        deviation: Standard deviation $\sigma$ of the noise; relative, it is the expected length of the noise as
            a share of the norm of the weights.
        relative: To what.
        draws: Draws of the noise; each costs a pass over the images.
        loss: Mean loss of outputs and labels.
        batch_size: Images a pass.

    Returns:
        The mean rise in nats, its standard error over the draws for these images, and the rise of each draw in
        `values`.

    Raises:
        ValueError: If the deviation is not above 0, `draws` is below 1, or there are no images.
    """
    _check_positive("deviation", deviation)
    if draws < 1:
        raise ValueError(f"draws is {draws}; the mean rise takes at least 1")
    if not len(images):
        raise ValueError("the sharpness of the loss over 0 images is undefined; give at least 1")
    centre, scale = flat_weights(model), perturbation_scale(model, relative).mul_(deviation)

    def around() -> Iterator[Tensor]:
        for _ in range(draws):
            yield torch.addcmul(centre, scale, torch.randn(len(centre), generator=generator).to(centre))

    data = Split(images, labels)
    before, *after = _losses_at(chain([centre], around()), model, data, loss, batch_size)
    rises = [value - before for value in after]
    value, standard_error = mean_and_standard_error(rises)
    return Estimate(
        value=value,
        values=tuple(rises),
        standard_error=standard_error,
        samples=len(images),
        iterations=len(rises),
        sample_passes=float(len(images) * (1 + len(rises))),
    ).finite()


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; a step has a size above 0")


def _filter_size(parameter: Tensor) -> Tensor:
    """Root mean square of each entry's filter, in the parameter's shape."""
    if parameter.dim() < 2:
        return parameter.abs()
    return (
        parameter.flatten(1)
        .square()
        .mean(1)
        .sqrt()
        .view(-1, *[1] * (parameter.dim() - 1))
        .expand_as(parameter)
    )


def _losses_at(
    points: Iterator[Tensor], model: nn.Module, data: Split, loss: Loss, batch_size: int
) -> Iterator[float]:
    """The loss of the model at each of the weights [P]; as many at a time as there are lanes."""
    made = described(model, *data) if loss is F.cross_entropy else None
    if made is None:
        flat = FlatModel(model)
        for point in points:
            flat.weights.copy_(point)
            yield _mean_loss(flat.module, *data, loss, batch_size)
        return
    copies = LaneCopies(made, model)
    while several := list(islice(points, copies.lanes)):
        yield from copies.evaluate(torch.stack(several), data).loss.tolist()


@torch.no_grad()
def _mean_loss(module: nn.Module, images: Tensor, labels: Tensor, loss: Loss, batch_size: int) -> float:
    """Loss over the images in eval mode, in double precision, as rises are small."""
    answers = outputs(module, images, batch_size).double()
    return loss(answers, labels.to(answers.device)).item()
