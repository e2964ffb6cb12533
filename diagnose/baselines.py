"""The diagnosers that compete: baselines, MD trees, and the registry a user's own enters.

A diagnoser is a scikit-learn classifier from a named feature set to a failure source. Missing features are
replaced by the median of the training side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import LabelEncoder
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import check_is_fitted

from diagnose.features import FEATURE_SETS
from diagnose.md_tree import MDTreeClassifier
from zoo.tables import FAILURE_TASKS


@dataclass(frozen=True)
class Diagnoser:
    """A method of diagnosis.

    Attributes:
        name: Its name on the leaderboard.
        features: The feature set it reads, a key of `FEATURE_SETS`.
        build: (task, seed of the draw) -> an unfitted scikit-learn classifier.
        tasks: The questions it answers.
    """

    name: str
    features: str
    build: Callable[[str, int], Any]
    tasks: tuple[str, ...] = FAILURE_TASKS

    @property
    def track(self) -> str:
        """`single` or `twin`: what the feature set takes."""
        return FEATURE_SETS[self.features].track


DIAGNOSERS: dict[str, Diagnoser] = {}
"""All registered diagnosers by name, in the order of registration."""


def register(diagnoser: Diagnoser) -> Diagnoser:
    """Add a diagnoser to those that `benchmark` runs, and return it.

    Raises:
        ValueError: If the name is taken, or the feature set or a task unknown.
    """
    if diagnoser.name in DIAGNOSERS:
        raise ValueError(f"a diagnoser is already registered as {diagnoser.name!r}; choose another name")
    if diagnoser.features not in FEATURE_SETS:
        raise ValueError(
            f"{diagnoser.name} reads the feature set {diagnoser.features!r}; it must be one of {list(FEATURE_SETS)}"
        )
    if unknown := sorted(set(diagnoser.tasks) - set(FAILURE_TASKS)):
        raise ValueError(f"{diagnoser.name} answers the tasks {unknown}; they must be among {FAILURE_TASKS}")
    DIAGNOSERS[diagnoser.name] = diagnoser
    return diagnoser


class BoostedTrees(ClassifierMixin, BaseEstimator):
    """Gradient-boosted trees of xgboost (Chen and Guestrin, KDD 2016) with text labels, on one thread.

    Args:
        random_state: Seed.

    Attributes:
        classes_: The labels seen, sorted.
    """

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the trees.

        Args:
            X: Features of shape (rows, features).
            y: Labels of shape (rows,).

        Raises:
            ImportError: If xgboost is not installed.
        """
        try:
            from xgboost import XGBClassifier
        except ImportError as error:
            raise ImportError(
                "xgboost is not installed; install it with: pip install 'mdzoo[boost]'"
            ) from error
        self.encoder_ = LabelEncoder()
        codes = self.encoder_.fit_transform(y)
        self.classes_ = self.encoder_.classes_
        self.model_ = XGBClassifier(n_jobs=1, random_state=self.random_state).fit(X, codes)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.object_]:
        """The label of each row, shape (rows,)."""
        check_is_fitted(self)
        labels: NDArray[np.object_] = self.encoder_.inverse_transform(self.model_.predict(X))
        return labels


def _imputed(classifier: ClassifierMixin) -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), classifier)


def _tree(task: str, seed: int) -> Pipeline:
    """The published baseline tree: Gini, depth 4, the draw's seed."""
    return _imputed(DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed))


def _boosted(task: str, seed: int) -> Pipeline:
    return _imputed(BoostedTrees(random_state=seed))


def _md_tree(search: str, bounds: str) -> Callable[[str, int], MDTreeClassifier]:
    return lambda task, seed: MDTreeClassifier(structure=task, search=search, bounds=bounds)


register(Diagnoser("majority", "none", lambda task, seed: DummyClassifier(strategy="most_frequent")))
register(Diagnoser("hyperparameter_tree", "hyperparameter", _tree))
register(Diagnoser("validation_tree", "validation", _tree))
register(Diagnoser("validation_xgboost", "validation", _boosted))
register(Diagnoser("landscape_xgboost", "landscape", _boosted))
register(Diagnoser("md_tree", "landscape", _md_tree("published", "data")))
register(Diagnoser("md_tree_exact", "landscape", _md_tree("exact", "data")))
# The bounds belong to ResNet-18 on CIFAR-10; on another zoo this shows how far they carry.
register(Diagnoser("md_tree_published_bounds", "landscape", _md_tree("published", "published")))
