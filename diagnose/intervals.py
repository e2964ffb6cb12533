"""Intervals of an accuracy, and of the difference between two, over draws and configurations alike.

Which cells were drawn to learn from is chance, and so is which configurations stand in the grid that is diagnosed.
Both are resampled at once and independently: the pigeonhole bootstrap of Owen (Annals of Applied Statistics,
2007). Where all draws select the same, only the configurations vary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES = 1_000
COVERAGE = 0.95

Values = NDArray[np.float64]


def matrices(judged: pd.DataFrame) -> dict[str, Values]:
    """For each diagnoser of a board `right` by draw and configuration; NaN where that was not asked.

    Args:
        judged: Rows of one board, from `diagnose.scores.judged_rows`.

    Returns:
        By the diagnoser's name matrices of one shape (draws, configurations).
    """
    draws, _ = pd.factorize(judged["draw"], sort=True)
    configurations, _ = pd.factorize(judged["config_id"], sort=True)
    shape = draws.max() + 1, configurations.max() + 1
    found = {}
    for name, places in judged.groupby("diagnoser", sort=False, observed=True).indices.items():
        matrix = np.full(shape, np.nan)
        matrix[draws[places], configurations[places]] = judged["right"].to_numpy()[places]
        found[str(name)] = matrix
    return found


def resampled_means(found: Mapping[str, Values], seed: int = 0) -> dict[str, Values]:
    """The mean of each matrix in `RESAMPLES` resamples of its draws and configurations.

    All matrices are resampled alike, so that differences of their means are paired. Draws that tell all
    matrices the same are one draw.

    Args:
        found: From `matrices`.
        seed: Of the resamples.

    Returns:
        By name, means of shape (resamples,).
    """
    (first, *_) = found.values()
    draws, configurations = first.shape
    stream = np.random.default_rng(seed)
    by_draw = stream.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES).astype(float)
    by_configuration = stream.multinomial(
        configurations, np.full(configurations, 1 / configurations), size=RESAMPLES
    ).astype(float)
    means = {}
    for name, matrix in found.items():
        asked = ~np.isnan(matrix)
        right = np.where(asked, matrix, 0.0)
        weights = np.einsum("rc,rc->r", by_draw @ asked.astype(float), by_configuration)
        sums = np.einsum("rc,rc->r", by_draw @ right, by_configuration)
        means[name] = np.divide(sums, weights, out=np.full(RESAMPLES, np.nan), where=weights > 0)
    return means


def interval(means: Values) -> tuple[float, float]:
    """The middle `COVERAGE` of resampled means: the percentile interval of Efron."""
    if np.isnan(means).all():
        return np.nan, np.nan
    low, high = np.nanquantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
