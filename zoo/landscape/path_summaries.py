"""What is said of a path between two models by its errors or losses at some points."""

from __future__ import annotations

from collections.abc import Sequence

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points of a path at which errors are measured; 0 and 1 are the two models."""


def mode_connectivity_peak(errors: tuple[float, ...]) -> float:
    """Minus the largest error over the interior points (MD tree, Zhou et al., ICML 2024).

    Args:
        errors: Percent, along the curve, ends included.
    """
    return -max(errors[1:-1])


def mode_connectivity(errors: tuple[float, ...]) -> float:
    """Mean error of the ends minus the error at the point that is farthest from that mean.

    Below zero: a barrier between the models; above: they are worse than what lies between them; near zero:
    well connected (Yang et al., Taxonomizing local versus global structure in neural network loss
    landscapes, NeurIPS 2021, eq. 3). Of two points as far, the first counts.

    Args:
        errors: Percent, along the curve, ends included.
    """
    mean = (errors[0] + errors[-1]) / 2
    return mean - max(errors, key=lambda error: abs(error - mean))


def barrier(values: Sequence[float]) -> float:
    r"""How far a path rises above the line between its ends, $\max_t [L(t) - (1-t) L(0) - t L(1)]$.

    Source: Entezari et al., The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks,
    ICLR 2022, definition 2.1; 0 where it rises nowhere. Frankle et al. (Linear Mode Connectivity and the Lottery
    Ticket Hypothesis, ICML 2020) subtract the mean of the ends.

    Args:
        values: Losses or errors at `TIMES`.
    """
    line = [(1 - t) * values[0] + t * values[-1] for t in TIMES]
    return max(value - chord for value, chord in zip(values, line, strict=True))
