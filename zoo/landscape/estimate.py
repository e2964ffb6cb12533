"""What a metric hands back: a number with its error and its cost, or the reason why it cannot be had."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

NOT_FINITE = "not_finite"
"""Reason of a metric without a value: weights, or what follows from them, are NaN or infinite."""

COLLAPSED = "collapsed"
"""Reason of a metric without a value: the model answers every image alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One metric as measured.

    Attributes:
        value: The estimate; None if it cannot be had, for the reason in `reason`.
        values: The values behind it, as the errors along a curve.
        standard_error: Standard error of the mean over the random draws; None if not random.
        samples: Images it was measured on.
        iterations: Probes, power iterations or optimiser steps; None if it has none.
        converged: Whether it met its tolerance; None if it has none.
        reason: Why `value` is None.
        sample_passes: Cost in forward passes of one image, a backward pass counted as 2.
    """

    value: float | None
    values: tuple[float, ...] | None = None
    standard_error: float | None = None
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
        """Itself, or without value, values and error and with the reason `NOT_FINITE` if one is not finite."""
        numbers = [self.value, self.standard_error, *(self.values or ())]
        if all(number is None or math.isfinite(number) for number in numbers):
            return self
        reason = self.reason or NOT_FINITE
        return dataclasses.replace(self, value=None, values=None, standard_error=None, reason=reason)


def mean_and_standard_error(draws: Iterable[float]) -> tuple[float, float | None]:
    """Mean of independent draws, and the standard error of that mean; None for a single draw."""
    numbers = list(draws)
    count, mean = len(numbers), sum(numbers) / len(numbers)
    if count < 2:
        return mean, None
    variance = sum((number - mean) * (number - mean) for number in numbers) / (count - 1)
    return mean, math.sqrt(variance / count)
