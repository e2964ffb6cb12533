"""How heavy the tails of the weights' spectra are: a metric that needs neither images nor labels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.landscape.estimate import NOT_FINITE, Estimate
from zoo.landscape.norms import layers
from zoo.landscape.weights import is_finite

TOO_FEW_EIGENVALUES = "too_few_eigenvalues"
"""Reason of an exponent without a value: no layer has enough eigenvalues to fit a tail to."""

RANK_TOLERANCE = 1e-10
"""Eigenvalues below this share of the largest are zero but for rounding."""


class PowerLaw(NamedTuple):
    """A power law fitted to a tail.

    Attributes:
        alpha: Exponent of the density.
        minimum: Where the tail begins.
        tail: Numbers in it.
        distance: Kolmogorov-Smirnov distance of data and fit.
    """

    alpha: float
    minimum: float
    tail: int
    distance: float

    @property
    def standard_error(self) -> float:
        """Of alpha, for the tail as given (Clauset et al. 2009, eq. 3.2)."""
        return (self.alpha - 1) / math.sqrt(self.tail)


def fit_power_law(values: NDArray[np.float64], minimum_tail: int = 2) -> PowerLaw | None:
    r"""Fit a density proportional to $x^{-\alpha}$ to the tail of the values.

    For a tail $x_1 \le \dots \le x_n$, $\alpha = 1 + n / \sum_i \ln(x_i / x_1)$ has the largest likelihood; of all
    tails, that counts whose largest distance between the fitted distribution $1 - (x/x_1)^{1-\alpha}$ and the
    share $(i-1)/n$ of smaller values is least (Clauset, Shalizi and Newman, Power-Law Distributions in
    Empirical Data, 2009, eq. 3.1 and 3.9, as in their `plfit`).

    Args:
        values: Numbers above 0, in any order.
        minimum_tail: Numbers that a tail has at least. Tails of a few always fit and mean nothing.

    Returns:
        The fit; None if no tail is long enough, or all numbers in it are equal.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    logs, count, best = np.log(ordered), len(ordered), None
    for first in range(count - max(minimum_tail, 2) + 1):
        if first and ordered[first] == ordered[first - 1]:
            continue
        excess, length = logs[first:] - logs[first], count - first
        if excess[-1] == 0:
            break
        alpha = 1 + length / excess.sum()
        fitted = -np.expm1((1 - alpha) * excess)
        distance = float(np.abs(fitted - np.arange(length) / length).max())
        if best is None or distance < best.distance:
            best = PowerLaw(float(alpha), float(ordered[first]), length, distance)
    return best


def spectrum(weight: Tensor) -> NDArray[np.float64]:
    r"""Eigenvalues above zero of $W^\top W$, of all slices of a convolution together.

    As WeightWatcher does, a convolution [out, in, height, width] is taken as height x width matrices
    [out, in], one for each place in the kernel, whose spectra are pooled (Martin and Mahoney, Implicit
    Self-Regularization in Deep Neural Networks, JMLR 2021, section 2.3): small layers then have eigenvalues
    enough for a fit, where the matrix [out, in x height x width] has no more than channels.

    Args:
        weight: [out, in] or [out, in, ...].
    """
    slices = (
        weight.detach().double().flatten(2).permute(2, 0, 1) if weight.dim() > 2 else weight[None].double()
    )
    eigenvalues = torch.linalg.svdvals(slices).square().flatten().cpu().numpy()
    return eigenvalues[eigenvalues > RANK_TOLERANCE * eigenvalues.max()]


def spectral_alpha(model: nn.Module, minimum_eigenvalues: int = 8) -> list[Estimate]:
    r"""Exponents of the spectra of the weight matrices, averaged over the layers.

    $\bar\alpha = \frac1L \sum_l \alpha_l$, and the weighted
    $\hat\alpha = \frac1L \sum_l \alpha_l \log_{10} \lambda_l$ with the largest eigenvalue $\lambda_l$ of
    $W_l^\top W_l$ (Martin, Peng and Mahoney, Predicting trends in the quality of state-of-the-art neural networks
    without access to training or testing data, Nature Communications 2021). Trained weights have small
    exponents, random ones large. BatchNorm is not folded in. The first average does not change with the scale
    of a layer; the second does, so under BatchNorm it depends on a scale that the network's outputs do not.

    Args:
        model: Any model.
        minimum_eigenvalues: Eigenvalues that a tail has at least; a layer with fewer is left out. WeightWatcher
            leaves out the same layers, by default; it lets tails be as short as 2 where there are 20 or more,
            corrects alpha for bias where there are fewer, and halves the eigenvalues of convolutions.

    Returns:
        The two averages; `values` are those of the layers fitted, in order. Standard errors are those of the
        fits, the tails taken as given. Without a value for the reason `TOO_FEW_EIGENVALUES` if no layer is
        left.

    Raises:
        ValueError: If `minimum_eigenvalues` is below 2.
    """
    if minimum_eigenvalues < 2:
        raise ValueError(f"minimum_eigenvalues is {minimum_eigenvalues}; a fit takes at least 2")
    if not is_finite(model):
        return [Estimate(value=None, reason=NOT_FINITE)] * 2
    fits, weights = [], []
    for layer in layers(model, fold_batch_norm=False):
        eigenvalues = spectrum(layer.weight)
        fit = fit_power_law(eigenvalues, minimum_eigenvalues)
        if fit is not None:
            fits.append(fit)
            weights.append(math.log10(eigenvalues.max()))
    if not fits:
        return [Estimate(value=None, reason=TOO_FEW_EIGENVALUES)] * 2
    return [_average(fits, [1.0] * len(fits)), _average(fits, weights)]


def _average(fits: list[PowerLaw], weights: list[float]) -> Estimate:
    terms = tuple(fit.alpha * weight for fit, weight in zip(fits, weights, strict=True))
    errors = [fit.standard_error * weight for fit, weight in zip(fits, weights, strict=True)]
    return Estimate(
        value=sum(terms) / len(terms),
        values=terms,
        standard_error=math.hypot(*errors) / len(terms),
    ).finite()
