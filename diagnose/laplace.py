"""Laplace's approximation of a Gaussian process behind a logistic likelihood, with a prior mean.

Source: Rasmussen and Williams, "Gaussian processes for machine learning", MIT Press 2006, algorithms 3.1 (mode
and evidence) and 3.2 (prediction), with f ~ N(m, K) in place of f ~ N(0, K). With label signs t = ±1,

    Ψ(f) = Σ_i log σ(t_i f_i) - (f - m)ᵀ K⁻¹ (f - m) / 2,

and at its maximum f = m + K a, where a is the gradient of the log likelihood and W = σ(f) σ(-f) minus its
second derivative. K enters as K a and I + W^½ K W^½ only, so it may be singular.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import expit, log_expit

Values = NDArray[np.float64]

TOLERANCE = 1e-9
"""Newton's method stops when a step raises Ψ by less than this."""

STEPS = 100
"""Newton steps at most; the maximum of a concave Ψ takes about ten."""


@dataclass(frozen=True, eq=False)
class Mode:
    """The Gaussian that stands for the posterior.

    Attributes:
        weights: a, shape (training rows,): the mode is the prior mean + K a.
        root: Square root of W, shape (training rows,).
        factor: Lower Cholesky factor of I + W^½ K W^½.
        log_evidence: Log probability of the training labels.
    """

    weights: Values
    root: Values
    factor: Values
    log_evidence: float


def laplace(kernel: Values, mean: Values, is_positive: NDArray[np.bool_]) -> Mode:
    """The mode by Newton's method, each step halved until Ψ does not fall (algorithm 3.1).

    Args:
        kernel: K, the prior covariance of the training rows, shape (rows, rows).
        mean: m, the prior mean of their log odds, shape (rows,).
        is_positive: Labels of shape (rows,).
    """
    signs = np.where(is_positive, 1.0, -1.0)
    weights, latent = np.zeros(len(mean)), mean.copy()
    height = float(log_expit(signs * latent).sum())
    for _ in range(STEPS):
        step = _newton(kernel, mean, latent, is_positive) - weights
        before = height
        weights, latent, height = _climb(kernel, mean, signs, weights, step, height)
        if height - before < TOLERANCE:
            break
    root, factor = _curvature(kernel, latent)
    return Mode(weights, root, factor, height - float(np.log(np.diag(factor)).sum()))


def probabilities(mode: Mode, cross: Values, variance: Values | float, mean: Values) -> Values:
    """The probability of the positive label (algorithm 3.2).

    The integral of the logistic function over the Gaussian log odds N(μ, s²) is taken as
    σ(μ / √(1 + π s² / 8)) (MacKay, "The evidence framework applied to classification networks", 1992).

    Args:
        mode: From `laplace`.
        cross: Prior covariance of the rows asked about with the training rows, shape (rows, training rows).
        variance: Prior variance of the rows asked about.
        mean: Prior mean of their log odds, shape (rows,).

    Returns:
        Shape (rows,).
    """
    explained = solve_triangular(mode.factor, (cross * mode.root).T, lower=True, check_finite=False)
    left = np.maximum(variance - np.square(explained).sum(axis=0), 0)
    odds: Values = expit((mean + cross @ mode.weights) / np.sqrt(1 + np.pi * left / 8))
    return odds


def _newton(kernel: Values, mean: Values, latent: Values, is_positive: NDArray[np.bool_]) -> Values:
    """The weights at which the quadratic that touches Ψ at a point has its maximum."""
    root, factor = _curvature(kernel, latent)
    target = root**2 * (latent - mean) + is_positive - expit(latent)
    solved: Values = cho_solve((factor, True), root * (kernel @ target), check_finite=False)
    return target - root * solved


def _climb(
    kernel: Values, mean: Values, signs: Values, weights: Values, step: Values, height: float
) -> tuple[Values, Values, float]:
    """Weights, log odds and Ψ after a step, or after the longest part of it that does not lower Ψ."""
    for halvings in range(30):
        moved = weights + step / 2**halvings
        change = kernel @ moved
        higher = float(log_expit(signs * (mean + change)).sum() - moved @ change / 2)
        if higher >= height:
            return moved, mean + change, higher
    return weights, mean + kernel @ weights, height


def _curvature(kernel: Values, latent: Values) -> tuple[Values, Values]:
    """W^½ and the Cholesky factor of I + W^½ K W^½."""
    root = np.sqrt(expit(latent) * expit(-latent))
    scaled = root[:, None] * kernel * root
    scaled[np.diag_indices_from(scaled)] += 1
    return root, cholesky(scaled, lower=True, overwrite_a=True, check_finite=False)
