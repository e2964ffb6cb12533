"""Mode connectivity: how high the error rises along a trained curve between two models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.evaluation import evaluate, recalibrate_batch_norm, subset
from zoo.landscape.weights import FlatModel, flat_pair

if TYPE_CHECKING:
    from zoo.datasets import Split

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points of the curve at which errors are measured; 0 and 1 are the two models."""


@dataclass(frozen=True, slots=True)
class CurveRecipe:
    """How the bend of a curve is trained and the curve evaluated.

    Attributes:
        batch_size: Images a step.
        learning_rate: Peak learning rate of the bend.
        momentum: Heavy-ball momentum of SGD.
        weight_decay: L2 coefficient, on the interpolated weights.
        sample_passes: Training images seen; used where `epochs` is None.
        epochs: Length in epochs; the learning rate is then constant within each.
        random_bend: Whether the bend starts at an untrained model; else midway between the two models.
        evaluation_images: Images of each split that errors and BatchNorm statistics are taken from, at most;
            None takes all.
        recalibration_batch: Images a batch of those statistics.
    """

    batch_size: int = 32
    learning_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 0.0
    sample_passes: int = 8_000
    epochs: int | None = None
    random_bend: bool = False
    evaluation_images: int | None = 1_024
    recalibration_batch: int = 512


class CurveErrors(NamedTuple):
    """Errors along a trained curve.

    Attributes:
        train: Error on training images in percent, at each of `TIMES`.
        validation: The same on validation images.
        train_images: Training images evaluated.
        validation_images: Validation images evaluated.
        steps: Optimiser steps of the bend.
        sample_passes: Cost in forward passes of one image, a backward pass counted as 2.
    """

    train: tuple[float, ...]
    validation: tuple[float, ...]
    train_images: int
    validation_images: int
    steps: int
    sample_passes: float


def curve_errors(
    first: nn.Module,
    second: nn.Module,
    train: Split,
    validation: Split,
    recipe: CurveRecipe,
    generator: torch.Generator,
    initial_model: nn.Module | None = None,
) -> CurveErrors:
    r"""Train a curve between two models and measure the errors along it.

    The curve is the quadratic Bezier curve $(1-t)^2 a + 2t(1-t) b + t^2 c$ from the weights $a$ of the first
    model to the weights $c$ of the second. Its bend $b$ minimises the training loss at a random point of the
    curve (Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, eq. 2
    and 4). Running statistics of BatchNorm are not interpolated: they are recomputed on training images at
    each point, the two ends included.

    Args:
        first: The model at t = 0, left as it was.
        second: The model at t = 1, of the same architecture, left as it was.
        train: Training images [N, C, H, W] and labels [N].
        validation: Validation images and labels.
        recipe: How to train and evaluate.
        generator: Draws batches and points, on the CPU.
        initial_model: The untrained model that the bend starts at, if the recipe says so.

    Returns:
        The errors; NaN where the outputs are not finite, as after a bend that diverged.

    Raises:
        ValueError: If the architectures differ, or the recipe starts at an untrained model and none is given.
    """
    model = FlatModel(first)
    points = _control_points(first, second, recipe, initial_model)
    train = _on_device(train, model.weights.device)
    steps, seen = train_bend(model, points, train, recipe, generator)
    seen_train = _evaluated(train, recipe)
    seen_validation = _evaluated(_on_device(validation, model.weights.device), recipe)
    errors = list(_errors_along(model, points, seen_train, seen_validation, recipe))
    counts = len(seen_train.labels), len(seen_validation.labels)
    return CurveErrors(
        train=tuple(pair[0] for pair in errors),
        validation=tuple(pair[1] for pair in errors),
        train_images=counts[0],
        validation_images=counts[1],
        steps=steps,
        sample_passes=float(3 * seen + len(TIMES) * (2 * counts[0] + counts[1])),
    )


def bezier_weights(t: Tensor) -> Tensor:
    """Coefficients [..., 3] of start, bend and end of a quadratic Bezier curve at t [...] in [0, 1]."""
    return torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], dim=-1)


