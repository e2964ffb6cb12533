"""What MD trees say of a row, as log odds that are as sure as the trees have proved right.

Source of the trees: Zhou et al., "MD tree", ICML 2024. A tree's answer p is blurred by the rate e at which it
misses training rows that it has not seen,

    p'(c) = (1 - e) p(c) + e (1 - p(c)) / (K - 1)    for K labels,

so a tree whose thresholds do not carry to a zoo says next to nothing there: at e = (K - 1) / K all labels are
as likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from diagnose.md_tree import MDTreeClassifier
from diagnose.structures import STRUCTURES, Tree

Values = NDArray[np.float64]

FOLDS = 5

PRIOR_MISSES = 1.0
PRIOR_ROWS = 10.0
"""Before any row is seen, a tree counts as having missed `PRIOR_MISSES` of `PRIOR_ROWS`."""

FAMILIES = {
    "temperature": ("temperature", "temperature-similarity"),
    "temperature-similarity": ("temperature", "temperature-similarity"),
}
"""Structures that answer the same question in different ways; any other stands alone."""


def family(structure: str | Tree) -> list[Tree]:
    """The trees that answer the question of a structure, itself among them."""
    if isinstance(structure, Tree):
        return [structure]
    return [STRUCTURES[name] for name in FAMILIES.get(structure, (structure,))]


@dataclass(frozen=True, eq=False)
class Voter:
    """A fitted tree and its rate of misses."""

    tree: MDTreeClassifier
    misses: float

    def log_odds(self, X: pd.DataFrame) -> Values:
        """Log odds of each label against the others, shape (rows, labels)."""
        return _log_odds(self.tree.predict_proba(X), self.misses)


@dataclass(frozen=True, eq=False)
class TreePrior:
    """Trees that vote, with equal weights.

    Attributes:
        voters: Two a structure: the mean over its posterior, and its published start values.
        training: Votes on the training rows, those of a learned tree from the folds that left the row out;
            shape (rows, labels).
    """

    voters: list[Voter]
    training: Values

    def votes(self, X: pd.DataFrame) -> Values:
        """Sum of the voters' log odds, shape (rows, labels)."""
        return np.sum([voter.log_odds(X) for voter in self.voters], axis=0)


def tree_prior(
    trees: Sequence[Tree], X: pd.DataFrame, y: NDArray[np.str_], bounds: str = "published"
) -> TreePrior:
    """Learn the trees, and how far to trust them.

    Args:
        trees: Structures with the same labels.
        X: A column for each of their features, without NaN.
        y: Labels of shape (rows,), each one of a leaf.
        bounds: Where the learned trees look for their thresholds, see `MDTreeClassifier`.
    """
    voters, votes, labels = [], [], np.array(sorted(trees[0].labels()))
    places = np.searchsorted(labels, y)
    for tree in trees:
        start = MDTreeClassifier(
            structure=tree, search="exact", bounds=[(s.start,) * 2 for s in tree.splits()]
        )
        untrained = start.fit(X, y)
        learned = MDTreeClassifier(structure=tree, search="posterior", bounds=bounds)
        unseen = _unseen(learned, X, y, untrained.predict_proba(X))
        for voter, answers in ((learned.fit(X, y), unseen), (untrained, untrained.predict_proba(X))):
            misses = float(np.sum(1 - answers[np.arange(len(y)), places]))
            rate = (misses + PRIOR_MISSES) / (len(y) + PRIOR_ROWS)
            voters.append(Voter(voter, min(rate, 1 - 1 / len(labels))))
            votes.append(_log_odds(answers, voters[-1].misses))
    return TreePrior(voters, np.sum(votes, axis=0))


def _unseen(tree: MDTreeClassifier, X: pd.DataFrame, y: NDArray[np.str_], otherwise: Values) -> Values:
    """The answer to each training row by a tree that did not see it; `otherwise` if there is but one row.

    Folds go by the rank of the rows' values, so that their order does not matter.
    """
    answers = otherwise.copy()
    folds = np.empty(len(y), dtype=int)
    folds[np.lexsort((np.unique(y, return_inverse=True)[1], *X.to_numpy().T))] = np.arange(len(y)) % FOLDS
    for fold in range(min(FOLDS, len(y)) if len(y) > 1 else 0):
        left = folds == fold
        answers[left] = clone(tree).fit(X[~left], y[~left]).predict_proba(X[left])
    return answers


def _log_odds(shares: Values, misses: float) -> Values:
    blurred = (1 - misses) * shares + misses * (1 - shares) / max(shares.shape[1] - 1, 1)
    return np.log(blurred) - np.log1p(-blurred)
