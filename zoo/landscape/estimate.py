"""What a metric hands back: a number with its error and its cost, or the reason why it cannot be had."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NOT_FINITE = "not_finite"
"""Reason of a metric without a value: weights, or what follows from them, are NaN or infinite."""

FLAT = "flat"
"""Reason of a ratio of curvatures without a value: the Hessian is zero."""

COLLAPSED = "collapsed"
"""Reason of a metric without a value: the model answers every image alike."""

ERRORS = ("standard_error", "low", "high", "sampling_error")
"""Fields of an estimate that go with its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One metric as measured.

    Attributes:
        value: The estimate; None if it cannot be had, for the reason in `reason`.
        values: The values behind it, as the errors along a curve.
        standard_error: Standard error of the mean over the random draws; None if not random.
        low: Lower end of the 95% interval that the random draws leave, for the images as they are.
        high: Its upper end.
        sampling_error: Standard error that comes from which images were drawn; it adds to `standard_error` in
            squares where the estimate is meant for the images' population.
        samples: Images it was measured on.
        iterations: Probes, power iterations or optimiser steps; None if it has none.
        converged: Whether it met its tolerance; None if it has none.
        reason: Why `value` is None.
        sample_passes: Cost in forward passes of one image, a backward pass counted as 2.
    """

    value: float | None
    values: tuple[float, ...] | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    sampling_error: float | None = None
    samples: int = 0
    iterations: int | None = None
    converged: bool | None = None
    reason: str | None = None
    sample_passes: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an estimate that is neither a value nor a reason."""
        if self.value is None and not self.reason:
            raise ValueError("an estimate without a value needs a reason; give one, as 'not_finite'")

    def finite(self) -> Estimate:
        """Itself, or without value, values and errors and with the reason `NOT_FINITE` if one is not finite."""
        errors = [getattr(self, name) for name in ERRORS]
        numbers = [self.value, *errors, *(self.values or ())]
        if all(number is None or math.isfinite(number) for number in numbers):
            return self
        without: dict[str, Any] = dict.fromkeys(("value", "values", *ERRORS))
        return dataclasses.replace(self, reason=self.reason or NOT_FINITE, **without)


def mean_and_standard_error(draws: Iterable[float]) -> tuple[float, float | None]:
    """Mean of independent draws, and the standard error of that mean; None for a single draw."""
    numbers = list(draws)
    count, mean = len(numbers), sum(numbers) / len(numbers)
    if count < 2:
        return mean, None
    variance = sum((number - mean) * (number - mean) for number in numbers) / (count - 1)
    return mean, math.sqrt(variance / count)


def student_interval(
    value: float, standard_error: float | None, degrees_of_freedom: int, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    r"""Two-sided interval of a mean of independent draws, $\bar x \pm t_{1 - (1 - c)/2, \nu}\, s / \sqrt m$.

    It covers as it says where the number of draws does not depend on the draws and these are normal, or many
    (Student, The probable error of a mean, 1908).

    Args:
        value: The mean.
        standard_error: Its standard error; None gives no interval.
        degrees_of_freedom: Draws less one.
        confidence: How often the interval covers the truth.
    """
    if standard_error is None or degrees_of_freedom < 1:
        return None, None
    from scipy.special import stdtrit  # slow to import: not before it is needed

    reach = float(stdtrit(degrees_of_freedom, (1 + confidence) / 2)) * standard_error
    return value - reach, value + reach


def settled(before: float, after: float, tolerance: float) -> bool:
    r"""PyHessian's stopping rule, $|m_k - m_{k-1}| / (|m_{k-1}| + 10^{-6})$ < tolerance; false if one is NaN.

    PyHessian (Yao et al. 2020) leaves out the inner absolute value for the trace, a fault: a negative mean
    stops it at once.
    """
    return abs(after - before) / (abs(before) + 1e-6) < tolerance
