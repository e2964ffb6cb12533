"""Numbers read off the density of the Hessian's eigenvalues, with their errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.landscape.density import SpectralDensity, spectral_density
from zoo.landscape.estimate import FLAT, Estimate, student_interval
from zoo.landscape.hessian import HessianOperator


class DensityEstimates(NamedTuple):
    r"""What the density tells, each with its standard error over the probes where it has one.

    Attributes:
        density: Root mean square of the eigenvalues; `values` are the mean shares in the bins of `EDGES`.
        trace: Sum of the eigenvalues.
        negative_share: Sum of the negative eigenvalues' absolute values over that of all. Too few steps do
            not tell small eigenvalues of both signs apart; the standard error knows nothing of that.
        effective_rank: $(\sum |\lambda|)^2 / \sum \lambda^2$: the number of eigenvalues, were they all of one size.
        largest: Largest eigenvalue.
        smallest: Smallest eigenvalue.
    """

    density: Estimate
    trace: Estimate
    negative_share: Estimate
    effective_rank: Estimate
    largest: Estimate
    smallest: Estimate


def density_estimates(
    operator: HessianOperator,
    generator: torch.Generator,
    probes: int = 6,
    steps: int = 20,
    tolerance: float = 1e-2,
) -> DensityEstimates:
    r"""The spectral density as numbers that models can be compared by.

    Sums over eigenvalues are means over the probes, with Student's intervals, which cover some 90% where a few
    outliers make the spread of a few probes. Ratios are ratios of such means, with the jackknife's standard
    error, which is biased up, never down (Efron and Stein, The jackknife estimate of variance, 1981). The trace
    is that of the probes exactly. The effective rank is the participation ratio (Gao and others, A Theory of
    Multineuronal Dimensionality, 2017) and not the exponential of the entropy, which the bulk near zero rules:
    that doubled from 20 to 60 steps, with a standard error of a quarter. Sums of eigenvalues and of their
    squares are free of such bias; absolute values have a little. The edges are the outermost nodes of any
    probe, which lie inside the spectrum; they have no standard error, but say whether they have converged.

    Args:
        operator: The Hessian.
        generator: Draws the probes, on the CPU.
        probes: Number of probes.
        steps: Lanczos steps of each.
        tolerance: Relative residual at which an edge has converged.

    Returns:
        Without value, for the reason `flat`, are the ratios of a Hessian that is zero.
    """
    density = spectral_density(operator, generator, probes, steps)
    products = int((density.residuals != math.inf).sum())
    blank = Estimate(
        value=math.nan,
        samples=operator.images,
        iterations=products,
        sample_passes=operator.cost(products),
    )

    def estimate(function: Callable[[Tensor], Tensor], *summands: Callable[[Tensor], Tensor]) -> Estimate:
        sums = torch.stack([density.sums(summand) for summand in summands])
        return _with_jackknife(blank, function, sums)

    sizes = estimate(lambda sums: sums[0], torch.abs)
    root = estimate(lambda sums: (sums[0] / density.size).sqrt(), torch.square)
    ratios = [
        estimate(lambda sums: sums[1] / sums[0], torch.abs, lambda nodes: (-nodes).clamp(min=0)),
        estimate(lambda sums: sums[0].square() / sums[1], torch.abs, torch.square),
    ]
    if sizes.value == 0:
        ratios = [dataclasses.replace(blank, value=None, reason=FLAT)] * 2
    return DensityEstimates(
        density=dataclasses.replace(root, values=tuple(density.shares().mean(0).tolist())).finite(),
        trace=estimate(lambda sums: sums[0], lambda nodes: nodes).finite(),
        negative_share=ratios[0].finite(),
        effective_rank=ratios[1].finite(),
        largest=_edge(blank, density, 1.0, tolerance),
        smallest=_edge(blank, density, -1.0, tolerance),
    )


def _with_jackknife(blank: Estimate, function: Callable[[Tensor], Tensor], sums: Tensor) -> Estimate:
    r"""A smooth function of means over m probes, $f(\bar s)$, and the jackknife's standard error.

    $\frac{m-1}{m} \sum_j (f_{-j} - \bar f)^2$ with probe j left out is the squared error; for f the identity
    it is that of a mean.

    Args:
        blank: Carries samples and cost.
        function: Takes [k, ...].
        sums: [k, m].
    """
    count = sums.shape[1]
    value = function(sums.mean(1, keepdim=True)).item()
    if count < 2:
        return dataclasses.replace(blank, value=value)
    without = function((sums.sum(1, keepdim=True) - sums) / (count - 1))
    error = math.sqrt((count - 1) / count * (without - without.mean()).square().sum().item())
    low, high = student_interval(value, error, count - 1)
    return dataclasses.replace(blank, value=value, standard_error=error, low=low, high=high)


def _edge(blank: Estimate, density: SpectralDensity, sign: float, tolerance: float) -> Estimate:
    """The outermost node of all probes on one side."""
    seen = density.residuals != math.inf
    nodes, residuals = density.nodes[seen], density.residuals[seen]
    place = int((sign * nodes).argmax())
    value = nodes[place].item() if bool(nodes.isfinite().all()) else math.nan
    converged = bool(residuals[place] <= tolerance * abs(value))
    return dataclasses.replace(blank, value=value, converged=converged).finite()