@torch.enable_grad()
def train_bend(
    model: FlatModel, points: Tensor, train: Split, recipe: CurveRecipe, generator: torch.Generator
) -> tuple[int, int]:
    """Train the middle row of the control points in place, by SGD at random points of the curve.

    The gradient of the bend is the gradient of the weights times the bend's coefficient, so no graph runs
    through the interpolation; and the flat gradient is the momentum buffer: `backward` adds to it.

    Args:
        model: Where the interpolated weights are put to work.
        points: [3, P], start, bend and end.
        train: Training images and labels, on the model's device.
        recipe: How to train.
        generator: Draws batches and points, on the CPU.

    Returns:
        Steps taken, and images seen.
    """
    batches = list(batch_schedule(len(train.labels), recipe, generator))
    coefficients = bezier_weights(torch.rand(len(batches), generator=generator)).to(points)
    columns, bend, velocity = points.T, points[1], model.gradient.zero_()
    model.module.train()
    for (indices, learning_rate), weights in zip(batches, coefficients, strict=True):
        images, labels = train.images[indices], train.labels[indices]
        torch.mv(columns, weights, out=model.weights)
        velocity.mul_(recipe.momentum)
        if recipe.weight_decay:
            velocity.addcmul_(model.weights, weights[1], value=recipe.weight_decay)
        F.cross_entropy(model.module(images), labels).backward(weights[1])
        bend.sub_(velocity, alpha=learning_rate)
    return len(batches), sum(len(indices) for indices, _ in batches)


def mode_connectivity_peak(errors: tuple[float, ...]) -> float:
    """Minus the largest error over the interior points (MD tree, Zhou et al., ICML 2024).

    Args:
        errors: Percent, along the curve, ends included.
    """
    return -max(errors[1:-1])


def mode_connectivity(errors: tuple[float, ...]) -> float:
    """Mean error of the ends minus the error at the point that is farthest from that mean.

    Below zero: a barrier between the models; above: they are worse than what lies between them; near zero:
    well connected (Yang et al., Taxonomizing local versus global structure in neural network loss
    landscapes, NeurIPS 2021, eq. 3). Of two points as far, the first counts.

    Args:
        errors: Percent, along the curve, ends included.
    """
    mean = (errors[0] + errors[-1]) / 2
    return mean - max(errors, key=lambda error: abs(error - mean))


def learning_rate_factor(progress: float) -> float:
    """Share of the peak learning rate: 1 to half of training, then linear to 1% at 90% (Garipov et al.)."""
    if progress <= 0.5:
        return 1.0
    return 1.0 - 0.99 * min((progress - 0.5) / 0.4, 1.0)


def batch_schedule(
    count: int, recipe: CurveRecipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """Image indices and learning rate of each step: one permutation an epoch, the last one cut to length."""
    total = recipe.sample_passes if recipe.epochs is None else recipe.epochs * count
    for start in range(0, total, count):
        order, seen = torch.randperm(count, generator=generator)[: total - start], start
        for indices in order.split(recipe.batch_size):
            if len(indices) > 1 or count == 1:  # BatchNorm takes no batch of one
                progress = (seen if recipe.epochs is None else start + count) / total
                yield indices, recipe.learning_rate * learning_rate_factor(progress)
            seen += len(indices)


def _control_points(
    first: nn.Module, second: nn.Module, recipe: CurveRecipe, initial_model: nn.Module | None
) -> Tensor:
    """Start, bend and end of the curve before training, [3, P]."""
    start, end = flat_pair(first, second)
    if not recipe.random_bend:
        return torch.stack([start, torch.lerp(start, end, 0.5), end])
    if initial_model is None:
        raise ValueError("this recipe starts the bend at an untrained model; pass initial_model")
    return torch.stack([start, flat_pair(first, initial_model)[1], end])


def _errors_along(
    model: FlatModel, points: Tensor, train: Split, validation: Split, recipe: CurveRecipe
) -> Iterator[tuple[float, float]]:
    """Training and validation error at each of `TIMES`."""
    for weights in bezier_weights(torch.tensor(TIMES)).to(points):
        torch.mv(points.T, weights, out=model.weights)
        recalibrate_batch_norm(model.module, train.images, recipe.recalibration_batch)
        yield _finite_error(model.module, train), _finite_error(model.module, validation)


def _finite_error(model: nn.Module, split: Split) -> float:
    """Error in percent; NaN where the outputs are not finite, for their largest entry means nothing."""
    loss, error = evaluate(model, split)
    return error if math.isfinite(loss) else math.nan


def _evaluated(split: Split, recipe: CurveRecipe) -> Split:
    return split if recipe.evaluation_images is None else subset(split, recipe.evaluation_images)


def _on_device(split: Split, device: torch.device) -> Split:
    return type(split)(split.images.to(device), split.labels.to(device))
