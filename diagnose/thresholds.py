"""Two searches for the thresholds of a tree: the published pass, and the exact joint optimum.

Both maximise the share of the training side that the tree labels right, within the tree's bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from diagnose.structures import Bounds, Tree

Columns = Mapping[str, NDArray[np.float64]]
Rows = NDArray[np.bool_]
Places = NDArray[np.int64]


def published_thresholds(tree: Tree, columns: Columns, y: NDArray[np.str_]) -> list[float]:
    """One pass of bounded minimisation, a threshold at a time, the later ones at their start.

    As in the authors' code: Brent's method on minus the accuracy. That is a step function of the
    threshold, so the pass may stop far from the optimum. With the other thresholds held, each row that
    reaches a split changes sides once along its threshold, so a sum over those rows, sorted, gives every
    value of that function.

    Args:
        tree: Structure with bounds and starts.
        columns: A value a row for each feature, without NaN.
        y: Labels of shape (rows,).

    Returns:
        A threshold a split.
    """
    hits = {label: y == label for label in tree.labels()}
    thresholds: list[float] = []

    def fit(branch: Tree | str, rows: Places, elsewhere: int) -> int:
        """How many of the rows that reach a branch it labels right, fitted while so many others are."""
        if isinstance(branch, str):
            return int(np.count_nonzero(hits[branch][rows]))
        order = np.argsort(columns[branch.feature][rows])
        rows = rows[order]
        values = columns[branch.feature][rows]
        below, above = (_at_start(b, columns, hits)[rows] for b in (branch.below, branch.above))
        right = np.empty(len(rows) + 1, dtype=np.int64)
        right[0] = elsewhere + np.count_nonzero(above)
        right[1:] = right[0] + np.cumsum(below.astype(np.int8) - above)
        threshold = _minimum(-(right / len(y)), values, branch.bounds)
        thresholds.append(threshold)
        last = int(values.searchsorted(threshold, side="right"))
        waiting = int(np.count_nonzero(above[last:]))
        first = fit(branch.below, rows[:last], elsewhere + waiting)
        return first + fit(branch.above, rows[last:], elsewhere + first)

    fit(tree, np.arange(len(y)), 0)
    return thresholds


def _at_start(branch: Tree | str, columns: Columns, hits: Mapping[str, Rows]) -> Rows:
    """Which rows the branch labels right with its thresholds where they start."""
    if isinstance(branch, str):
        return hits[branch]
    below, above = (_at_start(b, columns, hits) for b in (branch.below, branch.above))
    return np.where(columns[branch.feature] <= branch.start, below, above)


def _minimum(losses: NDArray[np.float64], values: NDArray[np.float64], bounds: Bounds) -> float:
    """Where Brent's method ends on a step function: a loss for each number of sorted values at or below."""

    def loss(threshold: float) -> float:
        return float(losses[values.searchsorted(threshold, side="right")])

    return float(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def exact_thresholds(tree: Tree, columns: Columns, y: NDArray[np.str_]) -> list[float]:
    """The joint optimum; of several, the widest margin from the root down, then the nearest to the start.

    Rows part at the root, and then the branches know nothing of each other: the optimum below a threshold is
    the sum of two smaller optima. Along one split that sum changes by at most one for each row that changes
    sides, which bounds all thresholds from those already evaluated, and few have to be.

    Args:
        tree: Structure with bounds and starts.
        columns: A value a row for each feature, without NaN.
        y: Labels of shape (rows,).

    Returns:
        A threshold a split, halfway between two neighbouring values of the rows that reach it or, where no
        value divides its bounds, at its start.
    """
    return _chosen(tree, np.ones(len(y), dtype=bool), Sample(columns, y))


@dataclass(frozen=True)
class Sample:
    """The training side, sorted once by each feature.

    Attributes:
        columns: A value a row for each feature, without NaN.
        y: Labels of shape (rows,).
    """

    columns: Columns
    y: NDArray[np.str_]

    @cached_property
    def orders(self) -> dict[str, Places]:
        """Places of all rows in the order of each feature."""
        return {name: np.argsort(values, kind="stable") for name, values in self.columns.items()}

    def sorted(self, feature: str, rows: Rows) -> Places:
        """Places of those rows, in the order of a feature."""
        order = self.orders[feature]
        return order[rows[order]]

    @cached_property
    def _hits(self) -> dict[frozenset[str], Rows]:
        return {}

    def attainable(self, branch: Tree | str) -> Rows:
        """Which rows the branch can label right at all."""
        labels = frozenset({branch} if isinstance(branch, str) else branch.labels())
        if labels not in self._hits:
            self._hits[labels] = np.isin(self.y, list(labels))
        return self._hits[labels]


@dataclass(frozen=True)
class Cuts:
    """The ways in which one split can divide some rows: each an interval of equivalent thresholds.

    Attributes:
        starts: Lower end of each interval, itself included; shape (cuts,).
        ends: Upper end, itself not included but for the last.
        positions: Rows at or below a threshold in the interval.
        scores: Rows labelled right below the split at best, or a bound on that from above.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    positions: NDArray[np.int64]
    scores: NDArray[np.int64]


def cuts_of(split: Tree, rows: Rows, sample: Sample) -> Cuts:
    """All cuts; the scores are exact if both branches are leaves."""
    order = sample.sorted(split.feature, rows)
    values = sample.columns[split.feature][order]
    first, last = np.searchsorted(values, split.bounds, side="right")
    inside = values[first:last]
    is_new = np.ones(len(inside), dtype=bool)
    np.not_equal(inside[1:], inside[:-1], out=is_new[1:])
    starts = np.concatenate([split.bounds[:1], inside[is_new]])
    positions = np.append(first + np.flatnonzero(is_new), last)
    above = sample.attainable(split.above)[order]
    gains = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(sample.attainable(split.below)[order].astype(np.int8) - above, out=gains[1:])
    scores = gains[positions] + np.count_nonzero(above)
    return Cuts(starts, np.append(starts[1:], split.bounds[1]), positions, scores)


def _scored(split: Tree, rows: Rows, sample: Sample, ties: bool) -> Cuts:
    """The cuts with the score of the best one exact, and with `ties` of all that equal it."""
    cuts = cuts_of(split, rows, sample)
    if isinstance(split.below, str) and isinstance(split.above, str):
        return cuts
    scores, best = cuts.scores, -1
    unseen = np.ones(len(scores), dtype=bool)
    while True:
        ceilings = np.where(unseen, scores, -1)
        place = int(np.argmax(ceilings))
        if ceilings[place] < best + (not ties):
            return cuts
        at_most = sample.columns[split.feature] <= cuts.starts[place]
        score = optimum(split.below, rows & at_most, sample) + optimum(split.above, rows & ~at_most, sample)
        np.minimum(scores, score + np.abs(cuts.positions - cuts.positions[place]), out=scores)
        unseen[place] = False
        best = max(best, score)


def optimum(branch: Tree | str, rows: Rows, sample: Sample) -> int:
    """How many of the rows the branch labels right at best."""
    if isinstance(branch, str):
        return int(np.count_nonzero(sample.attainable(branch) & rows))
    return int(_scored(branch, rows, sample, ties=False).scores.max())


def _chosen(branch: Tree | str, rows: Rows, sample: Sample) -> list[float]:
    """The thresholds of the branch, from its root down."""
    if isinstance(branch, str):
        return []
    cuts = _scored(branch, rows, sample, ties=True)
    middles = _middles(cuts)
    ranks = (np.abs(middles - branch.start), cuts.starts - cuts.ends, -cuts.scores)
    threshold = branch.start if len(middles) == 1 else float(middles[np.lexsort(ranks)[0]])
    at_most = sample.columns[branch.feature] <= threshold
    return [
        threshold,
        *_chosen(branch.below, rows & at_most, sample),
        *_chosen(branch.above, rows & ~at_most, sample),
    ]


def _middles(cuts: Cuts) -> NDArray[np.float64]:
    """A threshold inside each interval: halfway, unless rounding would leave it."""
    middles = cuts.starts + (cuts.ends - cuts.starts) / 2
    return np.where(middles < cuts.ends, middles, cuts.starts)
