"""Learners of general use, tuned inside the training side only.

Each candidate is scored by stratified cross-validation over at most `FOLDS` folds of the training side (a
random forest by the rows left out of its bags), and the best, of equals the first, is fitted to all of it. A
training side in which a label has one row cannot be folded, and takes the first candidate; one with a single
label gives that label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

FOLDS = 3
TREES = 50


class BoostedTrees(ClassifierMixin, BaseEstimator):
    """Gradient-boosted trees of xgboost (Chen and Guestrin, KDD 2016) with text labels, on one thread.

    Args:
        n_estimators: Rounds.
        max_depth: Depth of a tree.
        random_state: Seed.

    Attributes:
        classes_: The labels seen, sorted.
        n_features_in_: Columns of the training side.
    """

    def __init__(self, *, n_estimators: int = 100, max_depth: int = 6, random_state: int = 0) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the trees.

        Args:
            X: Features of shape (rows, features); NaN is missing.
            y: Labels of shape (rows,).

        Raises:
            ImportError: If xgboost is not installed.
            ValueError: If X or y is not of that kind.
        """
        try:
            from xgboost import XGBClassifier
        except ImportError as error:
            raise ImportError(
                "xgboost is not installed; install it with: pip install 'mdzoo[boost]'"
            ) from error
        X, y = validate_data(self, X, y, ensure_all_finite="allow-nan")
        check_classification_targets(y)
        self.encoder_ = LabelEncoder()
        codes = self.encoder_.fit_transform(y)
        self.classes_ = self.encoder_.classes_
        self.model_ = XGBClassifier(n_jobs=1, **self.get_params()).fit(X, codes)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.object_]:
        """The label of each row, shape (rows,)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        labels: NDArray[np.object_] = self.encoder_.inverse_transform(self.model_.predict(X))
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of each label, shape (rows, labels), in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        shares: NDArray[np.float64] = self.model_.predict_proba(X)
        return shares

    def __sklearn_tags__(self) -> Tags:
        """Says that missing values are handled."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class Tuned(ClassifierMixin, BaseEstimator):
    """The best of some classifiers by cross-validation on the training side.

    Args:
        candidates: Unfitted classifiers, that for training sides too small to be folded first.

    Attributes:
        scores_: Percent of the training side that each candidate labels right out of fold; empty where it
            could not be folded.
        best_: The chosen classifier, fitted to all of the training side.
        classes_: The labels seen, sorted.
        n_features_in_: Columns of the training side.
    """

    def __init__(self, candidates: Sequence[Any]) -> None:
        self.candidates = candidates

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Choose a candidate and fit it.

        Args:
            X: Features of shape (rows, features), without NaN.
            y: Labels of shape (rows,).

        Raises:
            ValueError: If X or y is not of that kind.
        """
        rows, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        self.classes_, counts = np.unique(labels, return_counts=True)
        folds = min(FOLDS, int(counts.min()))
        foldable = folds > 1 and len(self.classes_) > 1 and len(self.candidates) > 1
        self.scores_ = [_score(c, rows, labels, folds) for c in self.candidates] if foldable else []
        best = self.candidates[int(np.argmax(self.scores_)) if foldable else 0]
        self.best_ = (clone(best) if len(self.classes_) > 1 else DummyClassifier()).fit(rows, labels)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.str_]:
        """The label of each row, shape (rows,)."""
        check_is_fitted(self)
        labels: NDArray[np.str_] = self.best_.predict(validate_data(self, X, reset=False))
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of each label, shape (rows, labels), in the order of `classes_`."""
        check_is_fitted(self)
        shares: NDArray[np.float64] = self.best_.predict_proba(validate_data(self, X, reset=False))
        return shares


def _score(candidate: Any, X: NDArray[np.float64], y: NDArray[np.str_], folds: int) -> float:
    """Percent right out of fold, or out of bag."""
    if getattr(candidate, "oob_score", False):
        return 100 * float(clone(candidate).fit(X, y).oob_score_)
    right = 0
    for learned, left in StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y):
        right += int((clone(candidate).fit(X[learned], y[learned]).predict(X[left]) == y[left]).sum())
    return 100 * right / len(y)


def _logistic() -> Tuned:
    """Ridge strengths around scikit-learn's own, on standardised features."""
    return Tuned(
        [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in (1, 0.1, 10)]
    )


def _random_forest() -> Tuned:
    """Leaves of one row or of three."""
    shared: dict[str, Any] = {"n_estimators": TREES, "oob_score": True, "random_state": 0}
    return Tuned([RandomForestClassifier(min_samples_leaf=leaf, **shared) for leaf in (1, 3)])


def _extra_trees() -> Tuned:
    """Leaves of one row or of three."""
    return Tuned([ExtraTreesClassifier(TREES, min_samples_leaf=leaf, random_state=0) for leaf in (1, 3)])


def _boosted() -> Tuned:
    """Shallow trees or deep ones."""
    return Tuned([BoostedTrees(n_estimators=50, max_depth=depth) for depth in (6, 2)])


TUNED: Mapping[str, Callable[[], Tuned]] = {
    "logistic": _logistic,
    "random_forest": _random_forest,
    "extra_trees": _extra_trees,
    "xgboost": _boosted,
}
"""Methods by name. Their own seed is fixed: a draw changes what they learn from, not how."""
