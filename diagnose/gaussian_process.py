"""MD trees as the prior mean, a Gaussian process for what the training side adds.

The log odds of a label are f = m + g. The mean m is what MD trees say (see `diagnose.tree_prior`); g is a
Gaussian process of mean 0 over the measured features, learned by Laplace's approximation (see
`diagnose.laplace`). Near training rows they decide, far from all of them the trees do.

    cov(g(x), g(x')) = amplitude² [k(d) + Σ_amounts k(d_amount)]

with k Matérn's kernel, d the distance of two rows by all features (see `diagnose.coordinates`), and d_amount
that along the axis which the question asks about: the number of parameters where an answer is `width`, the
amount of data where one is `data`.

Sources: Zhou et al., "MD tree", ICML 2024, for the trees; Rasmussen and Williams, "Gaussian processes for
machine learning", MIT Press 2006, for the rest (a fixed mean: section 2.7).
"""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from diagnose.coordinates import FEATURES, Coordinates, covariance
from diagnose.inputs import medians
from diagnose.laplace import laplace, probabilities
from diagnose.structures import STRUCTURES, Tree
from diagnose.tree_prior import family, tree_prior

Values = NDArray[np.float64]

AMOUNT_OF = {"width": "log_para_amount", "data": "log_data_amount"}
"""Label -> the amount that it says is too small."""


