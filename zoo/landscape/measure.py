"""All metrics of a run, and of a pair of runs, as rows of the table `metrics`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.config import seed_of
from zoo.landscape import metrics as _metrics  # noqa: F401 - registers them
from zoo.landscape.connectivity import Pair
from zoo.landscape.estimate import NOT_FINITE, Estimate
from zoo.landscape.evaluation import outputs
from zoo.landscape.recipes import RECIPES, MetricRecipe
from zoo.landscape.registry import (
    PAIR_METRICS,
    RUN_METRICS,
    Metric,
    Subject,
    functions_of,
    register_pair_metric,
    register_pairs_metric,
    register_run_metric,
)
from zoo.landscape.weights import is_finite

if TYPE_CHECKING:
    from zoo.datasets import RunData

__all__ = [
    "PAIR_METRICS",
    "RECIPES",
    "RUN_METRICS",
    "Estimate",
    "MetricRecipe",
    "Pair",
    "functions_of",
    "measure_pair",
    "measure_pairs",
    "measure_run",
    "register_pair_metric",
    "register_pairs_metric",
    "register_run_metric",
]


def measure_run(
    model: nn.Module,
    data: RunData,
    recipe: MetricRecipe,
    key: tuple[str, ...],
    only: Container[str] | None = None,
) -> list[dict[str, Any]]:
    """Measure one run.

    The same inputs give the same rows, seconds aside.

    Args:
        model: The run's model, on the device to measure on; left as it was.
        data: The run's training images with its labels, and validation images.
        recipe: How to measure.
        key: What identifies the run; keys the random streams.
        only: First names of the registered functions to call; None calls all.

    Returns:
        Rows of the table `metrics` without ids and provenance, one a metric and split. A metric that cannot
        be had has value None and a reason, or failed with the error (docs/metrics.md has them all). Rows that one
        computation yields carry its whole cost each.

    Raises:
        ValueError: If the model cannot take the images, or has not as many outputs as they have classes.
    """
    check_fits(model, data)
    return _rows(RUN_METRICS, [model], [is_finite(model)], [data], recipe, [key], only)[0]


def measure_pair(
    first: nn.Module,
    second: nn.Module,
    data: RunData,
    recipe: MetricRecipe,
    key: tuple[str, ...],
    initial_model: nn.Module | None = None,
    only: Container[str] | None = None,
) -> list[dict[str, Any]]:
    """`measure_pairs` of a single pair."""
    return measure_pairs([Pair(first, second, initial_model)], [data], recipe, [key], only)[0]


def measure_pairs(
    pairs: Sequence[Pair],
    data: Sequence[RunData],
    recipe: MetricRecipe,
    keys: Sequence[tuple[str, ...]],
    only: Container[str] | None = None,
) -> list[list[dict[str, Any]]]:
    """Measure pairs of runs of one architecture; their curves train together.

    Args:
        pairs: The models, on the device to measure on; left as they were. The recipe `paper` needs the untrained
            model of each.
        data: The training images and labels, and the validation images, of each pair: of one configuration, or of
            several that differ in their labels only, as by label noise.
        recipe: How to measure.
        keys: What identifies the two runs of each pair; keys the random streams. What a pair gets does not
            depend on the others, to the bit on one machine.
        only: As for `measure_run`.

    Returns:
        Rows of each pair, as from `measure_run`.

    Raises:
        ValueError: As `measure_run`.
    """
    fitting = {id(model): (model, own) for pair, own in zip(pairs, data, strict=True) for model in pair[:2]}
    for model, own in fitting.values():
        check_fits(model, own)
    return _rows(
        PAIR_METRICS,
        pairs,
        [is_finite(p.first) and is_finite(p.second) for p in pairs],
        data,
        recipe,
        keys,
        only,
    )


def check_fits(model: nn.Module, data: RunData) -> None:
    """Refuse a model that is not one of this data set.

    Raises:
        ValueError: If it cannot take the images, or has not as many outputs as they have classes.
    """
    image = data.train.images[:1]
    try:
        answers = outputs(model, image)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot take images of shape {list(image.shape[1:])}: {error}; "
            "measure it on the data set that it was trained on"
        ) from error
    if answers.dim() != 2 or answers.shape[1] != data.classes:
        raise ValueError(
            f"the model's outputs for one image have shape {list(answers.shape)}, and the data set has "
            f"{data.classes} classes; measure it on the data set that it was trained on"
        )


def rows_without_value(
    registry: Mapping[str, Metric[Any]], recipe: MetricRecipe, reason: str, only: Container[str] | None = None
) -> list[dict[str, Any]]:
    """The rows of metrics that cannot be had, such as those of a run that diverged."""
    return [
        _row(name, split, metric, recipe, Estimate(value=None, reason=reason), 0.0)
        for metric in chosen(registry, only)
        for name, split in metric.rows
    ]


def chosen(registry: Mapping[str, Metric[Subject]], only: Container[str] | None) -> list[Metric[Subject]]:
    """The metrics whose function is among those asked for."""
    return [metric for first, metric in registry.items() if only is None or first in only]


def _rows(
    registry: Mapping[str, Metric[Subject]],
    subjects: Sequence[Subject],
    finite: Sequence[bool],
    data: Sequence[RunData],
    recipe: MetricRecipe,
    keys: Sequence[tuple[str, ...]],
    only: Container[str] | None,
) -> list[list[dict[str, Any]]]:
    """The rows of each subject; one that is not finite has no values, and nobody else knows of it."""
    rows: list[list[dict[str, Any]]] = [[] for _ in subjects]
    sound = [place for place, is_sound in enumerate(finite) if is_sound]
    for metric in chosen(registry, only):
        groups = [sound] if metric.together else [[place] for place in sound]
        found = {place: (_missing(metric, NOT_FINITE), 0.0) for place in range(len(subjects))}
        for group in (group for group in groups if group):
            start = time.perf_counter()
            estimates = _estimates(
                metric,
                [subjects[place] for place in group],
                [keys[place] for place in group],
                [data[place] for place in group],
                recipe,
            )
            seconds = (time.perf_counter() - start) / len(group)
            found |= {place: (said, seconds) for place, said in zip(group, estimates, strict=True)}
        for place, (said, seconds) in found.items():
            for (name, split), estimate in zip(metric.rows, said, strict=True):
                rows[place].append(_row(name, split, metric, recipe, estimate.finite(), seconds))
    return rows


def _estimates(
    metric: Metric[Subject],
    subjects: Sequence[Subject],
    keys: Sequence[tuple[str, ...]],
    data: Sequence[RunData],
    recipe: MetricRecipe,
) -> list[list[Estimate]]:
    """What the metric's function gives for each subject; whatever goes wrong in it becomes the reason."""
    streams = [torch.Generator().manual_seed(seed_of(*key, metric.names[0], recipe.name)) for key in keys]
    try:
        if metric.together:
            found = [list(own) for own in metric.measure(subjects, data, recipe, streams)]
        else:
            found = [list(metric.measure(subjects[0], data[0], recipe, streams[0]))]
    except Exception as error:
        return [_missing(metric, f"failed: {type(error).__name__}: {error}") for _ in subjects]
    rows = len(metric.rows)
    if len(found) != len(subjects):
        found = [[] for _ in subjects]
    return [
        own
        if len(own) == rows
        else _missing(metric, f"failed: the metric gave {len(own)} estimates for its {rows} rows")
        for own in found
    ]


def _missing(metric: Metric[Subject], reason: str) -> list[Estimate]:
    return [Estimate(value=None, reason=reason) for _ in metric.rows]


def _row(
    name: str,
    split: str | None,
    metric: Metric[Any],
    recipe: MetricRecipe,
    estimate: Estimate,
    seconds: float,
) -> dict[str, Any]:
    said = {part.name: getattr(estimate, part.name) for part in dataclasses.fields(estimate)}
    return said | {
        "metric": name,
        "recipe": recipe.name,
        "recipe_parameters": None if metric.section is None else recipe.parameters(metric.section),
        "split": split,
        "values": None if estimate.values is None else list(estimate.values),
        "seconds": seconds,
    }
