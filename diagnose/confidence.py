"""Confidence: how often a label comes out again when the seeds of all runs are drawn anew.

The bootstrap of Efron (Annals of Statistics, 1979): every configuration's finished runs are resampled with
replacement, each configuration by itself, and everything that follows from their means is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diagnose.steps import Steps
from zoo.config import seed_of

RESAMPLES = 200

Answers = Mapping[str, NDArray[np.int64]]


def confidences(
    grid: pd.DataFrame,
    runs: pd.DataFrame,
    steps: Mapping[str, Steps],
    answers: Answers,
    again: Callable[[NDArray[np.float64], Mapping[str, Steps]], Answers],
) -> dict[str, NDArray[np.float64]]:
    """The share of `RESAMPLES` in which each answer comes out again.

    A configuration's draws are keyed by its `config_id`, so neither the order of rows nor other
    configurations change them.

    Args:
        grid: A row a configuration.
        runs: Finished runs of them; `test_error` in percent.
        steps: From `steps_of` of the grid.
        answers: For each task the answer of each configuration.
        again: Mean accuracies in percent, and the steps -> the answers that follow.

    Returns:
        For each task shares of shape (configurations,); NaN where a configuration, or one that a step of its
        leads to, has a single run: of its spread nothing is known.
    """
    unknown = {task: np.full(len(grid), np.nan) for task in answers}
    sizes = runs.groupby("config_id").size().loc[grid["config_id"]].to_numpy(dtype=np.int64)
    known = _spread_is_known(sizes, steps)
    if not known.any():
        return unknown
    accuracies = _resampled(grid, runs)
    hits = {task: np.zeros(len(grid)) for task in answers}
    for accuracy in accuracies:
        for task, answer in again(accuracy, steps).items():
            hits[task] += answer == answers[task]
    return {task: np.where(known, found / RESAMPLES, np.nan) for task, found in hits.items()}


def _spread_is_known(sizes: NDArray[Any], steps: Mapping[str, Steps]) -> NDArray[np.bool_]:
    """Whether a configuration and all that its steps lead to have several runs."""
    alone = (sizes < 2).astype(float)
    neighbours = [own.best(alone, 0.0) for own in steps.values()]
    return np.asarray(np.maximum.reduce([alone, *neighbours]) == 0)


def _resampled(grid: pd.DataFrame, runs: pd.DataFrame) -> NDArray[np.float64]:
    """Mean accuracies in percent, shape (resamples, configurations)."""
    errors = {
        config_id: own.to_numpy()
        for config_id, own in runs.sort_values("seed").groupby("config_id", sort=False)["test_error"]
    }
    means = np.empty((RESAMPLES, len(grid)))
    for place, config_id in enumerate(grid["config_id"]):
        own = errors[config_id]
        draws = np.random.default_rng(seed_of("label confidence", config_id))
        means[:, place] = own[draws.integers(len(own), size=(RESAMPLES, len(own)))].mean(axis=1)
    return 100 - means
