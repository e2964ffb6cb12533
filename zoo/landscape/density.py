"""Density of the Hessian's eigenvalues by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.landscape.hessian import HessianOperator
from zoo.landscape.lanczos import Lanczos
from zoo.landscape.trace import rademacher

LINEAR_BELOW = 1e-5
"""Eigenvalue about which the grid's scale turns from logarithmic to linear, well inside the bin of zero."""

EDGES = tuple(
    sign * 10.0 ** (power / 2)
    for sign, powers in ((-1, range(5, -9, -1)), (1, range(-8, 6)))
    for power in powers
)
"""Edges of the grid, two a decade: -10^2.5, -10^2, ..., -10^-4, 10^-4, ..., 10^2.5. `values` holds the share of
eigenvalues in each of the 29 bins that they cut: below the first edge, between two neighbours, above the last."""

BLUR = 0.125
"""Standard deviation, in decades, of the normal kernel on the grid's logarithmic scale: a quarter of a bin."""


@dataclass(frozen=True)
class SpectralDensity:
    r"""The measure $\frac 1 P \sum_i \delta(\lambda - \lambda_i)$ of the eigenvalues, seen through m probes.

    Attributes:
        nodes: [m, k], float64: Ritz values of each probe.
        weights: [m, k]: their weights, which sum to 1 for each probe; 0 pads a shorter one.
        residuals: [m, k]: residual of each Ritz pair; infinite where padded.
        size: Number of eigenvalues, P.
    """

    nodes: Tensor
    weights: Tensor
    residuals: Tensor
    size: int

    def sums(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Estimates of $\sum_i f(\lambda_i) = \mathrm{tr} f(H)$, one a probe, [m].

        Unbiased for polynomials up to degree 2k - 1.
        """
        return self.size * (self.weights * function(self.nodes)).sum(1)

    def smoothed(self, points: Tensor, width: float) -> Tensor:
        """Density at some eigenvalues [n]: a normal kernel of that standard deviation on each node (Lin et al.)."""
        distances = (points.double()[:, None, None] - self.nodes) / width
        kernel = torch.exp(-distances.square() / 2) / (width * math.sqrt(2 * math.pi))
        return (kernel * self.weights).sum(2).mean(1)

    def shares(self) -> Tensor:
        r"""Share of eigenvalues in each bin of `EDGES`, one row a probe, [m, bins].

        Nodes are smeared on the scale $u(\lambda) = \mathrm{asinh}(\lambda / 2\epsilon) / \ln 10$ with
        $\epsilon$ = `LINEAR_BELOW`, decades away from zero and linear next to it, so that a node on its way over
        an edge does not jump.
        """
        edges = _decades(torch.tensor(EDGES, dtype=torch.float64))
        below = torch.special.ndtr((edges - _decades(self.nodes).unsqueeze(2)) / BLUR)
        below = (self.weights.unsqueeze(2) * below).sum(1)
        ends = below.new_zeros(len(below), 1), self.weights.sum(1, keepdim=True)
        return torch.cat([ends[0], below, ends[1]], dim=1).diff(dim=1).clamp(min=0)


def spectral_density(
    operator: HessianOperator, generator: torch.Generator, probes: int = 6, steps: int = 20
) -> SpectralDensity:
    r"""Density of the eigenvalues by stochastic Lanczos quadrature.

    For a probe $z$ of +1 and -1, $z^\top f(H) z / P$ is an integral of f against the eigenvalues, weighted by
    the squared parts of z; its Gauss quadrature has the Ritz values $\theta_j$ of k Lanczos steps from z as
    nodes and the squared first entries $\tau_j^2$ of the tridiagonal matrix's eigenvectors as weights. The mean
    over probes has the spectrum's density as expectation (Lin, Saad and Yang, Approximating Spectral Densities
    of Large Matrices, SIAM Review 2016, section 3.2; Ghorbani, Krishnan and Xiao, An Investigation into Neural
    Net Optimization via Hessian Eigenvalue Density, ICML 2019, algorithm 2; PyHessian, Yao et al. 2020). The
    outer eigenvalues come out one by one; within the bulk about zero, nodes are some 1/k of the spectrum apart.

    Args:
        operator: The Hessian.
        generator: Draws the probes, on the CPU.
        probes: Number of probes, m.
        steps: Lanczos steps of each, k; fewer where its Krylov space is exhausted.

    Raises:
        ValueError: If `probes` or `steps` is below 1.
    """
    if min(probes, steps) < 1:
        raise ValueError(f"probes and steps are {probes} and {steps}; give at least 1 of each")
    nodes, weights = (torch.zeros(probes, steps, dtype=torch.float64) for _ in range(2))
    residuals = torch.full_like(nodes, math.inf)
    for row in range(probes):
        lanczos = Lanczos(operator, rademacher(operator, 1, generator)[0], steps)
        while lanczos.step():
            pass
        ritz = lanczos.ritz()
        nodes[row, : lanczos.steps] = ritz.values
        weights[row, : lanczos.steps] = ritz.vectors[0].square()
        residuals[row, : lanczos.steps] = ritz.residuals
        if not bool(ritz.values.isfinite().all()):
            break  # the others would be no better
    return SpectralDensity(nodes, weights, residuals, operator.size)


def _decades(eigenvalues: Tensor) -> Tensor:
    """Position on the grid's scale."""
    return torch.asinh(eigenvalues / (2 * LINEAR_BELOW)) / math.log(10)
