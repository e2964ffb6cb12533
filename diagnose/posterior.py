"""The posterior over all thresholds of a tree, and the exact mean of the trees' answers under it.

Prior: each threshold is uniform within its bounds, independent of the others; the flip rate ε is one of
`FLIP_RATES`, each as probable. Likelihood: with K labels in the structure, a training row of label y that
the thresholds t send to a leaf of label l has the probability

    p(y | t, ε) = 1 - ε if y = l, else ε / (K - 1).

The answer to a row x is the share of the thresholds, so weighted, that send x to a leaf of each label:

    p(c | x) = Σ_ε ∫ [tree(x; t) = c] Π_i p(y_i | t, ε) dt / Σ_ε ∫ Π_i p(y_i | t, ε) dt.

Between two neighbouring training values all thresholds divide the training side alike, so the integral over
one threshold is a sum over intervals, each weighted by its width; and the rows that a split parts know
nothing of each other, so the integral over a branch is taken by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diagnose.structures import Tree
from diagnose.thresholds import Columns, Cuts, Rows, Sample, cuts_of, optimum

FLIP_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Rates at which the label of a training row may differ from its leaf's."""

NEGLIGIBLE = 1e-9
"""What is proven to weigh less than this share of the whole is left out."""

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Posterior:
    """All thresholds of a tree, each weighted by how well it explains the training side.

    Attributes:
        tree: Structure with bounds.
        columns: A value a training row for each feature, without NaN.
        y: Labels of shape (training rows,).
    """

    tree: Tree
    columns: Columns
    y: NDArray[np.str_]

    def probabilities(self, columns: Columns) -> Values:
        """The probability of each label.

        Args:
            columns: A value a row for each feature, without NaN.

        Returns:
            Shape (rows, labels), the labels sorted.
        """
        *first, _ = sorted(self.tree.labels())
        if not first:
            return np.ones((_length(columns), 1))
        shares = [self._mean(label, columns) for label in first]
        return np.stack([*shares, 1 - np.sum(shares, axis=0)], axis=1)

    def _mean(self, label: str, columns: Columns) -> Values:
        """The probability of one label, over all flip rates; the most plausible rates are taken first."""
        sample, everything = Sample(self.columns, self.y), np.ones(len(self.y), dtype=bool)
        wrong = len(self.y) - optimum(self.tree, everything, sample)
        others = len(self.tree.labels()) - 1
        rates = np.array(FLIP_RATES)
        penalties = np.log((1 - rates) * others / rates)
        base = len(self.y) * np.log(1 - rates)
        evidence, means = np.full(len(rates), -np.inf), np.zeros((len(rates), _length(columns)))
        ceilings = base - penalties * wrong
        for place in np.argsort(-ceilings, kind="stable"):
            if ceilings[place] > evidence.max() + np.log(NEGLIGIBLE):
                view = _View(sample, columns, label, float(penalties[place]))
                log_share, means[place] = _mean(self.tree, everything, view)
                evidence[place] = base[place] + log_share
        return _weights(evidence) @ means


@dataclass(frozen=True, eq=False)
class _View:
    """What an average is taken over and for.

    Attributes:
        sample: The training side.
        columns: The rows asked about.
        label: The answer whose probability is wanted.
        penalty: What a training row labelled wrong takes from the log likelihood.
    """

    sample: Sample
    columns: Columns
    label: str
    penalty: float


Level = tuple[Values, Callable[[NDArray[np.int64]], Values]]
"""For each cut of a split the log evidence of one branch; and, for those asked for, its mean answers."""


def _mean(branch: Tree | str, rows: Rows, view: _View) -> tuple[float, Values]:
    """Log evidence of the training rows that reach a branch, and its mean answer to each row asked about."""
    if isinstance(branch, str):
        missed = int(np.count_nonzero(rows & ~view.sample.attainable(branch)))
        return -view.penalty * missed, np.full(_length(view.columns), float(branch == view.label))
    cuts = _cells(branch, rows, view.sample)
    prior = _log_shares(cuts)
    if all(_is_shallow(child) for child in (branch.below, branch.above)):
        order = view.sample.sorted(branch.feature, rows)
        below = _prefixes(branch.below, order, cuts.positions, view)
        above = _prefixes(branch.above, order[::-1], len(order) - cuts.positions, view)
    else:
        below, above = _branches(branch, rows, cuts, prior, view)
    evidence = prior + below[0] + above[0]
    weights = _weights(evidence)
    kept = np.flatnonzero(weights > NEGLIGIBLE / len(weights))
    at_most = _at_or_below(view.columns[branch.feature], cuts.starts[kept, None], cuts.ends[kept, None])
    answers = at_most * below[1](kept) + (1 - at_most) * above[1](kept)
    return _log_sum(evidence), weights[kept] @ answers


