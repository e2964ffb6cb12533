"""Trace of the Hessian to a wanted accuracy, with an interval that covers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.landscape.estimate import Estimate, mean_and_standard_error, settled, student_interval
from zoo.landscape.hessian import Forms, HessianOperator
from zoo.landscape.sampling import sampling_error


def piloted_trace(
    operator: HessianOperator,
    generator: torch.Generator,
    relative_error: float = 0.05,
    pilot: int = 16,
    least: int = 16,
    most: int = 256,
    population: int | None = None,
) -> Estimate:
    r"""Trace of the Hessian by Hutchinson's estimator, with as many probes as its accuracy asks for.

    $\mathrm{tr} H = E[z^\top H z]$ for entries of $z$ that are +1 or -1 with equal chance (Hutchinson, A
    stochastic estimator of the trace of the influence matrix, 1990, eq. 2.1). A pilot of p probes with mean
    $\bar x$ and spread $s$ sets the number of probes for a relative standard error r, within bounds:

        m = (p - 1) / (p - 3) (s / (r xbar))^2,

    where the first factor is the expectation of $\sigma^2 / s^2$ for normal draws, so that the variance is the
    wanted one on average over pilots. The estimate comes from m fresh probes and not from the pilot's: to stop
    where the running error is small enough prefers draws whose spread came out small, and the interval then
    covers 86% instead of 95%. With m independent of the draws it is Student's, with m - 1 degrees of freedom.

    A trace below zero is a value like any other; it has no logarithm, so that feature is null. The interval
    is for the images as they are; `sampling_error` is for those that might have been drawn.

    Args:
        operator: The Hessian.
        generator: Draws the probes, on the CPU.
        relative_error: Standard error wanted, as a share of the trace's absolute value.
        pilot: Probes of the pilot.
        least: Fewest fresh probes; the interval rests on their spread.
        most: Most fresh probes. Where more were wanted, `converged` is false.
        population: Images that those of the Hessian were drawn from, without replacement; None for an
            unlimited supply.

    Returns:
        The trace; `iterations` counts the fresh probes, the cost those of the pilot too.

    Raises:
        ValueError: If the pilot is below 4, the bounds are in disorder, or the error is not above 0.
    """
    if pilot < 4 or not 2 <= least <= most:
        raise ValueError(
            f"pilot, least and most are {pilot}, {least} and {most}; give pilot >= 4 and 2 <= least <= most"
        )
    if relative_error <= 0:
        raise ValueError(f"relative_error is {relative_error}; it has to be above 0, as 0.05")
    wanted = _probes_wanted(probe_forms(operator, pilot, generator), relative_error)
    count = int(min(max(wanted, least), most))
    forms = probe_forms(operator, count, generator)
    value, error = mean_and_standard_error(forms.whole.tolist())
    low, high = student_interval(value, error, count - 1)
    return Estimate(
        value=value,
        standard_error=error,
        low=low,
        high=high,
        sampling_error=sampling_error(forms, population),
        samples=operator.images,
        iterations=count,
        converged=wanted <= most,
        sample_passes=operator.forms_cost(pilot) + operator.forms_cost(count),
    ).finite()


def hessian_trace(
    operator: HessianOperator,
    generator: torch.Generator,
    probes: int = 32,
    tolerance: float | None = None,
) -> Estimate:
    r"""Trace of the Hessian by Hutchinson's estimator with Rademacher probes.

    $\mathrm{tr} H = E[z^\top H z]$ for entries of $z$ that are +1 or -1 with equal chance (Hutchinson, A
    stochastic estimator of the trace of the influence matrix, 1990, eq. 2.1; PyHessian, Yao et al. 2020,
    section III). With a tolerance it stops as PyHessian does, but for that one's fault (`settled`).

    Args:
        operator: The Hessian.
        generator: Draws the probes, on the CPU.
        probes: Number of probes; with a tolerance, the largest number.
        tolerance: Relative change of the running mean at which to stop; None takes all probes, and then
            the standard error is that of a fixed number of draws. A stop that looks at the draws makes it
            too small.

    Raises:
        ValueError: If `probes` is below 1.
    """
    if probes < 1:
        raise ValueError(f"probes is {probes}; the trace takes at least 1")
    draws: list[float] = []
    converged, evaluated = None if tolerance is None else False, 0
    while len(draws) < probes and not converged:
        count = min(operator.at_once, probes - evaluated)
        evaluated += count
        for draw in probe_forms(operator, count, generator).whole.tolist():
            draws.append(draw)
            if tolerance is not None and _has_settled(draws, tolerance):
                converged = True
                break
    value, standard_error = mean_and_standard_error(draws)
    return Estimate(
        value=value,
        standard_error=standard_error,
        samples=operator.images,
        iterations=len(draws),
        converged=converged,
        sample_passes=operator.forms_cost(evaluated),
    ).finite()


def _has_settled(draws: list[float], tolerance: float) -> bool:
    """Whether the last draw moved the mean by less than the tolerance."""
    if len(draws) < 2:
        return False
    before = sum(draws[:-1]) / (len(draws) - 1)
    return settled(before, sum(draws) / len(draws), tolerance)


def rademacher(operator: HessianOperator, count: int, generator: torch.Generator) -> Tensor:
    """Probes [count, P] of +1 and -1, drawn one after the other on the CPU, where the operator expects them."""
    bits = torch.randint(0, 2, (count, operator.size), generator=generator, dtype=torch.int8)
    return bits.to(operator.device, operator.dtype).mul_(2).sub_(1)


def probe_forms(operator: HessianOperator, count: int, generator: torch.Generator) -> Forms:
    """The forms of so many new probes, as many at a time as the operator takes."""
    starts = range(0, count, operator.at_once)
    sizes = [min(operator.at_once, count - start) for start in starts]
    blocks = [operator.forms(rademacher(operator, size, generator)) for size in sizes]
    return Forms(torch.cat([block.values for block in blocks]), blocks[0].images)


def _probes_wanted(pilot: Forms, relative_error: float) -> float:
    """Probes for that relative standard error; infinite for a spread about zero, 0 for weights not finite."""
    mean, error = mean_and_standard_error(pilot.whole.tolist())
    spread = math.sqrt(len(pilot.values)) * (error or 0.0)
    if spread == 0 or not math.isfinite(spread):
        return 0.0
    if mean == 0:
        return math.inf
    probes = len(pilot.values)
    return math.ceil((probes - 1) / (probes - 3) * (spread / (relative_error * mean)) ** 2)
