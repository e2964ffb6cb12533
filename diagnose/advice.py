"""Advice: what would help most, how likely, how much, and when to say nothing.

A classifier answers the whole question with one of six remedies. Around it stand calibrated probabilities, the
gain to expect from each remedy, and the right to abstain.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from diagnose.labels import WORTHWHILE

FOLDS = 3
FEWEST = 20
"""Training rows below which nothing is calibrated."""

LEAST = 1e-3
"""What a probability counts for at least before it is scaled: trees say 0 lightly."""

TEMPERATURES = (0.2, 5.0)
DECISIONS = ("probability", "gain")

Values = NDArray[np.float64]


class RemedyAdvisor(ClassifierMixin, BaseEstimator):
    """A classifier with calibrated probabilities, expected gains, and the right to abstain.

    Probabilities are scaled by one temperature T, p_i^(1/T) / Σ_j p_j^(1/T), which maximises the likelihood of
    the training labels out of fold (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section
    4.2); a training side of fewer than `FEWEST` rows keeps T = 1. The expected gain of each answer is a regression of
    its own. Missing values are replaced by the median of the training side.

    Args:
        classifier: Unfitted, with `predict_proba`; None: extra trees.
        regressor: Unfitted, of several outputs; None: extra trees. Needed only where gains are given.
        decide: `probability`: the likeliest answer. `gain`: that of the largest expected gain, or `nothing`, where
            that is an answer and the gain below `diagnose.labels.WORTHWHILE`; fitted without gains it is the
            likeliest answer all the same.
        abstain_below: The answer is None where the largest probability is smaller.

    Attributes:
        classes_: The labels seen, sorted.
        temperature_: T.
        gains_: Names of the answers whose gains were learned; None if none were given.
        n_features_in_: Columns of the training side.
    """

    def __init__(
        self,
        classifier: Any = None,
        *,
        regressor: Any = None,
        decide: str = "probability",
        abstain_below: float = 0.0,
    ) -> None:
        self.classifier = classifier
        self.regressor = regressor
        self.decide = decide
        self.abstain_below = abstain_below

    def fit(self, X: ArrayLike, y: ArrayLike, gains: pd.DataFrame | None = None) -> Self:
        """Learn to answer, and what each answer gains.

        Args:
            X: Features of shape (rows, features); NaN where missing.
            y: Labels of shape (rows,).
            gains: A column an answer: the gain in test accuracy from acting on it, in points.

        Raises:
            ValueError: If a parameter is out of its bounds.
        """
        if self.decide not in DECISIONS:
            raise ValueError(f"decide is {self.decide!r}; it must be one of {DECISIONS}")
        if not 0 <= self.abstain_below <= 1:
            raise ValueError(f"abstain_below is {self.abstain_below}; it must be in [0, 1]")
        matrix, labels = validate_data(self, X, y, ensure_all_finite="allow-nan", dtype=np.float64)
        self.classes_ = np.unique(labels)
        model = uncalibrated(self.classifier)
        self.temperature_ = 1.0
        if len(labels) >= FEWEST and len(self.classes_) > 1:
            self.temperature_ = _temperature(self._out_of_fold(model, matrix, labels), labels, self.classes_)
        self.model_ = model.fit(matrix, labels)
        self.gains_, self.regressor_ = None, None
        if gains is not None:
            own = _imputed(self.regressor, ExtraTreesRegressor(50, min_samples_leaf=2, random_state=0))
            self.gains_, self.regressor_ = list(gains.columns), own.fit(matrix, gains.to_numpy())
        return self

    def predict_proba(self, X: ArrayLike) -> Values:
        """The probability of each label, shape (rows, labels), in the order of `classes_`."""
        matrix = self._matrix(X)
        return _scaled(_aligned(self.model_, matrix, self.classes_), self.temperature_)

    def expected_gains(self, X: ArrayLike) -> pd.DataFrame:
        """The gain to expect from each answer, in points, a column an answer.

        Raises:
            ValueError: If it was fitted without gains.
        """
        matrix = self._matrix(X)
        if self.regressor_ is None:
            raise ValueError("this advisor was fitted without gains; pass them to fit")
        gained = np.asarray(self.regressor_.predict(matrix)).reshape(len(matrix), -1)
        return pd.DataFrame(gained, columns=self.gains_, index=getattr(X, "index", None))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The answer to each row, shape (rows,); None where it abstains, which is no action and gains nothing."""
        shares = self.predict_proba(X)
        answers = self.classes_[shares.argmax(axis=1)]
        if self.decide == "gain" and self.regressor_ is not None:
            answers = self._most_gaining(self.expected_gains(X))
        if not self.abstain_below:
            return np.asarray(answers)
        silent = shares.max(axis=1) < self.abstain_below
        return np.array(
            [None if no else answer for no, answer in zip(silent, answers, strict=True)], dtype=object
        )

    def _most_gaining(self, gains: pd.DataFrame) -> NDArray[Any]:
        acting = gains.drop(columns="nothing", errors="ignore")
        answers = acting.columns.to_numpy()[acting.to_numpy().argmax(axis=1)]
        if "nothing" not in gains:
            return np.asarray(answers)
        return np.where(acting.max(axis=1) < WORTHWHILE, "nothing", answers)

    def _out_of_fold(self, model: Any, matrix: Values, labels: NDArray[Any]) -> Values:
        """The probabilities that models give which did not see the row."""
        shares = np.empty((len(labels), len(self.classes_)))
        for learned, left in KFold(FOLDS, shuffle=True, random_state=0).split(matrix):
            fitted = clone(model).fit(matrix[learned], labels[learned])
            shares[left] = _aligned(fitted, matrix[left], self.classes_)
        return shares

    def _matrix(self, X: ArrayLike) -> Values:
        check_is_fitted(self)
        matrix: Values = validate_data(self, X, reset=False, ensure_all_finite="allow-nan", dtype=np.float64)
        return matrix

    def __sklearn_tags__(self) -> Tags:
        """Says that missing values are handled."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def uncalibrated(classifier: Any = None) -> Any:
    """What a `RemedyAdvisor` learns first, unfitted: its likeliest answers are the advisor's, at less cost."""
    return _imputed(classifier, ExtraTreesClassifier(50, min_samples_leaf=2, random_state=0))


def _imputed(given: Any, otherwise: Any) -> Any:
    model = otherwise if given is None else clone(given)
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), model)


def _aligned(model: Any, matrix: Values, classes: NDArray[Any]) -> Values:
    """The model's probabilities in the order of `classes`; 0 for one that it has not seen."""
    shares = np.zeros((len(matrix), len(classes)))
    shares[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(matrix)
    return shares


def _scaled(shares: Values, temperature: float) -> Values:
    powers = np.maximum(shares, LEAST) ** (1 / temperature)
    scaled: Values = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def _temperature(shares: Values, labels: NDArray[Any], classes: NDArray[Any]) -> float:
    """The temperature at which the labels are likeliest."""
    own = np.searchsorted(classes, labels)

    def surprise(log_temperature: float) -> float:
        told = _scaled(shares, float(np.exp(log_temperature)))
        return -float(np.log(told[np.arange(len(own)), own]).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(surprise, bounds=(low, high), method="bounded").x))
