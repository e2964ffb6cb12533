"""Mode connectivity: how high error and loss rise along a path between two models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.engines.lane_copies import LaneCopies, Steps, described
from zoo.engines.lane_library import Passes
from zoo.landscape.evaluation import recalibrate_batch_norm, subset
from zoo.landscape.path_summaries import TIMES
from zoo.landscape.stacked import StackedModel, can_be_stacked
from zoo.landscape.weights import flat_pair, flat_weights

if TYPE_CHECKING:
    from zoo.datasets import Split
    from zoo.engines.lane_network import Description

Form = Literal["bezier", "polygon", "line"]

IMAGES_AT_ONCE = 2_000
"""Images that the models of a stack see in one evaluation pass, at most, counted for each."""

STACK_ENTRIES = 2**22
"""Weights in all models of a stack, at most: wider models gain nothing from it, and take memory."""

SAMPLE = 4
"""Images on which it is tried whether models can stand side by side."""


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
        form: Which path: `bezier`, `polygon`, or the `line`, which has nothing to train.
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
    form: Form = "bezier"


class Pair(NamedTuple):
    """Two runs of one configuration.

    Attributes:
        first: One model.
        second: The other, of the same architecture.
        initial_model: An untrained model of that architecture, for recipes whose bend starts there.
    """

    first: nn.Module
    second: nn.Module
    initial_model: nn.Module | None = None


class PathErrors(NamedTuple):
    """Errors and losses along a path, at each of `TIMES`.

    Attributes:
        train: Error on training images in percent.
        validation: The same on validation images.
        train_loss: Cross-entropy on training images in nats.
        validation_loss: The same on validation images.
        train_images: Training images evaluated.
        validation_images: Validation images evaluated.
        steps: Optimiser steps of the bend; 0 for a straight line.
        sample_passes: Cost in forward passes of one image, a backward pass counted as 2.
    """

    train: tuple[float, ...]
    validation: tuple[float, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
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
) -> PathErrors:
    """`errors_of_curves` of a single pair of models."""
    return errors_of_curves([Pair(first, second, initial_model)], train, validation, recipe, [generator])[0]


def errors_of_curves(
    pairs: Sequence[Pair],
    train: Split,
    validation: Split,
    recipe: CurveRecipe,
    generators: Sequence[torch.Generator],
) -> list[PathErrors]:
    r"""Train a path between the models of each pair and measure the errors along it; the pairs train together.

    A path leads from the weights $a$ of the first model over a bend $b$ to the weights $c$ of the second:
    the quadratic Bezier curve $(1-t)^2 a + 2t(1-t) b + t^2 c$, the polygonal chain of the lines from $a$ to $b$
    and from $b$ to $c$, or the straight line, which has no bend. The bend minimises the training loss at a
    random point of the path (Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
    NeurIPS 2018, eq. 1 to 4). Running statistics of BatchNorm are not interpolated: they are recomputed on
    training images at each point, the two ends included.

    Args:
        pairs: Models of one architecture, left as they were.
        train: Training images [N, C, H, W], and labels [N], or [K, N] where each pair has its own, as runs with
            more and with less label noise.
        validation: Validation images and labels, as those.
        recipe: How to train and evaluate.
        generators: For each pair, draws batches and points, on the CPU. What a pair gets does not depend on
            which others it trains with, up to rounding.

    Returns:
        The errors of each pair; NaN where the outputs are not finite, as after a bend that diverged.

    Raises:
        ValueError: If the architectures differ, or the recipe starts at an untrained model and none is given.
    """
    points = [_control_points(pair, recipe) for pair in pairs]
    device = points[0].device
    if (made := described(pairs[0].first, train.images)) is not None:
        return _errors_in_lanes(made, pairs[0].first, points, train, validation, recipe, generators)
    found: list[PathErrors] = []
    for lanes in stacks(pairs[0].first, len(pairs), train.images[:SAMPLE].to(device)):
        model = StackedModel(pairs[0].first, len(lanes))
        own = model.pack(torch.stack([points[lane] for lane in lanes], dim=1))
        sides = _of_lanes(train, lanes, device), _of_lanes(validation, lanes, device)
        streams = [_copy(generators[lane]) for lane in lanes]
        steps, seen = train_bends(model, own, sides[0], recipe, streams)
        found += errors_along(model, own, *sides, recipe, steps, seen)[: len(pairs) - len(found)]
    return found


def stacks(model: nn.Module, count: int, images: Tensor) -> Iterator[list[int]]:
    """How so many pairs share stacks; each has its own where layers cannot stand side by side, or are large.

    A grouped convolution rounds otherwise than a plain one, and alike for any number of groups from 2. So that a
    pair has the same numbers alone and with others, one that is alone stands in its stack twice, and whether
    pairs are stacked at all depends on their architecture only.
    """
    most = STACK_ENTRIES // len(flat_weights(model))
    if most < 2 or not can_be_stacked(model, images):
        yield from ([lane] for lane in range(count))
        return
    for first in range(0, count, most):
        lanes = list(range(first, min(first + most, count)))
        yield lanes if len(lanes) > 1 else lanes * 2


def coefficients(form: Form, t: Tensor) -> Tensor:
    """Coefficients [..., 3] of start, bend and end of a path at t [...] in [0, 1]."""
    if form == "bezier":
        return torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], dim=-1)
    if form == "polygon":
        return torch.stack(
            [(1 - 2 * t).clamp(min=0), 1 - (2 * t - 1).abs(), (2 * t - 1).clamp(min=0)], dim=-1
        )
    return torch.stack([1 - t, torch.zeros_like(t), t], dim=-1)


@torch.enable_grad()
def train_bends(
    model: StackedModel,
    points: Tensor,
    train: Split,
    recipe: CurveRecipe,
    generators: Sequence[torch.Generator],
) -> tuple[int, int]:
    """Train the middle row of the control points in place, by SGD at random points of the paths.

    The gradient of the bend is the gradient of the weights times the bend's coefficient, so no graph runs
    through the interpolation; and the flat gradient is the momentum buffer: `backward` adds to it.

    Args:
        model: Where the interpolated weights are put to work.
        points: [3, K x P], start, bend and end.
        train: Training images and the labels [K, N] of each model, on the model's device.
        recipe: How to train.
        generators: Draw batches and points of each pair, on the CPU.

    Returns:
        Steps taken, and images seen by each.
    """
    if recipe.form == "line":
        return 0, 0
    schedules, shares = _courses(len(train.images), recipe, generators)
    shares = shares.to(points)
    bend, velocity = points[1], model.gradient.zero_()
    model.module.train()
    for step, batches in enumerate(zip(*schedules, strict=True)):
        rows = torch.stack([indices for indices, _ in batches]).to(points.device)
        spread = shares[:, step].T[:, model.lane]
        torch.sum(spread * points, dim=0, out=model.weights)
        velocity.mul_(recipe.momentum)
        if recipe.weight_decay:
            velocity.addcmul_(model.weights, spread[1], value=recipe.weight_decay)
        answers = model(train.images[rows])
        labels = train.labels.gather(1, rows).flatten()
        losses = F.cross_entropy(answers.flatten(0, 1), labels, reduction="none")
        losses.view(len(rows), -1).mean(1).backward(shares[:, step, 1])
        bend.sub_(velocity, alpha=batches[0][1])
    return len(schedules[0]), sum(len(indices) for indices, _ in schedules[0])


def _courses(
    count: int, recipe: CurveRecipe, generators: Sequence[torch.Generator]
) -> tuple[list[list[tuple[Tensor, float]]], Tensor]:
    """Of each pair the batches and learning rates, and the coefficients [K, S, 3] of its random points."""
    schedules = [list(batch_schedule(count, recipe, generator)) for generator in generators]
    draws = [torch.rand(len(schedules[0]), generator=generator) for generator in generators]
    return schedules, coefficients(recipe.form, torch.stack(draws))


def _errors_in_lanes(
    made: Description,
    model: nn.Module,
    points: Sequence[Tensor],
    train: Split,
    validation: Split,
    recipe: CurveRecipe,
    generators: Sequence[torch.Generator],
) -> list[PathErrors]:
    """`errors_of_curves` with a pair in each lane."""
    paths, pairs = torch.stack(list(points), dim=1), len(points)
    steps = seen = 0
    if recipe.form != "line":
        streams = [_copy(generator) for generator in generators]
        schedules, shares = _courses(len(train.images), recipe, streams)
        steps, seen = len(schedules[0]), sum(len(rows) for rows, _ in schedules[0])
        copies = LaneCopies(made, model, recipe.batch_size, Passes.BACKWARD)
        course = _steps(schedules, shares)
        paths[1] = copies.train_bends(paths, train, course, recipe.momentum, recipe.weight_decay)
    sides = _evaluated(train, recipe), _evaluated(validation, recipe)
    weights = torch.einsum("tc,ckp->tkp", coefficients(recipe.form, torch.tensor(TIMES)).to(paths), paths)
    own = [_of_lanes(side, range(pairs), paths.device) for side in sides]
    repeated = [side._replace(labels=side.labels.repeat(len(TIMES), 1)) for side in own]
    copies = LaneCopies(made, model, min(recipe.recalibration_batch, len(sides[0].images)))
    scores = copies.evaluate_calibrated(
        weights.flatten(0, 1), sides[0].images, recipe.recalibration_batch, repeated
    )
    by_side = [torch.stack(score, dim=-1).view(len(TIMES), pairs, 2) for score in scores]
    said = torch.stack(by_side, dim=1)
    said[..., 1] = torch.where(said[..., 0].isfinite(), said[..., 1], math.nan)
    return _path_errors(said, sides, steps, seen)


def _steps(schedules: Sequence[Sequence[tuple[Tensor, float]]], shares: Tensor) -> Iterator[Steps]:
    """The steps of all pairs, those of one batch size together."""
    sizes = [len(rows) for rows, _ in schedules[0]]
    for size, group in groupby(range(len(sizes)), key=sizes.__getitem__):
        which = list(group)
        first, last = which[0], which[-1] + 1
        rows = torch.stack([torch.cat([rows for rows, _ in own[first:last]]) for own in schedules])
        rates = torch.tensor([rate for _, rate in schedules[0][first:last]], dtype=torch.float64)
        yield Steps(rows.view(len(schedules), -1, size), shares[:, first:last], rates)


def errors_along(
    model: StackedModel,
    points: Tensor,
    train: Split,
    validation: Split,
    recipe: CurveRecipe,
    steps: int = 0,
    seen: int = 0,
) -> list[PathErrors]:
    """Errors and losses of each pair along its path.

    Args:
        model: Where the interpolated weights are put to work.
        points: [3, K x P], start, bend and end.
        train: Training images and the labels [K, N] of each model, on the model's device.
        validation: Validation images and labels, as those.
        recipe: How to evaluate.
        steps: Steps that trained the bends.
        seen: Images that they took.
    """
    sides = _evaluated(train, recipe), _evaluated(validation, recipe)
    said = []
    for weights in coefficients(recipe.form, torch.tensor(TIMES)).to(points):
        torch.mv(points.T, weights, out=model.weights)
        recalibrate_batch_norm(model.module, sides[0].images, recipe.recalibration_batch, model.count)
        said.append(torch.stack([_scores(model, side) for side in sides]))
    return _path_errors(torch.stack(said), sides, steps, seen)


def _path_errors(said: Tensor, sides: tuple[Split, Split], steps: int, seen: int) -> list[PathErrors]:
    """Of each pair what was said of it: losses and errors [time, side, pair, 2]."""
    counts = len(sides[0].images), len(sides[1].images)
    passes = float(3 * seen + len(TIMES) * (2 * counts[0] + counts[1]))

    def along(side: int, pair: int, which: int) -> tuple[float, ...]:
        return tuple(said[:, side, pair, which].tolist())

    return [
        PathErrors(
            train=along(0, pair, 1),
            validation=along(1, pair, 1),
            train_loss=along(0, pair, 0),
            validation_loss=along(1, pair, 0),
            train_images=counts[0],
            validation_images=counts[1],
            steps=steps,
            sample_passes=passes,
        )
        for pair in range(said.shape[2])
    ]


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


def _control_points(pair: Pair, recipe: CurveRecipe) -> Tensor:
    """Start, bend and end of the path before training, [3, P]."""
    start, end = flat_pair(pair.first, pair.second)
    if not recipe.random_bend:
        return torch.stack([start, torch.lerp(start, end, 0.5), end])
    if pair.initial_model is None:
        raise ValueError("this recipe starts the bend at an untrained model; pass initial_model")
    return torch.stack([start, flat_pair(pair.first, pair.initial_model)[1], end])


def _copy(generator: torch.Generator) -> torch.Generator:
    """A stream that goes on as the other does."""
    return torch.Generator().set_state(generator.get_state())


@torch.no_grad()
def _scores(model: StackedModel, split: Split) -> Tensor:
    """Loss and error in percent [K, 2] of each model in eval mode; NaN where the outputs are not finite."""
    losses, wrong = [], []
    size = max(1, IMAGES_AT_ONCE // model.count)
    for images, labels in zip(split.images.split(size), split.labels.split(size, dim=1), strict=True):
        answers = model(images)
        each = F.cross_entropy(answers.flatten(0, 1), labels.flatten(), reduction="none")
        losses.append(each.view(model.count, -1).double().sum(1))
        wrong.append((answers.argmax(2) != labels).sum(1))
    loss = torch.stack(losses).sum(0) / len(split.images)
    error = 100 * torch.stack(wrong).sum(0).double() / len(split.images)
    error = torch.where(loss.isfinite(), error, math.nan)  # the largest of such outputs means nothing
    return torch.stack([loss, error], dim=1).cpu()


def _evaluated(split: Split, recipe: CurveRecipe) -> Split:
    return split if recipe.evaluation_images is None else subset(split, recipe.evaluation_images)


def _of_lanes(split: Split, lanes: Sequence[int], device: torch.device) -> Split:
    """The images, which all lanes share, and the labels [K, N] of each."""
    labels = split.labels.to(device)
    own = labels[lanes] if labels.dim() == 2 else labels.expand(len(lanes), -1)
    return type(split)(split.images.to(device), own)
