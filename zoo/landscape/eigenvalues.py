"""The outermost eigenvalues of the Hessian, each with its error."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from zoo.landscape.estimate import Estimate, settled
from zoo.landscape.hessian import HessianOperator
from zoo.landscape.lanczos import Lanczos, Ritz
from zoo.landscape.sampling import sampling_error

Order = Literal["algebraic", "magnitude"]


def top_eigenvalues(
    operator: HessianOperator,
    generator: torch.Generator,
    count: int = 1,
    order: Order = "magnitude",
    steps: int = 100,
    tolerance: float = 1e-2,
    population: int | None = None,
) -> list[Estimate]:
    r"""The largest eigenvalues of the Hessian, by Lanczos with full reorthogonalisation.

    It stops where the residual $\|Hv - \theta v\|$ of every wanted Ritz pair is below the tolerance times
    $|\theta|$. An eigenvalue lies within the residual of $\theta$ (Parlett, The Symmetric Eigenvalue Problem,
    1980, theorem 4.5.1), as a rule much nearer: the error goes with its square, so that a residual of 1%
    leaves some 0.01%. The last change, by which power iteration stops, bounds nothing. Ritz values never lie
    outside the spectrum: the largest are found from inside. The Krylov space holds one vector of each
    eigenspace, so an eigenvalue that is exactly multiple counts once, unless the space is exhausted and has
    to be left. The basis takes `steps` vectors of P numbers.

    `sampling_error` is that of the first-order change $v^\top H_i v$ of the eigenvalue by each image
    (Hellmann and Feynman); where eigenvalues cross it is too small, and the largest of a sample is biased up.

    Args:
        operator: The Hessian.
        generator: Draws the start vector, normal, on the CPU.
        count: Eigenvalues wanted.
        order: `algebraic` gives the largest; `magnitude` those of largest absolute value, with their sign.
        steps: Products at most.
        tolerance: Residual, as a share of the eigenvalue, at which it has converged.
        population: Images that those of the Hessian were drawn from, as for `sampling_error`.

    Returns:
        One estimate an eigenvalue, the largest first; each carries the whole cost and says whether it has
        converged. Fewer where P is smaller; without value where the weights are not finite.

    Raises:
        ValueError: If `count` is below 1 or above `steps`, or the order is unknown.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"count is {count} and steps {steps}; give 1 <= count <= steps")
    if order not in ("algebraic", "magnitude"):
        raise ValueError(f"order is {order!r}; it is 'algebraic' or 'magnitude'")
    wanted = min(count, operator.size)
    lanczos, ritz, chosen = _iterate(operator, generator, wanted, order, steps, tolerance)
    if not bool(ritz.values.isfinite().all()):
        return [_estimate(operator, lanczos, math.nan, False, None)] * wanted
    vectors = lanczos.vectors(ritz.vectors[:, chosen])
    forms = operator.forms(vectors)
    return [
        _estimate(
            operator,
            lanczos,
            ritz.values[index].item(),
            bool(_converged(ritz, tolerance)[index]),
            sampling_error(forms._replace(values=forms.values[[place]]), population),
            wanted,
        )
        for place, index in enumerate(chosen.tolist())
    ]


def hessian_top_eigenvalue(
    operator: HessianOperator,
    generator: torch.Generator,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> Estimate:
    r"""Eigenvalue of the Hessian with the largest absolute value, by power iteration.

    Returns the Rayleigh quotient $v^\top H v$ of the unit vector $v$, with its sign, and stops where it moves
    by less than the tolerance, relative to itself (PyHessian, Yao et al. 2020, section III; start vector
    normal).

    Args:
        operator: The Hessian.
        generator: Draws the start vector, on the CPU.
        iterations: Largest number of products.
        tolerance: Relative change at which to stop.

    Raises:
        ValueError: If `iterations` is below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; power iteration takes at least 1")
    vector = torch.randn(operator.size, generator=generator).to(operator.device, operator.dtype)
    quotient, converged, products = math.nan, False, 0
    while products < iterations and not converged:
        length = torch.linalg.vector_norm(vector)
        vector = torch.where(length > 0, vector / length, vector)
        product = operator @ vector
        products += 1
        previous, quotient = quotient, torch.dot(vector, product).item()
        if not math.isfinite(quotient):
            break
        converged = settled(previous, quotient, tolerance)
        vector = product
    return Estimate(
        value=quotient,
        samples=operator.images,
        iterations=products,
        converged=converged,
        sample_passes=operator.cost(products),
    ).finite()


def _iterate(
    operator: HessianOperator,
    generator: torch.Generator,
    count: int,
    order: Order,
    steps: int,
    tolerance: float,
) -> tuple[Lanczos, Ritz, Tensor]:
    """The process, its Ritz pairs and the wanted ones' indices, once these have converged or steps run out."""
    lanczos = Lanczos(operator, _normal(operator, generator), steps)
    while True:
        goes_on = lanczos.step()
        ritz = lanczos.ritz()
        chosen = _largest(ritz.values, order)[:count]
        settled = len(chosen) == count and bool(_converged(ritz, tolerance)[chosen].all())
        if settled:
            break
        if not goes_on and not (lanczos.exhausted and lanczos.restart(_normal(operator, generator))):
            break
    return lanczos, ritz, chosen


def _normal(operator: HessianOperator, generator: torch.Generator) -> Tensor:
    return torch.randn(operator.size, generator=generator).to(operator.device, operator.dtype)


def _largest(values: Tensor, order: Order) -> Tensor:
    """Indices by falling value or absolute value."""
    return (values if order == "algebraic" else values.abs()).argsort(descending=True)


def _converged(ritz: Ritz, tolerance: float) -> Tensor:
    """Which of the Ritz values; one that is exactly zero has, where its residual is zero."""
    return ritz.residuals <= tolerance * ritz.values.abs()


def _estimate(
    operator: HessianOperator,
    lanczos: Lanczos,
    value: float,
    converged: bool,
    error: float | None,
    forms: int = 0,
) -> Estimate:
    return Estimate(
        value=value,
        sampling_error=error,
        samples=operator.images,
        iterations=lanczos.steps,
        converged=converged,
        sample_passes=operator.cost(lanczos.steps) + operator.forms_cost(forms),
    ).finite()
