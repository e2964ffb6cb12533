"""The metrics that every zoo has, registered."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.landscape.connectivity import curve_errors, mode_connectivity, mode_connectivity_peak
from zoo.landscape.eigenvalues import hessian_top_eigenvalue
from zoo.landscape.estimate import COLLAPSED, NOT_FINITE, Estimate
from zoo.landscape.evaluation import outputs, subset
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.recipes import MetricRecipe
from zoo.landscape.registry import Pair, register_pair_metric, register_run_metric
from zoo.landscape.similarity import agreement, l2_distance, linear_cka, mixup
from zoo.landscape.trace import hessian_trace

if TYPE_CHECKING:
    from zoo.datasets import RunData


def _hessian(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> HessianOperator:
    drawn = generator if recipe.hessian_images_drawn else None
    images, labels = subset(data.train, recipe.hessian_images, drawn)
    return HessianOperator(model, images, labels)


@register_run_metric("hessian_trace", splits=("train",))
def _hessian_trace(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    hessian = _hessian(model, data, recipe, generator)
    return [hessian_trace(hessian, generator, recipe.trace_probes, recipe.trace_tolerance)]


@register_run_metric("hessian_top_eigenvalue", splits=("train",))
def _hessian_top_eigenvalue(
    model: nn.Module, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    hessian = _hessian(model, data, recipe, generator)
    iterations, tolerance = recipe.eigenvalue_iterations, recipe.eigenvalue_tolerance
    return [hessian_top_eigenvalue(hessian, generator, iterations, tolerance)]


@register_pair_metric("mode_connectivity", "mode_connectivity_peak", splits=("train", "validation"))
def _mode_connectivity(
    pair: Pair, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    curve = curve_errors(
        pair.first, pair.second, data.train, data.validation, recipe.curve, generator, pair.initial_model
    )
    sides = ((curve.train, curve.train_images), (curve.validation, curve.validation_images))
    return [
        Estimate(
            value=summary(errors),
            values=errors,
            samples=samples,
            iterations=curve.steps,
            sample_passes=curve.sample_passes,
        )
        for summary, (errors, samples) in product((mode_connectivity, mode_connectivity_peak), sides)
    ]


@register_pair_metric("cka", "agreement")
def _similarity(
    pair: Pair, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    images = _similarity_images(data, recipe, generator)
    answers = outputs(pair.first, images), outputs(pair.second, images)
    if not all(bool(answer.isfinite().all()) for answer in answers):
        return [Estimate(value=None, reason=NOT_FINITE)] * 2
    cka = linear_cka(F.softmax(answers[0], dim=1), F.softmax(answers[1], dim=1))
    samples, passes = len(images), 2.0 * len(images)
    reason = COLLAPSED if cka is None else None
    return [
        Estimate(value=cka, reason=reason, samples=samples, sample_passes=passes),
        Estimate(value=agreement(*answers), samples=samples, sample_passes=passes),
    ]


def _similarity_images(data: RunData, recipe: MetricRecipe, generator: torch.Generator) -> Tensor:
    if recipe.mixup_alpha is None:
        return subset(data.validation, recipe.similarity_images).images
    batches = recipe.similarity_images // recipe.mixup_batch
    return mixup(data.train.images, recipe.mixup_batch, batches, recipe.mixup_alpha, generator)


@register_pair_metric("l2_distance")
def _l2_distance(
    pair: Pair, data: RunData, recipe: MetricRecipe, generator: torch.Generator
) -> list[Estimate]:
    return [Estimate(value=l2_distance(pair.first, pair.second))]
