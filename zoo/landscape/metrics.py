"""The metrics that every zoo has, registered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.activity import relu_activity
from zoo.landscape.alignment import NO_PERMUTATIONS, UnknownArchitectureError, aligned
from zoo.landscape.confidence import confidence_statistics
from zoo.landscape.connectivity import CurveRecipe, Pair, PathErrors, errors_of_curves
from zoo.landscape.eigenvalues import hessian_top_eigenvalue, top_eigenvalues
from zoo.landscape.estimate import COLLAPSED, NOT_FINITE, Estimate
from zoo.landscape.evaluation import subset
from zoo.landscape.exact_trace import exact_trace
from zoo.landscape.gradients import gradient_statistics
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.margins import margin_statistics
from zoo.landscape.norms import NO_LAYERS, log_norm_products, parameter_norm
from zoo.landscape.path_summaries import barrier, mode_connectivity, mode_connectivity_peak
from zoo.landscape.recipes import MetricRecipe
from zoo.landscape.registry import register_pair_metric, register_pairs_metric, register_run_metric
from zoo.landscape.sharpness import random_sharpness, worst_case_sharpness
from zoo.landscape.similarity import agreement, answers, jensen_shannon, l2_distance, linear_cka, mixup
from zoo.landscape.spectral_alpha import spectral_alpha
from zoo.landscape.spectrum import density_estimates
from zoo.landscape.trace import hessian_trace, piloted_trace

if TYPE_CHECKING:
    from zoo.datasets import RunData, Split

SIDES = ("train", "validation")


def _hessian(
    model: nn.Module, data: RunData, images: int, drawn: bool, generator: torch.Generator
) -> HessianOperator:
    """The Hessian on some training images, one set for all runs or drawn for this one."""
    return HessianOperator(model, *subset(data.train, images, generator if drawn else None))


def _population(data: RunData) -> int:
    """Images that those of a metric are a sample of: the run's training set."""
    return len(data.train.labels)