class MDGaussianProcess(ClassifierMixin, BaseEstimator):
    """A Gaussian process on loss-landscape features whose prior mean is what MD trees say.

    Missing values (NaN) are replaced by the median of the training side. The constants fit logarithms and
    shares, which mean the same in any zoo; they were chosen on the clean zoo of the MD-tree authors alone.

    Args:
        structure: The question: a key of `STRUCTURES` (`temperature`, `width`, `data`; `temperature-similarity`
            asks what `temperature` does) or a `Tree`. None asks one that no tree answers: the labels are those
            of the training side, the mean is 0, and every column is read: one that `FEATURES` or `AMOUNTS` name
            on its own scale, any other, as all of an array, in standard deviations.
        amplitude: Prior standard deviation of each part of g, in log odds.
        tree_weight: What a tree's log odds are multiplied by; there are two trees a structure, its posterior
            and its untrained start, and `temperature` has two structures. 0 leaves the trees out.
        bounds: Where the learned trees look for their thresholds: `published`, which belongs to ResNet-18 on
            CIFAR-10, or `data`, the training side's quantiles; see `MDTreeClassifier`.

    Attributes:
        classes_: The labels, sorted; with a structure those of its leaves, so that the trees may give an
            answer that the training side lacks. Without one, a single label is given to every row.
        columns_: The columns that are read, in the order in which an array must hold them; None where an
            array was given without a structure.
        medians_: What replaces a missing value of each; 0 for a feature that is missing everywhere.
        prior_: The trees with the rates at which they miss; None without a structure or a choice of labels.
        coordinates_: The spaces in which rows are near or far.
        log_evidence_: Log probability of the training labels, of each process; shape (processes,).
        n_features_in_: Columns of the training side.
        feature_names_in_: Their names, if it was a DataFrame.

    Examples:
        >>> X = pd.DataFrame({"train_error": [0.0, 0.1, 20.0, 30.0], "hessian_t": [6.0, 6.0, 7.0, 7.0]})
        >>> y = ["small", "small", "large", "large"]
        >>> MDGaussianProcess(structure=None).fit(X, y).predict(X).tolist()
        ['small', 'small', 'large', 'large']
    """

    def __init__(
        self,
        *,
        structure: str | Tree | None = "temperature",
        amplitude: float = 3.0,
        tree_weight: float = 0.3,
        bounds: str = "published",
    ) -> None:
        self.structure = structure
        self.amplitude = amplitude
        self.tree_weight = tree_weight
        self.bounds = bounds

    def fit(self, X: pd.DataFrame | ArrayLike, y: ArrayLike) -> Self:
        """Learn the trees and the process.

        Args:
            X: Features, errors in percent. With a structure a DataFrame with the columns `FEATURES`, the amount
                of each label in `AMOUNT_OF` and the features of the structure, in any order and among others;
                or an array of these, in that order. Without one any DataFrame or array.
            y: Labels of shape (rows,); with a structure each one of a leaf.

        Raises:
            ValueError: If a parameter, a column or a label does not fit.
        """
        trees = self._trees()
        for name, value in (("amplitude", self.amplitude), ("tree_weight", self.tree_weight)):
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} is {value!r}; it must be a finite number of at least 0")
        matrix, labels = self._remember(X, trees), self._labels(y, trees)
        check_consistent_length(matrix, labels)
        complete = self._complete(matrix)
        self.coordinates_ = Coordinates.of(self._measured, complete[:, : self._width])
        self._rows = self.coordinates_.place(complete[:, : self._width])
        asked = len(trees) > 0 and len(self.classes_) > 1
        self.prior_ = tree_prior(trees, self._frame(complete), labels, self.bounds) if asked else None
        votes = self.prior_.training if self.prior_ else np.zeros((len(labels), len(self.classes_)))
        kernel = self.amplitude**2 * covariance(self._rows, self._rows)
        self._modes = {
            place: laplace(kernel, self.tree_weight * votes[:, place], labels == self.classes_[place])
            for place in self._places()
        }
        self.log_evidence_ = np.array([mode.log_evidence for mode in self._modes.values()])
        return self

    def predict(self, X: pd.DataFrame | ArrayLike) -> NDArray[np.str_]:
        """The most probable label of each row, shape (rows,).

        Args:
            X: Features, as for `fit`.

        Raises:
            ValueError: If a column is missing.
        """
        places = self.predict_proba(X).argmax(axis=1)
        answers: NDArray[np.str_] = self.classes_[places]
        return answers

    def predict_proba(self, X: pd.DataFrame | ArrayLike) -> Values:
        """The probability of each label, shape (rows, labels), in the order of `classes_`.

        Of more than two labels each has a process of its own against the others, and the probabilities are
        divided by their sum.

        Args:
            X: Features, as for `fit`.

        Raises:
            ValueError: If a column is missing.
        """
        check_is_fitted(self)
        complete = self._complete(self._matrix(X, len(self.medians_)))
        rows = self.coordinates_.place(complete[:, : self._width])
        cross = self.amplitude**2 * covariance(rows, self._rows)
        shares = np.zeros((len(complete), len(self.classes_)))
        votes = self.prior_.votes(self._frame(complete)) if self.prior_ else shares.copy()
        for place, mode in self._modes.items():
            mean = self.tree_weight * votes[:, place]
            shares[:, place] = probabilities(mode, cross, self.amplitude**2 * len(rows), mean)
        if len(self.classes_) < 3:
            shares[:, 0] = 1 - shares[:, 1:].sum(axis=1)
        return shares / shares.sum(axis=1, keepdims=True)

    def __sklearn_tags__(self) -> Tags:
        """Says that missing values are handled."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _trees(self) -> list[Tree]:
        """The trees that answer the question; none without a structure."""
        if self.structure is None:
            return []
        if not isinstance(self.structure, Tree) and self.structure not in STRUCTURES:
            raise ValueError(
                f"structure is {self.structure!r}; it must be None, a Tree or one of {list(STRUCTURES)}"
            )
        return family(self.structure)

    def _remember(self, X: pd.DataFrame | ArrayLike, trees: list[Tree]) -> Values:
        """Which columns are read, and what replaces what they miss; gives the matrix of the training side."""
        if trees:
            amounts = [AMOUNT_OF[label] for label in sorted(trees[0].labels()) if label in AMOUNT_OF]
            measured = [*FEATURES, *amounts]
            read = [feature for tree in trees for feature in tree.features()]
            self.columns_: list[str] | None = list(dict.fromkeys([*measured, *read]))
            self._measured: list[str] | None = measured
        else:
            self.columns_ = self._measured = X.columns.tolist() if isinstance(X, pd.DataFrame) else None
        matrix = self._matrix(X, len(self.columns_) if self.columns_ else None)
        self._width = len(self._measured) if self._measured else matrix.shape[1]
        validate_data(self, X, skip_check_array=True)
        self.medians_ = medians(matrix)
        return matrix

    def _matrix(self, X: pd.DataFrame | ArrayLike, expected: int | None) -> Values:
        """The columns that are read, shape (rows, columns); NaN may be among them."""
        if isinstance(X, pd.DataFrame) and self.columns_:
            if missing := [name for name in self.columns_ if name not in X.columns]:
                raise ValueError(f"X lacks the columns {missing}; {self.columns_} are read")
            X = X[self.columns_]
        matrix: Values = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        if expected not in (None, matrix.shape[1]):
            held = f", which must be {self.columns_} in that order" if self.columns_ else ""
            raise ValueError(
                f"X has {matrix.shape[1]} features, but {type(self).__name__} is expecting {expected} features "
                f"as input{held}"
            )
        return matrix

    def _labels(self, y: ArrayLike, trees: list[Tree]) -> NDArray[np.str_]:
        labels: NDArray[np.str_] = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if not trees:
            self.classes_ = np.unique(labels)
            return labels
        self.classes_, labels = np.array(sorted(trees[0].labels())), labels.astype(str)
        if strange := sorted(set(labels.tolist()) - trees[0].labels()):
            raise ValueError(
                f"y has the labels {strange}, but the leaves are {self.classes_.tolist()}; leave those rows out, "
                "or use a structure that answers them"
            )
        return labels

    def _places(self) -> range:
        """The labels that have a process: of two the second, of more all, of one none."""
        return range(int(len(self.classes_) < 3), len(self.classes_))

    def _complete(self, matrix: Values) -> Values:
        return np.where(np.isnan(matrix), self.medians_, matrix)

    def _frame(self, complete: Values) -> pd.DataFrame:
        return pd.DataFrame(complete, columns=self.columns_)
