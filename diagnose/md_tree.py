"""MD tree: a tree of fixed structure on loss-landscape features, whose thresholds are learned.

Source: Zhou et al., "MD tree: a model-diagnostic tree grown on loss landscape", ICML 2024. One predictor and
one search of either kind serve all structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from diagnose.inputs import by_name, by_place, checked_labels, medians, texts
from diagnose.posterior import Posterior
from diagnose.structures import STRUCTURES, Bounds, Tree, draw, leaf_labels, leaves, settled, text
from diagnose.thresholds import exact_thresholds, published_thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEARCHES = {"published": published_thresholds, "exact": exact_thresholds, "posterior": exact_thresholds}
"""How a search finds `thresholds_`; the mode of the posterior is the exact optimum."""

BOUND_QUANTILES = (0.02, 0.98)
"""Quantiles of the training side between which `bounds="data"` looks for a threshold."""


class MDTreeClassifier(ClassifierMixin, BaseEstimator):
    """A tree of fixed structure; each threshold is chosen within bounds to fit the training side.

    Missing values (NaN) are replaced by the median of the training side. Bounds, starts and thresholds are
    listed in the order of the structure read from the root down, the branch at or below a threshold before
    the one above.

    Args:
        structure: A key of `STRUCTURES` (`temperature`, `temperature-similarity`, `width`, `data`) or a
            `Tree`.
        search: `published`: one pass over the thresholds, each by bounded scalar minimisation (Brent) of
            minus the training accuracy, the others held; as published, it often stops short of the optimum.
            `exact`: the joint optimum of the training accuracy; ties go to the widest margin, then to the
            nearest to the start, from the root down. `posterior`: all thresholds within the bounds, weighted
            by the likelihood of the training labels (see `diagnose.posterior`), vote on each row.
        bounds: `published`: those of the structure, which belong to ResNet-18 on CIFAR-10. `data`: the
            quantiles `BOUND_QUANTILES` of each feature on the training side. Or a pair a threshold.
        start: Thresholds before the fit; None takes those of the structure. A start outside its bounds is
            moved to the nearer one or, if `bounds="data"`, to the training side's median.

    Attributes:
        thresholds_: The learned thresholds, in the features' units; of the posterior, its mode.
        tree_: The structure with the bounds and starts that were used.
        classes_: The labels of its leaves, sorted, as text or, where y holds numbers, as numbers; those missing
            on the training side are among them.
        leaf_counts_: Training rows by leaf, in the order of the thresholds, and label; shape (leaves, labels).
        posterior_: What `search="posterior"` averages over; None for the others.
        medians_: What replaces a missing value of each feature, in the order of first use; 0 for a feature
            that is missing everywhere.
        n_features_in_: Columns of the training side.
        feature_names_in_: Their names, if it was a DataFrame.

    Examples:
        >>> features = ["train_error", "mode_connectivity_peak", "hessian_t"]
        >>> X = pd.DataFrame([[0.0, -9.0, 7.0], [20.0, -1.0, 6.0]], columns=features)
        >>> MDTreeClassifier().fit(X, ["small", "large"]).predict(X).tolist()
        ['small', 'large']
    """

    def __init__(
        self,
        *,
        structure: str | Tree = "temperature",
        search: str = "published",
        bounds: str | Sequence[Bounds] = "published",
        start: Sequence[float] | None = None,
    ) -> None:
        self.structure = structure
        self.search = search
        self.bounds = bounds
        self.start = start

    def fit(self, X: pd.DataFrame | ArrayLike, y: ArrayLike) -> Self:
        """Learn the thresholds.

        Args:
            X: Features, errors in percent: a DataFrame with a column for each feature of the structure, in
                any order and among others; or an array (or a DataFrame without names) of shape (rows,
                features) with each feature once, in the order of first use. If the structure calls them x0,
                x1 and so on, as scikit-learn names the columns of an array, it is read by those numbers.
            y: Labels of shape (rows,), each one of a leaf; numbers are compared by their text.

        Raises:
            ValueError: If a parameter, a column or a label does not fit the structure.
        """
        tree = self._structure()
        if self.search not in SEARCHES:
            raise ValueError(f"search is {self.search!r}; it must be one of {list(SEARCHES)}")
        matrix = self._matrix(X, tree, reset=True)
        y = checked_labels(self, y)
        labels = texts(y)
        check_consistent_length(matrix, labels)
        if strange := sorted(set(labels.tolist()) - tree.labels()):
            raise ValueError(
                f"y has the labels {strange}, but the leaves are {sorted(tree.labels())}; leave those rows out, "
                "or use a structure that answers them"
            )
        self._answer(tree, y.dtype)
        self.medians_ = medians(matrix)
        columns = self._columns(matrix, tree)
        self.tree_ = self._settle(tree, columns)
        self.thresholds_ = np.array(SEARCHES[self.search](self.tree_, columns, labels))
        self.posterior_ = Posterior(self.tree_, columns, labels) if self.search == "posterior" else None
        reached = leaves(self.tree_, columns, self.thresholds_.tolist())
        self.leaf_counts_ = np.zeros((len(self._leaf_classes), len(self.classes_)), dtype=int)
        places = np.searchsorted(self.classes_, labels.astype(self.classes_.dtype))
        np.add.at(self.leaf_counts_, (reached, places), 1)
        return self

    def predict(self, X: pd.DataFrame | ArrayLike) -> NDArray[np.str_]:
        """The label of each row, shape (rows,).

        Args:
            X: Features, as for `fit`.

        Raises:
            ValueError: If a column is missing.
        """
        check_is_fitted(self)
        if self.posterior_ is not None:
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        columns = self._columns(self._matrix(X, self.tree_), self.tree_)
        return self._leaf_classes[leaves(self.tree_, columns, self.thresholds_.tolist())]

    def predict_proba(self, X: pd.DataFrame | ArrayLike) -> NDArray[np.float64]:
        """The probability of each label, shape (rows, labels), in the order of `classes_`.

        Of the posterior, its exact mean. The other searches commit themselves to one threshold a split, and
        so to one label a row: 1 for that label and 0 for the others.

        Args:
            X: Features, as for `fit`.

        Raises:
            ValueError: If a column is missing.
        """
        check_is_fitted(self)
        columns = self._columns(self._matrix(X, self.tree_), self.tree_)
        if self.posterior_ is not None:
            return self.posterior_.probabilities(columns)[:, self._order]
        answers = self._leaf_classes[leaves(self.tree_, columns, self.thresholds_.tolist())]
        return (answers[:, None] == self.classes_).astype(float)

    def export_text(self, decimals: int = 2, show_counts: bool = False) -> str:
        """The tree with its learned thresholds, as indented lines.

        Args:
            decimals: Digits of a threshold after the point.
            show_counts: Whether a leaf shows how many training rows of each label reach it.
        """
        check_is_fitted(self)
        return text(self.tree_, self.thresholds_.tolist(), decimals, self._counts() if show_counts else None)

    def plot(self, ax: Axes | None = None, decimals: int = 2) -> Axes:
        """Draw the tree with its learned thresholds, their bounds, and the training rows at each leaf.

        Args:
            ax: Where to draw; None makes a figure of its own.
            decimals: Digits of a threshold after the point.
        """
        check_is_fitted(self)
        return draw(self.tree_, self.thresholds_.tolist(), self._counts(), ax, decimals)

    def _counts(self) -> list[str]:
        """What to say of each leaf's training rows."""
        return [
            ", ".join(f"{n} {label}" for n, label in zip(row, self.classes_, strict=True) if n) or "no rows"
            for row in self.leaf_counts_.tolist()
        ]

    def __sklearn_tags__(self) -> Tags:
        """Says that missing values are handled."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _structure(self) -> Tree:
        if isinstance(self.structure, Tree):
            return self.structure
        if self.structure not in STRUCTURES:
            raise ValueError(
                f"structure is {self.structure!r}; it must be a Tree or one of {list(STRUCTURES)}"
            )
        return STRUCTURES[self.structure]

    def _answer(self, tree: Tree, kind: np.dtype) -> None:
        """Make the labels of the leaves numbers if those of the training side are."""
        own = np.array(sorted(tree.labels()))
        if kind.kind in "iuf":
            with suppress(ValueError):  # a leaf that is no number: all stay text
                own = own.astype(float if kind.kind == "f" else int)
        self._order = np.argsort(own, kind="stable")
        self.classes_ = own[self._order]
        self._leaf_classes = np.array(leaf_labels(tree)).astype(own.dtype)

    def _matrix(self, X: pd.DataFrame | ArrayLike, tree: Tree, reset: bool = False) -> NDArray[np.float64]:
        """The features of the tree in the order of first use, shape (rows, features); NaN may be among them."""
        features, names = tree.features(), None
        if isinstance(X, pd.DataFrame) and any(isinstance(name, str) for name in X.columns):
            names, X = X.columns, by_name(X, features)
        matrix: NDArray[np.float64] = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        width = matrix.shape[1] if names is None else len(names)
        if reset:
            self._remember(width, names)
        elif names is None and not hasattr(self, "feature_names_in_") and width != self.n_features_in_:
            raise ValueError(
                f"X has {width} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input"
            )
        return by_place(matrix, features) if names is None else matrix

    def _remember(self, width: int, names: pd.Index | None) -> None:
        self.n_features_in_ = width
        if names is not None:
            self.feature_names_in_ = names.to_numpy(dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _columns(self, matrix: NDArray[np.float64], tree: Tree) -> dict[str, NDArray[np.float64]]:
        complete = np.where(np.isnan(matrix), self.medians_, matrix)
        return dict(zip(tree.features(), complete.T, strict=True))

    def _settle(self, tree: Tree, columns: dict[str, NDArray[np.float64]]) -> Tree:
        """The structure with the bounds and starts that the parameters ask for."""
        splits = list(tree.splits())
        bounds = self._bounds(splits, columns)
        start = [split.start for split in splits] if self.start is None else list(self.start)
        for name, given in (("bounds", bounds), ("start", start)):
            if len(given) != len(splits):
                raise ValueError(
                    f"{name} has {len(given)} entries; the structure has {len(splits)} thresholds"
                )
        for (low, high), split in zip(bounds, splits, strict=True):
            if not low <= high:
                raise ValueError(f"bounds of {split.feature} are ({low}, {high}); the lower must come first")
        if self.bounds == "data":
            middles = [float(np.median(columns[split.feature])) for split in splits]
            start = [
                s if low <= s <= high else m for s, m, (low, high) in zip(start, middles, bounds, strict=True)
            ]
        return settled(tree, bounds, (float(np.clip(s, *b)) for s, b in zip(start, bounds, strict=True)))

    def _bounds(self, splits: list[Tree], columns: dict[str, NDArray[np.float64]]) -> list[Bounds]:
        if not isinstance(self.bounds, str):
            return [(float(low), float(high)) for low, high in self.bounds]
        if self.bounds == "published":
            return [split.bounds for split in splits]
        if self.bounds == "data":
            quantiles = {name: np.quantile(values, BOUND_QUANTILES) for name, values in columns.items()}
            return [(float(low), float(high)) for low, high in (quantiles[s.feature] for s in splits)]
        raise ValueError(f"bounds is {self.bounds!r}; it must be 'published', 'data' or a pair a threshold")