@register_run_metric("hessian_trace", splits=("train",), section="trace")
def _hessian_trace(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.trace
    if own.exact:
        images = subset(data.train, own.images, generator if own.drawn else None).images
        found = exact_trace(model, images, _population(data))
        if found is not None:
            return [found]
    hessian = _hessian(model, data, own.images, own.drawn, generator)
    if own.pilot is None:
        return [hessian_trace(hessian, generator, own.probes, own.tolerance)]
    return [
        piloted_trace(
            hessian, generator, own.tolerance, own.pilot, most=own.probes, population=_population(data)
        )
    ]


@register_run_metric("hessian_top_eigenvalue", splits=("train",), section="eigenvalues")
def _hessian_top_eigenvalue(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.eigenvalues
    hessian = _hessian(model, data, own.images, own.drawn, generator)
    if not own.lanczos:
        return [hessian_top_eigenvalue(hessian, generator, own.products, own.tolerance)]
    found = top_eigenvalues(
        hessian, generator, own.count, "magnitude", own.products, own.tolerance, _population(data)
    )
    values = tuple(estimate.value for estimate in found if estimate.value is not None)
    if len(values) < len(found):
        return found[:1]
    whole = all(estimate.converged for estimate in found)
    return [dataclasses.replace(found[0], values=values, converged=whole)]


@register_run_metric(
    "hessian_density",
    "hessian_negative_share",
    "hessian_effective_rank",
    "hessian_smallest_eigenvalue",
    splits=("train",),
    section="density",
)
def _hessian_density(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.density
    hessian = _hessian(model, data, own.images, own.drawn, generator)
    found = density_estimates(hessian, generator, own.probes, own.steps)
    return [found.density, found.negative_share, found.effective_rank, found.smallest]


@register_run_metric("worst_case_sharpness", splits=("train",), section="worst_case")
def _worst_case_sharpness(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.worst_case
    images, labels = subset(data.train, own.images)
    return [worst_case_sharpness(model, images, labels, own.radius, own.relative)]


@register_run_metric("random_sharpness", splits=("train",), section="random_step")
def _random_sharpness(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.random_step
    images, labels = subset(data.train, own.images)
    return [random_sharpness(model, images, labels, generator, own.deviation, own.relative, own.draws)]


@register_run_metric(
    "gradient_norm", "gradient_variance", "gradient_noise_scale", splits=("train",), section="gradient"
)
def _gradient(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.gradient
    images, labels = subset(data.train, own.images)
    return gradient_statistics(model, images, labels, generator, own.group_size, _population(data))


@register_run_metric("parameter_norm", "log_spectral_norms", "log_frobenius_norms", section="weights")
def _norms(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    return [parameter_norm(model), *log_norm_products(model, recipe.weights.fold_batch_norm)]


@register_run_metric("spectral_alpha", "spectral_alpha_weighted", section="weights")
def _spectral_alpha(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    return spectral_alpha(model, recipe.weights.minimum_eigenvalues)


@register_run_metric(
    "confidence", "entropy", "overconfidence", "calibration_error", splits=SIDES, section="answers"
)
def _confidence(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.answers
    return _on_both_sides(
        data,
        own.images,
        lambda images, labels: confidence_statistics(
            model, images, labels, generator, own.bins, own.equal_mass, own.resamples
        ),
    )


@register_run_metric("margin", "margin_scaled", "margin_normalised", splits=SIDES, section="answers")
def _margins(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    own = recipe.answers
    return _on_both_sides(
        data,
        own.images,
        lambda images, labels: margin_statistics(
            model, images, labels, generator, own.quantile, own.resamples
        ),
    )


@register_run_metric("dead_units", "activation_zeros", splits=("train",), section="activity")
def _activity(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    return relu_activity(model, subset(data.train, recipe.activity.images).images)


@register_pairs_metric(
    "mode_connectivity", "mode_connectivity_peak", "curve_loss_barrier", splits=SIDES, section="curve"
)
def _mode_connectivity(
    pairs: Sequence[Pair],
    data: Sequence[RunData],
    recipe: MetricRecipe,
    generators: Sequence[torch.Generator],
) -> list[list[Estimate]]:
    return _connectivity(pairs, data, recipe.curve, generators)


@register_pairs_metric(
    "polygon_connectivity",
    "polygon_connectivity_peak",
    "polygon_loss_barrier",
    splits=SIDES,
    section="polygon",
)
def _polygon_connectivity(
    pairs: Sequence[Pair],
    data: Sequence[RunData],
    recipe: MetricRecipe,
    generators: Sequence[torch.Generator],
) -> list[list[Estimate]]:
    return _connectivity(pairs, data, recipe.polygon, generators)


@register_pairs_metric("linear_barrier", "linear_loss_barrier", splits=SIDES, section="line")
def _linear_barrier(
    pairs: Sequence[Pair],
    data: Sequence[RunData],
    recipe: MetricRecipe,
    generators: Sequence[torch.Generator],
) -> list[list[Estimate]]:
    return _barriers(errors_of_curves(pairs, *_sides(data), recipe.line, generators))


@register_pairs_metric("aligned_barrier", "aligned_loss_barrier", splits=SIDES, section="line")
def _aligned_barrier(
    pairs: Sequence[Pair],
    data: Sequence[RunData],
    recipe: MetricRecipe,
    generators: Sequence[torch.Generator],
) -> list[list[Estimate]]:
    try:
        moved = [
            Pair(pair.first, aligned(pair.first, pair.second, generator))
            for pair, generator in zip(pairs, generators, strict=True)
        ]
    except UnknownArchitectureError:
        return [[Estimate(value=None, reason=NO_PERMUTATIONS)] * 4 for _ in pairs]
    return _barriers(errors_of_curves(moved, *_sides(data), recipe.line, generators))


@register_pair_metric("cka", "cka_penultimate", "agreement", "jensen_shannon", section="similarity")
def _similarity(
    pair: Pair, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    images = _similarity_images(data, recipe, generator)
    first, second = answers(pair.first, images), answers(pair.second, images)
    if not bool(first.outputs.isfinite().all() and second.outputs.isfinite().all()):
        return [Estimate(value=None, reason=NOT_FINITE)] * 4
    probabilities = F.softmax(first.outputs, dim=1), F.softmax(second.outputs, dim=1)
    cost: dict[str, Any] = {"samples": len(images), "sample_passes": 2.0 * len(images)}

    def alike(x: Tensor | None, y: Tensor | None) -> Estimate:
        if x is None or y is None:
            return Estimate(value=None, reason=NO_LAYERS, **cost)
        value = linear_cka(x, y)
        return Estimate(value=value, reason=COLLAPSED if value is None else None, **cost)

    return [
        alike(*probabilities),
        alike(first.features, second.features),
        Estimate(value=agreement(first.outputs, second.outputs), **cost),
        Estimate(value=jensen_shannon(first.outputs, second.outputs), **cost),
    ]


def _similarity_images(data: RunData, recipe: MetricRecipe, generator: torch.Generator) -> Tensor:
    own = recipe.similarity
    if own.mixup_alpha is None:
        return subset(data.validation, own.images).images
    batches = own.images // own.mixup_batch
    return mixup(data.train.images, own.mixup_batch, batches, own.mixup_alpha, generator)


@register_pair_metric("l2_distance")
def _l2_distance(
    pair: Pair, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    return [Estimate(value=l2_distance(pair.first, pair.second))]


def _connectivity(
    pairs: Sequence[Pair],
    data: Sequence[RunData],
    recipe: CurveRecipe,
    generators: Sequence[torch.Generator],
) -> list[list[Estimate]]:
    """Summaries of the errors along trained paths, and the barrier of the loss, each on both splits."""
    paths = errors_of_curves(pairs, *_sides(data), recipe, generators)
    return [
        [
            *_of_path(path, mode_connectivity, path.train, path.validation),
            *_of_path(path, mode_connectivity_peak, path.train, path.validation),
            *_of_path(path, barrier, path.train_loss, path.validation_loss),
        ]
        for path in paths
    ]


def _sides(data: Sequence[RunData]) -> tuple[Split, Split]:
    """Training and validation images, which are the same for all, with the labels [K, N] of each."""

    def side(splits: list[Split]) -> Split:
        return type(splits[0])(splits[0].images, torch.stack([split.labels for split in splits]))

    return side([own.train for own in data]), side([own.validation for own in data])


def _barriers(paths: Sequence[PathErrors]) -> list[list[Estimate]]:
    return [
        [
            *_of_path(path, barrier, path.train, path.validation),
            *_of_path(path, barrier, path.train_loss, path.validation_loss),
        ]
        for path in paths
    ]


def _of_path(
    path: PathErrors, summary: Callable[[tuple[float, ...]], float], *sides: tuple[float, ...]
) -> list[Estimate]:
    """A number for the values on training images and one for those on validation images."""
    return [
        Estimate(
            value=summary(values),
            values=values,
            samples=samples,
            iterations=path.steps,
            sample_passes=path.sample_passes,
        )
        for values, samples in zip(sides, (path.train_images, path.validation_images), strict=True)
    ]


def _on_both_sides(
    data: RunData, images: int, statistics: Callable[[Tensor, Tensor], list[Estimate]]
) -> list[Estimate]:
    """What a function says of training and of validation images: each name on both, then the next."""
    sides = [statistics(*subset(side, images)) for side in (data.train, data.validation)]
    passes = sum(side[0].sample_passes for side in sides)
    whole = [[dataclasses.replace(estimate, sample_passes=passes) for estimate in side] for side in sides]
    return [estimate for both in zip(*whole, strict=True) for estimate in both]