def _prefixes(branch: Tree | str, order: NDArray[np.int64], sizes: NDArray[np.int64], view: _View) -> Level:
    """A leaf or a split between two leaves, for the first of the ordered rows, as many as each size says."""
    if isinstance(branch, str):
        wrong = np.append(0, np.cumsum(~view.sample.attainable(branch)[order]))[sizes]
        return -view.penalty * wrong, lambda kept: np.array([[float(branch == view.label)]])
    rows = np.zeros(len(view.sample.y), dtype=bool)
    rows[order] = True
    cells = _cells(branch, rows, view.sample)
    at_most = view.sample.columns[branch.feature][order, None] <= cells.starts
    below, above = (~view.sample.attainable(leaf)[order, None] for leaf in (branch.below, branch.above))
    wrong = np.zeros((len(order) + 1, len(cells.starts)), dtype=np.int32)
    np.cumsum(np.where(at_most, below, above), axis=0, out=wrong[1:])
    wrong = wrong[sizes]
    fewest = wrong.min(axis=1, keepdims=True)
    table = np.exp(-view.penalty * np.arange(len(order) + 1))
    weights = table[wrong - fewest] * np.exp(_log_shares(cells))
    total = weights.sum(axis=1)
    low, high = float(branch.below == view.label), float(branch.above == view.label)

    def answers(kept: NDArray[np.int64]) -> Values:
        chances = weights[kept] / total[kept, None]
        return high + (low - high) * _at_most(view.columns[branch.feature], cells, chances)

    return np.log(total) - view.penalty * fewest[:, 0], answers


def _branches(split: Tree, rows: Rows, cuts: Cuts, prior: Values, view: _View) -> tuple[Level, Level]:
    """Both branches of a split at all of its cuts that matter, those of the highest ceiling first.

    A row that changes sides changes the log evidence by at most the penalty, which bounds all cuts from those
    already taken.
    """
    ceilings = -view.penalty * (np.count_nonzero(rows) - cuts.scores)
    evidence, means = np.full((2, len(prior)), -np.inf), np.zeros((2, len(prior), _length(view.columns)))
    while True:
        total = _log_sum(prior + evidence.sum(axis=0))
        unseen = np.where(np.isinf(evidence[0]), prior + ceilings, -np.inf)
        if _log_sum(unseen) <= total + np.log(NEGLIGIBLE):
            break
        place = int(np.argmax(unseen))
        at_most = view.sample.columns[split.feature] <= cuts.starts[place]
        for side, branch, own in ((0, split.below, rows & at_most), (1, split.above, rows & ~at_most)):
            evidence[side, place], means[side, place] = _mean(branch, own, view)
        moved = np.abs(cuts.positions - cuts.positions[place])
        ceilings = np.minimum(ceilings, evidence[:, place].sum() + view.penalty * moved)
    below, above = ((evidence[side], means[side].__getitem__) for side in (0, 1))
    return below, above


def _is_shallow(branch: Tree | str) -> bool:
    """Whether a branch is a leaf or a split between two leaves."""
    return isinstance(branch, str) or (isinstance(branch.below, str) and isinstance(branch.above, str))


def _cells(split: Tree, rows: Rows, sample: Sample) -> Cuts:
    """The cuts that have a width, of which a threshold between equal bounds has none."""
    cuts = cuts_of(split, rows, sample)
    kept = cuts.ends > cuts.starts if split.bounds[0] < split.bounds[1] else slice(None)
    return Cuts(cuts.starts[kept], cuts.ends[kept], cuts.positions[kept], cuts.scores[kept])


def _log_shares(cuts: Cuts) -> Values:
    """Log prior probability of each cut."""
    widths = cuts.ends - cuts.starts
    return np.log(widths / widths.sum()) if widths.sum() > 0 else np.zeros(1)


def _at_or_below(values: Values, starts: Values, ends: Values) -> Values:
    """How likely each value is at or below a threshold drawn evenly from each interval."""
    widths = np.where(ends > starts, ends - starts, 1)
    return np.where(values <= starts, 1.0, np.clip((ends - values) / widths, 0, 1))


def _at_most(values: Values, cuts: Cuts, chances: Values) -> Values:
    """How likely each value is at or below the threshold; chances of shape (sets of rows, cuts)."""
    above = np.zeros((len(chances), chances.shape[1] + 1))
    above[:, :-1] = chances[:, ::-1].cumsum(axis=1)[:, ::-1]
    place = np.clip(np.searchsorted(cuts.starts, values, side="right") - 1, 0, len(cuts.starts) - 1)
    within = _at_or_below(values, cuts.starts[place], cuts.ends[place])
    return above[:, place + 1] + chances[:, place] * within


def _weights(logs: Values) -> Values:
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _log_sum(logs: Values) -> float:
    top = float(logs.max())
    return top + float(np.log(np.exp(logs - top).sum())) if np.isfinite(top) else top


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values())))
