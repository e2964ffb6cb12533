"""How far apart two rows of a feature table are, and the covariance that follows.

Errors, losses and barriers are compared by their logarithms, as the Hessian figures already are, so a unit
means the same in any zoo. The units are where accuracy on held-out clean rows is flat:
`benchmarks/choose_diagnoser.py` shows what halving and doubling all of them costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Values = NDArray[np.float64]


class Scale(NamedTuple):
    """How a feature enters a distance: transformed, then divided by a unit."""

    transform: Callable[[Values], Values]
    unit: float


def _log_percent(values: Values) -> Values:
    return np.log(np.maximum(values, 0) + 0.1)


def _log_loss(values: Values) -> Values:
    return np.log(np.maximum(values, 0) + 1e-3)


def _log_barrier(values: Values) -> Values:
    return _log_percent(-values)


def _itself(values: Values) -> Values:
    return values


FEATURES: Mapping[str, Scale] = {
    "train_error": Scale(_log_percent, 2),
    "train_loss": Scale(_log_loss, 1),
    "test_error": Scale(_log_percent, 2),
    "test_loss": Scale(_log_loss, 2),
    "mode_connectivity_peak": Scale(_log_barrier, 2),
    "mode_connectivity": Scale(_itself, 20),
    "CKA": Scale(_itself, 0.5),
    "hessian_t": Scale(_itself, 4),
    "hessian_e": Scale(_itself, 4),
}
"""Features that share one distance."""

AMOUNTS: Mapping[str, Scale] = {
    "log_para_amount": Scale(_itself, 2.5),
    "log_data_amount": Scale(_itself, 1),
}
"""Amounts, each with a distance of its own."""

STANDARD_UNIT = 2.0
"""Unit of a feature that is named in neither, in standard deviations of the training side."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Where rows lie: one space that the features share, and a line for each amount.

    Attributes:
        scales: A scale a column.
        spaces: Places of the columns that span each space; none is empty.
    """

    scales: Sequence[Scale]
    spaces: Sequence[Sequence[int]]

    @classmethod
    def of(cls, names: Sequence[str] | None, matrix: Values) -> Self:
        """Those of the training side.

        Args:
            names: Of the columns; None if they have none.
            matrix: Shape (rows, columns), without NaN.
        """
        known = {**FEATURES, **AMOUNTS}
        named = [None] * matrix.shape[1] if names is None else list(names)
        deviations = np.where((deviations := matrix.std(axis=0)) > 0, deviations, 1)
        scales = [
            known[name] if name in known else Scale(_itself, STANDARD_UNIT * deviation)
            for name, deviation in zip(named, deviations.tolist(), strict=True)
        ]
        shared = [place for place, name in enumerate(named) if name not in AMOUNTS]
        lines = [[place] for place, name in enumerate(named) if name in AMOUNTS]
        return cls(scales, [space for space in (shared, *lines) if space])

    def place(self, matrix: Values) -> list[Values]:
        """Where each row lies, shape (rows, dimensions) a space."""
        columns = [s.transform(values) / s.unit for s, values in zip(self.scales, matrix.T, strict=True)]
        return [np.stack([columns[place] for place in space], axis=1) for space in self.spaces]


def covariance(rows: Sequence[Values], others: Sequence[Values]) -> Values:
    """Sum over the spaces of Matérn's kernel of smoothness 5/2, shape (rows, other rows); 1 a space at no distance.

    Source: Rasmussen and Williams, "Gaussian processes for machine learning", 2006, equation 4.17.
    """
    return np.sum([_matern(cdist(a, b)) for a, b in zip(rows, others, strict=True)], axis=0)


def _matern(distances: Values) -> Values:
    scaled = np.sqrt(5) * distances
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
