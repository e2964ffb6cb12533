"""What an MD tree reads: features by name or by place, labels as text, and medians for what is missing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

Matrix = NDArray[np.float64]


def by_name(X: pd.DataFrame, features: list[str]) -> Matrix:
    """The columns of those names, shape (rows, features); what is missing is NaN.

    Raises:
        ValueError: If a name is not there, or several times.
    """
    if missing := [name for name in features if name not in X.columns]:
        raise ValueError(f"X lacks the columns {missing}; the tree reads {features}")
    matrix = np.column_stack([X[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in features])
    if matrix.shape[1] != len(features):
        raise ValueError(f"X has {matrix.shape[1]} columns of the names {features}; it must have each once")
    return matrix


def by_place(matrix: Matrix, features: list[str]) -> Matrix:
    """The columns that features called x0, x1 and so on ask for; other features each have theirs, in order.

    Raises:
        ValueError: If there are too few columns, or for features of other names too many.
    """
    if all(re.fullmatch(r"x\d+", name) for name in features):
        places = [int(name[1:]) for name in features]
        if matrix.shape[1] <= max(places):
            raise ValueError(f"X has {matrix.shape[1]} columns; the tree reads {features}, counted from x0")
        return matrix[:, places]
    if matrix.shape[1] != len(features):
        raise ValueError(f"X has {matrix.shape[1]} columns; an array must hold {features}, in that order")
    return matrix


def medians(matrix: Matrix) -> Matrix:
    """The median of the values of each column; 0 where there is none."""
    missing = np.isnan(matrix)
    if not missing.any():
        return np.median(matrix, axis=0)
    present = (values[~absent] for values, absent in zip(matrix.T, missing.T, strict=True))
    return np.array([np.median(values) if len(values) else 0.0 for values in present])


def checked_labels(estimator: BaseEstimator, y: ArrayLike) -> NDArray[Any]:
    """The labels as a row of text or whole numbers.

    Raises:
        ValueError: If they are none, not in a row, or numbers that are not whole.
    """
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    if labels.dtype.kind in "fc":
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
    return labels


def texts(labels: NDArray[Any]) -> NDArray[np.str_]:
    """Labels as the leaves of a tree have them, whole numbers without a point."""
    return (labels.astype(int) if labels.dtype.kind == "f" else labels).astype(str)
